"""The label draw: its budget, that it is drawn once, and that it belongs to its data. And the sources it draws from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_drive import BUILDING, RAW, ROAD, VEGETATION, write_folder, write_semantickitti

from mdkt_ros.errors import ConfigError, DriveError, LabelError
from training.config import DataConfig
from training.data.draw import LabelDraw, draw_labels, fingerprint, load_draw, stored_draw
from training.data.source import Source, open_source


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return open_source(DataConfig(kind="folder", root=str(write_folder(tmp_path / "scans"))))


def targets(source: Source, draw: LabelDraw) -> list[np.ndarray]:
    return [draw.target(i, source[i].labels, source.names[i]) for i in range(len(source))]


@pytest.mark.parametrize(("percent", "expected"), [(0.01, 1), (0.1, 1), (1, 3), (10, 27), (100, 270)])
def test_budget_a_scan(source: Source, percent: float, expected: int):
    """270 of a scan's 300 points have a class; at least one is drawn."""
    draw = stored_draw(source, percent, 0, source.root.parent / "draws")
    drawn = targets(source, draw)
    for index, target in enumerate(drawn):
        labels = source[index].labels
        assert (target != 255).sum() == expected
        np.testing.assert_array_equal(target[target != 255], labels[target != 255])
    budget = draw.budget()
    assert (budget["labels"], budget["points"], budget["scans"]) == (3 * expected, 900, 3)
    assert budget["labels_percent_of_points"] == pytest.approx(100 * 3 * expected / 900)
    counts = np.bincount(np.concatenate(drawn), minlength=256)
    np.testing.assert_array_equal(draw.counts.sum(0), counts[:19])
    assert {ROAD, BUILDING, VEGETATION} >= set(np.flatnonzero(counts[:19]))


def test_the_draw_is_uniform_over_the_labelled_points(tmp_path: Path):
    source = open_source(DataConfig(kind="folder", root=str(write_folder(tmp_path / "scans", scans=1, points=400))))
    hits = np.zeros(400)
    for seed in range(300):
        draw = draw_labels(source, 10, seed, tmp_path / "none")
        hits[draw.indices] += 1
    labels = source[0].labels
    assert (hits[labels == 255] == 0).all()
    # Binomial(300, 0.1): 30 +- 5.2; five deviations over 360 points.
    assert hits[labels != 255].min() > 4
    assert hits[labels != 255].max() < 56


def test_same_seed_same_draw_other_seed_another(source: Source, tmp_path: Path):
    one, again, other = (draw_labels(source, 10, seed, tmp_path / "none") for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.indices, again.indices)
    assert not np.array_equal(one.indices, other.indices)


def test_a_smaller_budget_is_part_of_a_larger_one_and_scans_do_not_depend_on_each_other(source: Source, tmp_path: Path):
    small, large = (draw_labels(source, percent, 5, tmp_path / "none") for percent in (1, 10))
    some = open_source(DataConfig(kind="folder", root=str(source.root), frames="1-2"))
    part = draw_labels(some, 10, 5, tmp_path / "none")
    for index in range(3):
        assert set(_rows(small, index)) < set(_rows(large, index))
    np.testing.assert_array_equal(_rows(part, 0), _rows(large, 1))
    np.testing.assert_array_equal(_rows(part, 1), _rows(large, 2))
    assert set(_rows(large, 0)) != set(_rows(large, 1))


def _rows(draw: LabelDraw, scan: int) -> np.ndarray:
    return draw.indices[draw.offsets[scan] : draw.offsets[scan + 1]]


def test_drawn_once_then_read(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[int, int]] = []
    first = stored_draw(source, 1, 0, tmp_path / "draws", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [path.name for path in (tmp_path / "draws").iterdir()] == [f"folder-1pct-seed0-{fingerprint(source)}.npz"]
    monkeypatch.setattr("training.data.draw.draw_labels", lambda *_, **__: pytest.fail("drawn anew"))
    second = stored_draw(source, 1, 0, tmp_path / "draws")
    for name in ("points", "counts", "offsets", "indices", "classes"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.budget() == second.budget()


def test_data_budget_and_seed_each_have_a_draw_of_their_own(source: Source, tmp_path: Path):
    folder = tmp_path / "draws"
    some = open_source(DataConfig(kind="folder", root=str(source.root), frames="0-1"))
    paths = {stored_draw(s, p, n, folder).path for s in (source, some) for p in (1, 10) for n in (0, 1)}
    assert len(paths) == 8


def test_labels_that_changed_since_are_refused(source: Source, tmp_path: Path):
    draw = stored_draw(source, 100, 0, tmp_path / "draws")
    path = source.root / "01.label"
    raw = np.fromfile(path, np.uint32)
    raw[raw == 40] = 50
    raw.tofile(path)
    with pytest.raises(
        LabelError, match=r"01\.bin: its labels are not those that the label draw .*\.npz was made from"
    ):
        draw.target(1, source[1].labels, source.names[1])
    with pytest.raises(LabelError, match=r"x: has 5 labels, the label draw .* was made with 300"):
        draw.target(1, np.zeros(5, np.uint8), "x")
    with pytest.raises(LabelError, match=r"x: has no labels"):
        draw.target(1, None, "x")


def test_damaged_draws_are_refused(source: Source, tmp_path: Path):
    path = stored_draw(source, 1, 0, tmp_path / "draws").path
    whole = path.read_bytes()
    for damaged in (b"", b"PK", whole[: len(whole) // 2], b"\x00" * 64):
        path.write_bytes(damaged)
        with pytest.raises(LabelError, match=r"not a label draw .*; remove it to draw anew"):
            stored_draw(source, 1, 0, tmp_path / "draws")
    np.savez(path, head=np.array("{}"))
    with pytest.raises(LabelError, match="not a label draw"):
        load_draw(path)


def test_a_draw_of_other_data_under_this_name_is_refused(source: Source, tmp_path: Path):
    path = stored_draw(source, 1, 0, tmp_path / "draws").path
    other = stored_draw(source, 1, 1, tmp_path / "draws").path
    other.replace(path)
    with pytest.raises(LabelError, match="a label draw of other data"):
        stored_draw(source, 1, 0, tmp_path / "draws")


def test_nothing_to_draw_from(tmp_path: Path):
    folder = write_folder(tmp_path / "scans", scans=2)
    for path in folder.glob("*.label"):
        np.zeros(300, np.uint32).tofile(path)
    source = open_source(DataConfig(kind="folder", root=str(folder)))
    with pytest.raises(LabelError, match="no point of its 2 scans has a class of semantickitti"):
        stored_draw(source, 1, 0, tmp_path / "draws")
    (folder / "01.label").unlink()
    source = open_source(DataConfig(kind="folder", root=str(folder)))
    with pytest.raises(LabelError, match=r"01\.bin: the scan has no labels"):
        stored_draw(source, 1, 0, tmp_path / "draws")
    (folder / "00.label").unlink()
    with pytest.raises(DriveError, match="none of its 2 scans has labels"):
        open_source(DataConfig(kind="folder", root=str(folder)))


def test_sequences_and_scribbles(tmp_path: Path):
    root = write_semantickitti(tmp_path / "kitti")
    full = open_source(DataConfig(kind="semantickitti", root=str(root), sequences=["1", "0"], frames="1-2"))
    assert full.names == ("sequences/01/velodyne/000001.bin", "sequences/00/velodyne/000000.bin")
    scribbled = open_source(DataConfig(kind="scribblekitti", root=str(root), sequences=["00"]))
    labels = [s[i].labels for s, i in ((full, 1), (scribbled, 0))]
    where = np.flatnonzero(labels[1] != 255)
    assert 0 < len(where) <= 30
    np.testing.assert_array_equal(labels[0][where], labels[1][where])
    assert draw_labels(scribbled, 100, 0, tmp_path / "none").budget()["labels"] == sum(
        int((scribbled[i].labels != 255).sum()) for i in range(2)
    )
    assert set(RAW) >= set(labels[1][where].tolist())


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (DataConfig(), ConfigError, "data.root is not set"),
        (DataConfig(root="/nonexistent"), DriveError, "/nonexistent: no such folder"),
        (DataConfig(root="here", sequences=["00"]), ConfigError, "data.sequences: a data set of kind folder has none"),
        (DataConfig(root="here", kind="semantickitti", scenes=["x"]), ConfigError, "data.scenes: a data set of kind"),
        (DataConfig(root="here", frames="0-9"), DriveError, "frames 0-9 asked for, there are 3"),
    ],
)
def test_sources_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: DataConfig, error: type[Exception], message: str
):
    write_folder(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        open_source(config)


@pytest.mark.real
def test_real_folder(real_data: Path, tmp_path: Path):
    source = open_source(DataConfig(kind="folder", root=str(real_data / "nuscenes_lidarseg"), frames="0-1"))
    assert (source.labels.name, source.axes, source.names) == ("nuscenes", "y_forward", ("00.pcd.bin", "01.pcd.bin"))
    draw = stored_draw(source, 1, 0, tmp_path / "draws")
    for index, target in enumerate(targets(source, draw)):
        labelled = int((source[index].labels != 255).sum())
        assert (target != 255).sum() == round(labelled / 100)
