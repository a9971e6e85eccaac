"""Connected components of points that are no further apart than a gap, without listing every near pair.

Close to the sensor a point has hundreds of others within half a metre, and a scan tens of millions of such pairs. In
cubes whose diagonal is the gap all points belong together; so the cubes are linked instead, and points are compared
only where two cubes' boxes leave it open and nothing else has linked them.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

_NEIGHBOURS = [offset for offset in itertools.product(range(-2, 3), repeat=3) if offset > (0, 0, 0)]
"""Cubes that can hold a point within the gap of one in this cube; of each two opposite ones, one."""
_SPAN = 1 << 20
"""Cubes along an axis."""

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


def components(points: npt.NDArray[np.floating], gap: float) -> Numbers:
    """(N,) number of the component of each of the points (N, 3), from 0 without holes.

    Two points are linked when they are at most `gap` apart.

    Raises:
        ValueError: the points span more than 2^20 gaps, or are not finite.
    """
    if not len(points):
        return np.zeros(0, np.int64)
    points = points.astype(np.float64)
    cell = np.floor((points - points.min(0)) / (gap / np.sqrt(3)))
    if not cell.max() < _SPAN - 4:
        raise ValueError(f"points (span {np.ptp(points, axis=0)}) that are not finite, or too far apart for {gap}")
    # Two empty cubes at both ends of every row, so that no neighbour is one of another row.
    key = (cell.astype(np.int64) + 2) @ np.array([_SPAN * _SPAN, _SPAN, 1])
    order = np.argsort(key, kind="stable")
    keys, starts = np.unique(key[order], return_index=True)
    points = points[order]
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    sure, open_ = _cube_pairs(keys, low, high, gap)
    number = _link(sure, len(keys))
    left = open_[number[open_[:, 0]] != number[open_[:, 1]]]
    found = _compare(left, number, np.split(points, starts[1:]), gap)
    number = _link(found, int(number.max()) + 1)[number]
    sizes = np.diff(np.append(starts, len(points)))
    out = np.empty(len(points), np.int64)
    out[order] = np.repeat(number, sizes)
    return out


def _cube_pairs(keys: Numbers, low: Floats, high: Floats, gap: float) -> tuple[Numbers, Numbers]:
    """Pairs (K, 2) of cubes whose points are linked for sure, and of those that may be."""
    sure, open_ = [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.int64)]
    for x, y, z in _NEIGHBOURS:
        wanted = keys + ((x * _SPAN) + y) * _SPAN + z
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        a = np.flatnonzero(keys[at] == wanted)
        b = at[a]
        # Between the nearest and between the furthest corners of the two boxes.
        near = np.maximum(np.maximum(low[a] - high[b], low[b] - high[a]), 0)
        far = np.maximum(high[a] - low[b], high[b] - low[a])
        pairs = np.stack([a, b], axis=1)
        linked = (far**2).sum(1) <= gap**2
        sure.append(pairs[linked])
        open_.append(pairs[~linked & ((near**2).sum(1) <= gap**2)])
    return np.concatenate(sure), np.concatenate(open_)


def _link(pairs: Numbers, count: int) -> Numbers:
    """(count,) number of the component of each node of a graph."""
    links = coo_matrix((np.ones(len(pairs), np.bool_), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def _compare(pairs: Numbers, number: Numbers, members: list[Floats], gap: float) -> Numbers:
    """(K, 2) components `number` that points of the cubes `pairs` (P, 2) link, those that others link left out."""
    root = list(range(int(number.max(initial=-1)) + 1))

    def find(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    found = []
    for a, b in pairs.tolist():
        one, other = find(int(number[a])), find(int(number[b]))
        if one == other:
            continue
        apart = members[a][:, None] - members[b][None]
        if ((apart**2).sum(2) <= gap**2).any():
            root[one] = other
            found.append((one, other))
    return np.array(found, np.int64).reshape(-1, 2)
