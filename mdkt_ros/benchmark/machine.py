"""What the machine itself can do: the rates that an engine is held against."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_SIDE = 1024
_GPU_SIDE = 8192
_COPIED = 64 << 20
_GPU_COPIED = 1 << 30


@dataclass(frozen=True)
class Machine:
    """Rates measured beside the bench, best of a few runs.

    Attributes:
        name: processor or GPU.
        threads: CPU threads of the rates.
        gemm_gflops: 10^9 operations a second of a square float32 product by PyTorch.
        gemm_half_gflops: the same in bfloat16, on a GPU; else 0.
        copy_gbs: 10^9 bytes a second, read and written, of a large copy.
    """

    name: str
    threads: int
    gemm_gflops: float
    copy_gbs: float
    gemm_half_gflops: float = 0.0


def measure_machine(device: torch.device, repeats: int = 5) -> Machine:
    """Rates of `device`, on the CPU with PyTorch's present number of threads."""
    on_gpu = device.type == "cuda"
    side, copied = (_GPU_SIDE, _GPU_COPIED) if on_gpu else (_SIDE, _COPIED)

    def product(dtype: torch.dtype) -> float:
        a, b = (torch.rand((side, side), device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        return 2e-9 * side**3 / _best(lambda: torch.mm(a, b, out=out), device, repeats)

    source = torch.zeros(copied // 4, device=device)
    copy = torch.empty_like(source)
    moved = _best(lambda: copy.copy_(source), device, repeats)
    half = product(torch.bfloat16) if on_gpu else 0.0
    name = torch.cuda.get_device_name(device) if on_gpu else _processor()
    return Machine(name, torch.get_num_threads(), product(torch.float32), 2e-9 * copied / moved, half)


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
