"""What stands on the ground, apart from its neighbours: clusters of a scan, without any label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data.components import components

_CELL, _ABOVE = 1.0, 0.3
"""Metres: side of a square of ground, and how far above its lowest point things begin."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Clusters:
    """The clusters of N points.

    Attributes:
        number: (N,) int64 cluster of each point, -1 on the ground.
        extent: (K,) float32 metres, the longer side of each cluster's box, seen from above.
    """

    number: npt.NDArray[np.int64]
    extent: Floats

    def __len__(self) -> int:
        return len(self.extent)


def find_clusters(points: Floats, gap: float) -> Clusters:
    """Connected components of the points that are not on the ground.

    Args:
        points: (N, 3) metres, z upwards.
        gap: metres; points no further apart belong together.
    """
    number = np.full(len(points), -1, dtype=np.int64)
    above = np.flatnonzero(points[:, 2] > _lowest(points) + _ABOVE) if len(points) else np.zeros(0, np.int64)
    if not len(above):
        return Clusters(number, np.zeros(0, np.float32))
    of = components(points[above], gap)
    clusters = int(of.max()) + 1
    number[above] = of
    return Clusters(number, _extent(points[above, :2], of, clusters))


def _lowest(points: Floats) -> Floats:
    """(N,) the lowest z in the square of ground that holds each point."""
    cell = np.floor(points[:, :2] / _CELL).astype(np.int64)
    # One number a square: sorting rows takes ten times as long.
    _, square = np.unique(cell[:, 0] * (1 << 32) + cell[:, 1], return_inverse=True)
    low = np.full(square.max() + 1, np.inf, np.float32)
    np.minimum.at(low, square, points[:, 2])
    return np.asarray(low[square])


def _extent(xy: Floats, number: npt.NDArray[np.int64], clusters: int) -> Floats:
    """(clusters,) length of the longer side of each cluster's box."""
    low, high = np.full((2, clusters, 2), np.inf, np.float32)
    np.minimum.at(low, number, xy)
    np.minimum.at(high, number, -xy)
    return np.asarray((-high - low).max(1))
