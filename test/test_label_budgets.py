"""Budgets in clicks and in whole frames: what is labelled, that it is counted, and that it is drawn once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_drives import kitti_frames
from tiny_drive import BUILDING, ROAD, VEGETATION, write_folder

from mdkt_ros.drive.frame import Frame
from mdkt_ros.drive.write_semantickitti import write_semantickitti
from mdkt_ros.errors import ConfigError, LabelError
from training.config import DataConfig, load_config
from training.data.budgets import SPECK, clicks, clusters, some_frames
from training.data.draw import draw_labels, load_draw, stored_draw
from training.data.source import Source, open_source


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return open_source(DataConfig(kind="folder", root=str(write_folder(tmp_path / "scans", scans=6))))


def blobs(centers: list[tuple[float, float, float]], each: int = 20) -> np.ndarray:
    """Points (N, 3) within 0.3 m of some centres, blob after blob."""
    rng = np.random.default_rng(0)
    return np.concatenate([np.array(c) + rng.uniform(-0.3, 0.3, (each, 3)) for c in centers]).astype(np.float32)


def test_one_click_a_cluster_where_nothing_is_numbered():
    points = blobs([(0, 0, 0), (10, 0, 0), (-40, 30, 2), (10, 20, 0)])
    labels = np.repeat([3, 3, 3, 8], 20).astype(np.uint8)
    rows = clicks(points, labels, None, np.random.default_rng(0))
    assert (rows // 20).tolist() == [0, 1, 2, 3]
    # Two classes at one place are two clusters.
    labels[10:20] = 8
    rows = clicks(points, labels, None, np.random.default_rng(0))
    assert (rows // 10).tolist()[:2] == [0, 1]
    assert len(rows) == 5


def test_a_numbered_instance_is_one_click_however_it_lies():
    points = blobs([(0, 0, 0), (10, 0, 0), (10.5, 0, 0), (30, 0, 0)])
    labels = np.full(80, 3, np.uint8)
    # 7 is split by an occlusion, 9 touches it, the last has no number; a class of its own within 7 has its own click.
    instance = np.repeat([7, 7, 9, 0], 20).astype(np.uint32)
    labels[5] = 4
    rows = clicks(points, labels, instance, np.random.default_rng(3))
    groups = {(int(labels[row]), int(instance[row])) for row in rows}
    assert len(rows) == len(groups) == 4
    assert groups == {(3, 7), (3, 9), (3, 0), (4, 7)}
    assert (np.diff(rows) > 0).all()


def test_a_click_is_any_point_of_its_instance():
    points, labels = blobs([(0, 0, 0)], each=10), np.full(10, 3, np.uint8)
    hit = np.bincount([clicks(points, labels, None, np.random.default_rng(s))[0] for s in range(400)], minlength=10)
    # Binomial(400, 0.1): 40 +- 6; five deviations.
    assert hit.min() > 10
    assert hit.max() < 70


def test_what_gets_no_click():
    points = blobs([(0, 0, 0), (20, 0, 0), (40, 0, 0)])
    labels = np.repeat([3, 255, 3], 20).astype(np.uint8)
    points[40 + SPECK - 1 :] = np.nan  # leaves a speck
    rows = clicks(points, labels, None, np.random.default_rng(0))
    assert len(rows) == 1
    assert rows[0] < 20
    # A speck that is an instance was made out by somebody, and a scan of specks alone still has a label.
    numbered = np.repeat([0, 0, 5], 20).astype(np.uint32)
    assert len(clicks(points, labels, numbered, np.random.default_rng(0))) == 2
    assert len(clicks(points[40:], labels[40:], None, np.random.default_rng(0))) == 1
    assert len(clicks(points, np.full(60, 255, np.uint8), None, np.random.default_rng(0))) == 0
    assert len(clicks(points[:0], labels[:0], None, np.random.default_rng(0))) == 0


def test_clusters_are_those_of_a_search_through_neighbours():
    rng = np.random.default_rng(5)
    points = rng.uniform(-6, 6, (400, 3)).astype(np.float32)
    labels = rng.integers(0, 3, 400).astype(np.uint8)
    cells = np.floor(points).astype(int)
    near = (np.abs(cells[:, None] - cells[None]) <= 1).all(2) & (labels[:, None] == labels[None])
    expected = np.full(400, -1)
    for start in range(400):
        if expected[start] < 0:
            found = np.zeros(400, bool)
            found[start] = True
            while (wider := near[found].any(0)).sum() != found.sum():
                found = wider
            expected[found] = start
    got = clusters(points, labels)
    assert len(np.unique(got)) == len(np.unique(expected)) == len(np.unique(np.stack([got, expected]), axis=1).T)
    assert 5 < len(np.unique(got)) < 200
    # A long chain: many rounds.
    chain = np.stack([np.arange(3000), np.zeros(3000), np.zeros(3000)], 1).astype(np.float32)
    order = rng.permutation(3000)
    assert len(np.unique(clusters(chain[order], np.zeros(3000, np.uint8)))) == 1


def test_clicks_of_a_data_set_are_its_instances(tmp_path: Path):
    frames = kitti_frames(3)
    for frame in frames:
        frame.instance[:] = np.arange(len(frame.points)) % 9 + 1
    write_semantickitti(tmp_path / "set", frames, sequence="00")
    source = open_source(DataConfig(kind="semantickitti", root=str(tmp_path / "set")))
    draw = stored_draw(source, 100, 0, tmp_path / "draws", unit="clicks")
    expected = [_instances(source[index]) for index in range(3)]
    assert draw.counts.sum(1).tolist() == [len(instances) for instances in expected]
    for index, instances in enumerate(expected):
        frame = source[index]
        rows = np.flatnonzero(draw.target(index, frame.labels, "") != 255)
        assert {(int(frame.labels[r]), int(frame.instance[r])) for r in rows} == instances
    assert draw.path.name == f"semantickitti-clicks-seed0-{draw.fingerprint}.npz"
    budget = draw.budget()
    assert (budget["unit"], budget["labels"], budget["labelled_scans"]) == ("clicks", sum(map(len, expected)), 3)


def _instances(frame: Frame) -> set[tuple[int, int]]:
    known = frame.labels != 255
    return set(zip(frame.labels[known].tolist(), frame.instance[known].tolist(), strict=True))


@pytest.mark.parametrize(("unit", "percent"), [("clicks", 100), ("frames", 30), ("points", 5)])
def test_drawn_once_and_the_same_by_the_same_seed(source: Source, tmp_path: Path, monkeypatch, unit, percent):
    first = stored_draw(source, percent, 4, tmp_path / "draws", unit=unit)
    again = draw_labels(source, percent, 4, tmp_path / "none", unit=unit)
    other = draw_labels(source, percent, 5, tmp_path / "none", unit=unit)
    monkeypatch.setattr("training.data.draw.draw_labels", lambda *_, **__: pytest.fail("drawn anew"))
    read = stored_draw(source, percent, 4, tmp_path / "draws", unit=unit)
    assert read.unit == unit
    for name in ("points", "counts", "offsets", "indices", "classes"):
        np.testing.assert_array_equal(getattr(first, name), getattr(read, name))
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not (np.array_equal(first.indices, other.indices) and np.array_equal(first.counts, other.counts))


def test_two_trainings_may_draw_the_same_at_once(source: Source, tmp_path: Path, monkeypatch) -> None:
    slow = draw_labels

    def overtaken(*arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr("training.data.draw.draw_labels", slow)
            stored_draw(source, 5, 4, tmp_path / "draws")
        return slow(*arguments, **options)

    monkeypatch.setattr("training.data.draw.draw_labels", overtaken)
    draw = stored_draw(source, 5, 4, tmp_path / "draws")
    np.testing.assert_array_equal(draw.indices, load_draw(draw.path).indices)


def test_each_kind_of_budget_has_a_draw_of_its_own(source: Source, tmp_path: Path):
    paths = {stored_draw(source, 100, 0, tmp_path / "draws", unit=unit).path for unit in ("points", "clicks", "frames")}
    assert len(paths) == 3
    clicked = next(path for path in paths if "clicks" in path.name)
    clicked.replace(next(path for path in paths if "frames" in path.name))
    with pytest.raises(LabelError, match="a label draw of other data"):
        stored_draw(source, 100, 0, tmp_path / "draws", unit="frames")


@pytest.mark.parametrize(("percent", "expected"), [(1, 1), (34, 2), (50, 3), (100, 6)])
def test_whole_frames(source: Source, tmp_path: Path, percent: float, expected: int):
    """All 270 labels of the 300 points of some scans, none of the others."""
    draw = stored_draw(source, percent, 1, tmp_path / "draws", unit="frames")
    assert len(draw.indices) == 0
    labelled = [int((draw.target(i, source[i].labels, source.names[i]) != 255).sum()) for i in range(len(source))]
    assert sorted(labelled) == [0] * (6 - expected) + [270] * expected
    budget = draw.budget()
    assert (budget["labelled_scans"], budget["labels"], budget["unit"]) == (expected, 270 * expected, "frames")
    assert set(np.flatnonzero(draw.counts.sum(0))) == {ROAD, BUILDING, VEGETATION}
    chosen = labelled.index(270)
    changed = source[chosen].labels.copy()
    changed[1] = 3
    with pytest.raises(LabelError, match="its labels are not those"):
        draw.target(chosen, changed, "x")


def test_frames_are_nested_and_evenly_spread():
    for seed in range(5):
        before = np.zeros(400, bool)
        for percent in (0.01, 1, 5, 10, 50, 100):
            mask = some_frames(400, percent, seed)
            assert mask.sum() == max(1, round(4 * percent))
            assert (mask | before == mask).all()
            before = mask
        gaps = np.diff(np.flatnonzero(some_frames(400, 10, seed)))
        # 40 of 400: ten apart on average, never bunched.
        assert gaps.min() >= 5
        assert gaps.max() <= 20
    assert not np.array_equal(some_frames(400, 1, 0), some_frames(400, 1, 1))


def test_frames_without_a_class(tmp_path: Path):
    folder = write_folder(tmp_path / "scans", scans=4)
    source = open_source(DataConfig(kind="folder", root=str(folder)))
    chosen = int(np.flatnonzero(some_frames(4, 25, 0))[0])
    np.zeros(300, np.uint32).tofile(folder / f"{chosen:02}.label")
    with pytest.raises(LabelError, match="no point of the 1 chosen scans has a class"):
        stored_draw(source, 25, 0, tmp_path / "draws", unit="frames")


def test_draws_from_before_there_were_kinds_are_read(source: Source, tmp_path: Path):
    draw = stored_draw(source, 10, 0, tmp_path / "draws")
    assert draw.path.name == f"folder-10pct-seed0-{draw.fingerprint}.npz"
    with np.load(draw.path) as data:
        arrays = {name: data[name] for name in data.files}
    head = json.loads(str(arrays["head"]))
    assert head.pop("unit") == "points"
    draw.path.unlink()
    np.savez_compressed(draw.path, **{**arrays, "head": np.array(json.dumps(head))})
    assert load_draw(draw.path).unit == "points"
    np.testing.assert_array_equal(stored_draw(source, 10, 0, tmp_path / "draws").indices, draw.indices)


def test_what_the_configuration_refuses():
    assert load_config(None, ["data.budget=clicks"]).data.percent == 100
    with pytest.raises(ConfigError, match=r"data\.percent = 0\.1: must be 100 for data\.budget = clicks"):
        load_config(None, ["data.budget=clicks", "data.percent=0.1"])
    with pytest.raises(ConfigError, match=r"data\.budget = 'scans': must be one of points, clicks, frames"):
        load_config(None, ["data.budget=scans"])


@pytest.mark.real
@pytest.mark.filterwarnings("ignore:.*the calibration is KITTI's:UserWarning")
def test_clicks_on_real_scans(real_data: Path, tmp_path: Path):
    """With instance ids (SemanticKITTI) and without (nuScenes-lidarseg)."""
    kitti = open_source(DataConfig(kind="semantickitti", root=str(real_data / "semantickitti"), sequences=["07"]))
    draw = draw_labels(kitti, 100, 0, tmp_path / "none", unit="clicks")
    frame = kitti[0]
    numbered = frame.instance != 0
    things = _instances(
        Frame("", 0, frame.points, labels=np.where(numbered, frame.labels, 255), instance=frame.instance)
    )
    clicked = draw.indices[numbered[draw.indices]]
    assert len(clicked) == len(things) > 5
    assert 20 < draw.budget()["labels"] < 300
    folder = open_source(DataConfig(kind="folder", root=str(real_data / "nuscenes_lidarseg"), frames="0"))
    assert 20 < draw_labels(folder, 100, 0, tmp_path / "none", unit="clicks").budget()["labels"] < 400
