"""A scan in memory of a fixed size: its voxels, levels, kernel maps and tiles, made without asking the device anything.

Buffers have room for so many points, and voxels of each level; how many there are stays on the device. So the work is
the same list of launches for every scan, which a CUDA graph can hold. All levels are made from one sort of the points'
voxels on every level, all maps in two launches, and all are brought into the order of tiles by one more sort.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mdkt_ros.sparse.kernel_map import KernelMap
from mdkt_ros.sparse.tensor import SparseTensor
from mdkt_ros.sparse.triton_backend.loading import Kernels
from mdkt_ros.sparse.triton_backend.tiling import TILING, MapStack, Segment, device_of
from mdkt_ros.voxel_grid import VoxelGrid
from mdkt_ros.voxels import FEATURES

_BLOCK = 256
ROOM_MULTIPLE = 1024
"""Points and voxels that there is room for are multiples of this, so that kernels need not be made for each number."""


class StaticMaps:
    """Stands in for `KernelMaps` where levels and maps are those of a `StaticScan`: level s has stride 2^s."""

    def __init__(self, coordinates: dict[int, torch.Tensor], maps: dict[tuple[str, int], KernelMap]):
        self._coordinates = coordinates
        self._maps = maps

    def coordinates(self, stride: int) -> torch.Tensor:
        """(room, 4) int32; their values are of no use."""
        return self._coordinates[stride]

    def order(self, stride: int) -> None:
        """None: voxels are in the order of their keys."""

    def prepare(self, strides: Sequence[int]) -> None:
        """Nothing to do."""

    def identity(self, stride: int) -> KernelMap:
        return self._maps["identity", stride]

    def submanifold(self, stride: int) -> KernelMap:
        return self._maps["submanifold", stride]

    def strided(self, stride: int, kernel_size: int) -> KernelMap:
        """`kernel_size` is 2."""
        return self._maps["strided", stride]

    def transposed(self, stride: int) -> KernelMap:
        return self._maps["transposed", stride]


class StaticScan:
    """Buffers for scans of at most so many points and voxels, and what fills them.

    Args:
        grid, features: as in `voxels.voxelize`.
        points: points that there is room for, as given rounded up.
        rooms: voxels of each level that there is room for, the finest first; rounded up, too.

    Attributes:
        cloud: (4 P,) float32 to be filled before `enqueue`: `points` (P, 3) and `intensity` (P,) are parts of it.
        count: (1,) int32 points that there are.
        voxel_of_point: (levels * P,) int32; of the first P each is the row of a point's voxel on the finest level, or
            -1.
        starts: (levels + 1,) int32: number of each level's first voxel and of all voxels, counted whether or not there
            is room for them.
        tensor: features of the finest level (rooms[0], F) float32 and the maps of all levels. Rows beyond the voxels
            that there are hold zeros, and no map leads to them.
    """

    def __init__(
        self,
        kernels: Kernels,
        device: torch.device,
        grid: VoxelGrid,
        features: Sequence[str],
        points: int,
        rooms: Sequence[int],
    ):
        self._kernels = kernels
        self.rooms = tuple(_rounded(room) for room in rooms)
        capacity, depth = _rounded(points), len(rooms)
        entries = depth * capacity
        self._last = tuple(int(cells) - 1 for cells in grid.shape)
        levels = _levels(self._last, depth)
        key_type = torch.int32 if levels[-1][0] < 2**31 else torch.int64

        def empty(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.cloud, self.count = empty(4 * capacity, dtype=torch.float32), empty(1)
        self.points, self.intensity = self.cloud[: 3 * capacity].view(capacity, 3), self.cloud[3 * capacity :]
        self.voxel_of_point = empty(entries)
        self.starts = empty(depth + 1)
        self._keys, self._firsts = empty(entries, dtype=key_type), empty(entries)
        self._voxel_keys, self._a_point = empty(entries, dtype=key_type), empty(entries)
        geometry = [*grid.minimum, *grid.maximum, float(np.float32(1.0 / grid.voxel_size)), grid.voxel_size]
        self._geometry = torch.tensor(geometry, dtype=torch.float64, device=device)
        self._levels = torch.tensor(levels, dtype=torch.int64, device=device)
        self._features = sum(FEATURES.index(name) << (3 * place) for place, name in enumerate(features))
        self._sums = empty(self.rooms[0], len(features) + 1, dtype=torch.float64)
        self._means = empty(self.rooms[0], len(features), dtype=torch.float32)
        self._lay_out_maps(kernels, device)

    @staticmethod
    def fits(grid: VoxelGrid, depth: int) -> bool:
        """Whether the voxels of so many levels can be numbered."""
        return _levels(tuple(int(cells) - 1 for cells in grid.shape), depth)[-1][0] < 2**62

    def _lay_out_maps(self, kernels: Kernels, device: torch.device) -> None:
        rooms, depth = self.rooms, len(self.rooms)
        self._stack = MapStack(
            [
                *(Segment(room, 27) for room in rooms),
                *(Segment(room, 8) for room in rooms[1:]),
                *(Segment(room, 8) for room in rooms[:-1]),
            ],
            device,
            kernels,
        )
        self._stack.allocate()
        down, up = range(depth, 2 * depth - 1), range(2 * depth - 1, 3 * depth - 2)
        places = [self._stack.place(number) for number in (*range(depth), *down, 0, *up, 0)]
        self._places = torch.tensor(places, dtype=torch.int64, device=device)
        self._rooms = torch.tensor(rooms, dtype=torch.int32, device=device)
        self._linked = self._stack.tables[self._stack.place(depth) :]
        maps: dict[tuple[str, int], KernelMap] = {}
        self._level_of_map = torch.tensor(
            [*range(depth), *range(1, depth), *range(depth - 1)], dtype=torch.int64, device=device
        )

        def keep(name: str, level: int, number: int, sizes: tuple[int, int]) -> None:
            made = KernelMap(*sizes, table=self._stack.table(number), symmetric=name == "submanifold")
            made.kept[TILING] = self._stack.tiling(number)
            maps[name, 1 << level] = made

        for level, room in enumerate(rooms):
            keep("submanifold", level, level, (room, room))
            rows = torch.arange(room, dtype=torch.int32, device=device)
            maps["identity", 1 << level] = KernelMap(room, room, table=rows[None], symmetric=True, identity=True)
        for level in range(depth - 1):
            fine, coarse = rooms[level], rooms[level + 1]
            keep("strided", level, down[level], (fine, coarse))
            keep("transposed", level, up[level], (coarse, fine))
        coordinates = {
            1 << level: torch.zeros((room, 4), dtype=torch.int32, device=device) for level, room in enumerate(rooms)
        }
        static: Any = StaticMaps(coordinates, maps)
        self.tensor = SparseTensor(self._means, coordinates[1], 1, static)

    def enqueue(self) -> None:
        """Make all of it from `points` and `count`. Nothing waits for the device."""
        kernels, capacity, depth = self._kernels, len(self.points), len(self.rooms)
        entries = depth * capacity
        blocks = (entries // _BLOCK,)
        with device_of(self.points):
            self.starts.zero_()
            self._sums.zero_()
            self._linked.fill_(-1)
            kernels.number_cells[(capacity // _BLOCK,)](
                self.points, self.count, self._geometry, self._levels, self._keys, capacity, *self._last,
                LEVELS=depth, BLOCK=_BLOCK,
            )  # fmt: skip
            keys, order = torch.sort(self._keys, stable=True)
            kernels.mark_firsts[blocks](keys, self._levels, self._firsts, LEVELS=depth, BLOCK=_BLOCK)
            numbers = self._firsts.cumsum(0, dtype=torch.int32)
            kernels.number_voxels[blocks](
                keys, order, numbers, self._levels, self.voxel_of_point, self._voxel_keys, self._a_point, self.starts,
                entries, LEVELS=depth, BLOCK=_BLOCK,
            )  # fmt: skip
            self._average(capacity)
            self._make_maps(capacity)

    def _average(self, capacity: int) -> None:
        channels = self._means.shape[1]
        self._kernels.sum_features[(capacity // _BLOCK,)](
            self.points, self.intensity, self.voxel_of_point, self._geometry, self._sums, capacity, self.rooms[0],
            *self._last,
            FEATURES=self._features, CHANNELS=channels, BLOCK=_BLOCK,
        )  # fmt: skip
        self._kernels.divide_features[(self.rooms[0] // _BLOCK,)](
            self._sums, self._means, CHANNELS=channels, BLOCK=_BLOCK
        )

    def _make_maps(self, capacity: int) -> None:
        depth = len(self.rooms)
        blocks = sum(self.rooms) // _BLOCK
        self._kernels.link_levels[(blocks,)](
            self._voxel_keys, self._a_point, self.voxel_of_point, self.starts, self._levels, self._rooms,
            self._places, self._stack.tables, capacity, LEVELS=depth, BLOCK=_BLOCK,
        )  # fmt: skip
        self._kernels.find_in_levels[(blocks, 9)](
            self._voxel_keys, self.starts, self._levels, self._rooms, self._places, self._stack.tables,
            len(self._voxel_keys).bit_length(), LEVELS=depth, BLOCK=_BLOCK,
        )  # fmt: skip
        voxels = torch.minimum(self.starts.diff(), self._rooms)
        self._stack.sort(voxels.index_select(0, self._level_of_map))


def _rounded(number: int) -> int:
    return -(-max(number, 1) // ROOM_MULTIPLE) * ROOM_MULTIPLE


def _levels(last: tuple[int, ...], depth: int) -> list[tuple[int, int, int]]:
    """Of each level its smallest key and what a step along x and y adds; at the end the first number that is no key."""
    found, first = [], 0
    for level in range(depth):
        spans = [(cell >> level) + 3 for cell in last]  # one cell more on every side, so that no neighbour wraps around
        found.append((first, spans[1] * spans[2], spans[2]))
        first += math.prod(spans)
    return [*found, (first, 0, 0)]
