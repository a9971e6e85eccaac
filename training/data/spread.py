"""What a drawn label says about the points around it.

One labelled point of a car labels the car: what stands alone on the ground is seldom of two classes. So a label counts
for all of its cluster where that is no longer than a vehicle, and elsewhere for what is near, the less the further
(label propagation over superpoints, as in LESS, arXiv 2210.08064, and One Thing One Click, arXiv 2104.02246). It
speaks in log-odds, beside the image-text model and not instead of it, and no label is used that was not drawn.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from mdkt_ros.labels import IGNORE
from training.data.clusters import find_clusters

_GAP = 0.5
"""Metres between the points of a cluster."""
_THING = 9.0
"""Metres: what is longer may be a wall with a hedge before it."""
_OF_THING, _OF_REST = 6.0, 4.0
"""Log-odds that a point has the class of a label in the same thing; of one in the same place, elsewhere."""
_REACH_UP, _REACH_DOWN = 4.0, 1.0
"""Metres over which the log-odds fall to 1/e: above the ground, and on it."""
_LEAST, _MOST = 0.5, 8.0
"""Log-odds that are worth keeping, and that no number of labels goes beyond."""
_DENSE = 0.2
"""Share of labelled points from which there is nothing to spread."""


class SpreadLabels(NamedTuple):
    """Points that labels near them speak about.

    Attributes:
        rows: (S,) int64 in the scan, ascending.
        log_odds: (S, C) float32, what is added to the logarithm of each class's probability.
    """

    rows: npt.NDArray[np.int64]
    log_odds: npt.NDArray[np.float32]


def spread_labels(
    points: npt.NDArray[np.float32], target: npt.NDArray[np.uint8], classes: int, strength: float = 1.0
) -> SpreadLabels:
    """Let each label speak about its surroundings.

    Args:
        points: (N, 3) of a scan as recorded, metres, z upwards.
        target: (N,) class ids, 255 where no label was drawn.
        classes: C.
        strength: factor on the log-odds.
    """
    usable = np.isfinite(points).all(1)
    drawn = np.flatnonzero((target != IGNORE) & usable)
    odds = np.zeros((len(points), classes), dtype=np.float32)
    if len(drawn) and len(drawn) < _DENSE * len(points):
        rows = np.flatnonzero(usable)
        labelled = np.searchsorted(rows, drawn)
        odds[rows] = strength * _odds(points[rows], labelled, target[drawn], classes)
    told = np.flatnonzero(odds.max(1, initial=0) >= _LEAST)
    return SpreadLabels(told, np.minimum(odds[told], _MOST))


def _odds(
    points: npt.NDArray[np.float32], drawn: npt.NDArray[np.int64], target: npt.NDArray[np.uint8], classes: int
) -> npt.NDArray[np.float32]:
    """(N, C) log-odds from the labels (L,) of the points `drawn` (L,)."""
    odds = np.zeros((len(points), classes), dtype=np.float32)
    clusters = find_clusters(points, _GAP)
    number = clusters.number
    thing = np.r_[clusters.extent < _THING, False]  # the last is the ground, number -1
    whole = thing[number[drawn]]
    of_cluster = np.zeros((len(clusters) + 1, classes), dtype=np.float32)
    np.add.at(of_cluster, (number[drawn[whole]], target[whole]), _OF_THING)
    odds += of_cluster[number]
    for ground, reach in ((True, _REACH_DOWN), (False, _REACH_UP)):
        here = np.flatnonzero((number < 0) == ground)
        speak = np.flatnonzero(~whole & ((number[drawn] < 0) == ground))
        if not len(here) or not len(speak):
            continue
        far = reach * np.log(_OF_REST / _LEAST)
        near = cKDTree(points[drawn[speak]]).sparse_distance_matrix(cKDTree(points[here]), far, output_type="ndarray")
        same = number[drawn[speak[near["i"]]]] == number[here[near["j"]]]
        near = near[same]
        said = _OF_REST * np.exp(-near["v"] / reach)
        np.add.at(odds, (here[near["j"]], target[speak[near["i"]]]), said.astype(np.float32))
    return odds
