"""Plain folders of scans: kinds, labels beside and below, selections, the real lidarseg folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mdkt_ros.drive.folder import ScanFolder
from mdkt_ros.drive.selection import select
from mdkt_ros.errors import CloudError, DriveError, LabelError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.pcd import write_pcd


def nuscenes_folder(folder: Path, count: int = 3) -> Path:
    """NN.pcd.bin + NN_lidarseg.bin; scan i has 10 + i points of raw class 17 + i (car, construction, ambulance)."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        np.full((10 + i, 5), i, dtype="<f4").tofile(folder / f"{i:02d}.pcd.bin")
        np.full(10 + i, 17 + i, dtype=np.uint8).tofile(folder / f"{i:02d}_lidarseg.bin")
    return folder


def kitti_folder(folder: Path, labels: str, count: int = 2) -> Path:
    """NN.bin + <labels>/NN.label; scan i is raw class 40 (road), instance 5 + i."""
    (folder / labels).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        np.full((10 + i, 4), 0.5, dtype="<f4").tofile(folder / f"{i:02d}.bin")
        np.full(10 + i, 40 | (5 + i) << 16, dtype="<u4").tofile(folder / labels / f"{i:02d}.label")
    return folder


def test_nuscenes_files(tmp_path: Path):
    drive = ScanFolder(nuscenes_folder(tmp_path / "scans"))
    assert (drive.name, len(drive), drive.axes, drive.intensity_scale) == ("scans", 3, "y_forward", 1 / 255)
    assert drive.labels == LabelSpace.load("nuscenes")
    frame = drive[1]
    assert (frame.name, frame.stamp, frame.instance, frame.views) == ("01", 100_000_000, None, ())
    np.testing.assert_array_equal(frame.points, np.ones((11, 3)))
    assert (frame.ring == 1).all()
    assert (frame.raw_labels == 18).all()
    assert (frame.labels == drive.labels.index("construction_vehicle")).all()
    assert (drive[2].labels == 255).all()  # an ambulance is ignored


@pytest.mark.parametrize("labels", [".", "labels"])
def test_kitti_files_with_labels_beside_or_below(tmp_path: Path, labels: str):
    drive = ScanFolder(kitti_folder(tmp_path / "scans", labels))
    assert (drive.axes, drive.intensity_scale, drive.labels) == ("x_forward", 1.0, LabelSpace.load("semantickitti"))
    frame = drive[1]
    assert (frame.labels == drive.labels.index("road")).all()
    assert (frame.instance == 6).all()
    assert frame.ring is None


def test_labels_of_a_named_folder_and_space(tmp_path: Path):
    folder = kitti_folder(tmp_path / "scans", "truth")
    assert ScanFolder(folder).labels is None
    space = LabelSpace.from_dict(
        {
            "name": "own",
            "ignore": [0],
            "classes": [{"name": "ground", "color": [1, 2, 3], "raw": [40], "submission": 1}],
        }
    )
    drive = ScanFolder(folder, labels=space, label_folder="truth", axes="y_forward", intensity_scale=0.5)
    assert (drive.labels, drive.axes, drive.intensity_scale) == (space, "y_forward", 0.5)
    assert (drive[0].labels == 0).all()


def test_pcd_files(tmp_path: Path):
    columns = {name: np.arange(7, dtype=np.float32) for name in ("x", "y", "z", "intensity")}
    write_pcd(tmp_path / "a.pcd", columns)
    np.full(7, 10, dtype="<u4").tofile(tmp_path / "a.label")
    drive = ScanFolder(tmp_path)
    assert (drive[0].name, drive[0].raw_labels.tolist()) == ("a", [10] * 7)
    np.testing.assert_array_equal(drive[0].points[:, 0], np.arange(7))


def test_one_scan_alone(tmp_path: Path):
    folder = nuscenes_folder(tmp_path / "scans")
    drive = ScanFolder(folder / "02.pcd.bin")
    assert (drive.name, len(drive), drive[0].name, len(drive[0].points)) == ("02", 1, "02", 12)
    assert drive[0].labels is not None


@pytest.mark.parametrize(
    ("frames", "names"),
    [
        (range(1, 3), ["01", "02"]),
        ("0-1", ["00", "01"]),
        ("2, 0-1", ["02", "00", "01"]),
        ([2, 0], ["02", "00"]),
        ("1", ["01"]),
        (None, ["00", "01", "02"]),
    ],
)
def test_frames_are_selected(tmp_path: Path, frames, names):
    drive = ScanFolder(nuscenes_folder(tmp_path / "scans"), frames=frames)
    assert [drive[i].name for i in range(len(drive))] == names
    assert [drive[i].stamp for i in range(len(drive))] == [int(name) * 100_000_000 for name in names]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ("0-3", r"set: frames 0-3 asked for, there are 3 \(0 to 2\)"),
        ("0-999999999", "set: frames 0-999999999 asked for"),
        ("2-1", "set: frames 2-1 asked for"),
        ([3], "set: frames 3 asked for"),
        ([-1], "set: frames -1 asked for"),
        ([], "set: the selection of frames is empty"),
        ("1;2", "set: frames '1;2' is not like 0-20 or 0-20,25"),
        ("", "set: frames '' is not like"),
    ],
)
def test_selections_that_are_not_there(frames, message):
    with pytest.raises(DriveError, match=message):
        select([0, 1, 2], frames, "set")


def test_a_drive_ends_like_a_list(tmp_path: Path):
    drive = ScanFolder(nuscenes_folder(tmp_path / "scans"))
    assert drive[-1].name == "02"
    with pytest.raises(IndexError):
        drive[3]


def test_folders_without_one_kind_of_scan(tmp_path: Path):
    with pytest.raises(DriveError, match=r"no scans \(.pcd.bin, .bin, .pcd\)"):
        ScanFolder(tmp_path)
    with pytest.raises(DriveError, match=r"missing.bin: no scans"):
        ScanFolder(tmp_path / "missing.bin")
    np.zeros(1, dtype=np.uint8).tofile(tmp_path / "00_lidarseg.bin")
    with pytest.raises(DriveError, match=r"no scans"):
        ScanFolder(tmp_path)  # labels alone are no scans
    with pytest.raises(DriveError, match=r"00_lidarseg.bin: not a scan"):
        ScanFolder(tmp_path / "00_lidarseg.bin")
    nuscenes_folder(tmp_path)
    np.zeros((1, 4), dtype="<f4").tofile(tmp_path / "99.bin")
    with pytest.raises(DriveError, match=r"holds .pcd.bin and .bin scans; a folder is one drive"):
        ScanFolder(tmp_path)


def test_damaged_scans_and_labels_are_named(tmp_path: Path):
    folder = nuscenes_folder(tmp_path / "scans")
    (folder / "00.pcd.bin").write_bytes(b"\0" * 7)
    np.zeros(3, dtype=np.uint8).tofile(folder / "01_lidarseg.bin")
    np.full(12, 32, dtype=np.uint8).tofile(folder / "02_lidarseg.bin")
    drive = ScanFolder(folder)
    with pytest.raises(CloudError, match=r"00.pcd.bin: 7 bytes are not a whole number of points"):
        drive[0]
    with pytest.raises(LabelError, match=r"01_lidarseg.bin: 3 uint8 labels, but the scan has 11 points"):
        drive[1]
    with pytest.raises(LabelError, match=r"02_lidarseg.bin: raw label id 32 is not in the label space nuscenes"):
        drive[2]


@pytest.mark.real
def test_real_lidarseg_folder(real_data: Path):
    drive = ScanFolder(real_data / "nuscenes_lidarseg")
    assert len(drive) == 28
    present = set()
    for i in range(28):
        frame = drive[i]
        assert frame.name == f"{i:02d}"
        assert 34_000 < len(frame.points) == len(frame.labels) < 35_500
        assert (frame.ring.max(), frame.intensity.max() <= 255) == (31, True)
        present |= set(np.unique(frame.labels).tolist())
    assert {drive.labels.index(name) for name in ("car", "driveable_surface", "vegetation", "manmade")} <= present
    train, held_out = (ScanFolder(real_data / "nuscenes_lidarseg", frames=frames) for frames in ("0-20", range(21, 28)))
    assert (len(train), len(held_out), held_out[0].name) == (21, 7, "21")
