"""Augmentation: labels stay with their points, none is multiplied or made up; the stream of scans is reproducible."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_drive import TINY, tiny_scan, write_folder

from mdkt_ros.drive.frame import Frame
from mdkt_ros.voxel_grid import VoxelGrid
from training.config import AugmentConfig, TrainConfig, load_config
from training.data.augment import augment, mix
from training.data.dataset import StreamSampler, TrainingStream, make_batch
from training.data.draw import stored_draw
from training.data.scan import Scan, make_scan
from training.data.source import open_source

NOTHING = AugmentConfig(yaw=0, flip=0, scale=0, tilt=0, shift=0, jitter=0, drop=0, intensity=0)


def scan_of(seed: int, points: int = 200, labels: int = 12) -> Scan:
    """A scan with few labels, whose label is a code of the point's row."""
    cloud, _ = tiny_scan(seed, points)
    target = np.full(points, 255, np.uint8)
    drawn = np.random.default_rng(seed).permutation(points)[:labels]
    target[drawn] = drawn % 19
    return make_scan(f"{seed}", Frame("x", 0, cloud[:, :3], cloud[:, 3]), target, 1.0)


def check_labels(result: Scan, *parts: Scan) -> None:
    """Each point is one of its part's, at most once, with that point's label or none."""
    assert len(set(zip(result.part.tolist(), result.index.tolist(), strict=True))) == len(result)
    for number, part in enumerate(parts):
        mine = result.part == number
        np.testing.assert_array_equal(result.target[mine], part.target[result.index[mine]])
        assert (result.target[mine] != 255).sum() <= (part.target != 255).sum()
    lengths = {len(getattr(result, name)) for name in ("points", "intensity", "target", "index", "part")}
    assert len(lengths) == 1
    assert result.points.dtype == result.intensity.dtype == np.float32


configs = st.builds(
    AugmentConfig,
    yaw=st.floats(0, 180),
    flip=st.floats(0, 1),
    scale=st.floats(0, 0.9),
    tilt=st.floats(0, 30),
    shift=st.floats(0, 3),
    jitter=st.floats(0, 1),
    drop=st.floats(0, 0.99),
    intensity=st.floats(0, 0.9),
    intensity_drop=st.floats(0, 1),
    mix_sectors=st.booleans(),
    mix_bands=st.booleans(),
)


@settings(max_examples=80, deadline=None)
@given(configs, st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(0, 60))
def test_labels_are_never_multiplied_or_made_up(config: AugmentConfig, seed: int, points: int, others: int):
    rng = np.random.default_rng(seed)
    scan, other = scan_of(1, points), scan_of(2, others)
    before = replace(scan, points=scan.points.copy(), target=scan.target.copy(), intensity=scan.intensity.copy())
    one, two = augment(scan, config, rng), augment(other, config, rng)
    check_labels(one, scan)
    check_labels(mix(one, two, config, rng), scan, other)
    for name in ("points", "intensity", "target"):  # what the cache holds must not change
        np.testing.assert_array_equal(getattr(scan, name), getattr(before, name))


def test_all_zero_changes_nothing():
    scan = scan_of(1)
    result = augment(scan, NOTHING, np.random.default_rng(0))
    np.testing.assert_array_equal(result.points, scan.points)
    np.testing.assert_array_equal(result.intensity, scan.intensity)


def test_a_rigid_motion_and_one_scale():
    scan = scan_of(1)
    config = replace(NOTHING, yaw=180, flip=0.5, tilt=5, shift=1, scale=0.05)
    result = augment(scan, config, np.random.default_rng(4))
    before = np.linalg.norm(scan.points[:, None] - scan.points[None], axis=2)
    after = np.linalg.norm(result.points[:, None] - result.points[None], axis=2)
    ratio = after[before > 1] / before[before > 1]
    assert ratio.min() >= 0.95
    assert ratio.max() <= 1.05
    assert ratio.std() < 1e-5


def test_yaw_reaches_the_full_circle_and_keeps_z():
    scan = scan_of(1)
    config = replace(NOTHING, yaw=180)
    turned = [augment(scan, config, np.random.default_rng(seed)).points for seed in range(200)]
    azimuth = np.array([np.arctan2(points[0, 1], points[0, 0]) for points in turned])
    assert np.histogram(azimuth, 8, (-np.pi, np.pi))[0].min() > 8
    np.testing.assert_array_equal(turned[7][:, 2], scan.points[:, 2])


def test_drop_takes_up_to_its_share():
    scan = scan_of(1, points=5000)
    left = [len(augment(scan, replace(NOTHING, drop=0.4), np.random.default_rng(seed))) for seed in range(100)]
    assert 0.57 < min(left) / 5000 < 0.66
    assert max(left) / 5000 > 0.97


def test_jitter_is_cut_off():
    scan = scan_of(1, points=5000)
    moved = augment(scan, replace(NOTHING, jitter=0.01), np.random.default_rng(0)).points - scan.points
    assert np.abs(moved).max() <= 0.03 + 1e-5
    assert moved.std() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("way", ["mix_sectors", "mix_bands"])
def test_mixing_swaps_space_for_the_same_space(way: str):
    """Where points of the one scan stay, none of the other come in: two copies of a scan make it up again."""
    scan = scan_of(1, points=3000)
    config = replace(NOTHING, **{"mix_sectors": False, "mix_bands": False, way: True})
    shares = []
    for seed in range(30):
        result = mix(scan, scan, config, np.random.default_rng(seed))
        np.testing.assert_array_equal(np.sort(result.index), np.arange(3000))
        shares.append(float((result.part == 1).mean()))
    assert 0.05 < np.mean(shares) < 0.8
    assert len(set(shares)) > 10


def test_points_that_are_not_finite_are_left_out_and_rows_kept():
    points = np.array([[1, 2, 3], [np.nan, 0, 0], [4, 5, 6], [0, np.inf, 0]], np.float32)
    scan = make_scan(
        "x", Frame("x", 0, points, np.array([255, 0, np.nan, 1], np.float32)), np.zeros(4, np.uint8), 1 / 255
    )
    assert scan.index.tolist() == [0]
    assert scan.intensity.tolist() == [1.0]
    assert make_scan("x", Frame("x", 0, points), np.zeros(4, np.uint8), 1.0).intensity.tolist() == [0, 0]


@pytest.fixture
def stream(tmp_path: Path) -> TrainingStream:
    folder = write_folder(tmp_path / "scans", scans=5)
    config = load_config(None, [*TINY, f"data.root={folder}", "data.percent=10", "augment.mix=1"])
    return stream_of(config, tmp_path)


def stream_of(config: TrainConfig, tmp_path: Path) -> TrainingStream:
    source = open_source(config.data)
    draw = stored_draw(source, config.data.percent, 0, tmp_path / "draws")
    return TrainingStream(source, draw, config, VoxelGrid(0.5, (-20, -20, -5), (20, 20, 5)))


def test_the_stream_is_a_function_of_seed_and_position(stream: TrainingStream, tmp_path: Path):
    cached = load_config(
        None, [*TINY, f"data.root={stream.source.root}", "data.percent=10", "augment.mix=1", "data.cache=true"]
    )
    again = stream_of(cached, tmp_path)
    for position in (7, 0, 3):
        one, two = stream[position], again[position]
        assert one.scan.name == two.scan.name
        np.testing.assert_array_equal(one.voxels.features, two.voxels.features)
        np.testing.assert_array_equal(one.scan.target, two.scan.target)
    again.config.seed = 1
    assert not np.array_equal(stream[0].scan.points[:5], again[0].scan.points[:5])


def test_every_epoch_has_every_scan_once_and_never_mixes_a_scan_with_itself(stream: TrainingStream):
    orders = []
    for epoch in range(4):
        names = [stream[5 * epoch + place].scan.name.split("+") for place in range(5)]
        assert sorted(name for name, _ in names) == list(stream.source.names)
        assert all(one != other for one, other in names)
        orders.append(tuple(name for name, _ in names))
    assert len(set(orders)) > 1


def test_batches_hold_the_labelled_points_of_each_scan(stream: TrainingStream):
    examples = [stream[position] for position in (0, 1, 2)]
    batch = make_batch(examples)
    assert len(batch.voxels) == sum(len(example.voxels) for example in examples)
    assert batch.scan.tolist() == sorted(batch.scan.tolist())
    for number, example in enumerate(examples):
        mine = batch.scan == number
        assert (batch.voxels.coordinates[batch.rows[mine], 0] == number).all()
        inside = (example.scan.target != 255) & (example.voxels.point_to_voxel >= 0)
        assert batch.target[mine].tolist() == example.scan.target[inside].tolist()
        # The row is that of the voxel which holds the point.
        cell = np.floor((example.scan.points[inside] - (-20, -20, -5)) / 0.5)
        np.testing.assert_array_equal(batch.voxels.coordinates[batch.rows[mine], 1:].numpy(), cell)


def test_processes_share_each_batch():
    whole = list(StreamSampler(4, 1, 3))
    assert whole == [[4, 5, 6, 7], [8, 9, 10, 11]]
    shares = [list(StreamSampler(4, 1, 3, rank, 2)) for rank in range(2)]
    assert shares == [[[4, 6], [8, 10]], [[5, 7], [9, 11]]]
    assert len(StreamSampler(4, 3, 3)) == 0
