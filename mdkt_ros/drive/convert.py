"""A data set as a rosbag2 that `ros2 bag play` replays: clouds, images, camera_info, tf, odometry, and the truth."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Writer

from mdkt_ros.cloud import build_pointcloud2
from mdkt_ros.drive import bag_topics
from mdkt_ros.drive.bag import AXES_KEY, INTENSITY_KEY
from mdkt_ros.drive.bag_file import Storage, write_bag
from mdkt_ros.drive.frame import Axes, Drive, Frame, View
from mdkt_ros.drive.pose import inverse
from mdkt_ros.drive.rosmsg import (
    BAG_VERSIONS,
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    LABEL_INFO,
    ODOMETRY,
    POINT_CLOUD,
    TF,
    Distro,
    Messages,
    qos,
    sourced_distro,
    typestore,
)
from mdkt_ros.drive.transforms import interpolate
from mdkt_ros.errors import ConfigError, DriveError, OutputError

ODOM, BASE, LIDAR = "odom", "base_link", "lidar"
PERIOD = 100_000_000
"""Nanoseconds between scans that carry no time of their own."""
EARLIEST = 1_000_000_000
"""Time 0 means "the latest" to tf2 and "unset" to others, so a drive that starts there is moved on by a second."""

Pose = npt.NDArray[np.float64]


def base_from_lidar(axes: Axes) -> Pose:
    """Pose (4, 4) of the LiDAR in `base_link` where the drive does not tell it: the same origin, x forward, y left."""
    pose = np.eye(4)
    if axes == "y_forward":
        pose[:2, :2] = [[0, 1], [-1, 0]]
    return pose


def convert(
    drive: Drive,
    out: Path,
    *,
    storage: Storage = "mcap",
    distro: Distro | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a drive as a rosbag2.

    Topics: `/lidar/points` (x y z, and intensity, ring, time where known), `/camera/<name>/image_raw/compressed` (the
    image file's own bytes), `/camera/<name>/camera_info`, `/tf` (odom -> base_link at every scan's and image's time),
    `/odom`, latched `/tf_static` (base_link -> lidar, base_link -> the cameras' optical frames), and, of a labelled
    drive, `/ground_truth/segmentation` (x y z class_id) and latched `/ground_truth/label_info`. Intensity and axes stay
    as they are in the data set; what they mean is noted in the bag's custom_data.

    A drive that starts at time 0 is moved on by one second. Where time stands still or runs backward (scans without
    times, a second sequence), the scan comes 100 ms after the one before. `base_link` is the vehicle's frame where the
    drive has an `ego_from_lidar` (nuScenes: on the ground below the rear axle), else it lies in the LiDAR, x forward.

    Args:
        storage: storage plugin of the bag.
        distro: ROS 2 distribution that will play it; it decides on message definitions and the bag's version. None: the
            one that is sourced here, else jazzy.
        progress: called with (scans done, scans).

    Raises:
        OutputError: `out` exists and `force` is false, or it cannot be written.
        DriveError: the drive is empty, or two cameras' names become the same topic.
        ConfigError: a distro or storage that is not known.
        CloudError, LabelError, CameraError: a file of the drive cannot be read.
    """
    distro = sourced_distro() if distro is None else distro
    if distro not in BAG_VERSIONS or storage not in ("mcap", "sqlite3"):
        raise ConfigError(f"{distro}, {storage}: distro is {', '.join(BAG_VERSIONS)}, storage is mcap or sqlite3")
    written = {".mcap": "mcap", ".db3": "sqlite3"}.get(Path(out).suffix, storage)
    if written != storage:
        raise OutputError(f"{out}: a {Path(out).suffix} file is {written}, not {storage}; give --storage {written}")
    if not len(drive):
        raise DriveError(f"{drive.name}: no scans to convert")
    with write_bag(Path(out), storage=storage, version=BAG_VERSIONS[distro], force=force) as writer:
        writer.set_custom_data(AXES_KEY, drive.axes)
        writer.set_custom_data(INTENSITY_KEY, repr(float(drive.intensity_scale)))
        conversion = _Conversion(drive, writer, Messages(typestore(distro)))
        for index in range(len(drive)):
            conversion.frame(index, drive[index])
            if progress is not None:
                progress(index + 1, len(drive))


class _Conversion:
    def __init__(self, drive: Drive, writer: Writer, messages: Messages) -> None:
        self._drive = drive
        self._writer = writer
        self._messages = messages
        self._connections: dict[str, Connection] = {}
        self._mounts: dict[str, Pose] = {}
        self._base_from_lidar = base_from_lidar(drive.axes)
        self._ego_from_lidar: Callable[[int], Pose] | None = getattr(drive, "ego_from_lidar", None)
        self._shift: int | None = None
        self._last: int | None = None
        self._before: tuple[int, Pose] | None = None

    def _write(self, topic: str, msgtype: str, stamp: int, message: Any, *, latched: bool = False) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, msgtype, typestore=self._messages.store, offered_qos_profiles=qos(latched=latched)
            )
        self._writer.write(self._connections[topic], stamp, self._messages.serialize(message))

    def _stamp(self, stamp: int) -> int:
        """The bag's time of a scan: strictly increasing, never near 0."""
        if self._shift is None:
            self._shift = EARLIEST if stamp < EARLIEST else 0
        if self._last is not None and stamp + self._shift <= self._last:
            self._shift = self._last + PERIOD - stamp
        self._last = stamp + self._shift
        return self._last

    def frame(self, index: int, frame: Frame) -> None:
        """Write all messages of a scan."""
        first = self._last is None
        stamp = self._stamp(frame.stamp)
        shift = stamp - frame.stamp
        new_base, new_mounts = self._new_base(index), self._new_mounts(index, frame)
        # What is latched comes before everything else of the scan; on nuScenes most images are older than it.
        earliest = min([stamp, *(view.stamp + shift for view in frame.views)])
        if first or new_base or new_mounts:
            self._write_static(earliest, frame)
        if first and self._drive.labels is not None:
            info = self._messages.label_info(earliest, LIDAR, self._drive.labels)
            self._write(bag_topics.TRUTH_INFO_TOPIC, LABEL_INFO, earliest, info, latched=True)
        self._write_pose(stamp, frame)
        self._write_clouds(stamp, frame)
        for view in frame.views:
            self._write_view(view, view.stamp + shift, frame)

    def _new_base(self, index: int) -> bool:
        """Learn where the LiDAR sits on the vehicle, from a drive that knows; true when that changed."""
        if self._ego_from_lidar is None:
            return False
        pose = np.asarray(self._ego_from_lidar(index))
        if np.allclose(pose, self._base_from_lidar, atol=1e-9):
            return False
        self._base_from_lidar = pose
        return True

    def _new_mounts(self, index: int, frame: Frame) -> bool:
        """Learn where the cameras sit; true when one is new or has moved, as from one nuScenes vehicle to the next."""
        found = False
        namespaces = [topic_name(view.camera.name) for view in frame.views]
        if len(set(namespaces)) < len(namespaces):
            names = ", ".join(view.camera.name for view in frame.views)
            raise DriveError(f"{self._drive.name}: cameras {names}: two of them would share a topic")
        for view in frame.views:
            seconds = abs(view.stamp - frame.stamp) / 1e9
            known = self._mounts.get(view.camera.name)
            if known is not None:
                step = inverse(view.camera.camera_from_lidar) @ known
                turn = np.arccos(np.clip((np.trace(step[:3, :3]) - 1) / 2, -1, 1))
                # More than any vehicle moves between the two sensors' times.
                if np.linalg.norm(step[:3, 3]) < 60 * seconds + 0.05 and turn < 2 * seconds + 0.01:
                    continue
            self._mounts[view.camera.name] = self._mount(index, frame, view)
            found = True
        return found

    def _mount(self, index: int, frame: Frame, view: View) -> Pose:
        """`camera_from_lidar` (4, 4) without the vehicle's motion between scan and image."""
        here, neighbour = frame.world_from_lidar, index + 1 if index + 1 < len(self._drive) else index - 1
        if here is None or view.stamp == frame.stamp or neighbour < 0:
            return view.camera.camera_from_lidar
        other = self._drive[neighbour]
        if other.world_from_lidar is None or other.stamp == frame.stamp:
            return view.camera.camera_from_lidar
        fraction = (view.stamp - frame.stamp) / (other.stamp - frame.stamp)
        at_image = interpolate(here, other.world_from_lidar, fraction)
        return np.asarray(view.camera.camera_from_lidar @ inverse(here) @ at_image)

    def _write_static(self, stamp: int, frame: Frame) -> None:
        transforms = [self._messages.transform(stamp, BASE, LIDAR, self._base_from_lidar)]
        for view in frame.views:
            name = view.camera.name
            base_from_camera = self._base_from_lidar @ inverse(self._mounts[name])
            transforms.append(self._messages.transform(stamp, BASE, optical_frame(name), base_from_camera))
        self._write("/tf_static", TF, stamp, self._messages.tf(transforms), latched=True)

    def _write_tf(self, stamp: int, world_from_lidar: Pose) -> Pose:
        world_from_base = world_from_lidar @ inverse(self._base_from_lidar)
        transform = self._messages.transform(stamp, ODOM, BASE, world_from_base)
        self._write("/tf", TF, stamp, self._messages.tf([transform]))
        return world_from_base

    def _write_pose(self, stamp: int, frame: Frame) -> None:
        if frame.world_from_lidar is None:
            return
        world_from_base = self._write_tf(stamp, frame.world_from_lidar)
        before, seconds = (None, 0.0) if self._before is None else (self._before[1], (stamp - self._before[0]) / 1e9)
        odometry = self._messages.odometry(stamp, ODOM, BASE, world_from_base, before, seconds)
        self._write("/odom", ODOMETRY, stamp, odometry)
        self._before = (stamp, world_from_base)

    def _write_clouds(self, stamp: int, frame: Frame) -> None:
        header = self._messages.header(stamp, LIDAR)
        xyz = {name: frame.points[:, axis] for axis, name in enumerate("xyz")}
        known = {"intensity": frame.intensity, "ring": frame.ring, "time": frame.point_time}
        columns = {**xyz, **{name: values for name, values in known.items() if values is not None}}
        is_dense = bool(np.isfinite(frame.points).all())
        cloud = build_pointcloud2(columns, is_dense=is_dense)
        self._write(bag_topics.CLOUD_TOPIC, POINT_CLOUD, stamp, self._messages.point_cloud(header, cloud))
        if frame.labels is not None:
            truth = build_pointcloud2({**xyz, "class_id": frame.labels}, is_dense=is_dense)
            self._write(bag_topics.TRUTH_TOPIC, POINT_CLOUD, stamp, self._messages.point_cloud(header, truth))

    def _write_view(self, view: View, stamp: int, frame: Frame) -> None:
        name = view.camera.name
        namespace = f"/camera/{topic_name(name)}"
        if stamp != self._last and frame.world_from_lidar is not None:
            # The pose at the image's time is the one that makes the rigid mount agree with the frame's own calibration.
            motion = inverse(view.camera.camera_from_lidar) @ self._mounts[name]
            self._write_tf(stamp, frame.world_from_lidar @ motion)
        header = self._messages.header(stamp, optical_frame(name))
        data = view.encoded() if view.encoded is not None else _jpeg(view.load())
        image = self._messages.compressed_image(header, data)
        self._write(f"{namespace}/image_raw/compressed", COMPRESSED_IMAGE, stamp, image)
        self._write(f"{namespace}/camera_info", CAMERA_INFO, stamp, self._messages.camera_info(header, view.camera))


def topic_name(camera: str) -> str:
    """A camera's name as a part of a topic: letters, digits and `_`, not a digit first."""
    name = re.sub(r"\W", "_", camera, flags=re.ASCII)
    return f"_{name}" if name[:1].isdigit() or not name else name


def optical_frame(camera: str) -> str:
    """Frame id of a camera: x right, y down, z forward (REP 103)."""
    return f"{topic_name(camera)}_optical_frame"


def _jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()
