"""Which voxel meets which under every offset of a convolution kernel, found once per scan and kept.

Numbering of offsets and of voxels follows torchsparse 2.1 (`torchsparse/nn/functional/conv/kmap`), so that its weights
mean the same here: offsets of odd kernels run x fastest over -r..r with `in = out + off`; those of the 2^3 kernel run
z fastest over 0..1 with `in = 2 out + off`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from mdkt_ros.errors import SparseError

_KEY_LIMIT = 2**62
"""Keys stay below this, so that key plus any kernel offset fits int64."""


@dataclass(frozen=True, eq=False)
class KernelMap:
    """Pairs of input and output rows, offset after offset.

    Attributes:
        in_rows, out_rows: (P,) int64. Within one offset no output row and no input row occurs twice.
        sizes: pairs of each of the K offsets, as they lie in the rows.
        in_count, out_count: rows of the input and of the output.
        identity: the offset that pairs every row with itself (the centre of a submanifold kernel), not held in the
            rows; None where there is none.
    """

    in_rows: torch.Tensor
    out_rows: torch.Tensor
    sizes: tuple[int, ...]
    in_count: int
    out_count: int
    identity: int | None = None

    @property
    def pairs(self) -> int:
        """Pairs of all offsets, the identity included: rows that are multiplied by a (Cin, Cout) matrix."""
        return len(self.in_rows) + (self.out_count if self.identity is not None else 0)

    @cached_property
    def reversed(self) -> KernelMap:
        """The map of the transposed convolution: inputs and outputs change places, offset by offset."""
        return KernelMap(self.out_rows, self.in_rows, self.sizes, self.out_count, self.in_count, self.identity)


class _KeyFrame:
    """Packs coordinates into int64 keys: a box around all voxels with a margin, so that no neighbour wraps around."""

    def __init__(self, coordinates: torch.Tensor):
        low, high = torch.aminmax(coordinates, dim=0)
        (b0, x0, y0, z0), (b1, x1, y1, z1) = torch.stack([low, high]).tolist()
        self.spans: tuple[int, int, int] = (x1 - x0 + 5, y1 - y0 + 5, z1 - z0 + 5)
        self.low = (b0, x0 - 2, y0 - 2, z0 - 2)
        scans = b1 - b0 + 1
        if scans * self.spans[0] * self.spans[1] * self.spans[2] > _KEY_LIMIT:
            raise SparseError(
                f"coordinates: {scans} scans spread over {x1 - x0 + 1} x {y1 - y0 + 1} x {z1 - z0 + 1} voxels, too far "
                "for 64-bit keys; crop the scan or take larger voxels"
            )

    def offset(self, dx: int, dy: int, dz: int) -> int:
        """What a step of (dx, dy, dz) voxels adds to a key."""
        step: int = (dx * self.spans[1] + dy) * self.spans[2] + dz
        return step

    def keys(self, coordinates: torch.Tensor) -> torch.Tensor:
        """(V,) int64 keys of (V, 4) coordinates."""
        key: torch.Tensor = coordinates[:, 0].to(torch.int64) - self.low[0]
        for axis in range(3):
            key = key * self.spans[axis] + (coordinates[:, axis + 1].to(torch.int64) - self.low[axis + 1])
        return key


@dataclass(frozen=True, eq=False)
class _Level:
    """Voxels of one stride, searchable by a sorted int64 key that orders them by batch, x, y, z.

    Attributes:
        coordinates: (V, 4), in the caller's order.
        keys: (V,) int64, ascending.
        order: (V,) int64 row of each key, None where the rows are in the order of keys.
        frame: what made the keys.
    """

    coordinates: torch.Tensor
    keys: torch.Tensor
    order: torch.Tensor | None
    frame: _KeyFrame

    def find_columns(self, first: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows of the voxels with keys first, first + 1 and first + 2 (three neighbours along z); -1 where none is.

        One binary search serves all three, as such keys are neighbours in the sorted table too.
        """
        keys = torch.cat([self.keys, self.keys.new_full((3,), torch.iinfo(torch.int64).max)])
        position = torch.searchsorted(self.keys, first)
        found = []
        for step in range(3):
            hit = keys.index_select(0, position) == first + step
            row = position if self.order is None else self._row(position)
            found.append(torch.where(hit, row, -1))
            position = position + hit
        return found[0], found[1], found[2]

    def find_next(self) -> torch.Tensor:
        """Row of the next voxel along z for every voxel in the order of keys; -1 where none is."""
        following = torch.arange(1, len(self.keys) + 1, device=self.keys.device)
        hit = torch.zeros_like(following, dtype=torch.bool)
        hit[:-1] = self.keys[1:] == self.keys[:-1] + 1
        return torch.where(hit, following if self.order is None else self._row(following), -1)

    def _row(self, position: torch.Tensor) -> torch.Tensor:
        assert self.order is not None
        return self.order.index_select(0, position.clamp(max=len(self.order) - 1))


class KernelMaps:
    """Levels of one batch of scans and the kernel maps on and between them, each made on first use.

    Attributes:
        builds: kernel maps made so far; convolutions that share a map do not raise it.
    """

    def __init__(self, coordinates: torch.Tensor, stride: int = 1):
        self.builds = 0
        self._root = stride
        self._coordinates: dict[int, torch.Tensor] = {stride: coordinates}
        self._levels: dict[int, _Level] = {}
        self._parents: dict[int, torch.Tensor] = {}
        self._submanifold: dict[tuple[int, int], KernelMap] = {}
        self._strided: dict[tuple[int, int], KernelMap] = {}

    def coordinates(self, stride: int) -> torch.Tensor:
        """(V, 4) int32 coordinates of a level; below the first level sorted by batch, x, y, z.

        Raises:
            SparseError: the level is finer than the tensor that the cache began with.
        """
        if stride not in self._coordinates:
            if stride <= self._root or stride % 2:
                raise SparseError(f"stride: {stride} is no level of a tensor that began at stride {self._root}")
            self._downsample(stride // 2)
        return self._coordinates[stride]

    def is_sorted(self, stride: int) -> bool:
        """Whether the rows of a level lie in the order of their keys (batch, x, y, z)."""
        return self._level(stride).order is None

    def order(self, stride: int) -> torch.Tensor:
        """(V,) int64: row of each voxel in the order of batch, x, y, z."""
        level = self._level(stride)
        return torch.arange(len(level.keys), device=level.keys.device) if level.order is None else level.order

    def parents(self, fine: int, coarse: int) -> torch.Tensor:
        """(V,) int64: row in level `coarse` of the voxel that contains each voxel of level `fine`."""
        rows = torch.arange(len(self.coordinates(fine)), device=self.coordinates(fine).device)
        stride = fine
        while stride < coarse:
            self.coordinates(2 * stride)
            rows = self._parents[stride].index_select(0, rows)
            stride *= 2
        return rows

    def submanifold(self, stride: int, kernel_size: int = 3) -> KernelMap:
        """Map of a submanifold convolution on a level; `kernel_size` is 3."""
        key = (stride, kernel_size)
        if key not in self._submanifold:
            if kernel_size != 3:
                raise SparseError(f"kernel_size: submanifold maps exist for 3, not for {kernel_size}")
            self._submanifold[key] = self._build_submanifold(self._level(stride))
            self.builds += 1
        return self._submanifold[key]

    def strided(self, stride: int, kernel_size: int) -> KernelMap:
        """Map of a convolution of stride 2 from level `stride` to level `2 * stride`; `kernel_size` is 2 or 3."""
        key = (stride, kernel_size)
        if key not in self._strided:
            if kernel_size == 2:
                self._strided[key] = self._build_strided_2(stride)
            elif kernel_size == 3:
                self._strided[key] = self._build_strided_3(stride)
            else:
                raise SparseError(f"kernel_size: strided maps exist for 2 and 3, not for {kernel_size}")
            self.builds += 1
        return self._strided[key]

    def _level(self, stride: int) -> _Level:
        if stride not in self._levels:
            coordinates = self.coordinates(stride)
            if len(coordinates) == 0:
                frame = _KeyFrame(coordinates.new_zeros((1, 4)))
            else:
                frame = _KeyFrame(coordinates)
            keys = frame.keys(coordinates)
            order: torch.Tensor | None = None
            if not bool((keys[1:] > keys[:-1]).all()):
                keys, order = torch.sort(keys)
                repeated = int((keys[1:] == keys[:-1]).sum())
                if repeated:
                    raise SparseError(
                        f"coordinates: {repeated} of {len(keys)} rows repeat another row; voxels are unique"
                    )
            self._levels[stride] = _Level(coordinates, keys, order, frame)
        return self._levels[stride]

    def _downsample(self, stride: int) -> None:
        fine = self._level(stride)
        halved = fine.coordinates.clone()
        halved[:, 1:] >>= 1  # an arithmetic shift rounds down, negative coordinates too
        if len(halved) == 0:
            self._parents[stride] = torch.zeros(0, dtype=torch.int64, device=halved.device)
            self._coordinates[2 * stride] = halved
            return
        keys = _KeyFrame(halved).keys(halved)
        unique, parent = torch.unique(keys, return_inverse=True)
        # Any child names its parent's coordinates; all children write the same row.
        coarse = halved.new_empty((len(unique), 4))
        coarse[parent] = halved
        self._parents[stride] = parent
        self._coordinates[2 * stride] = coarse

    def _build_submanifold(self, level: _Level) -> KernelMap:
        count = len(level.keys)
        # Half of the offsets will do: a pair (i, j) of an offset is the pair (j, i) of its mirror image.
        half: dict[int, torch.Tensor] = {_centred(0, 0, 1): level.find_next()}
        for dx, dy in ((1, 0), (-1, 1), (0, 1), (1, 1)):
            found = level.find_columns(level.keys + level.frame.offset(dx, dy, -1))
            half.update({_centred(dx, dy, dz): found[dz + 1] for dz in (-1, 0, 1)})
        pairs = dict(zip(half, _pairs(list(half.values())), strict=True))
        table = []
        for index in range(27):
            if index == _centred(0, 0, 0):
                table.append((level.keys[:0], level.keys[:0]))
                continue
            rows, at = pairs[index] if index in pairs else pairs[26 - index]
            if level.order is not None:
                at = level.order.index_select(0, at)
            table.append((rows, at) if index in pairs else (at, rows))
        return _join(table, count, count, identity=_centred(0, 0, 0))

    def _build_strided_2(self, stride: int) -> KernelMap:
        coarse = self.coordinates(2 * stride)
        fine, parent = self.coordinates(stride), self._parents[stride]
        bit = (fine[:, 1:] & 1).to(torch.int64)
        offset = 4 * bit[:, 0] + 2 * bit[:, 1] + bit[:, 2]
        in_rows = torch.argsort(offset * max(len(coarse), 1) + parent)
        sizes = torch.bincount(offset, minlength=8).tolist()
        return KernelMap(in_rows, parent.index_select(0, in_rows), tuple(sizes), len(fine), len(coarse))

    def _build_strided_3(self, stride: int) -> KernelMap:
        fine = self._level(stride)
        coarse = self.coordinates(2 * stride)
        centre = coarse.to(torch.int64)
        centre[:, 1:] *= 2
        keys = fine.frame.keys(centre)
        found: list[torch.Tensor] = [keys] * 27
        for dx in (-1, 0, 1):
            for dy in (-1, 0, 1):
                columns = fine.find_columns(keys + fine.frame.offset(dx, dy, -1))
                for dz in (-1, 0, 1):
                    found[_centred(dx, dy, dz)] = columns[dz + 1]
        return _join(_pairs(found), len(fine.keys), len(coarse))


def _centred(dx: int, dy: int, dz: int) -> int:
    """Index of an offset of the 3^3 kernel."""
    return (dx + 1) + 3 * (dy + 1) + 9 * (dz + 1)


def _pairs(found: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """From the row that each query found (-1: none), one tensor an offset, to pairs (rows, queries) an offset."""
    table = torch.stack(found)
    hit = table >= 0
    sizes = hit.sum(dim=1).tolist()  # the one transfer to the host
    return list(zip(torch.split(table[hit], sizes), torch.split(hit.nonzero()[:, 1], sizes), strict=True))


def _join(
    pairs: list[tuple[torch.Tensor, torch.Tensor]], in_count: int, out_count: int, identity: int | None = None
) -> KernelMap:
    in_rows = torch.cat([pair[0] for pair in pairs])
    out_rows = torch.cat([pair[1] for pair in pairs])
    return KernelMap(in_rows, out_rows, tuple(len(pair[0]) for pair in pairs), in_count, out_count, identity)
