"""Opinions of neighbouring points made one: an image's edges are not the scan's, and a thing is one thing.

What an image-text model says of a pixel is noisy, and near the outline of a thing it is often about what stands behind.
Points that are neighbours in space are seldom of two classes, and a cluster that stands alone on the ground hardly ever
(superpoints, as in LESS, arXiv 2210.08064): their scores are averaged before anything is made of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from mdkt_ros.errors import ConfigError
from training.data.clusters import find_clusters
from training.scheme.calibration_map import ABSENT

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
        clusters = find_clusters(points, self.cluster)
        above = np.flatnonzero(clusters.number >= 0)
        number = clusters.number[above]
        small = (clusters.extent < _LARGEST)[number]
        said = scores[above] > ABSENT
        total = np.zeros((len(clusters), scores.shape[1]), np.float32)
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
