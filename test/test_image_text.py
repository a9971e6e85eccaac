"""The cache of image-text scores: what goes in comes out, and nothing else is taken for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small_drives import image, kitti_frames, view

from mdkt_ros.drive.frame import Frame
from mdkt_ros.errors import ConfigError, LabelError
from mdkt_ros.labels import LabelSpace
from training.data.draw import draw_labels
from training.data.image_text import ImageTextCache, calibrate, combine, labelled_scores
from training.data.image_text_head import CacheHead, frame_digest, read_head, write_head
from training.data.source import Source
from training.scheme.calibration import Calibration
from training.scheme.calibration_map import ABSENT
from training.scheme.config import PseudoConfig

KITTI = LabelSpace.load("semantickitti")
C = len(KITTI)


class Frames:
    """A drive of frames at hand."""

    name, axes, intensity_scale, labels = "test", "x_forward", 1.0, KITTI

    def __init__(self, frames: list[Frame]) -> None:
        self.frames = frames
        self.read = 0

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:
        self.read += 1
        return self.frames[index]


def source(frames: list[Frame]) -> Source:
    names = tuple(f"sequences/00/velodyne/{frame.name}.bin" for frame in frames)
    return Source("semantickitti", Path("data"), names, KITTI, Frames(frames))


def head(**settings: object) -> CacheHead:
    text = torch.nn.functional.normalize(torch.randn(C, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    facts = {"model": "ViT-B-16", "pretrained": "laion", "weights": "0123"}
    return CacheHead({"weights": "0123", "window": 32, **settings}, facts, KITTI.names, (True,) * C, 40.0, text)


def filled(folder: Path, scans: Source, skip: int = -1) -> tuple[ImageTextCache, dict[int, tuple]]:
    """A cache of random scores of a third of each scan's points."""
    rng, written = np.random.default_rng(0), {}
    write_head(folder, head())
    cache = ImageTextCache.open(folder, scans, check=False)
    for index in range(len(scans)):
        frame = scans[index]
        rows = np.sort(rng.permutation(len(frame.points))[: len(frame.points) // 3])
        scores = rng.uniform(-0.2, 0.4, (len(rows), C)).astype(np.float32)
        scores[:, 3] = ABSENT
        written[index] = rows, scores
        if index != skip:
            cache.write(index, frame, rows, scores)
    return cache, written


def test_scores_come_back_as_they_went_in(tmp_path: Path):
    scans = source(kitti_frames(3))
    _, written = filled(tmp_path / "cache", scans)
    cache = ImageTextCache.open(tmp_path / "cache", scans)
    for index, (rows, scores) in written.items():
        found, values = cache.scan(index)
        assert found.dtype == np.int64
        assert values.dtype == np.float32
        assert np.array_equal(found, rows)
        np.testing.assert_allclose(values, scores, atol=2e-4)
        assert np.all(values[:, 3] == ABSENT)
    torch.testing.assert_close(cache.text, head().text, rtol=0, atol=0)
    assert cache.description == head().description
    assert cache.head.key == head().key
    assert cache.head.logit_scale == 40.0


def test_a_scan_without_a_seen_point(tmp_path: Path):
    scans = source(kitti_frames(1))
    write_head(tmp_path / "c", head())
    cache = ImageTextCache.open(tmp_path / "c", scans, check=False)
    cache.write(0, scans[0], *combine([], [], C))
    rows, scores = cache.scan(0)
    assert rows.shape == (0,)
    assert scores.shape == (0, C)


def test_a_missing_scan_names_the_command(tmp_path: Path):
    cache, _ = filled(tmp_path / "cache", source(kitti_frames(3)), skip=1)
    assert [index in cache for index in range(3)] == [True, False, True]
    with pytest.raises(ConfigError) as caught:
        cache.scan(1)
    assert str(caught.value) == (
        f"{tmp_path}/cache: has no scores of sequences/00/velodyne/000001.bin; make them with python "
        f"training/pseudo_labels.py --config RECIPE --model ViT-B-16 --pretrained laion --out {tmp_path}/cache"
    )


def test_no_cache_names_the_command(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none: no image-text scores there; python training/pseudo_labels\.py"):
        ImageTextCache.open(tmp_path / "none", source(kitti_frames(1)))


def test_other_settings_are_refused_by_name(tmp_path: Path):
    cache, _ = filled(tmp_path / "cache", source(kitti_frames(2)))
    write_head(tmp_path / "cache", head())
    with pytest.raises(ConfigError, match=r"made with other settings \(window: 32\); take another --out"):
        write_head(tmp_path / "cache", head(window=64))
    # A scan's file that was carried over from elsewhere.
    other = tmp_path / "other"
    write_head(other, head(window=64))
    stranger = ImageTextCache.open(other, cache.source, check=False)
    stranger.path(0).parent.mkdir(parents=True)
    stranger.path(0).write_bytes(cache.path(0).read_bytes())
    with pytest.raises(ConfigError, match=r"000000\.bin\.safetensors: made with other settings"):
        stranger.scan(0)


def test_damage_is_named(tmp_path: Path):
    cache, _ = filled(tmp_path / "cache", source(kitti_frames(2)))
    cache.path(1).write_bytes(cache.path(1).read_bytes()[:-50])
    with pytest.raises(ConfigError, match=r"000001\.bin\.safetensors: damaged"):
        cache.scan(1)
    (tmp_path / "cache" / "image_text.json").write_text("{}")
    with pytest.raises(ConfigError, match="cache: not a cache of image-text scores"):
        read_head(tmp_path / "cache")


def test_other_classes_are_refused(tmp_path: Path):
    scans = source(kitti_frames(1))
    filled(tmp_path / "cache", scans)
    with pytest.raises(ConfigError, match="cache: scores of the classes car, bicycle"):
        ImageTextCache.open(tmp_path / "cache", dataclasses.replace(scans, labels=LabelSpace.load("nuscenes")))


def test_a_scan_is_recognised_by_points_images_and_cameras():
    frame = kitti_frames(1)[0]
    digest = frame_digest(frame)
    assert digest == frame_digest(kitti_frames(1)[0])
    points = frame.points.copy()
    points[7, 1] += 1e-3
    camera = frame.views[0].camera
    moved = dataclasses.replace(camera, camera_from_lidar=camera.camera_from_lidar + 1e-6)
    pixels = image(np.random.default_rng(9))
    views = (view(moved, 0, frame.views[0].load()), view(camera, 0, pixels))
    changed = [
        dataclasses.replace(frame, points=points),
        *(dataclasses.replace(frame, views=(v, *frame.views[1:])) for v in views),
        dataclasses.replace(frame, views=frame.views[:1]),
    ]
    assert len({digest, *map(frame_digest, changed)}) == 5


def test_scores_of_other_images_are_found_out(tmp_path: Path):
    scans = source(kitti_frames(3))
    filled(tmp_path / "cache", scans)
    again = kitti_frames(3)
    shot = again[2].views[0]
    again[2] = dataclasses.replace(again[2], views=(view(shot.camera, 0, 255 - shot.load()), again[2].views[1]))
    with pytest.raises(ConfigError, match=r"made of other points or images than sequences/00/velodyne/000002\.bin has"):
        ImageTextCache.open(tmp_path / "cache", source(again))
    ImageTextCache.open(tmp_path / "cache", source(again), check=False)


def test_points_of_several_images_take_the_mean():
    rng = np.random.default_rng(0)
    rows = [rng.permutation(30)[:n].astype(np.int64) for n in (12, 0, 20, 9)]
    scores = [rng.normal(size=(len(r), 4)).astype(np.float32) for r in rows]
    scores[0][:, 1] = np.nan  # not in the first image
    for part in scores:
        part[:, 3] = np.nan  # in none
    points, found = combine(rows, scores, 4)
    assert points.tolist() == sorted(set(np.concatenate(rows).tolist()))
    for point, values in zip(points, found, strict=True):
        for c in range(4):
            seen = [s[list(r).index(point), c] for r, s in zip(rows, scores, strict=True) if point in r]
            seen = [v for v in seen if np.isfinite(v)]
            assert values[c] == pytest.approx(np.mean(seen) if seen else ABSENT, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("unit", "percent"), [("points", 30.0), ("points", 100.0), ("frames", 60.0)])
def test_only_drawn_labels_in_view_calibrate(tmp_path: Path, unit: str, percent: float):
    scans = source(kitti_frames(4))
    cache, written = filled(tmp_path / "cache", scans)
    draw = draw_labels(scans, percent, 0, tmp_path / "draw.npz", unit=unit)
    scores, labels, groups = labelled_scores(cache, draw)
    expected = []
    for index, (rows, values) in written.items():
        target = draw.target(index, scans[index].labels, "x")
        expected += [(index, int(target[r]), v) for r, v in zip(rows, values, strict=True) if target[r] != 255]
    assert len(labels) == len(expected) > 0
    found = sorted((int(g), int(y), s.tolist()) for g, y, s in zip(groups, labels, scores, strict=True))
    for (g, y, s), (index, label, values) in zip(
        found, sorted((i, y, v.tolist()) for i, y, v in expected), strict=True
    ):
        assert (g, y) == (index, label)
        np.testing.assert_allclose(s, values, atol=2e-4)


def test_of_very_many_labels_each_scan_gives_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scans = source(kitti_frames(4))
    cache, _ = filled(tmp_path / "cache", scans)
    draw = draw_labels(scans, 30.0, 0, tmp_path / "draw.npz")
    _, every, of_all = labelled_scores(cache, draw)
    monkeypatch.setattr("training.data.image_text._LABELS", 10)
    scores, labels, groups = labelled_scores(cache, draw)
    assert np.bincount(groups).tolist() == np.minimum(np.bincount(of_all), 3).tolist()
    assert len(scores) == len(labels) < len(every)


def test_calibration_reads_nothing_of_the_scans(tmp_path: Path):
    scans = source(kitti_frames(6))
    cache, _ = filled(tmp_path / "cache", scans)
    draw = draw_labels(scans, 50.0, 0, tmp_path / "draw.npz")
    before = scans.drive.read
    seen: list[tuple[int, int]] = []
    fitted = calibrate(cache, draw, PseudoConfig(), progress=lambda done, total: seen.append((done, total)))
    assert scans.drive.read == before
    assert seen == [(i, 6) for i in range(1, 7)]
    assert isinstance(fitted, Calibration)
    assert fitted.names == KITTI.names
    assert fitted.scale == 40.0
    again = calibrate(cache, draw, PseudoConfig())
    assert again.to_dict() == fitted.to_dict()


def test_labels_that_no_camera_sees_cannot_calibrate(tmp_path: Path):
    scans = source(kitti_frames(1))
    write_head(tmp_path / "c", head())
    cache = ImageTextCache.open(tmp_path / "c", scans, check=False)
    cache.write(0, scans[0], *combine([], [], C))
    with pytest.raises(ConfigError, match="none of the drawn labels is in the view of a camera"):
        calibrate(cache, draw_labels(scans, 50.0, 0, tmp_path / "draw.npz"), PseudoConfig())


def test_a_draw_of_other_labels_is_refused(tmp_path: Path):
    scans = source(kitti_frames(2))
    cache, _ = filled(tmp_path / "cache", scans)
    draw = draw_labels(scans, 100.0, 0, tmp_path / "draw.npz")
    changed = [dataclasses.replace(f, labels=np.roll(f.labels, 1) % C) for f in kitti_frames(2)]
    with pytest.raises(LabelError, match="not those that the label draw"):
        calibrate(ImageTextCache(cache.folder, cache.head, source(changed)), draw, PseudoConfig())
