"""The levels of a batch of scans and the kernel maps on and between them, made once and shared by all convolutions.

Numbering of offsets and of voxels follows torchsparse 2.1 (`torchsparse/nn/functional/conv/kmap`), so that its weights
mean the same here: offsets of odd kernels run x fastest over -r..r with `in = out + off`; those of the 2^3 kernel run
z fastest over 0..1 with `in = 2 out + off`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import torch

from mdkt_ros.errors import SparseError
from mdkt_ros.sparse.backend import current_backend
from mdkt_ros.sparse.kernel_map import KernelMap
from mdkt_ros.sparse.level import Level
from mdkt_ros.sparse.parallel import run_beside


class KernelMaps:
    """Cache of levels and kernel maps. A level is named by its stride; coordinates are in voxels of the level."""

    def __init__(self, coordinates: torch.Tensor, stride: int = 1):
        self._root = stride
        self._coordinates = coordinates
        self._builder = current_backend(coordinates.device).maps
        self._levels: dict[int, Level] = {}
        self._parents: dict[int, torch.Tensor] = {}
        self._maps: dict[tuple[str, int, int], KernelMap] = {}

    def coordinates(self, stride: int) -> torch.Tensor:
        """(V, 4) int32 coordinates of a level; below the first level sorted by batch, x, y, z.

        Raises:
            SparseError: the level is finer than the one that the cache began with.
        """
        return self._coordinates if stride == self._root else self._level(stride).coordinates

    def order(self, stride: int) -> torch.Tensor | None:
        """(V,) int64: rows of a level in the order of batch, x, y, z; None where they are in that order."""
        return self._level(stride).order

    def parents(self, fine: int, coarse: int) -> torch.Tensor:
        """(V,) int64: row in level `coarse` of the voxel that contains each voxel of level `fine`."""
        self.coordinates(coarse)
        rows = torch.arange(len(self.coordinates(fine)), device=self.coordinates(fine).device)
        while fine < coarse:
            rows = self._parents[fine].index_select(0, rows)
            fine *= 2
        return rows

    @property
    def builds(self) -> int:
        """Kernel maps made so far; convolutions that share a map do not raise it."""
        return len(self._maps)

    def prepare(self, strides: Sequence[int]) -> None:
        """Make the maps of a U-Net of submanifold and 2^3 convolutions on these levels, each twice the one before.

        On several CPU threads the maps on the levels are made beside the levels themselves, and those that nobody has
        begun with when all levels are there by the calling thread.
        """
        beside: list[tuple[Callable[[], KernelMap], Future[KernelMap]]] = []
        for stride in strides:
            self._level(stride)
            if stride > strides[0]:
                self.strided(stride // 2, 2)
            if ("submanifold", stride, 3) not in self._maps:
                make = functools.partial(self.submanifold, stride)
                if self._coordinates.is_cpu:
                    beside.append((make, run_beside(make)))
                else:
                    make()
        for task, done in reversed(beside):
            if done.cancel():
                task()
        for _, done in beside:
            if not done.cancelled():
                done.result()
        self._builder.arrange(list(self._maps.values()))

    def identity(self, stride: int) -> KernelMap:
        """Map of the 1^3 convolution on level `stride`."""
        return self._map("identity", stride, 1)

    def submanifold(self, stride: int) -> KernelMap:
        """Map of the submanifold 3^3 convolution on level `stride`."""
        return self._map("submanifold", stride, 3)

    def strided(self, stride: int, kernel_size: int) -> KernelMap:
        """Map of the convolution of stride 2 from level `stride` to the next; `kernel_size` is 2 or 3."""
        return self._map("strided", stride, kernel_size)

    def transposed(self, stride: int) -> KernelMap:
        """Map of the transposed 2^3 convolution from the level after `stride` to `stride`."""
        return self._map("transposed", stride, 2)

    def _map(self, kind: str, stride: int, kernel_size: int) -> KernelMap:
        key = (kind, stride, kernel_size)
        if key not in self._maps:
            with torch.inference_mode(False), torch.no_grad():
                level = self._level(stride)
                if kind == "identity":
                    made = KernelMap(
                        len(level), len(level), table=level.positions()[None], symmetric=True, identity=True
                    )
                elif kind == "submanifold":
                    made = self._builder.submanifold(level)
                elif kind == "transposed":
                    coarse = self._level(2 * stride)
                    made = self._builder.transposed(level, coarse, self._parents[stride])
                elif kernel_size == 2:
                    made = self.transposed(stride).reversed
                else:
                    made = self._builder.strided(level, self._level(2 * stride))
            self._maps[key] = made
        return self._maps[key]

    def _level(self, stride: int) -> Level:
        if stride not in self._levels:
            with torch.inference_mode(False), torch.no_grad():
                if stride == self._root:
                    self._levels[stride] = self._builder.level(self._coordinates)
                elif stride < self._root or stride % 2:
                    root = self._root
                    raise SparseError(f"stride: there is no level {stride} of a tensor that began at stride {root}")
                else:
                    finer = self._level(stride // 2)
                    self._levels[stride], self._parents[stride // 2] = self._builder.coarser(finer)
        return self._levels[stride]
