"""What a point's surroundings look like without any image: a few measures beside what the images show.

The few drawn labels cannot teach a network what a car is, but they can weigh a handful of measures that people have
found telling: height above the ground, the size of the thing that a point belongs to, and the eigenvalues of its
neighbourhood (Weinmann et al., "Semantic point cloud interpretation based on optimal neighborhoods, relevant features
and efficient classifiers", ISPRS J. 2015). Each measure is spread over a few bins, since no class grows with height.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from training.data.clusters import find_clusters

_GAP = 0.5
"""Metres between the points of a cluster."""
_NEAR, _GROUND = 12, 5
"""Points of a neighbourhood, and of the ground that a height is measured from."""
_WEIGHT = 0.2
"""Value of a full bin: about the size of the images' components."""

_BINS: dict[str, tuple[float, ...]] = {
    "height": (-0.3, 0, 0.1, 0.2, 0.5, 1, 1.5, 2, 3, 5, 8),
    "extent": (-1, 0, 0.3, 0.7, 1.2, 2, 3, 5, 7, 10, 15, 40),
    "top": (-0.2, 0.3, 0.7, 1.1, 1.5, 2, 2.5, 3.2, 4.5, 8),
    "bottom": (-0.2, 0, 0.3, 0.8, 2),
    "points": (0, 2, 3, 4, 5, 6, 8, 10),
    "brightness": (0, 1 / 7, 2 / 7, 3 / 7, 4 / 7, 5 / 7, 6 / 7, 1),
    "upright": (0, 0.2, 0.5, 0.8, 0.95, 1),
    "linear": (0, 0.3, 0.6, 1),
    "planar": (0, 0.3, 0.6, 1),
}
"""Centres of each measure's bins. In metres: a point above the ground around it, the longer side of its cluster seen
from above (-1: it is on the ground), the cluster's top and bottom above the ground. Then the logarithm of the
cluster's points, the neighbourhood's intensity by its rank in the scan, how upright its normal is (|z|), and how much
its points lie on a line and in a plane."""

MEASURES, COLUMNS = len(_BINS), sum(map(len, _BINS.values()))
"""How many measures there are, and bins of all of them."""

Floats = npt.NDArray[np.float32]


def shape_measures(points: Floats, intensity: npt.NDArray[np.floating] | None, rows: npt.NDArray[np.int64]) -> Floats:
    """Shape of the surroundings of some points of a scan.

    Args:
        points: (N, 3) metres, z upwards. intensity: (N,) of any scale, or None. rows: (P,) finite points among them.

    Returns:
        (P, `MEASURES`) float32, each between its first and its last bin.
    """
    if not len(rows):
        return np.zeros((0, MEASURES), dtype=np.float32)
    found = _measures(points, intensity, rows)
    return np.stack([np.clip(found[name], bins[0], bins[-1]) for name, bins in _BINS.items()], axis=1, dtype=np.float32)


def shape_columns(measures: Floats) -> Floats:
    """Measures (P, `MEASURES`) in bins, (P, `COLUMNS`) float32: two that a measure lies between share a full one."""
    return np.hstack([_WEIGHT * _spread(measures[:, i], bins) for i, bins in enumerate(_BINS.values())])


def _measures(
    points: Floats, intensity: npt.NDArray[np.floating] | None, rows: npt.NDArray[np.int64]
) -> dict[str, Floats]:
    usable = np.flatnonzero(np.isfinite(points).all(1))
    scan, at = points[usable], np.searchsorted(usable, rows)
    clusters = find_clusters(scan, _GAP)
    count, number = len(clusters), clusters.number
    on_ground = np.flatnonzero(number < 0)
    ground = scan[on_ground if len(on_ground) else np.arange(len(scan))]
    near_ground = cKDTree(ground[:, :2]).query(scan[at, :2], k=np.arange(1, min(_GROUND, len(ground)) + 1))[1]
    level = ground[near_ground, 2].min(1)  # the feet of a wall count as ground, too
    # The last row stands for the ground, whose number is -1.
    low, high = np.full(count + 1, np.inf, np.float32), np.full(count + 1, -np.inf, np.float32)
    np.minimum.at(low, number, scan[:, 2])
    np.maximum.at(high, number, scan[:, 2])
    of = number[at]
    inside = of >= 0
    found = {
        "height": scan[at, 2] - level,
        "extent": np.where(inside, np.append(clusters.extent, 0)[of], -1),
        "top": np.where(inside, high[of] - level, 0),
        "bottom": np.where(inside, low[of] - level, 0),
        "points": np.where(inside, np.log1p(np.bincount(number + 1, minlength=count + 1)[of + 1]), 0),
    }
    near = cKDTree(scan).query(scan[at], k=np.arange(1, min(_NEAR, len(scan)) + 1))[1]
    value = np.zeros(len(scan)) if intensity is None else np.nan_to_num(np.asarray(intensity, np.float64)[usable])
    return {name: measure.astype(np.float32) for name, measure in (found | _local(scan, value, near)).items()}


def _local(scan: Floats, intensity: npt.NDArray[np.float64], near: npt.NDArray[np.int64]) -> dict[str, Floats]:
    """Measures of neighbourhoods `near` (P, k)."""
    apart = scan[near] - scan[near].mean(1, keepdims=True)
    variance, axes = np.linalg.eigh(np.einsum("pki,pkj->pij", apart, apart) / near.shape[1])
    least, middle, most = np.sqrt(np.maximum(variance, 0)).T
    mean = intensity[near].mean(1)
    # Ranks, since no two sensors agree on what an intensity means; equal ones share the middle of theirs.
    ordered = np.sort(mean)
    rank = (np.searchsorted(ordered, mean, "left") + np.searchsorted(ordered, mean, "right")) / (2 * len(mean))
    return {
        "brightness": rank,
        "upright": np.abs(axes[:, 2, 0]),
        "linear": (most - middle) / (most + 1e-6),
        "planar": (middle - least) / (most + 1e-6),
    }


def _spread(values: Floats, centres: tuple[float, ...]) -> Floats:
    """(P, bins) of values (P,): one, shared by the two bins around it; beyond the last, all of the last."""
    edges = np.asarray(centres)
    inside = np.clip(values, edges[0], edges[-1])
    lower = np.clip(np.searchsorted(edges, inside, "right") - 1, 0, len(edges) - 2)
    share = (inside - edges[lower]) / (edges[lower + 1] - edges[lower])
    out = np.zeros((len(values), len(edges)), dtype=np.float32)
    rows = np.arange(len(values))
    out[rows, lower], out[rows, lower + 1] = 1 - share, share
    return out
