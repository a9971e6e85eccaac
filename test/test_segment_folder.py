"""Data set folders that are not as they should be: the scans are labelled all the same, and nothing is lost."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from echo_segmenter import Echo
from PIL import Image
from small_drives import kitti_drive, kitti_scan, tree

from mdkt_ros.errors import DriveError, OutputError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.render.page import page_for_path
from mdkt_ros.segment_drive import segment_path

NUSCENES = LabelSpace.load("nuscenes")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (b"", r"labels/000001\.label: 0 uint32 labels, but the scan has 60 points"),
        (b"123", r"labels/000001\.label: 3 bytes are not a whole number of uint32 labels"),
        (b"\7\0\0\0" * 60, r"labels/000001\.label: raw label id 7 is not in the label space semantickitti"),
    ],
)
def test_damaged_labels_cost_the_score_and_not_the_prediction(tmp_path, damage, reason):
    source = kitti_drive(tmp_path / "kitti")
    whole = segment_path(source, tmp_path / "whole", Echo())
    (source / "sequences" / "08" / "labels" / "000001.label").write_bytes(damage)
    summary = segment_path(source, tmp_path / "out", Echo())
    assert (summary.frames, summary.points, summary.skipped) == (3, 180, {})
    assert summary.class_points.tolist() == whole.class_points.tolist()
    assert summary.confusion.sum() == 120
    (note,) = summary.notes
    assert note.startswith("not scored: 1 scan: ")
    assert re.search(reason, note)


def test_scans_without_points_are_told(tmp_path):
    source = kitti_drive(tmp_path / "kitti")
    sequence = source / "sequences" / "08"
    for name in ("velodyne/000000.bin", "labels/000000.label"):
        (sequence / name).write_bytes(b"")
    summary = segment_path(source, tmp_path / "out", Echo())
    assert (summary.frames, summary.points) == (3, 120)
    assert summary.notes == ("without a single point: 1 scan",)
    assert (tmp_path / "out" / "sequences" / "08" / "predictions" / "000000.label").read_bytes() == b""


def test_links_are_followed_as_far_as_they_lead(tmp_path):
    source = kitti_drive(tmp_path / "kitti")
    os.mkfifo(tmp_path / "pipe")
    for name, target in (("round", ".."), ("nowhere", "missing"), ("pipe", tmp_path / "pipe")):
        (source / "sequences" / name).symlink_to(target)
    (source / "sequences" / "09").symlink_to("08")
    (source / "linked.txt").symlink_to(source / "sequences" / "08" / "velodyne" / "000000.bin")
    segment_path(source, tmp_path / "out", Echo())
    assert sorted(p.name for p in (tmp_path / "out" / "sequences").iterdir()) == ["08", "09"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["linked.txt", "sequences"]
    assert not any(p.is_symlink() for p in (tmp_path / "out").rglob("*"))
    assert len(list((tmp_path / "out").glob("sequences/*/predictions/*.label"))) == 6


@pytest.mark.parametrize("labels", [NUSCENES, LabelSpace.load("semantickitti")])
def test_a_full_disk_is_named_by_the_users_path(tmp_path, monkeypatch, labels):
    source = kitti_drive(tmp_path / "kitti")
    before = tree(source)

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match=rf"^{tmp_path}/out: No space left on device; nothing was written$"):
            segment_path(source, tmp_path / "out", Echo(labels=labels))

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    copied = []

    def full_copy(one: str, other: Path) -> None:
        copied.append(one)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), one, None, str(other))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copy2", full_copy)
    with pytest.raises(OutputError, match=rf"^{tmp_path}/out: No space left on device; nothing was written$"):
        segment_path(source, tmp_path / "out", Echo(labels=labels))
    assert len(copied) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["kitti"]
    assert tree(source) == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("image_2/000000.png", r"image_2/000000\.png: cannot be read as an image: no known format$"),
        ("calib/000000.txt", r"calib/000000\.txt: key Tr_velo_to_cam is missing"),
    ],
)
def test_what_only_images_need_does_not_stop_the_labels(tmp_path, name, reason):
    """KITTI's object benchmark has a calibration and an image size of its own for every scan."""
    root = tmp_path / "object"
    for i in range(2):
        kitti_scan(root / "velodyne" / f"{i:06d}.bin")
        for folder in ("calib", "image_2"):
            (root / folder).mkdir(exist_ok=True)
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    matrices = "R0_rect: 1 0 0 0 1 0 0 0 1\nP2: 8 0 4 0 0 8 4 0 0 0 1 0\nTr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0\n"
    for i in range(2):
        image.save(root / "image_2" / f"{i:06d}.png")
        (root / "calib" / f"{i:06d}.txt").write_text(matrices)
    (root / name).write_bytes(b"")
    summary = segment_path(root, tmp_path / "out", Echo())
    assert (summary.frames, summary.points, len(summary.notes)) == (2, 120, 1)
    assert re.search("^labelled all the same: .*" + reason, summary.notes[0])
    page = tmp_path / "page.html"
    page_for_path(tmp_path / "out", page)
    assert "Scan 0 is not shown: " in page.read_text("utf-8")
    for path in (root / name).parent.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DriveError, match="there is no scan to show"):
        page_for_path(root, page, force=True)
