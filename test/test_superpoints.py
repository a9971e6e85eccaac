"""Opinions of neighbouring points: what is averaged, and what is not."""

from __future__ import annotations

import numpy as np
import pytest

from mdkt_ros.errors import ConfigError
from training.data.superpoints import Superpoints
from training.scheme.calibration_map import ABSENT

RNG = np.random.default_rng(3)


def street() -> tuple[np.ndarray, np.ndarray]:
    """A flat ground with a box of 1 x 1 x 2 m on it; rows of the box."""
    ground = np.stack(np.meshgrid(np.arange(-8, 8, 0.25), np.arange(-8, 8, 0.25)), axis=-1).reshape(-1, 2)
    ground = np.c_[ground, np.zeros(len(ground))]
    box = RNG.uniform([2, 2, 0.4], [3, 3, 2.0], (150, 3))
    points = np.concatenate([ground, box]).astype(np.float32)
    return points, np.arange(len(ground), len(points))


def test_neighbours_outvote_a_single_mistake():
    points, _ = street()
    scores = np.tile(np.array([0.8, 0.2], np.float32), (len(points), 1))
    scores[100] = (0.1, 0.9)
    smooth = Superpoints(neighbours=12, cluster=0).average(points, scores)
    assert smooth[100].argmax() == 0
    assert smooth.dtype == np.float32
    # A mean changes nothing where all agree.
    far = np.linalg.norm(points - points[100], axis=1) > 3
    assert np.allclose(smooth[far], scores[far], atol=1e-6)


def test_the_neighbours_are_the_nearest_points_by_brute_force():
    points = RNG.normal(0, 3, (200, 3)).astype(np.float32)
    scores = RNG.random((200, 4)).astype(np.float32)
    near = np.linalg.norm(points[:, None] - points[None], axis=2).argsort(1)[:, :7]
    smooth = Superpoints(neighbours=7, cluster=0).average(points, scores)
    assert np.allclose(smooth, scores[near].mean(1), atol=1e-6)


def test_a_cluster_has_one_opinion_and_the_ground_keeps_its_own():
    points, box = street()
    scores = np.tile(np.array([0.9, 0.0, 0.1], np.float32), (len(points), 1))
    half = box[: len(box) // 2]
    scores[box] = (0.2, 0.5, 0.3)
    scores[half] = (0.2, 0.3, 0.5)
    apart = Superpoints(neighbours=0, cluster=0.6).average(points, scores)
    assert np.array_equal(apart[: box[0]], scores[: box[0]])
    # 0.7 of the cluster's mean (0.2, 0.4, 0.4) and 0.3 of a point's own.
    assert np.allclose(apart[half], (0.2, 0.37, 0.43), atol=1e-4)


def test_what_is_longer_than_a_thing_is_no_cluster():
    wall = np.stack([np.arange(0, 30, 0.2), np.zeros(150), np.full(150, 1.0)], axis=1)
    floor = np.stack([np.arange(0, 30, 0.2), np.zeros(150), np.zeros(150)], axis=1)
    points = np.concatenate([wall, floor]).astype(np.float32)
    scores = RNG.random((300, 3)).astype(np.float32)
    assert np.array_equal(Superpoints(neighbours=0, cluster=0.5).average(points, scores), scores)


def test_absent_classes_are_no_opinion():
    points, box = street()
    scores = RNG.random((len(points), 3)).astype(np.float32)
    scores[:, 2] = ABSENT
    scores[box[:5], 2] = 0.5
    smooth = Superpoints().average(points, scores)
    assert set(np.unique(smooth[: box[0] - 100, 2])) == {np.float32(ABSENT)}
    said = smooth[:, 2] > ABSENT
    assert said[box[:5]].all()
    assert np.allclose(smooth[said, 2], 0.5)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_few_points_are_no_error(count):
    points = RNG.normal(0, 1, (count, 3)).astype(np.float32)
    assert Superpoints().average(points, np.ones((count, 3), np.float32)).shape == (count, 3)


def test_settings_out_of_range_are_named():
    with pytest.raises(ConfigError, match="neighbours = -1"):
        Superpoints(neighbours=-1)
    with pytest.raises(ConfigError, match="cluster = 9"):
        Superpoints(cluster=9)
