"""The levels of a batch of scans and the kernel maps on and between them, made once and shared by all convolutions.

Numbering of offsets and of voxels follows torchsparse 2.1 (`torchsparse/nn/functional/conv/kmap`), so that its weights
mean the same here: offsets of odd kernels run x fastest over -r..r with `in = out + off`; those of the 2^3 kernel run
z fastest over 0..1 with `in = 2 out + off`.
"""

from __future__ import annotations

import torch

from mdkt_ros.errors import SparseError
from mdkt_ros.sparse.kernel_map import KernelMap
from mdkt_ros.sparse.level import KeyFrame, Level


class KernelMaps:
    """Cache of levels and kernel maps. A level is named by its stride; coordinates are in voxels of the level.

    Attributes:
        builds: kernel maps made so far; convolutions that share a map do not raise it.
    """

    def __init__(self, coordinates: torch.Tensor, stride: int = 1):
        self.builds = 0
        self._root = stride
        self._coordinates: dict[int, torch.Tensor] = {stride: coordinates}
        self._levels: dict[int, Level] = {}
        self._parents: dict[int, torch.Tensor] = {}
        self._maps: dict[tuple[str, int, int], KernelMap] = {}

    def coordinates(self, stride: int) -> torch.Tensor:
        """(V, 4) int32 coordinates of a level; below the first level sorted by batch, x, y, z.

        Raises:
            SparseError: the level is finer than the one that the cache began with.
        """
        if stride not in self._coordinates:
            if stride <= self._root or stride % 2:
                raise SparseError(f"stride: there is no level {stride} of a tensor that began at stride {self._root}")
            finer = self.coordinates(stride // 2)
            with torch.inference_mode(False), torch.no_grad():
                self._coordinates[stride], self._parents[stride // 2] = _downsample(finer)
        return self._coordinates[stride]

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
                if kind == "submanifold":
                    made = _submanifold(self._level(stride))
                elif kind == "transposed":
                    count = len(self.coordinates(2 * stride))
                    made = _transposed(self.coordinates(stride), self._parents[stride], count)
                elif kernel_size == 2:
                    made = self.transposed(stride).reversed
                else:
                    made = _strided(self._level(stride), self.coordinates(2 * stride))
            self._maps[key] = made
            self.builds += 1
        return self._maps[key]

    def _level(self, stride: int) -> Level:
        if stride not in self._levels:
            with torch.inference_mode(False), torch.no_grad():
                self._levels[stride] = Level(self.coordinates(stride))
        return self._levels[stride]


def _downsample(coordinates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates of the next level, sorted and unique, and the row in it of each voxel's parent."""
    halved = coordinates.clone()
    halved[:, 1:] >>= 1  # an arithmetic shift rounds down, negative coordinates too
    keys = KeyFrame(halved).keys(halved)
    unique, parents = torch.unique(keys, return_inverse=True)
    coarse = halved.new_empty((len(unique), 4))
    coarse[parents] = halved  # several children write the same row, with the same values
    return coarse, parents


def _offset(dx: int, dy: int, dz: int) -> int:
    """Index of an offset of the 3^3 kernel."""
    return (dx + 1) + 3 * (dy + 1) + 9 * (dz + 1)


def _submanifold(level: Level) -> KernelMap:
    """Only half of the offsets are searched: where i finds j under an offset, j finds i under its mirror image."""
    count, positions = len(level), level.positions()
    table = torch.empty((27, count), dtype=torch.int32, device=level.keys.device)
    table[_offset(0, 0, 0)] = positions
    found = {_offset(0, 0, 1): level.find_next()}
    for dx, dy in ((1, 0), (-1, 1), (0, 1), (1, 1)):
        columns = level.find_columns(level.keys + level.frame.offset(dx, dy, -1))
        found.update({_offset(dx, dy, dz): columns[dz + 1] for dz in (-1, 0, 1)})
    for offset, position in found.items():
        table[offset] = position
        mirrored = torch.full((count + 1,), -1, dtype=torch.int32, device=table.device)
        mirrored.scatter_(0, torch.where(position >= 0, position, count).to(torch.int64), positions)  # misses go last
        table[26 - offset] = mirrored[:count]
    table = _to_rows(table, level)
    if level.order is not None:
        table = torch.empty_like(table).index_copy_(1, level.order, table)
    return KernelMap(table, count, symmetric=True)


def _strided(level: Level, coarse: torch.Tensor) -> KernelMap:
    """3^3 with stride 2: `in = 2 out + off`, offsets -1..1."""
    centre = coarse.to(torch.int64)
    centre[:, 1:] *= 2
    keys = level.frame.keys(centre)
    table = torch.empty((27, len(coarse)), dtype=torch.int32, device=coarse.device)
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            columns = level.find_columns(keys + level.frame.offset(dx, dy, -1))
            for dz in (-1, 0, 1):
                table[_offset(dx, dy, dz)] = columns[dz + 1]
    return KernelMap(_to_rows(table, level), len(level))


def _transposed(fine: torch.Tensor, parents: torch.Tensor, coarse_count: int) -> KernelMap:
    """2^3: every fine voxel meets its parent under one offset, that of its place in the parent."""
    odd = (fine[:, 1:] & 1).to(torch.int64)
    offset = 4 * odd[:, 0] + 2 * odd[:, 1] + odd[:, 2]
    table = torch.full((8, len(fine)), -1, dtype=torch.int32, device=fine.device)
    table.scatter_(0, offset[None], parents[None].to(torch.int32))
    return KernelMap(table, coarse_count)


def _to_rows(table: torch.Tensor, level: Level) -> torch.Tensor:
    """From positions in a level's sorted table to rows in the caller's order."""
    if level.order is None:
        return table
    guarded = torch.cat([level.order.to(torch.int32), level.order.new_full((1,), -1, dtype=torch.int32)])
    return guarded[table.long()]  # -1 takes the last
