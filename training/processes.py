"""One process or several: which one this is, on which device, sums over all of them, and when to stop."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from mdkt_ros.errors import ConfigError


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank, world: number of this process and how many there are.
        device: where this process computes.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes: logs, states, the label draw."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum of each value over all processes."""
        if self.world == 1:
            return [float(value) for value in values]
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def sum_tensor(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all processes, on the CPU."""
        if self.world == 1:
            return value
        total = value.to(self.device)
        dist.all_reduce(total)
        return total.cpu()

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.sum([0.0])


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started (gloo on the CPU, NCCL on CUDA), or be the only one.

    `device`: auto, cpu, cuda or cuda:N; of several processes each takes the CUDA device of its own number.

    Raises:
        ConfigError: the device does not exist here.
    """
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _device(device, local if world > 1 else None)
    if world == 1:
        yield Processes(0, 1, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    # The others wait while the first draws the labels of a large data set, which NCCL's ten minutes do not allow for.
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(hours=4))
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), chosen)
        # None leaves, and takes its end of the connections with it, while another still uses them.
        dist.barrier()
    finally:
        # What waits for the garbage collector (DistributedDataParallel is a cycle) must not outlive the connections.
        gc.collect()
        dist.destroy_process_group()


def _device(name: str, local: int | None) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device = {name!r}: must be auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device = {name!r}: must be auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        if local is not None:
            device = torch.device("cuda", local)
        if (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(f"device = {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one has its usual effect."""
    received: list[int] = []
    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_parent(worker: int) -> None:
    """For processes that prepare scans: Ctrl-C reaches them too, but the training process decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
