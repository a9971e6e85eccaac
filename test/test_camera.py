"""Camera models against OpenCV's, what is in view, and what hides behind something nearer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mdkt_ros.camera import MIN_DEPTH, Camera, visible
from mdkt_ros.errors import CameraError

MATRIX = np.array([[800.0, 0, 640], [0, 820.0, 360], [0, 0, 1]])
POINTS = np.array([[1.0, -0.5, 4.0], [-3.0, 1.2, 6.0], [0.2, 0.1, 2.0], [5.0, -2.0, 7.0], [0.0, 0.0, 3.0]])
# cv2.projectPoints and cv2.fisheye.projectPoints (OpenCV 5.0.0) of POINTS with MATRIX and these coefficients.
OPENCV = {
    "plumb_bob": (
        (-0.28, 0.07, 0.0012, -0.0008, -0.006),
        [
            [835.519877014, 259.84731303],
            [269.4861336, 512.119949224],
            [719.709674062, 400.867607957],
            [1128.611095814, 160.096520104],
            [640.0, 360.0],
        ],
    ),
    "rational_polynomial": (
        (0.4, -0.2, 0.001, -0.0005, 0.03, 0.7, -0.1, 0.02),
        [
            [835.306870312, 259.95327584],
            [271.37669163, 511.325796432],
            [719.696360008, 400.857197004],
            [1123.506009661, 162.150780937],
            [640.0, 360.0],
        ],
    ),
    "equidistant": (
        (0.05, -0.02, 0.004, -0.001),
        [
            [835.726116335, 259.690365378],
            [269.018054892, 512.102597494],
            [719.7182825, 400.855619781],
            [1135.884296551, 156.687438414],
            [640.0, 360.0],
        ],
    ),
}
MODELS = ["none", *OPENCV]


def camera(**changes) -> Camera:
    """1280 x 720, looking along z of the LiDAR's frame."""
    values = {"name": "front", "width": 1280, "height": 720, "matrix": MATRIX, "camera_from_lidar": np.eye(4)}
    model = changes.get("distortion", "none")
    if model in OPENCV:
        values["coefficients"] = OPENCV[model][0]
    return Camera(**{**values, **changes})


@pytest.mark.parametrize("model", OPENCV)
def test_distortion_is_opencvs(model):
    projection = camera(distortion=model).project(POINTS)
    assert projection.in_view.all()
    np.testing.assert_allclose(projection.pixels, OPENCV[model][1], atol=1e-6)
    np.testing.assert_array_equal(projection.depth, POINTS[:, 2])


def test_pinhole_by_hand():
    projection = camera().project(POINTS)
    np.testing.assert_allclose(projection.pixels[0], [640 + 800 / 4, 360 - 820 * 0.5 / 4])
    np.testing.assert_allclose(projection.pixels[4], [640, 360])


def test_no_distortion_is_distortion_by_zero():
    for model, count in (("plumb_bob", 5), ("rational_polynomial", 8)):
        zero = camera(distortion=model, coefficients=(0.0,) * count)
        np.testing.assert_allclose(zero.project(POINTS).pixels, camera().project(POINTS).pixels, atol=1e-9)


def test_extrinsics_bring_points_into_the_optical_frame():
    # x forward, y left, z up, 2 m behind the camera and 1 m above it.
    pose = np.array([[0, -1.0, 0, 0], [0, 0, -1, -1], [1, 0, 0, -2], [0, 0, 0, 1]])
    projection = camera(camera_from_lidar=pose).project(np.array([[12.0, 1.0, 0.5]], dtype=np.float32))
    assert projection.depth.tolist() == [10]
    np.testing.assert_allclose(projection.pixels, [[640 - 80, 360 - 820 * 0.15]])


def test_projection_offset_is_the_fourth_column_of_a_3x4_matrix():
    offset = np.array([45.75831, -0.3454157, 0.004981016])
    full = np.column_stack([MATRIX, offset])
    expected = np.column_stack([POINTS, np.ones(len(POINTS))]) @ full.T
    projection = camera(projection_offset=offset).project(POINTS)
    np.testing.assert_allclose(projection.pixels, expected[:, :2] / expected[:, 2:])
    np.testing.assert_allclose(projection.depth, expected[:, 2])


@pytest.mark.parametrize("model", MODELS)
def test_behind_and_too_near_is_not_in_view(model):
    points = np.array([[0, 0, -5.0], [0, 0, 0], [0, 0, MIN_DEPTH], [0, 0, MIN_DEPTH + 1e-6], [0.1, 0.1, -0.1]])
    projection = camera(distortion=model).project(points)
    assert projection.in_view.tolist() == [False, False, False, True, False]
    assert np.isnan(projection.pixels[~projection.in_view]).all()
    assert np.isfinite(projection.pixels[projection.in_view]).all()


def test_image_ends_half_a_pixel_beyond_the_outermost_centres():
    pixels = np.array([[-0.499, 0], [-0.501, 0], [1279.499, 719.499], [1279.501, 719], [1279, 719.501], [0, -0.501]])
    rays = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(MATRIX).T
    assert camera().project(rays * 10).in_view.tolist() == [True, False, True, False, False, False]


@pytest.mark.parametrize("model", MODELS)
def test_points_that_are_not_finite_are_not_in_view(model):
    bad = np.array([[np.nan, 0, 5], [0, np.inf, 5], [0, 0, np.inf], [-np.inf, np.nan, np.inf], [3e38, 3e38, 3e38]])
    points = np.concatenate([bad, POINTS]).astype(np.float32)
    projection = camera(distortion=model).project(points)
    assert not projection.in_view[:4].any()
    assert projection.in_view[5:].all()


@pytest.mark.parametrize("model", MODELS)
def test_no_points(model):
    projection = camera(distortion=model).project(np.empty((0, 3), dtype=np.float32))
    assert projection.pixels.shape == (0, 2)
    assert projection.in_view.shape == projection.depth.shape == (0,)
    assert visible(projection, camera()).shape == (0,)


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [
        ("plumb_bob", (-0.4, 0.1, 0, 0, 0)),
        ("plumb_bob", (-0.35, 0.15, 0, 0, -0.03)),
        ("plumb_bob", (-0.3, 0, 0, 0, 0)),
        ("rational_polynomial", (0.0, 0, 0, 0, 0, 0.5, 0.3, 0.1)),
        ("rational_polynomial", (-0.3, 0.05, 0, 0, 0, -0.2, 0, 0)),
        ("equidistant", (-0.2, 0.0, 0.0, 0.0)),
    ],
)
def test_points_outside_the_lens_do_not_fold_into_the_image(model, coefficients):
    """Along a ray from the centre outwards, a pixel is seen once: the distorted radius only grows."""
    tangent = np.tan(np.linspace(0, np.pi / 2 - 1e-3, 20_000))
    points = np.column_stack([tangent, np.zeros_like(tangent), np.ones_like(tangent)])
    projection = camera(distortion=model, coefficients=coefficients, width=10**7).project(points)
    u = projection.pixels[projection.in_view, 0]
    assert len(u) > 100
    assert (np.diff(u) > 0).all()
    outside = np.flatnonzero(~projection.in_view)
    assert len(outside)
    assert outside[0] == len(u)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"matrix": np.zeros((3, 3))}, "singular or not finite: not calibrated"),
        ({"matrix": np.full((3, 3), np.nan)}, "singular or not finite"),
        ({"matrix": np.eye(4)}, "3x3 camera matrix"),
        ({"camera_from_lidar": np.eye(3)}, "finite 4x4"),
        ({"camera_from_lidar": np.full((4, 4), np.inf)}, "finite 4x4"),
        ({"projection_offset": np.zeros(2)}, "projection_offset must be 3 finite"),
        ({"projection_offset": np.array([0, np.nan, 0])}, "projection_offset must be 3 finite"),
        ({"distortion": "fisheye"}, "'fisheye' is not one of none, plumb_bob, rational_polynomial, equidistant"),
        ({"distortion": "plumb_bob", "coefficients": (0.1,) * 4}, "plumb_bob takes 5 coefficients, got 4"),
        ({"distortion": "equidistant", "coefficients": ()}, "equidistant takes 4 coefficients, got 0"),
        ({"distortion": "plumb_bob", "coefficients": (0, 0, 0, 0, np.nan)}, "are not finite"),
        ({"width": 0}, "image size 0x720"),
        ({"height": -1}, "image size 1280x-1"),
    ],
)
def test_calibration_that_cannot_be_names_the_camera(changes, message):
    with pytest.raises(CameraError, match=rf"^camera front: .*{message}"):
        camera(**changes)


def test_cameras_compare_and_hash_by_identity():
    one, other = camera(), camera()
    # A generated comparison would ask arrays for their truth value and raise.
    assert one != other
    assert len({one, other}) == 2


def at(u: float, v: float, depth: float) -> np.ndarray:
    return np.linalg.inv(MATRIX) @ np.array([u, v, 1.0]) * depth


def test_wall_hides_what_is_behind_it_and_nothing_else():
    wall = [at(u, v, 5) for u in range(400, 800, 3) for v in range(200, 500, 3)]
    others = np.array(
        [
            at(600, 350, 30),  # behind the wall
            at(600, 350, 5.5),  # within the margin
            at(500, 250, 3),  # in front of it
            at(100, 350, 30),  # beside it
            at(-50, 350, 30),  # outside the image
        ]
    )
    front = camera()
    seen = visible(front.project(np.concatenate([wall, others])), front)
    assert seen[-5:].tolist() == [False, True, True, True, False]


def test_visible_at_the_edges_does_not_wrap_round():
    corners = np.array([at(0, 0, 3), at(1279.4, 719.4, 30), at(1279.4, 0, 30), at(0, 719.4, 30)])
    front = camera()
    assert visible(front.project(corners), front).all()


@settings(deadline=None, max_examples=60)
@given(
    points=hnp.arrays(np.float32, st.tuples(st.integers(1, 60), st.just(3)), elements=st.floats(-8, 8, width=32)),
    beam=st.floats(0.5, 40),
    azimuth=st.floats(0.5, 40),
    margin=st.floats(0, 0.5),
)
def test_visible_is_its_definition(points, beam, azimuth, margin):
    front = camera(width=37, height=23, matrix=np.array([[20.0, 0, 18], [0, 20, 11], [0, 0, 1]]))
    projection = front.project(points)
    seen = visible(projection, front, beam_spacing=beam, azimuth_spacing=azimuth, margin=margin)
    with np.errstate(invalid="ignore"):  # NumPy 1.21 minds NaN here
        columns = np.clip(projection.pixels[:, 0], 0, None) // max(20 * np.radians(azimuth), 1)
    rows = np.clip(np.rint(projection.pixels[:, 1]), 0, 22)
    reach = max(np.ceil(20 * np.radians(beam)), 1)
    for i, depth in enumerate(projection.depth):
        if not projection.in_view[i]:
            assert not seen[i]
            continue
        aside = projection.in_view & (np.abs(np.nan_to_num(columns, nan=1e9) - columns[i]) <= 1)
        step = np.nan_to_num(rows, nan=1e9) - rows[i]
        above, below = (projection.depth[aside & (s >= 0) & (s <= reach)].min() for s in (-step, step))
        assert seen[i] == (depth <= max(above, below) * (1 + margin) + 0.5)


def test_a_far_road_is_not_hidden_by_the_road_before_it():
    front = camera()
    depth = np.repeat(np.geomspace(4, 60, 60), 40)
    road = np.stack([np.tile(np.linspace(-3, 3, 40), 60), np.full(2400, 1.65), depth], axis=1)
    to_lidar = np.linalg.inv(front.camera_from_lidar)
    points = road @ to_lidar[:3, :3].T + to_lidar[:3, 3]
    projection = front.project(points)
    assert projection.in_view.sum() > 1000
    assert visible(projection, front)[projection.in_view].all()


@settings(deadline=None, max_examples=100)
@given(
    points=hnp.arrays(np.float32, st.tuples(st.integers(0, 20), st.just(3)), elements=st.floats(width=32)),
    model=st.sampled_from(MODELS),
)
def test_any_points_project_without_a_warning(points, model):
    lens = camera(distortion=model)
    projection = lens.project(points)
    assert np.isfinite(projection.pixels[projection.in_view]).all()
    assert np.isnan(projection.pixels[~projection.in_view]).all()
    assert not (visible(projection, lens) & ~projection.in_view).any()


@pytest.mark.real
def test_points_on_a_pedestrian_fall_into_its_box_in_the_image(real_data):
    folder = real_data / "kitti_object"
    rows = dict(line.split(":", 1) for line in (folder / "calib/000000.txt").read_text().split("\n") if ":" in line)
    calib = {name: np.array(row.split(), dtype=np.float64) for name, row in rows.items()}
    p2, pose = calib["P2"].reshape(3, 4), np.eye(4)
    pose[:3] = calib["R0_rect"].reshape(3, 3) @ calib["Tr_velo_to_cam"].reshape(3, 4)
    lens = Camera("image_2", 1224, 370, p2[:, :3], pose, projection_offset=p2[:, 3])
    points = np.fromfile(folder / "velodyne/000000.bin", dtype="<f4").reshape(-1, 4)[:, :3]
    projection = lens.project(points)
    words = (folder / "label_2/000000.txt").read_text().split()
    assert words[0] == "Pedestrian"
    left, top, right, bottom, tall, _, _, x, y, z = map(float, words[4:14])
    camera_points = points @ pose[:3, :3].T + pose[:3, 3]
    on_person = (np.abs(camera_points[:, [0, 2]] - (x, z)) < 0.4).all(1)
    on_person &= (camera_points[:, 1] < y - 0.1) & (camera_points[:, 1] > y - tall)
    pixels = projection.pixels[on_person]
    assert len(pixels) > 100
    assert (pixels > (left - 3, top - 3)).all()
    assert (pixels < (right + 3, bottom + 3)).all()
    seen = visible(projection, lens)
    assert seen[on_person].all()
    # One camera sees about 15 % of a KITTI scan (this file holds the whole turn).
    assert 0.08 < seen.mean() < 0.25
