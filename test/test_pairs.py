"""Pairs of points and pixels followed through augmentation, mixing, voxels, batches and thinning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filmed_scans import Recorded, camera, finder, rng, under

from mdkt_ros.camera import Camera
from mdkt_ros.drive.semantickitti import SemanticKitti
from mdkt_ros.labels import IGNORE
from mdkt_ros.voxel_grid import VoxelGrid
from mdkt_ros.voxels import voxelize
from training.config import AugmentConfig
from training.data.augment import augment, mix
from training.data.pair_finder import ImagePairs, PairFinder
from training.data.pairs import ExamplePairs, Pairs, collate_pairs, join, thin
from training.data.scan import Scan, make_scan
from training.data.source import Source
from training.scheme.config import ImagesConfig

GRID = VoxelGrid(0.5, (-20, -20, -5), (20, 20, 5))


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
    whence = [(index, view) for index in range(2) for view in range(2)]
    assert list(map(tuple, pairs.origin.tolist())) == [whence[number] for number in shown]


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
    assert batch.origin.tolist() == [[0, 0], [1, 0]]
    assert {t.dtype for t in (batch.row, batch.image, batch.target, batch.origin)} == {torch.int64}
    assert len(batch.to(torch.device("cpu"))) == len(batch)


def test_a_batch_without_pairs():
    (none, rows) = example()
    for examples, offsets in (([none], [0, rows]), ([], [0])):
        batch = collate_pairs(examples, np.array(offsets))
        assert len(batch) == 0
        assert batch.images.shape == (0, 3, 1, 1)
        assert batch.pixel.shape == batch.origin.shape == (0, 2)
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
        origin=np.array([[0, 0], [0, 1]]),
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
