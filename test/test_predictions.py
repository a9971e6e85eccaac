"""Prediction files: as the servers take them, read back as labels, refused where the server would refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_drives import tree, write_kitti, write_nuscenes_set
from test_folder import kitti_folder, nuscenes_folder

from mdkt_ros.drive import open_drive
from mdkt_ros.drive.folder import ScanFolder
from mdkt_ros.drive.kitti_object import KittiObject
from mdkt_ros.drive.nuscenes import NuScenes
from mdkt_ros.drive.predictions import prediction_writer
from mdkt_ros.drive.semantickitti import SemanticKitti
from mdkt_ros.errors import DriveError, LabelError, OutputError
from mdkt_ros.labels import LabelSpace


def predict(drive, seed: int = 0, classes: int | None = None) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, classes or len(drive.labels), len(drive[i].points), dtype=np.uint8) for i in range(len(drive))
    ]


def write_all(out: Path, drive, predictions: list[np.ndarray], **options) -> dict[str, bytes]:
    with prediction_writer(out, drive, **options) as write:
        for i, class_id in enumerate(predictions):
            write(i, class_id)
    return tree(out)


def test_semantickitti(tmp_path: Path):
    for sequence in ("08", "11"):
        write_kitti(tmp_path / "set", 2, sequence)
    drive = SemanticKitti(tmp_path / "set")
    predictions = predict(drive)
    predictions[0][:3] = 255
    files = write_all(tmp_path / "out", drive, predictions)
    assert sorted(files) == [f"sequences/{s}/predictions/00000{i}.label" for s in ("08", "11") for i in (0, 1)]
    raw = np.frombuffer(files["sequences/08/predictions/000000.label"], dtype="<u4")
    assert raw[:3].tolist() == [0, 0, 0]
    assert set(raw[3:]) <= {10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81}
    # Beside the scans, they are read as labels.
    shutil.copytree(tmp_path / "out/sequences/08/predictions", tmp_path / "set/sequences/08/predictions")
    again = SemanticKitti(tmp_path / "set", sequences=["08"], label_folder="predictions")
    for i in range(2):
        np.testing.assert_array_equal(again[i].labels, predictions[i])


def test_nuscenes(tmp_path: Path):
    write_nuscenes_set(tmp_path / "set", count=2)
    drive = NuScenes(tmp_path / "set")
    predictions = predict(drive)
    predictions[0][:] = 6
    predictions[0][:5] = 255
    predictions[1][:] = np.arange(61) % 16
    files = write_all(tmp_path / "out", drive, predictions, split="test", uses_images=True)
    tokens = [drive.lidar_token(i) for i in range(2)]
    assert sorted(files) == sorted(
        [*(f"lidarseg/test/{token}_lidarseg.bin" for token in tokens), "test/submission.json"]
    )
    assert json.loads(files["test/submission.json"]) == {
        "meta": {"use_camera": True, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False}
    }
    # 1 to 16: the server refuses 0, so what has no class takes the commonest.
    assert np.frombuffer(files[f"lidarseg/test/{tokens[0]}_lidarseg.bin"], dtype=np.uint8).tolist() == [7] * 60
    second = np.frombuffer(files[f"lidarseg/test/{tokens[1]}_lidarseg.bin"], dtype=np.uint8)
    assert second.tolist() == [1 + i % 16 for i in range(61)]


@pytest.mark.parametrize("make", [nuscenes_folder, lambda folder: kitti_folder(folder, "labels")])
def test_plain_folder(tmp_path: Path, make):
    drive = ScanFolder(make(tmp_path / "scans"))
    predictions = predict(drive)
    predictions[0][0] = 255
    write_all(tmp_path / "out", drive, predictions)
    shutil.copytree(tmp_path / "out/predictions", tmp_path / "scans/predictions")
    again = ScanFolder(tmp_path / "scans", label_folder="predictions")
    for i in range(len(drive)):
        np.testing.assert_array_equal(again[i].labels, predictions[i])


def test_drives_without_labels_need_a_label_space(tmp_path: Path):
    folder = write_kitti(tmp_path / "set", 1)
    shutil.rmtree(folder / "labels")
    drive = SemanticKitti(folder)
    with (
        pytest.raises(LabelError, match="00: has no labels, so give the label space"),
        prediction_writer(tmp_path / "out", drive),
    ):
        pass
    files = write_all(tmp_path / "out", drive, predict(drive, classes=19), labels=LabelSpace.load("semantickitti"))
    assert list(files) == ["sequences/00/predictions/000000.label"]


def test_what_the_server_would_refuse_is_refused_now(tmp_path: Path):
    drive = open_drive(write_kitti(tmp_path / "set", 2))
    predictions = predict(drive)
    with pytest.raises(LabelError, match=r"000001.bin: has 51 points, the prediction 50"):
        write_all(tmp_path / "out", drive, [predictions[0], predictions[1][1:]])
    predictions[1][4] = 19
    with pytest.raises(LabelError, match=r"000001.bin: class id 19 predicted; semantickitti has 0 to 18"):
        write_all(tmp_path / "out", drive, predictions)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_existing_results_and_other_drives_are_refused(tmp_path: Path):
    drive = open_drive(write_kitti(tmp_path / "set", 1))
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="out: exists already"):
        write_all(tmp_path / "out", drive, predict(drive))
    assert len(write_all(tmp_path / "out", drive, predict(drive), force=True)) == 1
    (tmp_path / "object/velodyne").mkdir(parents=True)
    np.zeros((1, 4), "<f4").tofile(tmp_path / "object/velodyne/000000.bin")
    with pytest.raises(
        DriveError, match="object: predictions are written for SemanticKITTI, nuScenes and plain folders"
    ):
        write_all(tmp_path / "other", KittiObject(tmp_path / "object"), [])
