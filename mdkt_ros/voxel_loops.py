"""Grouping points by voxel in two loops, compiled by Numba: the same voxels and means as NumPy's, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mdkt_ros.sparse.native.loops import compiled, sort_above

__all__ = ["average_points", "find_cuts", "number_cells", "place_points", "sort_above"]

Array = npt.NDArray[Any]


@compiled
def number_cells(
    xyz: Array, low: Array, high: Array, inverse: np.float32, shape: Array, bits: int, packed: Array
) -> int:  # pragma: no cover - compiled
    """Cell of each point in range, `key << bits | point`, into `packed` (N,) int64; returns how many there are.

    Args:
        xyz: (N, 3) float32. low, high: (3,) float32, the box. inverse: voxels a metre.
        shape: (3,) int64 voxels along each axis.
    """
    count = 0
    for point in range(len(xyz)):
        key = np.int64(0)
        inside = True
        for axis in range(3):
            value = xyz[point, axis]
            inside &= (value >= low[axis]) & (value < high[axis])  # false for NaN
            if inside:
                cell = np.int64((value - low[axis]) * inverse)
                key = key * shape[axis] + min(cell, shape[axis] - 1)
        if inside:
            packed[count] = (key << bits) | point
            count += 1
    return count


@compiled
def find_cuts(packed: Array, bits: int, cuts: Array, voxels: Array) -> None:  # pragma: no cover - compiled
    """Cut sorted `packed` into P pieces of about the same size between two voxels.

    Args:
        cuts: (P + 1,) int64 written: where the pieces begin, and the end of the last.
        voxels: (P,) int64 written: voxels before each piece.
    """
    pieces = len(voxels)
    count, at = 0, 0
    for piece in range(pieces):
        wanted = len(packed) * piece // pieces
        while at < len(packed) and (at < wanted or (at > 0 and packed[at] >> bits == packed[at - 1] >> bits)):
            count += at == 0 or packed[at] >> bits != packed[at - 1] >> bits
            at += 1
        cuts[piece], voxels[piece] = at, count
    cuts[pieces] = len(packed)


@compiled
def place_points(
    packed: Array, bits: int, shape: Array, coordinates: Array, voxel: Array, number: int
) -> int:  # pragma: no cover - compiled
    """Number the voxels of sorted `packed` from `number` on, in its order; returns the number after the last.

    Args:
        shape: (3,) int64 voxels along each axis.
        coordinates: (V, 3) int32 written from row `number` on.
        voxel: (N,) int64 written for the points of `packed`.
    """
    mask = (np.int64(1) << bits) - 1
    width, height = np.uint64(shape[1]), np.uint64(shape[2])
    last = np.int64(-1)
    number -= 1
    for value in packed:
        key = value >> bits
        if key != last:
            last = key
            number += 1
            column = np.uint64(key) // height
            x = column // width
            coordinates[number, 0] = x
            coordinates[number, 1] = column - x * width
            coordinates[number, 2] = np.uint64(key) - column * height
        voxel[value & mask] = number
    return number + 1


@compiled
def average_points(
    voxel: Array,
    first: int,
    last: int,
    xyz: Array,
    intensity: Array,
    names: Array,
    minimum: Array,
    size: float,
    coordinates: Array,
    means: Array,
) -> None:  # pragma: no cover - compiled
    """Mean features of the voxels `first` to `last`; points are added in their order, whose neighbours share voxels.

    Args:
        voxel: (N,) int64 of each point. Those of other voxels may be written meanwhile.
        intensity: (N,) float32, or (0,) for none.
        names: (F,) places of the features in `voxels.FEATURES`.
        minimum: (3,) float64 metres. size: of a voxel, metres.
        coordinates: (V, 3) int32. means: (V, F) float32 written in these rows.
    """
    sums = np.zeros((last - first, len(names)), dtype=np.float64)
    points = np.zeros(last - first, dtype=np.int64)
    for point in range(len(xyz)):
        number = voxel[point]
        if number < first or number >= last:
            continue
        row = number - first
        points[row] += 1
        for feature in range(len(names)):
            name = names[feature]
            if name < 3:
                sums[row, feature] += np.float64(xyz[point, name])
            elif name == 3:
                if len(intensity) and np.isfinite(intensity[point]):
                    sums[row, feature] += np.float64(intensity[point])
            elif name == 4:
                a, b, c = np.float64(xyz[point, 0]), np.float64(xyz[point, 1]), np.float64(xyz[point, 2])
                sums[row, feature] += np.sqrt(a * a + b * b + c * c)
            else:
                axis = name - 5
                centre = minimum[axis] + (coordinates[number, axis] + 0.5) * size
                sums[row, feature] += np.float64(xyz[point, axis]) - centre
    for row in range(last - first):
        for feature in range(len(names)):
            means[first + row, feature] = sums[row, feature] / points[row]
