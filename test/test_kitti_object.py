"""KITTI object folders: calibration a scan, real scans, and what is wrong with a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_drives import KITTI_TR, kitti_frames

from mdkt_ros.drive.kitti_object import KittiObject
from mdkt_ros.drive.pose import inverse
from mdkt_ros.errors import DriveError


def _object_set(folder: Path, calibration: str) -> Path:
    frame = kitti_frames(1)[0]
    for name in ("velodyne", "image_2", "calib"):
        (folder / name).mkdir(parents=True)
    np.column_stack([frame.points, frame.intensity]).tofile(folder / "velodyne/000000.bin")
    Image.fromarray(frame.views[0].load()).save(folder / "image_2/000000.png")
    (folder / "calib/000000.txt").write_text(calibration)
    return folder


def _line(key: str, matrix: np.ndarray) -> str:
    return f"{key}: {' '.join(map(str, matrix.ravel()))}\n"


def test_object_calibration_rectifies_before_it_projects(tmp_path: Path):
    camera = kitti_frames(1)[0].views[0].camera
    projection = np.column_stack([camera.matrix, camera.projection_offset])
    turn = inverse(KITTI_TR)[:3, :3]
    text = _line("P2", projection) + _line("R0_rect", turn) + _line("Tr_velo_to_cam", KITTI_TR[:3]) + "\n"
    frame = KittiObject(_object_set(tmp_path / "training", text).parent)[0]
    rectified = np.eye(4)
    rectified[:3, :3] = turn
    np.testing.assert_allclose(frame.views[0].camera.camera_from_lidar, rectified @ KITTI_TR, atol=1e-12)
    np.testing.assert_allclose(frame.views[0].camera.projection_offset, camera.projection_offset)


def test_object_calibration_without_a_key_is_named(tmp_path: Path):
    folder = _object_set(tmp_path / "set", _line("P2", np.ones((3, 4))) + _line("Tr_velo_to_cam", KITTI_TR[:3]))
    with pytest.raises(DriveError, match=r"calib/000000.txt: key R0_rect is missing; present: P2, Tr_velo_to_cam"):
        KittiObject(folder)[0]
    with pytest.raises(DriveError, match=r"training/velodyne: no .bin scans"):
        KittiObject(tmp_path)


@pytest.mark.real
def test_real_object_scans(real_data: Path):
    drive = KittiObject(real_data / "kitti_object")
    assert (drive.name, drive.labels, len(drive)) == ("kitti_object", None, 2)
    for index, size in enumerate([(1224, 370), (1242, 375)]):
        frame = drive[index]
        view = frame.views[0]
        assert (view.camera.width, view.camera.height) == size
        assert view.load().shape == (size[1], size[0], 3)
        assert 0.1 < view.camera.project(frame.points).in_view.mean() < 0.2
