"""Where the sensors sit: KITTI's one camera, nuScenes' six, and their LiDARs, in nominal published values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.frame import Axes
from mdkt_ros.drive.synthetic.lidar import HDL32E, HDL64E, Lidar

Matrix = npt.NDArray[np.float64]
Format = Literal["semantickitti", "nuscenes"]


class Mount(NamedTuple):
    """A camera on the vehicle.

    Attributes:
        name: as in the data set. width, height: pixels. matrix: (3, 3). offset: (3,) of a KITTI projection.
        ego_from_camera: (4, 4). delay: seconds after the scan's stamp at which it fires.
        reduction: pixels of the image per side of a pixel that is ray cast.
    """

    name: str
    width: int
    height: int
    matrix: Matrix
    offset: Matrix
    ego_from_camera: Matrix
    delay: float
    reduction: int


@dataclass(frozen=True)
class Rig:
    """The sensors of one data set; `ego_from_lidar` is (4, 4); the vehicle's origin: on the ground, rear axle."""

    lidar: Lidar
    ego_from_lidar: Matrix
    axes: Axes
    cameras: tuple[Mount, ...]


_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def _rotation(roll: float, pitch: float, yaw: float) -> Matrix:
    """Degrees, about x, then y, then z."""
    r, p, y = np.radians([roll, pitch, yaw])
    about_x = np.array([[1, 0, 0], [0, np.cos(r), -np.sin(r)], [0, np.sin(r), np.cos(r)]])
    about_y = np.array([[np.cos(p), 0, np.sin(p)], [0, 1, 0], [-np.sin(p), 0, np.cos(p)]])
    about_z = np.array([[np.cos(y), -np.sin(y), 0], [np.sin(y), np.cos(y), 0], [0, 0, 1]])
    result: Matrix = about_z @ about_y @ about_x
    return result


def _pose(rotation: Matrix, position: tuple[float, float, float]) -> Matrix:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, position
    return pose


def _kitti() -> Rig:
    ego_from_lidar = _pose(np.eye(3), (0.76, 0.0, HDL64E.height))
    # The LiDAR leans against the cameras by a few tenths of a degree; Tr is what calib.txt says.
    lidar_from_camera = _pose(_rotation(0.46, 0.41, -0.03) @ _OPTICAL, (0.292, -0.012, -0.052))
    matrix = np.array([[718.856, 0, 607.1928], [0, 718.856, 185.2157], [0, 0, 1.0]])
    mount = Mount(
        "image_2", 1241, 376, matrix, np.array([45.4, -0.11, 0.0038]), ego_from_lidar @ lidar_from_camera, 0.0, 1
    )
    return Rig(HDL64E, ego_from_lidar, "x_forward", (mount,))


# name, focal length, cx, cy, x, y, z, yaw, delay: nominal values of nuScenes' published set-up.
_NUSCENES = (
    ("CAM_FRONT", 1266.4, 816.3, 491.5, 1.70, 0.016, 1.51, 0.3, -0.036),
    ("CAM_FRONT_RIGHT", 1260.8, 808.0, 495.3, 1.55, -0.493, 1.50, -56.4, -0.028),
    ("CAM_BACK_RIGHT", 1259.5, 807.3, 501.2, 1.01, -0.481, 1.56, -110.8, -0.020),
    ("CAM_BACK", 809.2, 829.2, 481.8, 0.03, 0.003, 1.58, -179.9, -0.010),
    ("CAM_BACK_LEFT", 1256.7, 792.1, 492.8, 1.04, 0.485, 1.59, 108.6, -0.001),
    ("CAM_FRONT_LEFT", 1272.6, 826.6, 479.8, 1.52, 0.495, 1.51, 55.2, -0.043),
)


def _nuscenes() -> Rig:
    ego_from_lidar = _pose(_rotation(-0.3, 0.4, -89.9), (0.94, 0.0, HDL32E.height))
    mounts = []
    for name, focal, cx, cy, x, y, z, yaw, delay in _NUSCENES:
        matrix = np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1.0]])
        pose = _pose(_rotation(0.2, 0.4, yaw) @ _OPTICAL, (x, y, z))
        mounts.append(Mount(name, 1600, 900, matrix, np.zeros(3), pose, delay, 2))
    return Rig(HDL32E, ego_from_lidar, "y_forward", tuple(mounts))


RIGS: dict[Format, Rig] = {"semantickitti": _kitti(), "nuscenes": _nuscenes()}
"""Data set -> its sensors."""
