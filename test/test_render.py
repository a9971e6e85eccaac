"""Pictures: what is drawn where, in which colour, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from mdkt_ros.camera import Camera
from mdkt_ros.errors import CameraError, LabelError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.render.birdseye import birdseye, comparison
from mdkt_ros.render.overlay import dots, overlay
from mdkt_ros.render.perspective import perspective
from mdkt_ros.render.raster import EMPTY, eye_dome_lighting, rasterize
from mdkt_ros.render.style import CORRECT, WRONG, class_entries, display_palette, to_x_forward
from mdkt_ros.scan import read_scan

LABELS = LabelSpace.load("semantickitti")
CAR, ROAD, BUILDING, SIDEWALK = (LABELS.index(n) for n in ("car", "road", "building", "sidewalk"))
OPTICAL_FROM_KITTI = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=float)


def patch(x, y, z=0.0, half=1.5, step=0.1):
    """Points of a horizontal square around (x, y)."""
    axis = np.arange(-half, half, step)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    return np.column_stack([grid[:, 0] + x, grid[:, 1] + y, np.full(len(grid), z)]).astype(np.float32)


def pinhole(width=200, height=100, focal=100.0):
    matrix = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Camera("front", width, height, matrix, OPTICAL_FROM_KITTI)


def hue_share(pixels, color):
    """Share of pixels (..., 3) that have the direction of a colour: its hue, however it is lit."""
    rgb = np.asarray(pixels, dtype=float).reshape(-1, 3)
    wanted = np.asarray(color, dtype=float)
    length = np.linalg.norm(rgb, axis=1)
    cosine = rgb @ wanted / np.maximum(length * np.linalg.norm(wanted), 1e-9)
    return float(((cosine > 0.998) & (length > 60)).mean())


def test_nearest_point_wins_a_pixel_whatever_the_order():
    pixels = np.array([[5.0, 5.0], [5.0, 5.0], [6.4, 5.0]])
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        raster = rasterize(pixels[order], np.array([3.0, 1.0, 2.0])[order], 0.0, 10, 10)
        assert order[raster.point[5, 5]] == 1
        assert order[raster.point[5, 6]] == 2
        assert (raster.point == EMPTY).sum() == 98
        assert raster.depth[5, 5] == 1.0
        assert np.isinf(raster.depth[0, 0])


def test_discs_are_round_and_cut_at_the_edge():
    raster = rasterize(np.array([[10.0, 10.0], [0.0, 0.0]]), np.ones(2), np.array([3.0, 2.0]), 21, 21)
    disc = raster.point == 0
    assert disc.sum() == 29  # lattice points within 3 of a lattice point
    assert (disc == disc[::-1]).all()
    assert (disc == disc.T).all()
    assert (raster.point == 1).sum() == 6  # the quarter of the 13 that lies inside


def test_points_that_are_not_finite_are_not_drawn():
    pixels = np.array([[np.nan, 1], [1, np.inf], [2, 2], [1e30, 3]])
    raster = rasterize(pixels, np.array([1.0, 1.0, np.nan, 1.0]), 1.0, 5, 5)
    assert (raster.point == EMPTY).all()
    assert (rasterize(np.empty((0, 2)), np.empty(0), 1.0, 3, 3).point == EMPTY).all()


def test_eye_dome_lighting_darkens_what_lies_behind():
    depth = np.full((20, 20), 5.0, dtype=np.float32)
    depth[:, 10:] = 3.0
    light = eye_dome_lighting(depth, strength=1.0, step=1)
    assert (light[:, 10:] == 1).all(), "in front: nothing darkens it"
    assert (light[1:-1, 9] < 0.6).all(), "behind the edge"
    assert (light[:, :8] == 1).all(), "far from the edge"
    empty = np.full((4, 4), np.inf, dtype=np.float32)
    assert (eye_dome_lighting(empty, strength=1.0, step=1) == 1).all()


def test_birdseye_puts_forward_up_and_left_left():
    points = np.concatenate([patch(30, 0), patch(0, 30), patch(-30, 0)])
    class_id = np.repeat(np.array([CAR, ROAD, BUILDING], np.uint8), len(points) // 3)
    image = np.asarray(birdseye(points, class_id, LABELS, size=400, extent=50, legend=False))
    assert image.shape == (400, 400, 3)
    for (row, column), c in {(80, 200): CAR, (200, 80): ROAD, (320, 200): BUILDING}.items():
        assert hue_share(image[row - 3 : row + 4, column - 3 : column + 4], LABELS.palette[c]) == 1


def test_birdseye_of_both_axis_conventions_is_the_same():
    points = np.concatenate([patch(30, 0), patch(10, 20)])
    class_id = np.repeat(np.array([CAR, ROAD], np.uint8), len(points) // 2)
    turned = np.column_stack([-points[:, 1], points[:, 0], points[:, 2]])
    assert np.array_equal(to_x_forward(turned, "y_forward"), points)
    ours = birdseye(points, class_id, LABELS, size=200)
    assert np.array_equal(ours, birdseye(turned, class_id, LABELS, size=200, axes="y_forward"))


def test_birdseye_draws_the_higher_point_and_never_the_unlabelled_one_over_it():
    ground, roof, unknown = patch(20, 0, 0), patch(20, 0, 4), patch(20, 0, 9)
    points = np.concatenate([roof, unknown, ground])
    class_id = np.repeat(np.array([CAR, 255, ROAD], np.uint8), len(ground))
    image = np.asarray(birdseye(points, class_id, LABELS, size=400, legend=False))
    assert hue_share(image[117:123, 197:203], LABELS.palette[CAR]) == 1


def test_birdseye_survives_odd_clouds():
    nothing = birdseye(np.empty((0, 3), np.float32), np.empty(0, np.uint8), LABELS, size=120, title="empty")
    assert nothing.height == 120
    broken = np.array([[np.nan, 0, 0], [np.inf, 1, 2], [3, 3, -np.inf], [1e30, 0, 0]], np.float32)
    image = birdseye(broken, np.zeros(4, np.uint8), LABELS, size=120, legend=False)
    assert hue_share(image, LABELS.palette[0]) == 0


@pytest.mark.parametrize("draw", [birdseye, perspective])
def test_labels_of_another_length_are_refused(draw):
    with pytest.raises(LabelError, match=r"class_id has shape \(3,\)"):
        draw(np.zeros((4, 3), np.float32), np.zeros(3, np.uint8), LABELS)


def test_legend_counts_classes_in_order():
    class_id = np.array([CAR] * 60 + [ROAD] * 30 + [255] * 10, np.uint8)
    assert [(name, note) for name, _, note in class_entries(class_id, LABELS)] == [
        ("car", "60%"),
        ("road", "30%"),
        ("not labelled", "10%"),
    ]


def test_display_palette_keeps_colours_but_for_those_too_dark():
    palette = display_palette(LABELS)
    assert palette.shape == (256, 3)
    unchanged = (palette[: len(LABELS)] == LABELS.palette).all(axis=1)
    assert not unchanged[SIDEWALK]
    assert unchanged[[CAR, ROAD, BUILDING]].all()
    raised = palette[SIDEWALK].astype(int)
    assert raised[0] == raised[2] > 75
    assert raised[1] == 0


def test_comparison_shows_truth_prediction_and_error():
    points = np.concatenate([patch(30, 0), patch(-30, 0)])
    truth = np.repeat(np.array([CAR, ROAD], np.uint8), len(points) // 2)
    prediction = np.full_like(truth, CAR)
    image = np.asarray(comparison(points, truth, prediction, LABELS, size=400))
    assert image.shape[0] == 400
    left = {name: image[:, k * 402 : k * 402 + 400] for k, name in enumerate(("truth", "prediction", "error"))}

    def share(panel, row, color):
        return hue_share(left[panel][row - 3 : row + 4, 197:204], color)

    assert share("truth", 320, LABELS.palette[ROAD]) == 1
    assert share("prediction", 320, LABELS.palette[CAR]) == 1
    assert share("error", 320, WRONG) == 1
    assert share("error", 80, CORRECT) == 1


def test_overlay_paints_the_projected_pixel_in_the_class_colour():
    camera = pinhole()
    points = np.array([[10, 2, 1], [10, -3, -1], [-10, 0, 0]], np.float32)
    class_id = np.array([CAR, ROAD, BUILDING], np.uint8)
    image = np.full((100, 200, 3), 200, np.uint8)
    drawn = np.asarray(overlay(image, camera, points, class_id, LABELS, alpha=1.0))
    # u = 100 - 100 y / x, v = 50 - 100 z / x
    assert tuple(drawn[40, 80]) == tuple(LABELS.palette[CAR])
    assert tuple(drawn[60, 130]) == tuple(LABELS.palette[ROAD])
    changed = np.argwhere((drawn != 200).any(axis=2))
    assert 2 <= len(changed) <= 40
    near_one = (np.abs(changed - (40, 80)) < 3).all(axis=1) | (np.abs(changed - (60, 130)) < 3).all(axis=1)
    assert near_one.all(), "nothing else, and nothing of the point behind"


def test_overlay_alpha_and_unlabelled_points():
    camera, image = pinhole(), np.full((100, 200, 3), 200, np.uint8)
    points = patch(12, 0, -1)
    class_id = np.full(len(points), ROAD, np.uint8)
    assert np.array_equal(overlay(image, camera, points, class_id, LABELS, alpha=0), image)
    assert np.array_equal(overlay(image, camera, points, np.full_like(class_id, 255), LABELS), image)
    half = np.asarray(overlay(image, camera, points, class_id, LABELS, alpha=0.5)).astype(int)
    covered = (half != 200).any(axis=2)
    assert covered.any()
    assert np.abs(half[covered] - (LABELS.palette[ROAD].astype(int) + 200) / 2).max(axis=1).min() <= 2


def test_overlay_leaves_out_points_hidden_from_the_camera():
    y, z = (a.ravel() for a in np.meshgrid(np.linspace(-2, 2, 60), np.linspace(-2, 2, 60)))
    wall = np.column_stack([np.full(len(y), 5.0), y, z]).astype(np.float32)
    hidden = np.array([[20.0, 0, 0]], np.float32)
    seen = dots(pinhole(), np.concatenate([hidden, wall]))
    assert 0 not in seen.point
    assert 0 in dots(pinhole(), hidden).point


def test_near_dots_are_larger_and_come_last():
    seen = dots(pinhole(width=1240, height=400, focal=700), np.array([[4, 1, 0], [40, -5, 0]], np.float32))
    assert seen.point.tolist() == [1, 0]
    assert seen.radius[1] > seen.radius[0]


def test_overlay_refuses_an_image_of_another_size():
    with pytest.raises(CameraError, match="camera front: calibrated for 200x100"):
        overlay(np.zeros((50, 200, 3), np.uint8), pinhole(), np.zeros((1, 3)), np.zeros(1, np.uint8), LABELS)
    with pytest.raises(LabelError, match="class_id has shape"):
        overlay(np.zeros((100, 200, 3), np.uint8), pinhole(), np.zeros((2, 3)), np.zeros(1, np.uint8), LABELS)


def test_perspective_from_behind_has_left_on_the_left():
    points = np.concatenate([patch(15, 8, half=2.5), patch(15, -8, half=2.5)])
    class_id = np.repeat(np.array([CAR, BUILDING], np.uint8), len(points) // 2)
    image = np.asarray(perspective(points, class_id, LABELS, width=400, height=240, azimuth=180, distance=30))
    assert image.shape == (240, 400, 3)
    left, right = image[:, :200], image[:, 200:]
    car, building = LABELS.palette[CAR], LABELS.palette[BUILDING]
    assert hue_share(left, car) > 0.003
    assert hue_share(right, car) == 0
    assert hue_share(right, building) > 0.003
    assert hue_share(left, building) == 0


@pytest.mark.real
def test_real_scan_shows_its_street(real_data):
    folder = real_data / "semantickitti" / "sequences" / "07"
    cloud = read_scan(folder / "velodyne" / "000964.bin")
    raw = np.fromfile(folder / "labels" / "000964.label", np.uint32) & 0xFFFF
    class_id = LABELS.from_raw(raw, "000964.label")
    image = birdseye(cloud.xyz(), class_id, LABELS, size=600, legend=False)
    # The road runs ahead of the vehicle, with buildings on both sides of it.
    ahead = np.asarray(image)[225:275, 285:312]
    assert hue_share(ahead, LABELS.palette[ROAD]) > 0.3
    assert hue_share(np.asarray(image)[:, 220:260], LABELS.palette[BUILDING]) > 0.005
    assert hue_share(np.asarray(image)[:, 320:345], LABELS.palette[BUILDING]) > 0.005
