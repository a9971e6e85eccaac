"""A folder or a scan in, the same with labels out: the labels are the segmenter's, and nothing else changes."""

from __future__ import annotations

import os
import shutil
import warnings

import numpy as np
import pytest
from echo_segmenter import ERRORS, GRID, LABELS, Echo, Failing
from segmenter_inputs import network
from small_drives import kitti_drive, kitti_scan, tree, write_nuscenes_set

from mdkt_ros.checkpoint import CheckpointMeta
from mdkt_ros.drive import open_drive
from mdkt_ros.drive.convert import convert
from mdkt_ros.errors import ConfigError, DriveError, OutputError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.scan import read_labels, read_scan
from mdkt_ros.segment_drive import segment_path
from mdkt_ros.segmenter import Segmenter


@pytest.mark.parametrize("part", [".", "sequences/08", "dataset"])
def test_a_semantickitti_folder(tmp_path, part):
    root = kitti_drive(tmp_path / "kitti" / ("dataset" if part == "dataset" else "."))
    source = tmp_path / "kitti" if part != "sequences/08" else root / part
    before = tree(source)
    summary = segment_path(source, tmp_path / "out", Echo())
    assert tree(source) == before
    after = tree(tmp_path / "out")
    added = after.keys() - before.keys()
    place = {".": "sequences/08/", "sequences/08": "", "dataset": "dataset/sequences/08/"}[part] + "predictions"
    assert sorted(added) == [f"{place}/00000{i}.label" for i in range(3)]
    assert {name: after[name] for name in before} == before
    scan = source / place.replace("predictions", "velodyne") / "000001.bin"
    assert os.stat(tmp_path / "out" / scan.relative_to(source)).st_ino == scan.stat().st_ino
    values = np.fromfile(scan, "<f4").reshape(-1, 4)
    raw = read_labels(tmp_path / "out" / place / "000001.label", 60, np.uint32)
    # Echo's class 1, bicycle, where x > 0: raw id 11; else car, 10.
    assert np.array_equal(raw, np.where(values[:, 0] > 0, 11, 10))
    assert summary.frames == 3
    assert np.trace(summary.confusion[:, :19]) == summary.points == 180


def test_copies_where_links_cannot_be(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    source = kitti_drive(tmp_path / "kitti")
    segment_path(source, tmp_path / "out", Echo(), limit=1)
    assert tree(source).items() <= tree(tmp_path / "out").items()
    assert len(list((tmp_path / "out").rglob("predictions/*"))) == 1


def test_a_plain_folder(tmp_path):
    nuscenes = LabelSpace.load("nuscenes")
    values = np.random.default_rng(0).normal(0, 10, (30, 5)).astype("<f4")
    values[:, 4] = np.arange(30)
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "00.pcd.bin").write_bytes(values.tobytes())
    segment_path(tmp_path / "scans", tmp_path / "out", Echo(labels=nuscenes, axes="y_forward"))
    raw = np.fromfile(tmp_path / "out" / "predictions" / "00_lidarseg.bin", np.uint8)
    assert np.array_equal(nuscenes.from_raw(raw, ""), (values[:, 0] > 0).astype(np.uint8))


def test_a_nuscenes_folder(tmp_path):
    nuscenes = LabelSpace.load("nuscenes")
    write_nuscenes_set(tmp_path / "nu")
    before = tree(tmp_path / "nu")
    summary = segment_path(tmp_path / "nu", tmp_path / "out", Echo(labels=nuscenes, axes="y_forward"))
    assert (summary.frames, summary.confusion.shape) == (3, (16, 17))
    added = tree(tmp_path / "out").items() - before.items()
    drive = open_drive(tmp_path / "nu")
    names = {f"lidarseg/val/{drive.lidar_token(i)}_lidarseg.bin" for i in range(3)}
    assert {name for name, _ in added} == {*names, "val/submission.json"}
    labels = np.fromfile(tmp_path / "out" / "lidarseg" / "val" / f"{drive.lidar_token(1)}_lidarseg.bin", np.uint8)
    assert np.array_equal(labels, np.where(drive[1].points[:, 0] > 0, 2, 1))


def test_a_kitti_object_folder(tmp_path):
    root = tmp_path / "object"
    kitti_scan(root / "training" / "velodyne" / "000000.bin")
    (root / "training" / "calib").mkdir()
    segment_path(root, tmp_path / "out", Echo())
    assert (tmp_path / "out" / "training" / "predictions" / "000000.label").stat().st_size == 240


@pytest.mark.parametrize("error", ERRORS)
def test_nothing_is_left_when_a_folder_fails_in_the_middle(tmp_path, error):
    source = kitti_drive(tmp_path / "kitti")
    before = tree(source)
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        segment_path(source, tmp_path / "out", Failing(error))
    assert [p.name for p in tmp_path.iterdir()] == ["kitti"]
    assert tree(source) == before


def test_truncated_scans_of_a_folder(tmp_path):
    source = kitti_drive(tmp_path / "kitti")
    velodyne = source / "sequences" / "08" / "velodyne"
    (velodyne / "000001.bin").write_bytes(b"12345")
    summary = segment_path(source, tmp_path / "out", Echo())
    assert (summary.frames, list(summary.skipped.values())) == (2, [1])
    for path in velodyne.iterdir():
        path.write_bytes(b"12345")
    with pytest.raises(DriveError, match="kitti: not one of 3 scans can be read: 1 x "):
        segment_path(source, tmp_path / "out2", Echo())


def test_a_scan_to_pcd_and_label(tmp_path):
    values = kitti_scan(tmp_path / "a.bin")
    echo = Echo()
    summary = segment_path(tmp_path / "a.bin", tmp_path / "a.pcd", echo)
    expected = echo.segment(values[:, :3], values[:, 3])
    cloud = read_scan(tmp_path / "a.pcd")
    assert list(cloud.columns) == ["x", "y", "z", "intensity", "class_id", "probability", "entropy", "rgb"]
    assert np.array_equal(cloud.xyz(), values[:, :3])
    assert np.array_equal(cloud.columns["class_id"], expected.class_id)
    assert np.array_equal(cloud.columns["probability"], expected.probability)
    assert (summary.frames, summary.points, summary.confusion) == (1, 60, None)
    segment_path(tmp_path / "a.pcd", tmp_path / "b.label", echo)
    raw = read_labels(tmp_path / "b.label", 60, np.uint32)
    assert np.array_equal(LABELS.from_raw(raw, ""), expected.class_id)
    # The labels beside the scan are its truth.
    (tmp_path / "a.label").write_bytes(raw.astype("<u4").tobytes())
    summary = segment_path(tmp_path / "a.bin", tmp_path / "c.pcd", echo)
    assert np.trace(summary.confusion[:, :19]) == 60


@pytest.mark.parametrize("name", ["out", "out.bin", "out.ply", "out.mcap"])
def test_other_suffixes_of_a_scans_output(tmp_path, name):
    kitti_scan(tmp_path / "a.bin")
    with pytest.raises(OutputError, match=rf"{name}: the labels of a scan are written as \.pcd or \.label"):
        segment_path(tmp_path / "a.bin", tmp_path / name, Echo())


def test_a_topic_of_something_without_topics(tmp_path):
    kitti_scan(tmp_path / "a.bin")
    with pytest.raises(ConfigError, match=r"a\.bin: is not a bag, it has no topic /points"):
        segment_path(tmp_path / "a.bin", tmp_path / "a.pcd", Echo(), topic="/points")


@pytest.mark.real
def test_real_scans(tmp_path, real_data, one_thread):
    segmenter = Segmenter(network(), CheckpointMeta("minkunet14s", 0.25, GRID, LABELS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sequence = tmp_path / "07"
        shutil.copytree(real_data / "semantickitti" / "sequences" / "07", sequence)
        convert(open_drive(real_data / "kitti_object"), tmp_path / "bag")
        for source, out in (
            (sequence, "kitti"),
            (real_data / "kitti_object", "object"),
            (tmp_path / "bag", "labelled"),
        ):
            summary = segment_path(source, tmp_path / out, segmenter)
            assert summary.points > 100_000
            assert summary.unlabelled < summary.points
