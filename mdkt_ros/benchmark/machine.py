"""What the machine itself can do: the rates that an engine is held against."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_SIDE = 1024
_COPIED = 64 << 20


@dataclass(frozen=True)
class Machine:
    """Rates measured beside the bench, best of a few runs.

    Attributes:
        name: processor or GPU.
        threads: CPU threads of the rates.
        gemm_gflops: 10^9 operations a second of a square float32 product by PyTorch.
        copy_gbs: 10^9 bytes a second, read and written, of a large copy.
    """

    name: str
    threads: int
    gemm_gflops: float
    copy_gbs: float


def measure_machine(device: torch.device, repeats: int = 5) -> Machine:
    """Rates of `device`, on the CPU with PyTorch's present number of threads."""
    a, b = (torch.rand((_SIDE, _SIDE), device=device) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.zeros(_COPIED // 4, device=device)
    copy = torch.empty_like(source)
    gemm = _best(lambda: torch.mm(a, b, out=product), device, repeats)
    moved = _best(lambda: copy.copy_(source), device, repeats)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return Machine(name, torch.get_num_threads(), 2e-9 * _SIDE**3 / gemm, 2e-9 * _COPIED / moved)


def _best(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Seconds, of CPU time on one CPU thread."""
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    seconds = []
    for _ in range(repeats + 1):
        start = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(clock() - start)
    return max(min(seconds[1:]), 1e-9)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
