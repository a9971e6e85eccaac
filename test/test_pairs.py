"""Pairs of points and pixels: found in recorded scans, followed through augmentation, mixing and voxels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mdkt_ros.camera import Camera
from mdkt_ros.drive.frame import Frame, View
from mdkt_ros.drive.semantickitti import SemanticKitti
from mdkt_ros.errors import DriveError
from mdkt_ros.labels import IGNORE, LabelSpace
from mdkt_ros.voxels import VoxelGrid, voxelize
from training.config import AugmentConfig
from training.data.augment import augment, mix
from training.data.pair_finder import ImagePairs, PairFinder, change_color
from training.data.pairs import ExamplePairs, Pairs, collate_pairs, join, thin
from training.data.scan import Scan, make_scan
from training.data.source import Source
from training.scheme.config import ImagesConfig

OPTICAL = np.array([[0, -1, 0, 0.0], [0, 0, -1, 0.0], [1, 0, 0, 0.0], [0, 0, 0, 1.0]])
"""x right, y down, z forward of a camera that looks along the LiDAR's x."""
AS_IT_IS = ImagesConfig(cameras=9, scale=1.0, color=0.0)
GRID = VoxelGrid(0.5, (-20, -20, -5), (20, 20, 5))


def camera(name: str = "front", width: int = 200, height: int = 100, yaw: float = 0.0) -> Camera:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]]
    matrix = np.array([[80.0, 0, width / 2 - 0.5], [0, 80.0, height / 2 - 0.5], [0, 0, 1]])
    return Camera(name, width, height, matrix, OPTICAL @ turn)


def coordinates_image(width: int = 200, height: int = 100) -> np.ndarray:
    """Red says the column, green the row."""
    v, u = np.mgrid[:height, :width]
    return np.stack([u, v, np.full_like(u, 77)], axis=2).astype(np.uint8)


def cloud(points: int = 400, seed: int = 0) -> np.ndarray:
    """Points in all directions, on a sphere so that none hides another; the first is lost."""
    direction = np.random.default_rng(seed).normal(0, 1, (points, 3)) * (1, 1, 0.2)
    xyz = (10 * direction / np.linalg.norm(direction, axis=1, keepdims=True)).astype(np.float32)
    xyz[0] = np.nan
    return xyz


class Recorded:
    """Scans with views, that counts what is read."""

    name, axes, intensity_scale = "recorded", "x_forward", 1.0
    labels = LabelSpace.load("semantickitti")

    def __init__(self, cameras: list[Camera], scans: int = 2) -> None:
        self.cameras, self.scans, self.frames_read, self.images_read = cameras, scans, 0, 0

    def __len__(self) -> int:
        return self.scans

    def load(self, lens: Camera) -> np.ndarray:
        self.images_read += 1
        if lens.name == "broken":
            raise DriveError("broken.png: is truncated")
        return coordinates_image(lens.width, lens.height)

    def __getitem__(self, index: int) -> Frame:
        self.frames_read += 1
        points = cloud(seed=index)
        labels = (np.arange(len(points)) % 5).astype(np.uint8)
        views = tuple(View(lens, 0, lambda lens=lens: self.load(lens)) for lens in self.cameras)
        return Frame(f"{index:06}", 0, points, labels=labels, views=views)


def source(*cameras: Camera) -> Source:
    drive = Recorded(list(cameras))
    return Source("folder", Path("."), ("a", "b"), drive.labels, drive)


def finder(*cameras: Camera, images: ImagesConfig = AS_IT_IS, **options: bool) -> PairFinder:
    return PairFinder(source(*cameras), images, **{"train": False, **options})


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def under(pairs: ImagePairs | ExamplePairs) -> np.ndarray:
    """Colour (P, 3) of the pixel nearest to each pair."""
    u, v = np.rint(pairs.pixel).astype(int).T
    return pairs.images[pairs.image, :, v, u]


def test_every_point_in_view_is_paired_with_its_pixel():
    lens = camera()
    pairs = finder(lens).find(0, rng())
    projection = lens.project(cloud())
    np.testing.assert_array_equal(pairs.point, np.flatnonzero(projection.in_view))
    assert 0 not in pairs.point
    assert len(pairs) > 50
    np.testing.assert_allclose(pairs.pixel, projection.pixels[pairs.point], atol=1e-4)
    np.testing.assert_array_equal(under(pairs)[:, :2], np.rint(pairs.pixel))
    assert pairs.cameras == ("front",)
    assert pairs.images.shape == (1, 3, 100, 200)
    assert pairs.images.dtype == np.uint8
    assert pairs.point.dtype == pairs.image.dtype == np.int64
    assert pairs.pixel.dtype == np.float32


def test_a_point_that_two_cameras_see_is_two_pairs():
    pairs = finder(camera("left", yaw=0.5), camera("right", 120, 90, yaw=-0.4)).find(1, rng())
    assert (np.diff(pairs.image) >= 0).all()
    twice = np.intersect1d(pairs.point[pairs.image == 0], pairs.point[pairs.image == 1])
    assert len(twice) > 5
    assert pairs.images.shape == (2, 3, 100, 200)
    assert not pairs.images[1, :, 90:].any()
    assert not pairs.images[1, :, :, 120:].any()
    np.testing.assert_array_equal(under(pairs)[:, :2], np.rint(pairs.pixel))


def test_hidden_points_have_no_pair():
    """A wall before the camera; the LiDAR, higher up, looks over it at points that the camera cannot see."""
    steps = np.linspace(-0.5, 0.5, 101)
    wall = np.stack([np.full(101 * 21, 5.0), *(5 * g.ravel() for g in np.meshgrid(steps, np.linspace(-0.3, 0.1, 21)))])
    behind = np.array([[15.0], [0.0], [-1.5]])
    points = np.concatenate([wall, behind], axis=1).T.astype(np.float32)
    frame = Frame("0", 0, points, views=(View(camera(), 0, coordinates_image),))
    assert camera().project(points).in_view[-1]
    found = finder(camera()).find(0, rng(), frame)
    assert set(found.point) == set(np.flatnonzero(camera().project(points).in_view)) - {len(points) - 1}


def test_scaling_moves_pixels_with_the_image():
    whole = finder(camera()).find(0, rng())
    half = finder(camera(), images=replace(AS_IT_IS, scale=0.5)).find(0, rng())
    assert half.images.shape == (1, 3, 50, 100)
    # Two pixels become one: its centre is between theirs.
    np.testing.assert_allclose(half.pixel, (whole.pixel - 0.5) / 2, atol=1e-4)
    inner = ((half.pixel > 2) & (half.pixel < (97, 47))).all(1)
    assert np.abs(under(half)[inner, :2] - (2 * np.rint(half.pixel[inner]) + 0.5)).max() <= 1
    odd = finder(camera(), images=replace(AS_IT_IS, scale=0.333)).find(0, rng())
    assert odd.images.shape == (1, 3, 33, 67)
    assert finder(camera(), images=replace(AS_IT_IS, scale=1e-3)).find(0, rng()).images.shape == (1, 3, 1, 1)


def test_mirroring_takes_the_pixels_with_it():
    whole = finder(camera("a"), camera("b", 120, 90)).find(0, rng())
    find = finder(camera("a"), camera("b", 120, 90), images=replace(AS_IT_IS, flip=1.0), train=True).find
    mirrored = find(0, rng())
    width = np.array([200, 120])[mirrored.image]
    np.testing.assert_allclose(mirrored.pixel[:, 0], width - 1 - whole.pixel[:, 0], atol=1e-4)
    np.testing.assert_array_equal(mirrored.pixel[:, 1], whole.pixel[:, 1])
    np.testing.assert_allclose(under(mirrored)[:, 0], whole.pixel[:, 0], atol=0.51)
    some = finder(camera(), images=replace(AS_IT_IS, flip=0.5), train=True).find
    red = [some(0, rng(seed)).images[0, 0, 0, 0] for seed in range(40)]
    assert set(red) == {0, 199}
    assert 8 < red.count(0) < 32


def test_cameras_are_drawn_at_random_and_fixed_outside_training():
    lenses = [camera(name, yaw=yaw) for name, yaw in (("a", 0), ("b", 1), ("c", 2), ("d", 3))]
    two = replace(AS_IT_IS, cameras=2)
    draws = [finder(*lenses, images=two, train=True).find(0, rng(seed)).cameras for seed in range(60)]
    assert set(draws) == {(a, b) for a in "abcd" for b in "abcd" if a < b}
    assert finder(*lenses, images=two).find(0, rng(1)).cameras == ("a", "b")
    assert finder(*lenses, images=replace(two, cameras=4), train=True).find(0, rng(1)).cameras == ("a", "b", "c", "d")
    assert finder(*lenses, images=replace(two, cameras=0), train=True).find(0, rng(1)).cameras == ()
    drive = source(*lenses).drive
    PairFinder(Source("folder", Path("."), ("a", "b"), drive.labels, drive), two).find(0, rng())
    assert drive.images_read == 2  # those not drawn are not decoded


def test_same_generator_same_pairs():
    find = finder(camera("a"), camera("b", yaw=1), images=ImagesConfig(cameras=1, flip=0.5), train=True).find
    one, two = find(0, rng(5)), find(0, rng(5))
    assert one.cameras == two.cameras
    np.testing.assert_array_equal(one.images, two.images)
    np.testing.assert_array_equal(one.pixel, two.pixel)


@pytest.mark.parametrize("train", [True, False])
def test_the_cache_gives_what_reading_gives(train: bool):
    images = ImagesConfig(cameras=1, flip=0.5)
    lenses = (camera("a"), camera("b", yaw=1))
    fresh, cached = (finder(*lenses, images=images, train=train, cache=cache) for cache in (False, True))
    for seed in range(8):
        one, two = fresh.find(seed % 2, rng(seed)), cached.find(seed % 2, rng(seed))
        assert one.cameras == two.cameras
        for name in ("images", "point", "image", "pixel"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert cached.source.drive.frames_read == 2
    assert cached.source.drive.images_read == 4
    assert fresh.source.drive.frames_read == 8


def test_a_frame_at_hand_is_not_read_again():
    for cache in (True, False):
        found = finder(camera(), cache=cache)
        frame = Recorded([camera()])[1]
        found.prepare(1, frame)
        one = found.find(1, rng(), frame)
        assert found.source.drive.frames_read == 0
        assert len(one) > 50
    found = finder(camera(), cache=True)
    found.prepare(1, frame)
    found.find(1, rng())
    assert found.source.drive.frames_read == 0


def test_images_that_cannot_be_read_are_left_out():
    with pytest.warns(UserWarning, match=r"scan 000000 is used without an image: broken\.png: is truncated"):
        pairs = finder(camera("a"), camera("broken"), camera("c")).find(0, rng())
    assert pairs.cameras == ("a", "c")
    assert set(pairs.image) == {0, 1}


def test_without_views_there_are_no_pairs():
    pairs = finder().find(0, rng())
    assert len(pairs) == 0
    assert pairs.images.shape == (0, 3, 1, 1)
    assert pairs.pixel.shape == (0, 2)
    away = finder(camera()).find(0, rng(), Frame("0", 0, -np.abs(cloud()), views=Recorded([camera()])[0].views))
    assert len(away) == 0
    assert away.images.shape == (1, 3, 100, 200)


def test_color_changes_are_those_of_pillow():
    """Brightness, then contrast, then saturation, as Pillow's enhancers define them one by one."""
    from PIL import Image, ImageEnhance

    image = np.random.default_rng(0).integers(60, 190, (40, 52, 3), dtype=np.uint8)
    for seed in range(5):
        brightness, contrast, saturation = np.random.default_rng(seed).uniform(0.8, 1.2, 3)
        expected = Image.fromarray(image)
        for enhancer, amount in (
            (ImageEnhance.Color, saturation),
            (ImageEnhance.Contrast, contrast),
            (ImageEnhance.Brightness, brightness),
        ):
            expected = enhancer(expected).enhance(amount)
        changed = change_color(image.transpose(2, 0, 1), 0.2, rng(seed)).transpose(1, 2, 0)
        assert np.abs(changed.astype(int) - np.asarray(expected)).max() <= 3  # Pillow rounds three times
    np.testing.assert_array_equal(change_color(image.transpose(2, 0, 1), 0.0, rng()), image.transpose(2, 0, 1))
    bright = np.full((3, 8, 8), 255, np.uint8)
    assert {int(change_color(bright, 0.5, rng(seed)).max()) for seed in range(9)} >= {255}


def brute_force(scan: Scan, point_to_voxel: np.ndarray, parts: list[ImagePairs]) -> list[tuple]:
    """(image, scan row, voxel, u, v, target) of the pairs that must be there, by loops."""
    wanted, taken, first = [], set(), 0
    for labelled_ones in (True, False):
        first = 0
        for number, part in enumerate(parts):
            for point, image, pixel in zip(part.point, part.image, part.pixel, strict=True):
                rows = np.flatnonzero((scan.part == number) & (scan.index == point))
                assert len(rows) <= 1
                for row in rows:
                    voxel, target = int(point_to_voxel[row]), int(scan.target[row])
                    if voxel < 0 or (target != IGNORE) != labelled_ones:
                        continue
                    key = (first + int(image), voxel)
                    if labelled_ones or key not in taken:
                        taken.add(key)
                        wanted.append((first + int(image), int(row), voxel, *map(float, pixel), target))
            first += len(part.images)
    return sorted(wanted)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_pairs_follow_their_points(seed: int):
    """Augmented, points dropped, two scans mixed, half of them outside the grid: each pair is still its point's."""
    generator = rng(seed)
    found = finder(camera("a"), camera("b", 120, 90, yaw=1.0))
    config = AugmentConfig(drop=0.5, mix=1.0)
    scans, parts = [], []
    for index in range(2):
        frame = found.source[index]
        target = np.where(generator.random(len(frame.points)) < 0.2, frame.labels, IGNORE).astype(np.uint8)
        scans.append(augment(make_scan(str(index), frame, target, 1.0), config, generator))
        parts.append(found.find(index, generator))
    scan = mix(scans[0], scans[1], config, generator)
    grid = VoxelGrid(2.0, (-20, 0, -5), (20, 20, 5))
    voxels = voxelize(scan.points, scan.intensity, grid)
    assert (voxels.point_to_voxel < 0).mean() > 0.2

    pairs = join(scan, voxels, tuple(parts))
    wanted = brute_force(scan, voxels.point_to_voxel, parts)
    shown = sorted({pair[0] for pair in wanted})  # images that show nothing are gone
    assert shown
    np.testing.assert_array_equal(pairs.images, np.concatenate([part.images for part in parts])[shown])
    got = zip(np.array(shown)[pairs.image], pairs.point, pairs.row, *pairs.pixel.T, pairs.target, strict=True)
    assert sorted((int(i), int(p), int(r), float(u), float(v), int(t)) for i, p, r, u, v, t in got) == wanted
    assert (np.diff(pairs.image) >= 0).all()


def test_a_sparse_label_is_never_multiplied():
    found = finder(camera("a"), camera("b", yaw=0.3))
    frame = found.source[0]
    target = np.full(len(frame.points), IGNORE, np.uint8)
    part = found.find(0, rng())
    both = np.intersect1d(part.point[part.image == 0], part.point[part.image == 1])
    target[both[0]] = 3
    scan = make_scan("0", frame, target, 1.0)
    coarse = VoxelGrid(20.0, (-20, -20, -20), (20, 20, 20))  # many points a voxel
    pairs = join(scan, voxelize(scan.points, scan.intensity, coarse), (part,))
    assert (pairs.target != IGNORE).sum() == 2  # the point itself, once in each image
    assert set(scan.index[pairs.point[pairs.target != IGNORE]]) == {both[0]}
    key = pairs.image * 100 + pairs.row
    assert len(np.unique(key)) == len(key)  # and it alone stands for its voxel


def test_every_label_of_a_voxel_keeps_its_pair():
    found = finder(camera())
    frame = found.source[0]
    scan = make_scan("0", frame, np.asarray(frame.labels), 1.0)
    part = found.find(0, rng())
    coarse = VoxelGrid(20.0, (-20, -20, -20), (20, 20, 20))
    pairs = join(scan, voxelize(scan.points, scan.intensity, coarse), (part,))
    np.testing.assert_array_equal(np.sort(scan.index[pairs.point]), np.sort(part.point))
    np.testing.assert_array_equal(pairs.target, frame.labels[part.point])


def example(*cameras: Camera, index: int = 0) -> tuple[ExamplePairs, int]:
    found = finder(*cameras)
    frame = found.source[index]
    scan = make_scan("0", frame, np.asarray(frame.labels), 1.0)
    voxels = voxelize(scan.points, scan.intensity, GRID)
    return join(scan, voxels, (found.find(index, rng()),)), len(voxels)


def test_a_batch_joins_examples():
    (one, rows), (none, more), (two, last) = example(camera()), example(), example(camera("b", 230, 50), index=1)
    offsets = np.cumsum([0, rows, more, last])
    batch = collate_pairs([one, none, two], offsets)
    assert isinstance(batch, Pairs)
    assert len(batch) == len(one) + len(two)
    assert batch.images.shape == (2, 3, 100, 230)
    assert batch.images.dtype == torch.float32
    np.testing.assert_allclose(batch.images[0, :, :, :200].numpy(), one.images[0] / np.float32(255))
    assert not batch.images[0, :, :, 200:].any()
    assert not batch.images[1, :, 50:].any()
    np.testing.assert_array_equal(batch.row, np.concatenate([one.row, two.row + offsets[2]]))
    np.testing.assert_array_equal(batch.image, np.repeat([0, 1], [len(one), len(two)]))
    np.testing.assert_array_equal(batch.pixel, np.concatenate([one.pixel, two.pixel]))
    np.testing.assert_array_equal(batch.target, np.concatenate([one.target, two.target]))
    assert {t.dtype for t in (batch.row, batch.image, batch.target)} == {torch.int64}
    assert len(batch.to(torch.device("cpu"))) == len(batch)


def test_a_batch_without_pairs():
    (none, rows) = example()
    for examples, offsets in (([none], [0, rows]), ([], [0])):
        batch = collate_pairs(examples, np.array(offsets))
        assert len(batch) == 0
        assert batch.images.shape == (0, 3, 1, 1)
        assert batch.pixel.shape == (0, 2)
    scan = make_scan("0", Recorded([])[0], np.zeros(400, np.uint8), 1.0)
    assert len(join(scan, voxelize(scan.points, scan.intensity, GRID), ())) == 0
    empty = scan.take(np.zeros(len(scan), bool))
    part = finder(camera()).find(0, rng())
    pairs = join(empty, voxelize(empty.points, empty.intensity, GRID), (part,))
    assert len(pairs) == 0
    assert pairs.images.shape == (0, 3, 1, 1)


@pytest.mark.real
def test_real_pairs_show_what_is_labelled(real_data: Path):
    """Half-size image, mirrored or not: the pixels of vegetation are greener than those of road and building."""
    drive = SemanticKitti(real_data / "semantickitti/sequences/07", image_calibration_size=(1226, 370))
    scans = Source("semantickitti", real_data, ("velodyne/000964.bin",), drive.labels, drive)
    frame = drive[0]
    scan = make_scan("964", frame, np.asarray(frame.labels), 1.0)
    voxels = voxelize(scan.points, scan.intensity, VoxelGrid(0.1, (-50, -50, -5), (50, 50, 3)))
    for flip in (0.0, 1.0):
        images = ImagesConfig(scale=0.5, color=0.1, flip=flip)
        part = PairFinder(scans, images).find(0, rng(), frame)
        assert part.images.shape == (1, 3, 100, 336)
        assert len(part) == pytest.approx(0.127 * len(frame.points), rel=0.03)
        pairs = join(scan, voxels, (part,))
        colors = under(pairs).astype(float)
        green = colors[:, 1] - colors[:, [0, 2]].mean(axis=1)
        mean = {name: green[pairs.target == drive.labels.index(name)].mean() for name in ("vegetation", "road")}
        assert mean["vegetation"] > mean["road"] + 3
        unlabelled = join(replace(scan, target=np.full_like(scan.target, IGNORE)), voxels, (part,))
        assert 0.3 < len(unlabelled) / len(pairs) < 0.95  # one a voxel
        assert len(np.unique(unlabelled.row)) == len(unlabelled)


def test_thinning_keeps_every_label_and_draws_the_rest_anew():
    count = 500
    target = np.full(count, IGNORE)
    target[::50] = 3
    whole = ExamplePairs(
        images=np.zeros((2, 3, 4, 4), np.uint8),
        row=np.arange(count),
        image=np.repeat([0, 1], count // 2),
        pixel=np.stack([np.arange(count)] * 2, axis=1).astype(np.float32),
        target=target,
        point=np.arange(count) + 7,
    )
    first, second = (thin(whole, 60, np.random.default_rng(seed)) for seed in (0, 1))
    assert len(first) == len(second) == 60
    for few in (first, second):
        assert (few.target != IGNORE).sum() == 10
        assert (np.diff(few.image) >= 0).all()
        assert (np.diff(few.row) > 0).all()
        assert np.array_equal(few.point, few.row + 7)
        assert np.array_equal(few.pixel[:, 0], few.row)
    assert not np.array_equal(first.row, second.row)
    assert thin(whole, 0, np.random.default_rng(0)) is whole
    assert thin(whole, count, np.random.default_rng(0)) is whole
    # Labels are never thinned, however few pairs are asked for.
    assert np.array_equal(thin(whole, 4, np.random.default_rng(0)).row, np.arange(0, count, 50))
