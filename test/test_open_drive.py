"""open_drive finds the form of a drive by looking, and says what it knows where it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_drives import write_kitti, write_nuscenes_set
from test_folder import nuscenes_folder

from mdkt_ros.drive import Drive, drive_kind, open_drive
from mdkt_ros.drive.folder import ScanFolder
from mdkt_ros.drive.kitti_object import KittiObject
from mdkt_ros.drive.nuscenes import NuScenes
from mdkt_ros.drive.semantickitti import SemanticKitti
from mdkt_ros.errors import DriveError
from mdkt_ros.labels import LabelSpace


def test_every_form_is_found(tmp_path: Path):
    sequence = write_kitti(tmp_path / "kitti", 2)
    write_nuscenes_set(tmp_path / "nuscenes", count=2)
    nuscenes_folder(tmp_path / "folder", 2)
    split = tmp_path / "object/training"
    (split / "calib").mkdir(parents=True)
    (split / "velodyne").mkdir()
    for i in range(2):
        np.zeros((1, 4), "<f4").tofile(split / f"velodyne/00000{i}.bin")
    found = {
        tmp_path / "kitti": SemanticKitti,
        sequence: SemanticKitti,
        tmp_path / "nuscenes": NuScenes,
        tmp_path / "folder": ScanFolder,
        split: KittiObject,
        tmp_path / "object": KittiObject,
    }
    for path, form in found.items():
        drive: Drive = open_drive(path)
        assert type(drive) is form
        assert len(drive) == 2
        assert len({drive[i].name for i in range(2)}) == 2
    assert type(open_drive(sequence / "velodyne/000001.bin")) is ScanFolder
    assert len(open_drive(str(tmp_path / "folder/00.pcd.bin"))) == 1


def test_bags_are_found_by_their_files(tmp_path: Path):
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag/metadata.yaml").touch()
    (tmp_path / "a.mcap").touch()
    (tmp_path / "b.db3").touch()
    assert [drive_kind(tmp_path / name) for name in ("bag", "a.mcap", "b.db3")] == ["bag"] * 3
    assert drive_kind(tmp_path) == "bag"  # a bag's folder whose metadata.yaml was lost


def test_sequences_kinds_and_label_spaces_are_chosen(tmp_path: Path):
    for sequence in ("00", "08"):
        write_kitti(tmp_path / "kitti", 2, sequence)
    write_nuscenes_set(tmp_path / "nuscenes", scenes=2, count=2)
    assert open_drive(tmp_path / "kitti", sequence="08").name == "08"
    assert open_drive(tmp_path / "nuscenes", sequence="scene-0002").name == "scene-0002"
    scans = tmp_path / "kitti/sequences/00/velodyne"
    assert type(open_drive(scans, kind="folder")) is ScanFolder
    space = LabelSpace.from_dict({**LabelSpace.load("semantickitti").to_dict(), "name": "own"})
    assert open_drive(tmp_path / "kitti", labels=space).labels == space


@pytest.mark.parametrize("name", ["nothing", "empty", "notes.txt", "folder of notes"])
def test_what_is_no_drive_is_told_what_would_be(tmp_path: Path, name: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder of notes").mkdir()
    (tmp_path / "folder of notes/a.txt").touch()
    (tmp_path / "notes.txt").touch()
    if name == "nothing":
        with pytest.raises(DriveError, match="nothing: does not exist"):
            open_drive(tmp_path / name)
        return
    with pytest.raises(DriveError) as caught:
        open_drive(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / name}: is not a recorded drive that is recognised: ")
    for known in (
        "sequences/",
        "velodyne/",
        "v1.0-*/sample.json",
        "calib/",
        "metadata.yaml",
        ".mcap",
        ".pcd.bin",
        ".pcd",
    ):
        assert known in message


def test_arguments_that_do_not_apply_are_refused(tmp_path: Path):
    nuscenes_folder(tmp_path / "folder")
    with pytest.raises(DriveError, match="folder: is a folder drive, which has no sequences to choose 08 from"):
        open_drive(tmp_path / "folder", sequence="08")
    with pytest.raises(DriveError, match="folder: is a folder drive, which has no topics to choose /points from"):
        open_drive(tmp_path / "folder", topic="/points")
    with pytest.raises(DriveError, match="neither a SemanticKITTI root"):
        open_drive(tmp_path / "folder", kind="semantickitti")


@pytest.mark.real
def test_real_scans_open(real_data: Path):
    forms = {"kitti_object": 2, "nuscenes_lidarseg": 28, "semantickitti/sequences/00": 3}
    assert {name: len(open_drive(real_data / name)) for name in forms} == forms
    with pytest.warns(UserWarning, match="the calibration is KITTI's for 1226x370 and is scaled to them"):
        assert len(open_drive(real_data / "semantickitti")) == 4
