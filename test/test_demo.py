"""The demo leaves a drive, a labelled drive, a table and pictures, and the table is true."""

from __future__ import annotations

import io
import json
import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from rosbags.highlevel import AnyReader
from small_models import random_meta, random_network
from synthetic_frames import SEED

import mdkt_ros.demo
import mdkt_ros.drive.synthetic.ahead
import mdkt_ros.render.picture
from mdkt_ros.checkpoint import save_checkpoint
from mdkt_ros.cloud import parse_pointcloud2
from mdkt_ros.demo import run_demo
from mdkt_ros.drive.bag import BagDrive
from mdkt_ros.drive.synthetic import SyntheticDrive
from mdkt_ros.errors import CheckpointError, OutputError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.network import build_network
from mdkt_ros.render.perspective import perspective

LABELS = LabelSpace.load("semantickitti")
SCANS, SHOWN = 3, 2

pytestmark = pytest.mark.slow


class Titles(list):
    @contextmanager
    def __call__(self, title):
        self.append(title)
        yield lambda done, total: self.append((done, total))


def demo(out: Path, checkpoint: Path, *, force: bool = False) -> tuple[str, Titles]:
    """What it printed, and the progress that it told."""
    console, titles = Console(file=io.StringIO(), width=160), Titles()
    options = {"seed": SEED, "scans": SCANS, "device": "cpu", "workers": 1}
    run_demo(out, checkpoint=checkpoint, force=force, console=console, progress=titles, **options)
    return console.file.getvalue(), titles


@pytest.fixture(scope="module")
def few_pictures():
    """The page shows two scans of the three, so that one has no image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mdkt_ros.demo, "SHOWN", SHOWN)
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "random.safetensors"
    network = random_network()
    for name, value in network.state_dict().items():
        if name.startswith("classifier"):
            # Else nearly every point is of one class.
            value.normal_(generator=torch.Generator().manual_seed(1))
    save_checkpoint(path, network, random_meta())
    return path


@pytest.fixture(scope="module")
def left(tmp_path_factory, checkpoint, few_pictures) -> tuple[Path, str, Titles]:
    """A demo's folder (in one that it has to make), what it printed, its progress."""
    out = tmp_path_factory.mktemp("demo") / "new" / "out"
    return (out, *demo(out, checkpoint))


@pytest.fixture
def quick(monkeypatch, left):
    """The drive of the demo above again, without building its town."""
    monkeypatch.setattr(mdkt_ros.drive.synthetic.ahead, "AheadDrive", lambda *_, **__: BagDrive(left[0] / "drive"))


def test_what_it_leaves(left):
    out, printed, progress = left
    assert {path.name for path in out.iterdir()} == {
        "drive", "labelled", "table.json", "report.html", "birdseye.png", "overlay.png", "perspective.png",
    }  # fmt: skip
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    with BagDrive(out / "drive") as drive:
        assert [len(drive[index].views) for index in range(SCANS)] == [1, 0, 1]
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    for name in ("birdseye", "overlay", "perspective"):
        with Image.open(out / f"{name}.png") as picture:
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    assert [title for title in progress if isinstance(title, str)] == [
        f"Building town {SEED}", "Driving through it, recording a rosbag2", "Labelling the bag", "Drawing",
    ]  # fmt: skip
    assert progress.count((SCANS, SCANS)) == 2
    assert progress.count((SHOWN, SHOWN)) == 1
    table = json.loads((out / "table.json").read_text())
    assert list(table["seconds"]) == ["town", "record", "segment", "draw"]
    assert (table["seed"], table["scans"], table["skipped"], table["notes"]) == (SEED, SCANS, {}, [])
    assert f"{SCANS} scans, {table['points']:,} points" in printed
    assert re.search(rf"mean of the \d+ classes present .* {100 * table['miou']:.1f} ", printed)


def test_the_table_is_what_counting_the_labelled_bag_gives(left, town):
    out, _, _ = left
    with AnyReader([out / "labelled"]) as reader:
        connections = [c for c in reader.connections if c.topic == "/segment/output/segmentation"]
        clouds = [parse_pointcloud2(reader.deserialize(raw, c.msgtype)) for c, _, raw in reader.messages(connections)]
    drive = SyntheticDrive(SEED, scans=SCANS, rate_hz=2.0, town=town)
    frames = [drive[index] for index in range(SCANS)]
    assert [np.array_equal(cloud.xyz(), frame.points) for cloud, frame in zip(clouds, frames, strict=True)] == [
        True
    ] * 3
    raw = np.concatenate([frame.raw_labels for frame in frames])
    predicted = np.concatenate([cloud.columns["class_id"] for cloud in clouds])
    table = json.loads((out / "table.json").read_text())
    assert (table["points"], table["not_labelled"]) == (len(raw), int((predicted == 255).sum()))
    true = np.array([LABELS.names.index(name) if name else 255 for name in map(raw_names().get, raw.tolist())])
    ious = []
    for class_id, (name, row) in enumerate(table["classes"].items()):
        assert name == LABELS.names[class_id]
        is_true, is_predicted = true == class_id, (predicted == class_id) & (true != 255)
        hits, union = (is_true & is_predicted).sum(), (is_true | is_predicted).sum()
        assert (row["points"], row["true_points"]) == ((predicted == class_id).sum(), is_true.sum())
        assert row["iou"] == (pytest.approx(hits / union, abs=1e-6) if union else None)
        assert row["recall"] == (pytest.approx(hits / is_true.sum(), abs=1e-6) if is_true.any() else None)
        ious += [hits / union] if is_true.any() else []
    assert len(ious) > 8
    assert len(np.unique(predicted)) > 3, np.unique(predicted)
    assert table["miou"] == pytest.approx(np.mean(ious), abs=1e-6)


def raw_names() -> dict[int, str | None]:
    """SemanticKITTI's raw ids by the benchmark's own table (moving classes count as their still ones)."""
    names = {
        10: "car", 11: "bicycle", 13: "other-vehicle", 15: "motorcycle", 16: "other-vehicle", 18: "truck",
        20: "other-vehicle", 30: "person", 31: "bicyclist", 32: "motorcyclist", 40: "road", 44: "parking",
        48: "sidewalk", 49: "other-ground", 50: "building", 51: "fence", 60: "road", 70: "vegetation", 71: "trunk",
        72: "terrain", 80: "pole", 81: "traffic-sign", 252: "car", 253: "bicyclist", 254: "person",
        255: "motorcyclist", 256: "other-vehicle", 257: "other-vehicle", 258: "truck", 259: "other-vehicle",
    }  # fmt: skip
    return {**dict.fromkeys(range(300)), **names}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_nothing_is_left_of_a_demo_that_fails_at_its_end(tmp_path, monkeypatch, quick, checkpoint, error):
    def fail(*_: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(mdkt_ros.render.picture, "picture_for_path", fail)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        demo(tmp_path / "out", checkpoint)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_kept_unless_forced(tmp_path, monkeypatch, quick, checkpoint):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="out: exists already"):
        demo(out, checkpoint)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    demo(out, checkpoint, force=True)
    assert (out / "table.json").is_file()
    assert not (out / "mine.txt").exists()


def test_a_checkpoint_of_other_classes_and_axes(tmp_path, quick):
    """Nothing can be scored, all else is there; the pictures show what the labelled bag holds."""
    nuscenes = LabelSpace.load("nuscenes")
    network = build_network("minkunet14s", in_channels=4, classes=16, width=0.25)
    meta = replace(random_meta(), labels=nuscenes, axes="y_forward", intensity_scale=1 / 255)
    save_checkpoint(tmp_path / "other.safetensors", network.eval(), meta)
    printed, _ = demo(tmp_path / "out", tmp_path / "other.safetensors")
    assert "not scored: the truth's classes are semantickitti (19)" in printed
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert list(table["classes"]) == list(nuscenes.names)
    assert "miou" not in table
    with BagDrive(tmp_path / "out" / "labelled") as drive:
        expected = perspective(drive[SCANS - 1].points, drive.prediction(SCANS - 1), nuscenes, legend=True)
    with Image.open(tmp_path / "out" / "perspective.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(expected))


def test_a_checkpoint_that_is_none_costs_no_time(tmp_path, monkeypatch):
    monkeypatch.setattr(mdkt_ros.drive.synthetic.ahead, "AheadDrive", None)
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        demo(tmp_path / "out", tmp_path / "bad.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.safetensors"]
