"""Launch configurations and the choice among them, by measuring once for every class of shapes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from mdkt_ros.sparse.triton_backend.tiling import ROW_MULTIPLE

_SMALL, _LARGE = 99 << 10, 160 << 10
"""Bytes of shared memory: of compute capability 8.6, and what a deep pipeline of the widest blocks takes (8.0, 9.0)."""


@dataclass(frozen=True)
class Launch:
    """How a kernel is cut into programs.

    Attributes:
        rows: output rows of a tile, or pairs that a step of the kernel's gradient sums over; divides ROW_MULTIPLE.
        out_channels, in_channels: channels of a block, powers of 2 from 16 on.
        warps, stages: Triton's `num_warps` and `num_stages`.
        splits: programs that share the steps of a tile; of `gather_gemm_scatter` alone.
    """

    rows: int
    out_channels: int
    in_channels: int
    warps: int = 4
    stages: int = 3
    splits: int = 1


@dataclass(frozen=True)
class Shape:
    """What a launch is chosen by.

    Attributes:
        rows: a power of 2 near the output rows, see `shape_class`.
        shared: bytes of memory that the programs on a multiprocessor share.
    """

    in_channels: int
    out_channels: int
    offsets: int
    rows: int
    dtype: torch.dtype
    shared: int


@cache
def forward_launches(shape: Shape) -> tuple[Launch, ...]:
    """Candidates for `gather_gemm_scatter`; the first is the one to take unmeasured.

    Some 20 configurations of every layer of MinkUNet18 were measured on an H200 (bfloat16, voxels of 5 cm, 50 on an
    H100 before). By the first alone the layers take 0.7 % longer in all than by the best for each.
    """
    channels, out_channels, half = shape.in_channels, shape.out_channels, shape.dtype != torch.float32
    deep, shallow = _block(channels, 64 if half else 32), _block(channels, 32 if half else 16)
    block_in = deep if channels % deep == 0 else shallow
    wide, narrow = _block(out_channels, 128), _block(out_channels, 64)
    many = shape.offsets > 8
    rule = Launch(64, wide, block_in)
    if half and many and channels >= 32 and out_channels <= 64:
        rule = Launch(128, wide, block_in)  # thin: a step has little to multiply
    elif half and many and channels >= 128 and out_channels >= 256 and shape.rows <= 1 << 13:
        rule = Launch(64, wide, block_in, splits=2)  # fewer tiles than multiprocessors
    elif half and many and channels % 128 == 0 and out_channels % 128 == 0 and shape.shared >= _LARGE:
        rule = Launch(64, wide, 128)
    return _distinct(
        rule,
        Launch(64, wide, block_in),
        Launch(128, wide, block_in),
        Launch(64, wide, block_in, splits=2),
        Launch(64, wide, _block(channels, 128 if half else 32), 4, 2),
        Launch(64, wide, shallow),
        Launch(64, wide, deep),
        Launch(128, wide, shallow, 4, 4),
        Launch(32, narrow, block_in, 4, 4),
    )


@cache
def gradient_launches(shape: Shape) -> tuple[Launch, ...]:
    """Candidates for `kernel_gradient`; the first is the one to take unmeasured."""
    in_channels, out_channels = shape.in_channels, shape.out_channels
    block_in, block_out = _block(in_channels, 64), _block(out_channels, 64)
    return _distinct(
        Launch(32, block_out, block_in),
        Launch(64, block_out, block_in),
        Launch(32, block_out, block_in, 8),
        Launch(32, _block(out_channels, 128), block_in, 8),
        Launch(32, block_out, _block(in_channels, 32), 2, 4),
        Launch(64, _block(out_channels, 32), block_in, 4, 4),
    )


def interpreted(in_channels: int, out_channels: int) -> Launch:
    """For the interpreter: small tiles, so that small inputs have several, and few steps."""
    return Launch(32, _block(out_channels, 32), _block(in_channels, 32))


def shape_class(rows: int) -> int:
    """Rows that differ by less than a factor of 2 share a choice: every scan has another number of voxels."""
    return max(rows, 1).bit_length()


@cache
def shared_memory(device: torch.device) -> int:
    """Bytes that a program may have on a device; what the smallest of those that the kernels run on has elsewhere."""
    if device.type != "cuda":
        return _SMALL
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", _SMALL))


class Tuner:
    """Remembers the fastest launch of every class of shapes.

    The first call of a class measures and so waits for the device; later ones do not. Another choice sums in another
    order: two processes that choose differently differ in the last bits.

    Args:
        measure: time of a call in any unit; raises an exception of `unfit` where the device cannot run the call.
        unfit: exceptions that mean "too large for this device".

    Attributes:
        active: whether to measure. If not, a shape takes what the nearest number of rows took, or the first candidate.
    """

    def __init__(self, measure: Callable[[Callable[[], object]], float], unfit: tuple[type[Exception], ...] = ()):
        self.active = False
        self._measure = measure
        self._unfit = unfit
        self._chosen: dict[Hashable, dict[int, Launch]] = {}
        self._lock = threading.Lock()

    def choose(self, key: Hashable, rows: int, candidates: Sequence[Launch], run: Callable[[Launch], object]) -> Launch:
        """The fastest of `candidates`; `run` launches the kernel with one of them.

        Args:
            key: all of the shape but its rows.
            rows: their `shape_class`.
        """
        chosen = self._chosen.setdefault(key, {})
        launch = chosen.get(rows)
        if launch is not None:
            return launch
        if not self.active or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
            nearest = min(list(chosen), key=lambda other: abs(other - rows), default=None)
            return candidates[0] if nearest is None else chosen[nearest]
        with self._lock:
            if rows not in chosen:
                chosen[rows] = min(candidates, key=lambda candidate: self._time(candidate, run))
        return chosen[rows]

    def _time(self, launch: Launch, run: Callable[[Launch], object]) -> float:
        try:
            return self._measure(lambda: run(launch))
        except self._unfit:
            return float("inf")


def _block(channels: int, largest: int) -> int:
    """The power of 2 from `channels` on, between 16, the least that a tensor core multiplies, and `largest`."""
    return min(max(1 << (channels - 1).bit_length(), 16), largest)


def _distinct(*launches: Launch) -> tuple[Launch, ...]:
    """In their order, without repetitions: thin layers make several candidates the same."""
    fitting = [launch for launch in launches if ROW_MULTIPLE % launch.rows == 0]
    return tuple(dict.fromkeys(fitting))
