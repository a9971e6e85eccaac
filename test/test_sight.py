"""What cameras see of a scan, with the spacing of the beams measured on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mdkt_ros.beams import DEFAULT_SPACING, beam_spacing
from mdkt_ros.camera import Camera, visible
from mdkt_ros.drive import open_drive
from mdkt_ros.drive.frame import Frame, View
from mdkt_ros.drive.sight import seen_by_cameras, shares, sights
from mdkt_ros.info import describe
from mdkt_ros.render.overlay import dots
from mdkt_ros.scan import read_scan

OPTICAL = np.array([[0, -1, 0, 0.0], [0, 0, -1, 0.0], [1, 0, 0, 0.0], [0, 0, 0, 1.0]])


def spin(beams: int, lowest: float, highest: float, step: float = 0.2, noise: float = 0.0) -> np.ndarray:
    """A scan (N, 3) of a room with walls 20 m away and a floor 1.8 m below, elevations and `step` in degrees."""
    rng = np.random.default_rng(0)
    elevations = np.radians(np.linspace(lowest, highest, beams))
    azimuth, elevation = np.meshgrid(np.radians(np.arange(-180, 180, step)), elevations)
    flat = np.cos(elevation)
    direction = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=-1)
    with np.errstate(divide="ignore"):
        distance = np.minimum(20 / flat, np.where(elevation < 0, -1.8 / np.sin(elevation), np.inf))
    distance = distance + rng.normal(0, noise, distance.shape) if noise else distance
    return (direction * distance[..., None]).reshape(-1, 3).astype(np.float32)


@pytest.mark.parametrize("step", [0.1, 0.2, 0.35])
@pytest.mark.parametrize(("beams", "lowest", "highest"), [(16, -15, 15), (32, -30, 10), (64, -25, 2), (128, -25, 15)])
def test_spacing_is_that_of_the_beams(beams: int, lowest: float, highest: float, step: float):
    spacing = (highest - lowest) / (beams - 1)
    points = spin(beams, lowest, highest, step, noise=0.02)
    points = points[np.random.default_rng(1).random(len(points)) > 0.1]  # what does not come back
    assert beam_spacing(points) == pytest.approx(1.1 * spacing, rel=0.08)
    points[::7] = np.nan
    assert beam_spacing(points) == pytest.approx(1.1 * spacing, rel=0.15)
    order = np.random.default_rng(2).permutation(len(points))
    assert beam_spacing(points[order]) == beam_spacing(points)


@pytest.mark.parametrize(
    "points", [np.zeros((0, 3)), np.zeros((5000, 3)), np.full((9, 3), np.nan), np.full((9, 3), 1e38)]
)
def test_spacing_of_what_is_no_scan(points: np.ndarray):
    assert beam_spacing(points.astype(np.float32)) == DEFAULT_SPACING


def test_sparse_beams_hide_as_dense_ones_do():
    """A van before a wall, camera beside the LiDAR: what 16 beams see of the wall behind the van is hidden, too."""
    for beams in (16, 64):
        room = spin(beams, -15, 15, noise=0.0)
        azimuth = np.degrees(np.arctan2(room[:, 1], room[:, 0]))
        van = (np.abs(azimuth) < 15) & (room[:, 0] > 6)
        points = np.where(van[:, None], room * (6 / room[:, :1]), room).astype(np.float32)
        beside = OPTICAL.copy()
        beside[0, 3] = 3.0  # metres; the camera is 3 m to the left and looks past the van's left side
        lens = Camera("left", 1200, 600, np.array([[600.0, 0, 600], [0, 600, 300], [0, 0, 1]]), beside)
        views = (View(lens, 0, lambda: np.zeros((600, 1200, 3), np.uint8)),)
        (sight,) = sights(Frame("0", 0, points, views=views))
        column = sight.projection.pixels[:, 0]
        low, high = column[van & sight.projection.in_view].min() + 20, column[van & sight.projection.in_view].max() - 20
        behind = sight.projection.in_view & (points[:, 0] > 15) & (column > low) & (column < high)
        between = behind & (np.abs(points[:, 2]) < 2)  # where the van's beams are above and below
        assert between.sum() > 20
        assert not sight.visible[between].mean() > 0.1
        assert sight.visible[van & sight.projection.in_view].all()
        if beams == 16:  # what the spacing of another sensor would have let through
            assert visible(sight.projection, lens)[between].mean() > 0.3
        np.testing.assert_array_equal(np.sort(dots(lens, points).point), np.flatnonzero(sight.visible))


def test_shares_count_points_once():
    points = spin(16, -15, 15, step=1.0)
    lens = Camera("front", 400, 400, np.array([[200.0, 0, 200], [0, 200, 200], [0, 0, 1]]), OPTICAL)
    views = tuple(View(lens, 0, lambda: np.zeros((400, 400, 3), np.uint8)) for _ in range(2))
    frame = Frame("0", 0, points, views=views)
    in_view, seen = shares(frame)
    assert in_view == lens.project(points).in_view.mean() == pytest.approx(0.25, abs=0.01)
    assert seen == seen_by_cameras(frame).mean() == in_view  # an empty room hides nothing
    assert shares(Frame("0", 0, points)) == (0.0, 0.0)
    assert shares(Frame("0", 0, points[:0], views=views)) == (0.0, 0.0)
    assert len(sights(frame, views[:1])) == 1


@pytest.mark.real
def test_real_nuscenes_cameras(real_data: Path):
    """Six cameras see 58 % of the points of this scan, of which a quarter lies on the vehicle itself."""
    folder = real_data / "nuscenes_sample"
    sample = json.loads((folder / "sample.json").read_text())
    points = read_scan(folder / sample["lidar"]["file"]).xyz()
    views = []
    for name, camera in sample["cameras"].items():
        lens = Camera(name, 1600, 900, np.array(camera["cam2img"])[:3, :3], np.array(camera["lidar2cam"]))
        views.append(View(lens, 0, lambda: np.zeros((900, 1600, 3), np.uint8)))
    frame = Frame("sample", 0, points, views=tuple(views))
    assert beam_spacing(points) == pytest.approx(1.1 * 1.333, abs=0.03)
    in_view, seen = shares(frame)
    assert in_view == pytest.approx(0.582, abs=0.005)
    assert seen == pytest.approx(0.563, abs=0.01)
    around = np.hypot(points[:, 0], points[:, 1]) > 2.5
    assert np.any([sight.projection.in_view for sight in sights(frame)], axis=0)[around].mean() > 2 / 3
    twice = np.sum([sight.visible for sight in sights(frame)], axis=0) > 1
    assert 0.03 < twice.mean() < 0.15  # neighbouring images overlap


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "in_view", "seen"), [("kitti_object", 17.6, 16.1), ("semantickitti/sequences/07", 14.0, 12.7)]
)
def test_real_kitti_cameras(real_data: Path, name: str, in_view: float, seen: float):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # the real image is scaled
        scan = describe(real_data / name)["first_scan"]
        drive = open_drive(real_data / name)
    assert scan["percent_in_view"] == pytest.approx(in_view, abs=0.2)
    assert scan["percent_visible"] == pytest.approx(seen, abs=0.4)
    assert beam_spacing(drive[0].points) == pytest.approx(0.43, abs=0.02)
