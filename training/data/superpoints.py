"""Opinions of neighbouring points made one: an image's edges are not the scan's, and a thing is one thing.

What an image-text model says of a pixel is noisy, and near the outline of a thing it is often about what stands behind.
Points that are neighbours in space are seldom of two classes, and a cluster that stands alone on the ground hardly ever
(superpoints, as in LESS, arXiv 2210.08064): their scores are averaged before anything is made of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from mdkt_ros.errors import ConfigError
from training.scheme.calibration import ABSENT

_CELL, _ABOVE = 1.0, 0.3
"""Metres: side of a square of ground, and how far above its lowest point things begin."""
_LARGEST = 12.0
"""Metres: what is longer or wider is no single thing but a row of houses."""
_SHARED = 0.7
"""How much a point of a cluster takes from the cluster."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Superpoints:
    """Whose scores are averaged.

    Attributes:
        neighbours: nearest points of each, itself included; 0 or 1: none.
        cluster: metres between the points of one cluster above the ground; 0: no clusters.
    """

    neighbours: int = 12
    cluster: float = 0.5

    def __post_init__(self) -> None:
        if self.neighbours < 0:
            raise ConfigError(f"neighbours = {self.neighbours}: a number of points, 0 for none")
        if not 0 <= self.cluster <= 5:
            raise ConfigError(f"cluster = {self.cluster}: from 0 to 5 metres")

    def average(self, points: Floats, scores: Floats) -> Floats:
        """Scores (P, C) float32 of points (P, 3), z upwards; `ABSENT` scores are no opinion and take no part."""
        if self.neighbours > 1 and len(points) > 1:
            count = min(self.neighbours, len(points))
            near = cKDTree(points).query(points, k=count)[1]
            scores = _mean(scores[near])
        if self.cluster > 0 and len(points) > 1:
            scores = self._of_clusters(points, scores)
        return scores

    def _of_clusters(self, points: Floats, scores: Floats) -> Floats:
        above = np.flatnonzero(points[:, 2] > _lowest(points) + _ABOVE)
        if not len(above):
            return scores
        pairs = cKDTree(points[above]).query_pairs(self.cluster, output_type="ndarray")
        links = coo_matrix((np.ones(len(pairs), np.bool_), (pairs[:, 0], pairs[:, 1])), shape=(len(above),) * 2)
        clusters, number = connected_components(links, directed=False)
        small = (_extent(points[above, :2], number, clusters) < _LARGEST)[number]
        said = scores[above] > ABSENT
        total = np.zeros((clusters, scores.shape[1]), np.float32)
        votes = np.zeros_like(total)
        np.add.at(total, number, np.where(said, scores[above], 0))
        np.add.at(votes, number, said)
        mean = (total / np.maximum(votes, 1))[number]
        out = scores.copy()
        mixed = (1 - _SHARED) * scores[above] + _SHARED * mean
        out[above] = np.where(small[:, None] & said, mixed, scores[above])
        return out


def _mean(scores: Floats) -> Floats:
    """(P, C) of (P, K, C)."""
    said = scores > ABSENT
    count = said.sum(1)
    total = np.where(said, scores, 0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), ABSENT).astype(np.float32)


def _lowest(points: Floats) -> npt.NDArray[np.float32]:
    """(P,) the lowest z in the square of ground that holds each point."""
    _, square = np.unique(np.floor(points[:, :2] / _CELL).astype(np.int64), axis=0, return_inverse=True)
    square = square.reshape(-1)
    low = np.full(square.max() + 1, np.inf, np.float32)
    np.minimum.at(low, square, points[:, 2])
    return np.asarray(low[square])


def _extent(xy: Floats, number: npt.NDArray[np.int32], clusters: int) -> npt.NDArray[np.float32]:
    """(clusters,) length of the longer side of each cluster's box."""
    low, high = np.full((2, clusters, 2), np.inf, np.float32)
    np.minimum.at(low, number, xy)
    np.minimum.at(high, number, -xy)
    return np.asarray((-high - low).max(1))
