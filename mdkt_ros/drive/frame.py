"""A recorded drive is a sequence of frames: one LiDAR scan each, with what else was recorded about that moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from mdkt_ros.camera import Camera
from mdkt_ros.labels import LabelSpace

Axes = Literal["x_forward", "y_forward"]
"""Axis convention of a LiDAR frame. KITTI: x forward, y left. nuScenes: x right, y forward. z is up in both."""


@dataclass(frozen=True, eq=False)
class View:
    """One camera's image of a frame.

    Attributes:
        camera: intrinsics, and `camera_from_lidar` at this frame: with the ego motion between the sensors' times.
        stamp: time of the image, nanoseconds.
        load: reads the image, (H, W, 3) uint8 RGB; called when the image is needed, since most users never do.
        encoded: reads the image file's own bytes (JPEG or PNG), None where the image was never a file.
    """

    camera: Camera
    stamp: int
    load: Callable[[], npt.NDArray[np.uint8]]
    encoded: Callable[[], bytes] | None = None


@dataclass(frozen=True, eq=False)
class Frame:
    """One scan.

    Attributes:
        name: unique in its drive and fit for a file name (`000964`, a sample token).
        stamp: nanoseconds.
        points: (N, 3) float32, metres, LiDAR frame.
        intensity: (N,) float32 as the sensor gives it, or None.
        ring: (N,) uint16 beam index, or None.
        labels: (N,) uint8 class ids of the drive's label space, 255 ignored, or None.
        instance: (N,) uint32, 0 is none, or None.
        raw_labels: (N,) uint32 raw class ids of the data set, or None.
        point_time: (N,) float32 seconds after `stamp`, or None.
        world_from_lidar: (4, 4) float64 pose at `stamp`, or None.
        views: images that belong to this scan.
    """

    name: str
    stamp: int
    points: npt.NDArray[np.float32]
    intensity: npt.NDArray[np.float32] | None = None
    ring: npt.NDArray[np.uint16] | None = None
    labels: npt.NDArray[np.uint8] | None = None
    instance: npt.NDArray[np.uint32] | None = None
    raw_labels: npt.NDArray[np.uint32] | None = None
    point_time: npt.NDArray[np.float32] | None = None
    world_from_lidar: npt.NDArray[np.float64] | None = None
    views: tuple[View, ...] = field(default=())


class Drive(Protocol):
    """What every form of a recorded drive offers; `mdkt_ros.drive.open_drive` chooses the form by looking at the path.

    Attributes:
        name: for titles and messages.
        axes: axis convention of the clouds.
        intensity_scale: factor that brings this sensor's intensity to 0..1 (KITTI 1, nuScenes 1/255).
        labels: the label space of `Frame.labels`, or None where the drive has no labels.
    """

    @property
    def name(self) -> str: ...
    @property
    def axes(self) -> Axes: ...
    @property
    def intensity_scale(self) -> float: ...
    @property
    def labels(self) -> LabelSpace | None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Frame: ...
