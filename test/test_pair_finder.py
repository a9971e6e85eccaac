"""Pairs of points and pixels found in recorded scans: what a camera sees, as its image is scaled and mirrored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filmed_scans import AS_IT_IS, Recorded, camera, cloud, coordinates_image, finder, rng, source, under

from mdkt_ros.drive.frame import Frame, View
from training.data.pair_finder import PairFinder, change_color
from training.data.source import Source
from training.scheme.config import ImagesConfig


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
