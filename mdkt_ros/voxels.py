"""Points to voxels and back: which voxel holds a point, and the mean feature of the points in each voxel.

Metres, LiDAR frame. The NumPy path serves the CPU and the data loaders; the tensor path does the same arithmetic on any
torch device, so that a scan that is on the GPU stays there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mdkt_ros.errors import ConfigError
from mdkt_ros.point_arrays import check_points
from mdkt_ros.sparse.loaders import compiled_loops
from mdkt_ros.sparse.parallel import cpu_threads, share
from mdkt_ros.sparse.tensor import SparseTensor
from mdkt_ros.voxel_grid import VoxelGrid

FEATURES = ("x", "y", "z", "intensity", "range", "offset_x", "offset_y", "offset_z")
"""Point features by name: position, intensity, distance to the origin, offset from the voxel's centre (metres)."""

DEFAULT_FEATURES = ("x", "y", "z", "intensity")

_LEAST_PIECE = 16384
"""Points that are worth another thread."""


@dataclass(frozen=True)
class Voxels:
    """The occupied voxels of one scan, sorted by (x, y, z).

    Attributes:
        coordinates: (V, 3) int32, cell indices from the grid's minimum, 0 <= c < grid.shape.
        features: (V, F) float32, mean over the voxel's points.
        point_to_voxel: (N,) int64, row of the voxel that holds each point; -1 where NaN, infinite or out of range.
    """

    coordinates: npt.NDArray[np.int32]
    features: npt.NDArray[np.float32]
    point_to_voxel: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.coordinates)


@dataclass(frozen=True)
class TensorVoxels:
    """`Voxels` as tensors, on the device of the points that it was made from."""

    coordinates: torch.Tensor
    features: torch.Tensor
    point_to_voxel: torch.Tensor

    def __len__(self) -> int:
        return len(self.coordinates)


def check_features(features: Sequence[str]) -> tuple[str, ...]:
    """The feature names as a tuple. Raises ConfigError that names the unknown or repeated one."""
    names = tuple(features)
    for name in names:
        if name not in FEATURES:
            raise ConfigError(f"feature {name!r} is not known; there are: {', '.join(FEATURES)}")
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"features: needs at least one name and each only once, has {', '.join(names) or 'none'}")
    return names


def voxelize(
    points: npt.ArrayLike,
    intensity: npt.ArrayLike | None,
    grid: VoxelGrid,
    features: Sequence[str] = DEFAULT_FEATURES,
) -> Voxels:
    """Group points (N, 3) float32 metres by voxel. Deterministic; the input is not modified.

    `intensity` (N,) is averaged as given (scale it before); None, NaN and infinite values count as 0.

    Raises:
        CloudError: wrong shapes or types. ConfigError: an unknown feature name.
    """
    names = check_features(features)
    xyz, values = check_points(points, intensity)
    loops = compiled_loops("mdkt_ros.voxel_loops")
    bits = len(xyz).bit_length()
    if loops is not None and math.prod(grid.shape).bit_length() + bits <= 63:
        return _voxelize_compiled(loops, xyz, values, grid, names, bits)
    return _voxelize_numpy(xyz, values, grid, names)


def _voxelize_compiled(
    loops: ModuleType,
    xyz: npt.NDArray[np.float32],
    intensity: npt.NDArray[np.float32] | None,
    grid: VoxelGrid,
    names: tuple[str, ...],
    bits: int,
) -> Voxels:
    low, high = np.array(grid.minimum, np.float32), np.array(grid.maximum, np.float32)
    shape = np.array(grid.shape, dtype=np.int64)
    xyz = np.ascontiguousarray(xyz)
    packed = np.empty(len(xyz), dtype=np.int64)
    packed = packed[: loops.number_cells(xyz, low, high, np.float32(1.0 / grid.voxel_size), shape, bits, packed)]
    packed = loops.sort_above(packed, bits, bits + math.prod(grid.shape).bit_length())  # points are in the low bits
    point_to_voxel = np.full(len(xyz), -1, dtype=np.int64)
    coordinates = np.empty((len(packed), 3), dtype=np.int32)
    means = np.empty((len(packed), len(names)), dtype=np.float32)
    values = np.zeros(0, dtype=np.float32) if intensity is None else np.ascontiguousarray(intensity)
    places = np.array([FEATURES.index(name) for name in names])
    minimum = np.array(grid.minimum, dtype=np.float64)
    pieces = min(cpu_threads(), len(packed) // _LEAST_PIECE + 1)
    cuts, before = np.empty(pieces + 1, dtype=np.int64), np.empty(pieces, dtype=np.int64)
    loops.find_cuts(packed, bits, cuts, before)

    def average(first: int, last: int) -> int:
        begin = int(before[first])
        piece = packed[cuts[first] : cuts[last]]
        end: int = loops.place_points(piece, bits, shape, coordinates, point_to_voxel, begin)
        loops.average_points(
            point_to_voxel, begin, end, xyz, values, places, minimum, grid.voxel_size, coordinates, means
        )
        return end

    count = share(np.diff(cuts).tolist(), average)[-1]
    return Voxels(coordinates[:count], means[:count], point_to_voxel)


def _voxelize_numpy(
    xyz: npt.NDArray[np.float32],
    values: npt.NDArray[np.float32] | None,
    grid: VoxelGrid,
    names: tuple[str, ...],
) -> Voxels:
    columns = np.ascontiguousarray(xyz.T)
    low, high = np.array(grid.minimum, np.float32), np.array(grid.maximum, np.float32)
    inside = np.ones(len(xyz), dtype=np.bool_)
    for axis in range(3):
        inside &= (columns[axis] >= low[axis]) & (columns[axis] < high[axis])  # false for NaN
    kept = None if inside.all() else np.flatnonzero(inside)
    if kept is not None:
        columns = columns.compress(inside, axis=1)
        values = None if values is None else values.compress(inside)
    count = columns.shape[1]
    if count == 0:
        return Voxels(
            np.zeros((0, 3), np.int32), np.zeros((0, len(names)), np.float32), np.full(len(xyz), -1, dtype=np.int64)
        )
    inverse = np.float32(1.0 / grid.voxel_size)
    cells = np.empty((3, count), dtype=np.int32)  # at most 2**20 along an axis
    for axis in range(3):
        # Truncation is floor here; the last voxel takes what rounding pushes beyond it.
        cells[axis] = (columns[axis] - low[axis]) * inverse
        np.minimum(cells[axis], grid.shape[axis] - 1, out=cells[axis])
    key = (cells[0].astype(np.int64) * grid.shape[1] + cells[1]) * grid.shape[2] + cells[2]
    order, is_first = _group(key, math.prod(grid.shape))
    voxel = np.empty(count, dtype=np.int64)
    voxel[order] = np.cumsum(is_first) - 1
    coordinates = np.empty((int(voxel[order[-1]]) + 1, 3), dtype=np.int32)
    first = order[is_first]
    for axis in range(3):
        coordinates[:, axis] = cells[axis].take(first)
    means = np.empty((len(coordinates), len(names)), dtype=np.float32)
    points_in = np.bincount(voxel)
    for column, name in enumerate(names):
        value = _feature(name, columns, values, coordinates, voxel, grid)
        # bincount adds in float64, in the order of the points.
        means[:, column] = np.bincount(voxel, weights=value) / points_in if value is not None else 0
    if kept is None:
        return Voxels(coordinates, means, voxel)
    point_to_voxel = np.full(len(xyz), -1, dtype=np.int64)
    point_to_voxel[kept] = voxel
    return Voxels(coordinates, means, point_to_voxel)


def _group(key: npt.NDArray[np.int64], keys: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Stable order (N,) of `key` (0 <= key < keys), and whether each in that order is the first of its key."""
    bits = len(key).bit_length()
    if keys.bit_length() + bits <= 63:
        # Sorting values is five times as fast as sorting indices (SIMD), so the index rides in the low bits.
        packed = (key << bits) | np.arange(len(key), dtype=np.int64)
        packed.sort()
        order, ordered = packed & ((1 << bits) - 1), packed >> bits
    else:
        order = np.argsort(key, kind="stable").astype(np.int64, copy=False)
        ordered = key[order]
    is_first = np.empty(len(key), dtype=np.bool_)
    is_first[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return order, is_first


def _feature(
    name: str,
    columns: npt.NDArray[np.float32],
    intensity: npt.NDArray[np.float32] | None,
    coordinates: npt.NDArray[np.int32],
    voxel: npt.NDArray[np.int64],
    grid: VoxelGrid,
) -> npt.NDArray[np.floating[Any]] | None:
    """Values (N,) of one feature of the points in the grid; None stands for all zero."""
    if name == "intensity":
        if intensity is None:
            return None
        finite = np.isfinite(intensity)
        return intensity if finite.all() else np.where(finite, intensity, np.float32(0))
    if name == "range":
        x, y, z = columns.astype(np.float64)
        distance: npt.NDArray[np.float64] = np.sqrt(x * x + y * y + z * z)
        return distance
    axis = "xyz".index(name[-1])
    along: npt.NDArray[np.float32] = columns[axis]
    if name.startswith("offset_"):
        centre: npt.NDArray[np.floating[Any]] = grid.minimum[axis] + (coordinates[:, axis] + 0.5) * grid.voxel_size
        return along - centre[voxel]
    return along


def voxelize_tensor(
    points: torch.Tensor,
    intensity: torch.Tensor | None,
    grid: VoxelGrid,
    features: Sequence[str] = DEFAULT_FEATURES,
) -> TensorVoxels:
    """`voxelize` for tensors (N, 3) and (N,) float32 on any device: the same voxels in the same order.

    On CUDA the means may differ in the last bit from run to run, since atomics add in any order (in float64).
    """
    names = check_features(features)
    device = points.device
    low = torch.tensor(grid.minimum, dtype=torch.float32, device=device)
    high = torch.tensor(grid.maximum, dtype=torch.float32, device=device)
    shape = torch.tensor(grid.shape, device=device)
    kept = ((points >= low) & (points < high)).all(dim=1).nonzero().squeeze(1)
    xyz = points[kept]
    cells = torch.minimum(((xyz - low) * float(np.float32(1.0 / grid.voxel_size))).long(), shape - 1)
    key = (cells[:, 0] * grid.shape[1] + cells[:, 1]) * grid.shape[2] + cells[:, 2]
    keys, voxel, counts = torch.unique(key, return_inverse=True, return_counts=True)
    yz = grid.shape[1] * grid.shape[2]
    coordinates = torch.stack([keys // yz, keys // grid.shape[2] % grid.shape[1], keys % grid.shape[2]], dim=1)

    wide = xyz.double()
    centre = torch.tensor(grid.minimum, dtype=torch.float64, device=device) + (cells.double() + 0.5) * grid.voxel_size
    of_name: dict[str, Callable[[], torch.Tensor]] = {"range": lambda: wide.square().sum(dim=1).sqrt()}
    of_name["intensity"] = lambda: (
        wide.new_zeros(len(wide)) if intensity is None else intensity[kept].double().nan_to_num(0, 0, 0)
    )
    for axis, letter in enumerate("xyz"):
        of_name[letter] = lambda axis=axis: wide[:, axis]  # type: ignore[misc]
        of_name[f"offset_{letter}"] = lambda axis=axis: wide[:, axis] - centre[:, axis]  # type: ignore[misc]
    values = torch.stack([of_name[name]() for name in names], dim=1)
    sums = values.new_zeros(len(keys), len(names)).index_add_(0, voxel, values)
    point_to_voxel = torch.full((len(points),), -1, dtype=torch.int64, device=device)
    point_to_voxel[kept] = voxel
    return TensorVoxels(coordinates.int(), (sums / counts.unsqueeze(1)).float(), point_to_voxel)


def collate(scans: Sequence[Voxels | TensorVoxels]) -> tuple[SparseTensor, npt.NDArray[np.int64]]:
    """Join scans into one batch: scan b gets batch index b, and its rows are offsets[b] to offsets[b + 1].

    Returns:
        The sparse tensor (on the device of the scans) and offsets (B + 1,) int64.
    """
    if not scans:
        raise ValueError("collate: needs at least one scan")
    offsets = np.concatenate([[0], np.cumsum([len(scan) for scan in scans])]).astype(np.int64)
    features = torch.cat([torch.as_tensor(scan.features) for scan in scans])
    coordinates = torch.zeros(len(features), 4, dtype=torch.int32, device=features.device)
    for index, scan in enumerate(scans):
        rows = coordinates[int(offsets[index]) : int(offsets[index + 1])]
        rows[:, 0] = index
        rows[:, 1:] = torch.as_tensor(scan.coordinates)
    return SparseTensor(features, coordinates), offsets
