"""KITTI's text files: `KEY: numbers` calibrations, poses, times; and the cameras that they describe."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mdkt_ros.camera import Camera
from mdkt_ros.errors import DriveError

KITTI_SIZES = {
    (1242, 375): (609.5593, 172.8540),  # drives of 2011-09-26, sequence 03
    (1224, 370): (604.0814, 180.5066),  # 2011-09-28
    (1238, 374): (600.3891, 181.5122),  # 2011-09-29
    (1226, 370): (601.8873, 183.1104),  # 2011-09-30, sequences 04 to 12
    (1241, 376): (607.1928, 185.2157),  # 2011-10-03, sequences 00 to 02 and 13 to 21
}
"""Width and height of the rectified images of each of KITTI's calibrations, and the principal point it is known by."""

_ROUNDING = 0.03
"""Share by which two sides of a scaled image may differ: 1226x370 is met as 673x201."""


class Calibration:
    """A calibration file: SemanticKITTI's calib.txt, or the object benchmark's calib/NNNNNN.txt.

    Raises:
        DriveError: the file cannot be read, or a value is not a number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, npt.NDArray[np.float64]] = {}
        for number, line in enumerate(_lines(path), start=1):
            key, colon, numbers = line.partition(":")
            if not colon:
                raise DriveError(f"{path}: line {number} is not like 'P2: ...'")
            self.values[key.strip()] = _numbers(numbers, path, number)

    def matrix(self, key: str, rows: int, columns: int) -> npt.NDArray[np.float64]:
        """The matrix (rows, columns) under `key`. Raises DriveError that names a missing key, or its wrong size."""
        if key not in self.values:
            raise DriveError(f"{self.path}: key {key} is missing; present: {', '.join(self.values) or 'none'}")
        value = self.values[key]
        if len(value) != rows * columns:
            raise DriveError(f"{self.path}: {key} needs {rows * columns} numbers, has {len(value)}")
        return value.reshape(rows, columns)

    def rigid(self, key: str) -> npt.NDArray[np.float64]:
        """The 3x4 pose under `key` as (4, 4). Raises DriveError, also where it does not turn and move only."""
        pose = np.vstack([self.matrix(key, 3, 4), [0.0, 0.0, 0.0, 1.0]])
        if not np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-2):
            raise DriveError(f"{self.path}: {key} is no rigid pose: its first three columns are no rotation")
        return pose

    def camera(
        self,
        folder: str,
        camera_from_lidar: npt.NDArray[np.float64],
        size: tuple[int, int],
        calibration_size: tuple[int, int] | None = None,
    ) -> Camera:
        """The rectified camera of an image folder: `image_2` is described by P2.

        Args:
            folder: `image_0` .. `image_3`.
            camera_from_lidar: (4, 4) metres, to the frame of rectified camera 0.
            size: width and height of the images, pixels.
            calibration_size: width and height that the calibration belongs to, where the images were scaled since; None
                takes KITTI's own calibrations for what they are, with a warning, and others as belonging to `size`.
        """
        projection = self.matrix(f"P{folder.removeprefix('image_')}", 3, 4)
        if calibration_size is None:
            calibration_size = self._size_of(projection, folder, size)
        if calibration_size != size:
            sx, sy = size[0] / calibration_size[0], size[1] / calibration_size[1]
            # The centre of the first pixel is (0, 0), so its corner, which scaling keeps, is (-0.5, -0.5).
            projection = np.array([[sx, 0, 0.5 * sx - 0.5], [0, sy, 0.5 * sy - 0.5], [0, 0, 1]]) @ projection
        return Camera(folder, *size, projection[:, :3], camera_from_lidar, projection_offset=projection[:, 3])

    def _size_of(self, projection: npt.NDArray[np.float64], folder: str, size: tuple[int, int]) -> tuple[int, int]:
        """The image size that a projection belongs to, as far as that can be told; `size` otherwise."""
        cx, cy = projection[0, 2], projection[1, 2]
        remark = None
        known = next((s for s, centre in KITTI_SIZES.items() if np.allclose((cx, cy), centre, atol=1e-3)), None)
        if known is not None and known != size:
            remark = f"the calibration is KITTI's for {known[0]}x{known[1]}"
            if abs(size[0] / known[0] / (size[1] / known[1]) - 1) <= _ROUNDING:
                remark += " and is scaled to them"
            else:
                # Which part was cut out is nowhere to be read.
                remark, known = f"{remark}: points may lie beside what they belong to", None
        elif known is None and not (0.4 < cx / size[0] < 0.6 and 0.2 < cy / size[1] < 0.8):
            remark = (
                f"the calibration's centre ({cx:.0f}, {cy:.0f}) does not fit that; if they were scaled since, give the "
                "size that was calibrated (--image-size)"
            )
        if remark is not None:
            warnings.warn(f"{self.path}: the images of {folder} are {size[0]}x{size[1]}; {remark}", stacklevel=2)
        return known or size


def read_poses(path: Path) -> npt.NDArray[np.float64]:
    """poses.txt: (F, 4, 4) poses of rectified camera 0, metres. Raises DriveError."""
    rows = [_numbers(line, path, number) for number, line in enumerate(_lines(path), start=1)]
    for number, row in enumerate(rows, start=1):
        if len(row) != 12:
            raise DriveError(f"{path}: line {number} needs 12 numbers, has {len(row)}")
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3] = np.array(rows).reshape(len(rows), 3, 4)
    return poses


def read_times(path: Path) -> npt.NDArray[np.int64]:
    """times.txt: (F,) nanoseconds from seconds, one a line. Raises DriveError."""
    rows = [_numbers(line, path, number) for number, line in enumerate(_lines(path), start=1)]
    for number, row in enumerate(rows, start=1):
        if len(row) != 1 or abs(row[0]) > 9e9:
            raise DriveError(f"{path}: line {number} is not a time in seconds")
    return np.array([round(row[0] * 1e9) for row in rows], dtype=np.int64)


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
    except OSError as error:
        raise DriveError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DriveError(f"{path}: is not a text file") from error


def _numbers(text: str, path: Path, line: int) -> npt.NDArray[np.float64]:
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError:
        values = np.array([np.nan])
    if not np.isfinite(values).all():
        raise DriveError(f"{path}: line {line} holds something else than finite numbers")
    return values
