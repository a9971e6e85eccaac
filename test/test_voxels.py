"""Points to voxels: membership, means, order, bad input, and both paths agreeing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mdkt_ros import voxels as voxels_module
from mdkt_ros.errors import CloudError, ConfigError
from mdkt_ros.voxel_grid import VoxelGrid
from mdkt_ros.voxels import DEFAULT_FEATURES, FEATURES, collate, voxelize, voxelize_tensor

GRID = VoxelGrid(0.5, (-10.0, -10.0, -2.0), (10.0, 10.0, 2.0))
# So many cells that key and index do not fit 63 bits together: the other way to sort.
WIDE = VoxelGrid(0.1, (-50_000.0,) * 3, (50_000.0,) * 3)


def scan(count: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    points = rng.normal(0, [4, 4, 1], (count, 3)).astype(np.float32)
    return points, rng.random(count, dtype=np.float32)


def by_hand(points: np.ndarray, intensity: np.ndarray, grid: VoxelGrid) -> dict[tuple[int, ...], list[int]]:
    """Voxel -> its points, one point at a time."""
    members: dict[tuple[int, ...], list[int]] = {}
    low, high = np.array(grid.minimum, np.float32), np.array(grid.maximum, np.float32)
    for index, point in enumerate(points):
        if np.all(point >= low) and np.all(point < high):
            cell = np.minimum(np.floor((point - low) * np.float32(1 / grid.voxel_size)), np.array(grid.shape) - 1)
            members.setdefault(tuple(int(c) for c in cell), []).append(index)
    return members


@pytest.mark.parametrize("grid", [GRID, WIDE], ids=["small", "wide"])
def test_members_means_and_order_are_those_found_one_point_at_a_time(grid: VoxelGrid) -> None:
    points, intensity = scan()
    members = by_hand(points, intensity, grid)
    voxels = voxelize(points, intensity, grid)
    assert [tuple(c) for c in voxels.coordinates.tolist()] == sorted(members)
    expected = np.full(len(points), -1)
    for row, cell in enumerate(sorted(members)):
        expected[members[cell]] = row
        values = np.column_stack([points, intensity])[members[cell]].astype(np.float64)
        np.testing.assert_allclose(voxels.features[row], values.mean(axis=0), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(voxels.point_to_voxel, expected)
    assert (voxels.coordinates.dtype, voxels.features.dtype, voxels.point_to_voxel.dtype) == (
        np.int32,
        np.float32,
        np.int64,
    )


def test_named_features_of_a_single_point() -> None:
    voxels = voxelize([[3.0, 4.1, 0.2]], [0.7], GRID, FEATURES)
    # The voxel is 3.0..3.5, 4.0..4.5, 0.0..0.5: its centre is 3.25, 4.25, 0.25.
    expected = [3.0, 4.1, 0.2, 0.7, np.sqrt(9 + 4.1**2 + 0.04), -0.25, -0.15, -0.05]
    np.testing.assert_allclose(voxels.features, [expected], rtol=1e-6)
    np.testing.assert_array_equal(voxels.coordinates, [[26, 28, 4]])


def test_features_come_in_the_order_that_was_asked_for() -> None:
    points, intensity = scan()
    all_of_them = voxelize(points, intensity, GRID, FEATURES).features
    some = voxelize(points, intensity, GRID, ("range", "x")).features
    np.testing.assert_array_equal(some, all_of_them[:, [FEATURES.index("range"), FEATURES.index("x")]])


def test_nan_infinite_and_far_points_are_in_no_voxel_and_leave_the_others_alone() -> None:
    points, intensity = scan(500)
    inside = voxelize(points, intensity, GRID)
    bad = np.array([[np.nan, 0, 0], [0, np.inf, 0], [0, 0, -np.inf], [10, 0, 0], [0, 0, 3e38]], np.float32)
    where = np.array([0, 7, 100, 499, 500])
    mixed = voxelize(np.insert(points, where, bad, axis=0), np.insert(intensity, where, 1e30), GRID)
    is_bad = np.zeros(505, dtype=bool)
    is_bad[where + np.arange(5)] = True
    assert (mixed.point_to_voxel[is_bad] == -1).all()
    np.testing.assert_array_equal(mixed.point_to_voxel[~is_bad], inside.point_to_voxel)
    np.testing.assert_array_equal(mixed.features, inside.features)


def test_the_box_is_closed_below_and_open_above() -> None:
    below = np.nextafter(np.float32(10), np.float32(0))
    voxels = voxelize([[-10, -10, -2], [10, 0, 0], [below, below, 1.9999999]], None, GRID)
    np.testing.assert_array_equal(voxels.point_to_voxel, [0, -1, 1])
    np.testing.assert_array_equal(voxels.coordinates, [[0, 0, 0], [39, 39, 7]])


def test_intensity_that_is_missing_or_not_finite_counts_as_zero() -> None:
    points = np.full((4, 3), 0.1, np.float32)
    assert voxelize(points, None, GRID).features[0, 3] == 0
    assert voxelize(points, np.array([np.nan, 1, np.inf, -np.inf]), GRID).features[0, 3] == 0.25


def test_permuted_points_give_the_same_voxels() -> None:
    points, intensity = scan()
    order = np.random.default_rng(1).permutation(len(points))
    one, other = voxelize(points, intensity, GRID), voxelize(points[order], intensity[order], GRID)
    np.testing.assert_array_equal(one.coordinates, other.coordinates)
    np.testing.assert_array_equal(one.point_to_voxel[order], other.point_to_voxel)
    np.testing.assert_allclose(one.features, other.features, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("points", [0, 1, 7, 3000])
def test_pieces_on_several_threads_change_no_bit(points: int, threads: int, monkeypatch) -> None:
    pytest.importorskip("numba", reason="compiled loops need numba")
    xyz, intensity = scan(points)
    if points > 7:
        xyz[5:2000] = xyz[5]  # a voxel that no cut may go through
    whole = voxelize(xyz, intensity, GRID, FEATURES)
    monkeypatch.setattr(voxels_module, "_LEAST_PIECE", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pieces = voxelize(xyz, intensity, GRID, FEATURES)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(pieces.coordinates, whole.coordinates)
    np.testing.assert_array_equal(pieces.features.view(np.int32), whole.features.view(np.int32))
    np.testing.assert_array_equal(pieces.point_to_voxel, whole.point_to_voxel)


@pytest.mark.parametrize("features", [DEFAULT_FEATURES, FEATURES, ("range", "z")])
@pytest.mark.parametrize("voxel_size", [0.1, 0.7, 30.0])
def test_compiled_loops_equal_numpy_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, voxel_size: float, features: tuple[str, ...]
) -> None:
    pytest.importorskip("numba", reason="compiled loops need numba")
    grid = VoxelGrid(voxel_size, (-20.0, -19.3, -3.0), (21.7, 20.0, 4.0))
    points, intensity = scan(20_000)
    points[::50] = np.nan
    points[1::50] = np.inf
    points[2::50] *= 100
    points[3] = grid.maximum
    points[4] = grid.minimum
    intensity[::70] = np.nan
    for values in (intensity, None):
        made = voxelize(points, values, grid, features)
        with monkeypatch.context() as patch:
            patch.setattr(voxels_module, "compiled_loops", lambda _module: None)
            expected = voxelize(points, values, grid, features)
        for name in ("coordinates", "features", "point_to_voxel"):
            mine, theirs = getattr(made, name), getattr(expected, name)
            assert mine.dtype == theirs.dtype
            assert np.array_equal(mine, theirs), name


def test_grids_too_fine_for_the_loops_go_to_numpy() -> None:
    """A million voxels along each axis and more points than three bits number: the key and the index do not fit 63."""
    grid = VoxelGrid(0.001, (-500.0, -500.0, -500.0), (500.0, 500.0, 500.0))
    points, intensity = scan(100)
    made = voxelize(points, intensity, grid)
    assert (made.coordinates[made.point_to_voxel] == np.floor((points + 500) * np.float32(1000))).all()


@pytest.mark.parametrize("features", [DEFAULT_FEATURES, FEATURES])
@pytest.mark.parametrize("grid", [GRID, WIDE], ids=["small", "wide"])
def test_tensor_path_equals_numpy_path(grid: VoxelGrid, features: tuple[str, ...]) -> None:
    points, intensity = scan()
    points[::7] = np.nan
    intensity[1::50] = np.inf
    one = voxelize(points, intensity, grid, features)
    other = voxelize_tensor(torch.from_numpy(points), torch.from_numpy(intensity), grid, features)
    np.testing.assert_array_equal(one.coordinates, other.coordinates.numpy())
    np.testing.assert_array_equal(one.point_to_voxel, other.point_to_voxel.numpy())
    np.testing.assert_allclose(one.features, other.features.numpy(), rtol=1e-6, atol=1e-7)
    assert (other.coordinates.dtype, other.features.dtype) == (torch.int32, torch.float32)


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.full((5, 3), np.nan)], ids=["none", "all NaN"])
def test_no_point_in_the_grid(points: np.ndarray) -> None:
    for voxels in (voxelize(points, None, GRID), voxelize_tensor(torch.tensor(points).float(), None, GRID)):
        assert tuple(voxels.coordinates.shape) == (0, 3)
        assert tuple(voxels.features.shape) == (0, 4)
        assert voxels.point_to_voxel.tolist() == [-1] * len(points)


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.float64, st.tuples(st.integers(0, 30), st.just(3)), elements=st.floats()), st.floats(1e-3, 1e3))
def test_any_floats_are_placed_inside_the_grid_or_marked(points: np.ndarray, voxel_size: float) -> None:
    grid = VoxelGrid(voxel_size, (-10.0, -10.0, -2.0), (10.0, 10.0, 2.0))
    voxels = voxelize(points, None, grid)
    assert (voxels.coordinates >= 0).all()
    assert (voxels.coordinates < grid.shape).all()
    assert np.isfinite(voxels.features).all()
    assert set(voxels.point_to_voxel.tolist()) - {-1} == set(range(len(voxels)))
    assert len(np.unique(voxels.coordinates, axis=0)) == len(voxels)


def test_views_and_read_only_arrays_are_read_and_left_as_they_are() -> None:
    points, intensity = scan(400)
    expected = voxelize(points, intensity, GRID)
    table = np.zeros((400, 8), np.float32)
    table[:, 2:5], table[:, 6] = points, intensity
    before = table.copy()
    table.setflags(write=False)
    voxels = voxelize(table[:, 2:5], table[:, 6], GRID)
    np.testing.assert_array_equal(voxels.features, expected.features)
    backwards = voxelize(np.asfortranarray(points)[::-1], intensity[::-1], GRID)
    np.testing.assert_array_equal(backwards.point_to_voxel[::-1], expected.point_to_voxel)
    np.testing.assert_array_equal(table, before)


@pytest.mark.parametrize(
    ("points", "intensity", "message"),
    [
        (np.zeros((5, 4)), None, r"points: shape \(5, 4\) is not \(N, 3\)"),
        (np.zeros(3), None, r"points: shape \(3,\)"),
        (np.zeros((5, 3)), np.zeros(4), r"intensity: shape \(4,\) is not \(5,\)"),
        (np.zeros((5, 3)), np.zeros((5, 1)), r"intensity: shape \(5, 1\)"),
        (np.zeros((5, 3), complex), None, "points: dtype complex128"),
        (np.array([["a", "b", "c"]]), None, "points: dtype <U1"),
    ],
)
def test_wrong_arrays_are_refused_by_name(points: np.ndarray, intensity: np.ndarray | None, message: str) -> None:
    with pytest.raises(CloudError, match=message):
        voxelize(points, intensity, GRID)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, (0, 0, 0), (1, 1, 1)), "voxel_size: 0.0"),
        ((float("nan"), (0, 0, 0), (1, 1, 1)), "voxel_size: nan"),
        ((0.1, (0, 0), (1, 1, 1)), "minimum"),
        ((0.1, (0, 0, 0), (1, 1, float("inf"))), "maximum"),
        ((0.1, (0, 0, 0), (1, -1, 1)), "range of y: minimum 0.0 is not below maximum -1.0"),
        ((1e-7, (0, 0, 0), (1, 1, 1)), "range of x: .* is more than 1048576 voxels"),
    ],
)
def test_impossible_grids_are_refused_by_name(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VoxelGrid(*arguments)


def test_shape_forgives_rounding() -> None:
    assert VoxelGrid(0.1, (0, -40, -3), (70.4, 40, 1)).shape == (704, 800, 40)
    assert VoxelGrid(0.3, (0, 0, 0), (1, 0.3, 0.1)).shape == (4, 1, 1)


def test_unknown_and_repeated_features_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="feature 'color' is not known; there are: x, y"):
        voxelize(np.zeros((1, 3)), None, GRID, ("x", "color"))
    with pytest.raises(ConfigError, match="only once"):
        voxelize(np.zeros((1, 3)), None, GRID, ("x", "x"))


@pytest.mark.parametrize("as_tensor", [False, True])
def test_collate_keeps_every_scan_in_its_rows(as_tensor: bool) -> None:
    arrays = [scan(200, seed) for seed in range(3)]
    arrays.insert(1, (np.zeros((0, 3), np.float32), np.zeros(0, np.float32)))
    scans = [voxelize(points, intensity, GRID) for points, intensity in arrays]
    tensors = [voxelize_tensor(torch.tensor(points), torch.tensor(values), GRID) for points, values in arrays]
    batch, offsets = collate(tensors if as_tensor else scans)
    assert offsets.tolist() == np.cumsum([0] + [len(s) for s in scans]).tolist()
    for index, one in enumerate(scans):
        rows = slice(offsets[index], offsets[index + 1])
        assert (batch.coordinates[rows, 0] == index).all()
        np.testing.assert_array_equal(batch.coordinates[rows, 1:].numpy(), one.coordinates)
        np.testing.assert_allclose(batch.features[rows].numpy(), one.features, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="at least one scan"):
        collate([])


@pytest.mark.real
def test_real_scan_loses_no_point_within_range(real_data: Path) -> None:
    data = np.fromfile(real_data / "semantickitti/sequences/00/velodyne/000000.bin", np.float32).reshape(-1, 4)
    grid = VoxelGrid(0.1, (-100.0, -100.0, -20.0), (100.0, 100.0, 10.0))
    voxels = voxelize(data[:, :3], data[:, 3], grid)
    assert (voxels.point_to_voxel >= 0).all()
    centre = np.array(grid.minimum) + (voxels.coordinates[voxels.point_to_voxel] + 0.5) * 0.1
    # Half a voxel, and the rounding of float32 at 200 m from the grid's minimum.
    assert np.abs(data[:, :3] - centre).max() < 0.05 + 1e-4
