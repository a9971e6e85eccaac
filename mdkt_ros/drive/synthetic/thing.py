"""A countable thing at one moment, as a box."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.synthetic.kinds import Kind
from mdkt_ros.drive.synthetic.mesh import Mesh


class Thing(NamedTuple):
    """A box around a countable thing.

    Attributes:
        kind: what it is. instance: id, unique in a drive.
        center: (3,) metres, world. size: (3,) metres: length, width, height. yaw: radians of its length about z.
        speed: m/s, 0 when it stands.
    """

    kind: Kind
    instance: int
    center: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float
    speed: float = 0.0


def bounding_box(mesh: Mesh) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Centre (3,) and size (3,) of a mesh in its own axes."""
    flat = mesh.corners.reshape(-1, 3).astype(np.float64)
    low, high = flat.min(0), flat.max(0)
    return (low + high) / 2, high - low


def boxed(
    kind: Kind,
    instance: int,
    box: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    foot: tuple[float, float, float],
    yaw: float,
    speed: float = 0.0,
) -> Thing:
    """The thing whose mesh has the box (centre, size) and stands at `foot`, turned by `yaw`."""
    (x, y, z), size = box
    c, s = np.cos(yaw), np.sin(yaw)
    center = (float(foot[0] + c * x - s * y), float(foot[1] + s * x + c * y), float(foot[2] + z))
    return Thing(kind, instance, center, (float(size[0]), float(size[1]), float(size[2])), float(yaw), speed)
