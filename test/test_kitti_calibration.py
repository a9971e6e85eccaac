"""Which image size a KITTI calibration belongs to: told, recognised, or doubted."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_drives import write_kitti

from mdkt_ros.drive import open_drive
from mdkt_ros.drive.frame import Drive
from mdkt_ros.drive.kitti_calibration import KITTI_SIZES
from mdkt_ros.drive.semantickitti import SemanticKitti
from mdkt_ros.errors import DriveError
from mdkt_ros.render.picture import picture_for_path


def sequence(root: Path, size: tuple[int, int], centre: tuple[float, float], focal: float = 700.0) -> Path:
    """A sequence with images of `size` and a calibration of that principal point."""
    folder = write_kitti(root, 1)
    shutil.rmtree(folder / "image_3")
    matrix = np.array([[focal, 0, centre[0], 45.0], [0, focal, centre[1], 0.1], [0, 0, 1, 0.003]])
    lines = [line for line in (folder / "calib.txt").read_text().splitlines() if not line.startswith("P2")]
    lines.append("P2: " + " ".join(map(str, matrix.ravel())))
    (folder / "calib.txt").write_text("\n".join(lines) + "\n")
    for path in (folder / "image_2").iterdir():
        Image.new("RGB", size, (90, 120, 60)).save(path)
    return folder


def centre(drive: Drive) -> np.ndarray:
    return drive[0].views[0].camera.matrix[:2, 2]


@pytest.mark.parametrize("size", list(KITTI_SIZES))
def test_kitti_s_own_calibrations_fit_kitti_s_own_images(tmp_path: Path, size: tuple[int, int]):
    drive = SemanticKitti(sequence(tmp_path / "set", size, KITTI_SIZES[size]))  # no warning
    np.testing.assert_allclose(centre(drive), KITTI_SIZES[size])


@pytest.mark.parametrize("size", list(KITTI_SIZES))
def test_scaled_images_of_kitti_are_recognised(tmp_path: Path, size: tuple[int, int]):
    half = (size[0] // 2, size[1] // 2)
    folder = sequence(tmp_path / "set", half, KITTI_SIZES[size])
    message = rf"calib.txt: the images of image_2 are {half[0]}x{half[1]}; the calibration is KITTI's for {size[0]}x"
    with pytest.warns(UserWarning, match=message + rf"{size[1]} and is scaled to them"):
        drive = SemanticKitti(folder)
    ratio = np.array(half) / size
    np.testing.assert_allclose(centre(drive), (np.array(KITTI_SIZES[size]) + 0.5) * ratio - 0.5)
    np.testing.assert_allclose(np.diag(drive[0].views[0].camera.matrix)[:2], 700 * ratio)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(centre(SemanticKitti(folder, image_calibration_size=size)), centre(drive))


def test_a_cut_is_no_scaling(tmp_path: Path):
    folder = sequence(tmp_path / "set", (1216, 352), KITTI_SIZES[(1242, 375)])
    with pytest.warns(UserWarning, match=r"1216x352; the calibration is KITTI's for 1242x375: points may lie beside"):
        drive = SemanticKitti(folder)
    np.testing.assert_allclose(drive[0].views[0].camera.matrix[:2, 2], KITTI_SIZES[(1242, 375)])


def test_a_foreign_calibration_that_does_not_fit_is_doubted(tmp_path: Path):
    folder = sequence(tmp_path / "set", (320, 240), (322.0, 238.0))
    with pytest.warns(UserWarning, match=r"320x240; the calibration's centre \(322, 238\) does not fit.*--image-size"):
        SemanticKitti(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drive = open_drive(folder, image_size=(640, 480))
        np.testing.assert_allclose(centre(drive), [160.75, 118.75])
        picture_for_path(folder, tmp_path / "a.png", "overlay", image_size=(640, 480))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (320, 240)


def test_other_drives_need_no_image_size(tmp_path: Path):
    np.zeros((5, 4), "<f4").tofile(tmp_path / "a.bin")
    with pytest.raises(DriveError, match="a folder drive, whose calibration tells the images' size itself"):
        open_drive(tmp_path, image_size=(640, 480))


@pytest.mark.real
def test_the_real_scaled_image_needs_no_option(real_data: Path):
    with pytest.warns(UserWarning, match=r"are 673x201; the calibration is KITTI's for 1226x370 and is scaled to them"):
        drive = open_drive(real_data / "semantickitti/sequences/07")
    told = open_drive(real_data / "semantickitti/sequences/07", image_size=(1226, 370))
    np.testing.assert_array_equal(drive[0].views[0].camera.matrix, told[0].views[0].camera.matrix)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for frame in (open_drive(real_data / "kitti_object")[index] for index in range(2)):
            assert (frame.views[0].camera.width, frame.views[0].camera.height) in KITTI_SIZES
