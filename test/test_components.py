"""Components of near points are those of the graph of all near pairs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from training.data.components import components


def by_all_pairs(points: npt.NDArray[np.float64], gap: float) -> npt.NDArray[np.int64]:
    """The definition: every pair that is near, a link."""
    pairs = cKDTree(points).query_pairs(gap, output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(points),) * 2)
    return np.asarray(connected_components(links, directed=False)[1])


def partition(number: npt.NDArray[np.int64]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(number == k).tolist()) for k in np.unique(number)}


@pytest.mark.parametrize("spread", [0.5, 2.0, 6.0, 20.0])
@pytest.mark.parametrize("seed", range(5))
def test_as_by_all_pairs(spread: float, seed: int):
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.normal(center, 0.4, (60, 3)) for center in rng.uniform(-spread, spread, (12, 3))])
    found = components(points, 0.5)
    assert set(found) == set(range(found.max() + 1))
    assert partition(found) == partition(by_all_pairs(points, 0.5))


def test_sheets_and_lines_that_run_along_the_cubes():
    """Where whole faces of cubes lie opposite each other, hardly within reach or hardly out of it."""
    grid = np.stack(np.meshgrid(np.arange(12), np.arange(12), [0], indexing="ij"), -1).reshape(-1, 3) * 0.21
    for apart in (0.49, 0.51):
        sheets = np.concatenate([grid, grid + np.array([0.0, 0.0, apart]), grid - np.array([0.0, 0.0, 3 * apart])])
        assert partition(components(sheets, 0.5)) == partition(by_all_pairs(sheets, 0.5))
        line = np.arange(40)[:, None] * np.array([apart, 0, 0]) + [-7, 3, 1]
        assert components(line, 0.5).max() == (0 if apart < 0.5 else 39)


def test_exactly_the_gap_is_near():
    assert components(np.array([[0.0, 0, 0], [0.5, 0, 0]]), 0.5).tolist() == [0, 0]
    assert len(set(components(np.array([[0.0, 0, 0], [0.5 + 1e-9, 0, 0]]), 0.5))) == 2


def test_no_points_one_point_and_one_place():
    assert components(np.zeros((0, 3), np.float32), 0.5).shape == (0,)
    assert components(np.full((1, 3), 7.0, np.float32), 0.5).tolist() == [0]
    assert components(np.full((9, 3), -7.0, np.float32), 0.5).tolist() == [0] * 9


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e9])
def test_points_that_no_cube_holds(bad: float):
    with pytest.raises(ValueError, match="not finite, or too far apart"):
        components(np.array([[0.0, 0, 0], [bad, 0, 0]]), 0.5)
