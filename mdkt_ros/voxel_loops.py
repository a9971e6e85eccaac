"""Grouping points by voxel in two loops, compiled by Numba: the same voxels and means as NumPy's, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mdkt_ros.sparse.native.loops import compiled, sort_above

__all__ = ["average_cells", "number_cells", "sort_above"]

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
def average_cells(
    packed: Array,
    bits: int,
    xyz: Array,
    intensity: Array,
    names: Array,
    minimum: Array,
    size: float,
    shape: Array,
    coordinates: Array,
    means: Array,
    voxel: Array,
    number: int,
) -> int:  # pragma: no cover - compiled
    """Voxels of sorted `packed`, in its order; returns `number` and how many there are.

    Args:
        intensity: (N,) float32, or (0,) for none.
        names: (F,) places of the features in `voxels.FEATURES`.
        minimum: (3,) float64 metres. size: of a voxel, metres.
        coordinates, means: (V', 3) int32 and (V', F) float32 written, V' at least the number of voxels.
        voxel: (N,) int64 written for the points of `packed`.
        number: of the first voxel.
    """
    mask = (np.int64(1) << bits) - 1
    sums = np.empty(len(names), dtype=np.float64)
    centre = np.empty(3, dtype=np.float64)
    at = 0
    while at < len(packed):
        key = packed[at] >> bits
        z = key % shape[2]
        y = (key // shape[2]) % shape[1]
        x = key // (shape[2] * shape[1])
        coordinates[number, 0], coordinates[number, 1], coordinates[number, 2] = x, y, z
        for axis in range(3):
            centre[axis] = minimum[axis] + (coordinates[number, axis] + 0.5) * size
        sums[:] = 0
        first = at
        while at < len(packed) and packed[at] >> bits == key:
            point = packed[at] & mask
            voxel[point] = number
            for feature in range(len(names)):
                name = names[feature]
                if name < 3:
                    sums[feature] += np.float64(xyz[point, name])
                elif name == 3:
                    if len(intensity) and np.isfinite(intensity[point]):
                        sums[feature] += np.float64(intensity[point])
                elif name == 4:
                    a, b, c = np.float64(xyz[point, 0]), np.float64(xyz[point, 1]), np.float64(xyz[point, 2])
                    sums[feature] += np.sqrt(a * a + b * b + c * c)
                else:
                    sums[feature] += np.float64(xyz[point, name - 5]) - centre[name - 5]
            at += 1
        for feature in range(len(names)):
            means[number, feature] = sums[feature] / (at - first)
        number += 1
    return number
