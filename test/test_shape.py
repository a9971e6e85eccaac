"""Shape of what surrounds a point: known things in a made-up street, and what must not change it."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.shape import _BINS, _WEIGHT, COLUMNS, MEASURES, _measures, _spread, shape_columns, shape_measures


def street() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Flat ground at z = -1.7, a wall of 3 m, a pole of 2 m and a box of 4 x 2 x 1.5 m that hangs 0.5 m above it."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(-12, 12, 0.4), np.arange(-12, 12, 0.4))
    parts = {
        "ground": np.stack([x.ravel(), y.ravel(), np.full(x.size, -1.7)], 1),
        "wall": np.stack([rng.uniform(-10, 10, 4000), np.full(4000, 8.0), rng.uniform(-1.7, 1.3, 4000)], 1),
        "pole": np.stack([np.full(150, 5.0), np.full(150, -5.0), np.linspace(-1.7, 0.3, 150)], 1),
        "box": np.stack([rng.uniform(-4, 0, 3000), rng.uniform(-6, -4, 3000), rng.uniform(-1.2, 0.3, 3000)], 1),
    }
    rows, first = {}, 0
    for name, part in parts.items():
        rows[name] = np.arange(first, first + len(part))
        first += len(part)
    points = np.concatenate(list(parts.values())) + rng.normal(0, 0.003, (first, 3))
    return points.astype(np.float32), rows


def test_things_have_the_size_and_shape_that_they_have():
    points, rows = street()
    found = _measures(points, None, np.arange(len(points)))

    def median(name: str, part: str) -> float:
        above = rows[part][points[rows[part], 2] > -1.3] if part != "ground" else rows[part]
        return float(np.median(found[name][above]))

    assert median("extent", "ground") == -1
    assert median("height", "ground") == pytest.approx(0, abs=0.02)
    assert median("upright", "ground") > 0.99
    assert median("planar", "ground") > 0.7
    assert median("extent", "wall") == pytest.approx(20, abs=0.2)
    assert median("top", "wall") == pytest.approx(3, abs=0.1)
    assert median("upright", "wall") < 0.1
    assert median("extent", "pole") < 0.1
    assert median("linear", "pole") > 0.9
    assert median("top", "pole") == pytest.approx(2, abs=0.1)
    assert median("extent", "box") == pytest.approx(4, abs=0.1)
    assert median("bottom", "box") == pytest.approx(0.5, abs=0.1)
    assert median("points", "box") == pytest.approx(np.log(3000), abs=0.1)
    assert median("linear", "box") < 0.7


def columns(points: np.ndarray, intensity: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
    return shape_columns(shape_measures(points, intensity, rows))


def test_columns_are_of_the_rows_that_are_asked_for():
    points, rows = street()
    every = columns(points, None, np.arange(len(points)))
    assert every.shape == (len(points), COLUMNS)
    assert every.dtype == np.float32
    some = rows["box"][::7]
    np.testing.assert_array_equal(columns(points, None, some), every[some])
    first = 0
    for centres in _BINS.values():
        np.testing.assert_allclose(every[:, first : first + len(centres)].sum(1), _WEIGHT, atol=1e-6)
        first += len(centres)
    assert first == COLUMNS
    assert every.min() >= 0


def test_place_heading_and_intensity_s_scale_do_not_matter():
    points, rows = street()
    at = np.concatenate([rows["pole"], rows["box"]])
    intensity = np.random.default_rng(1).uniform(0, 1, len(points))
    before = columns(points, intensity, at)
    np.testing.assert_allclose(columns(points, 255 * intensity**2, at).mean(0), before.mean(0), atol=0.02)
    raised = points + np.float32([0, 0, 5])
    np.testing.assert_allclose(columns(raised, intensity, at), before, atol=1e-2)
    turned = points[:, [1, 0, 2]] * np.float32([1, -1, 1])
    np.testing.assert_allclose(columns(turned, intensity, at), before, atol=5e-2)


def test_points_that_are_nowhere_are_no_neighbours():
    points, rows = street()
    with_holes = np.insert(points, [10, 500], np.float32([np.nan, np.inf, 0]), axis=0)
    shifted = rows["box"] + 2
    np.testing.assert_array_equal(columns(with_holes, None, shifted), columns(points, None, rows["box"]))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_hardly_any_points(count: int):
    points = np.random.default_rng(0).normal(0, 1, (count, 3)).astype(np.float32)
    found = columns(points, np.ones(count), np.arange(count))
    assert found.shape == (count, COLUMNS)
    assert np.isfinite(found).all()
    assert shape_measures(points, None, np.arange(count)).shape == (count, MEASURES)
    assert columns(points, None, np.arange(0)).shape == (0, COLUMNS)
    assert columns(points[:0], None, np.arange(0)).shape == (0, COLUMNS)


def test_a_value_is_shared_by_the_bins_around_it():
    found = _spread(np.float32([-5, 0, 0.25, 1, 9]), (0.0, 1.0, 2.0))
    np.testing.assert_allclose(found, [[1, 0, 0], [1, 0, 0], [0.75, 0.25, 0], [0, 1, 0], [0, 0, 1]])
