"""Which points of a scan an annotator would have labelled, by the kind of budget."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mdkt_ros.labels import IGNORE

BUDGETS = ("points", "clicks", "frames")
"""`points`: a share of each scan's points. `clicks`: a point an instance. `frames`: all points of a share of scans."""

CELL = 1.0
"""Edge in metres of the cells that connect points of a class: above the gap between the rings of a LiDAR nearby."""

SPECK = 5
"""Clusters of fewer points get no click: nobody makes out what a stray return far away belongs to."""

_GOLDEN = (5**0.5 - 1) / 2


def some_points(labels: npt.NDArray[np.uint8], percent: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Rows, ascending, of `percent` of the points with a class, at least one; a smaller share is part of a larger."""
    rows = np.flatnonzero(labels != IGNORE)
    if percent >= 100 or not len(rows):
        return rows
    size = max(1, int(len(rows) * percent / 100 + 0.5))
    return np.sort(rng.permutation(rows)[:size])


def clicks(
    points: npt.NDArray[np.float32],
    labels: npt.NDArray[np.uint8],
    instance: npt.NDArray[np.uint32] | None,
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Rows, ascending, of one random point of each instance of each class.

    What has no instance id is told apart by distance: points of a class are one cluster when cells of `CELL` metres
    that hold them touch, be it at a corner. Clusters of fewer than `SPECK` points get a click only where all are.

    Args:
        points: (N, 3) metres; those that are not finite get no click. labels: (N,). instance: (N,), 0: none, or None.
    """
    rows = np.flatnonzero((labels != IGNORE) & np.isfinite(points).all(1))
    if not len(rows):
        return rows
    numbered = np.zeros(len(rows), dtype=np.int64) if instance is None else instance[rows].astype(np.int64)
    group = np.stack([labels[rows].astype(np.int64), numbered], axis=1)
    loose = np.flatnonzero(numbered == 0)
    # Below zero, so that no cluster is taken for an instance.
    group[loose, 1] = -1 - clusters(points[rows[loose]], labels[rows[loose]])
    # The first row of each group in a random order is a random row of the group.
    order = rng.permutation(len(rows))
    groups, first, size = np.unique(group[order], axis=0, return_index=True, return_counts=True)
    seen = (groups[:, 1] > 0) | (size >= SPECK)
    return np.sort(rows[order[first[seen]]]) if seen.any() else rows[order[:1]]


def clusters(points: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Number (N,) of the connected cluster of its class that each of the finite points (N, 3) belongs to."""
    if not len(points):
        return np.zeros(0, dtype=np.int64)
    cells = np.floor(points / CELL).astype(np.int64)
    cells -= cells.min(0) - 1  # from 1, so that a neighbour's coordinate never leaves its digit of the key
    span = cells.max(0) + 2
    keys = ((labels.astype(np.int64) * span[0] + cells[:, 0]) * span[1] + cells[:, 1]) * span[2] + cells[:, 2]
    cell, cell_of_point = np.unique(keys, return_inverse=True)
    steps = np.array([(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)])
    # Half of the neighbours: an edge is found from one of its ends.
    offsets = (steps[14:] * (span[1] * span[2], span[2], 1)).sum(1)
    found = np.searchsorted(cell, cell[:, None] + offsets)
    joined = cell[np.minimum(found, len(cell) - 1)] == cell[:, None] + offsets
    one, step = np.nonzero(joined)
    return _components(len(cell), one, found[one, step])[cell_of_point.reshape(-1)]


def _components(size: int, one: npt.NDArray[np.intp], other: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
    """Least node (size,) of the component that each node of a graph with edges `one` - `other` is in."""
    root = np.arange(size)
    while True:
        least = np.minimum(root[one], root[other])
        before = root.copy()
        # Hook the roots of both ends, then shorten the paths: rounds grow as the logarithm of a component's size.
        np.minimum.at(root, before[one], least)
        np.minimum.at(root, before[other], least)
        root = root[root]
        if (root == before).all():
            return root


def some_frames(scans: int, percent: float, seed: int) -> npt.NDArray[np.bool_]:
    """Mask (scans,) of `percent` of the scans, at least one, evenly spread; a smaller share is part of a larger."""
    size = min(scans, max(1, int(scans * percent / 100 + 0.5)))
    # Multiples of the golden ratio leave even gaps however many of them are taken.
    start = np.random.default_rng([seed, scans]).random()
    chosen: dict[int, None] = {}
    step = 0
    while len(chosen) < size:
        chosen[int((start + step * _GOLDEN) % 1 * scans)] = None
        step += 1
    mask = np.zeros(scans, dtype=np.bool_)
    mask[list(chosen)] = True
    return mask
