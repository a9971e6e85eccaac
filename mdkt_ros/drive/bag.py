"""A rosbag2 as a drive: its clouds in the order of recording, with images, poses and truth where it has them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.interfaces import Connection

from mdkt_ros.cloud import parse_pointcloud2
from mdkt_ros.drive import bag_topics
from mdkt_ros.drive.bag_file import BagFile, Topic
from mdkt_ros.drive.bag_images import camera_from_info, decode_compressed, decode_raw
from mdkt_ros.drive.bag_sequence import MessageSequence
from mdkt_ros.drive.frame import Axes, Frame, View
from mdkt_ros.drive.pose import pose_from_quaternion
from mdkt_ros.drive.rosmsg import COMPRESSED_IMAGE, nanoseconds
from mdkt_ros.drive.transforms import TransformTree
from mdkt_ros.errors import CameraError, CloudError, DriveError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.pairing import DEFAULT_MAX_DELAY, ImagePairing, Paired

TRANSPORT_DELAY = 250_000_000
"""Nanoseconds by which messages about the same moment may be recorded apart from each other."""
BASE_FRAMES = ("base_link", "base_footprint")
AXES_KEY, INTENSITY_KEY = "mdkt_ros.axes", "mdkt_ros.intensity_scale"
"""Keys of the bag's custom_data in which `convert` leaves what no ROS message says."""


@dataclass
class _Moment:
    """What was recorded about one scan: its images and their calibration, and its truth."""

    images: dict[str, Paired[tuple[Connection, Any]]] = field(default_factory=dict)
    infos: dict[str, Any] = field(default_factory=dict)
    truth: Any = None


class BagDrive:
    """A rosbag2 (folder, .mcap or .db3; compressed or not) as a Drive.

    Going through it in order streams the bag and holds one frame at a time. Images are paired with a scan by the stamps
    in their headers, each camera's nearest within `max_delay`; the vehicle's motion between the two stamps is in
    `camera_from_lidar`, where `/tf` tells it. `close()` or a context manager closes the files.

    Attributes:
        topic: cloud topic.
        stated_intensity_scale: what `convert` left in the bag; None where nobody stated it, as in a vehicle's own bag.
        labels: label space of the truth, None without truth.
        prediction_labels: label space of what `mdkt segment` added, None where it added nothing.

    Args:
        topic: cloud topic, where there are several.
        max_delay: nanoseconds between a scan and its image.

    Raises:
        DriveError: not a rosbag2, damaged, no clouds, or several cloud topics.
    """

    def __init__(self, path: Path | str, *, topic: str | None = None, max_delay: int = DEFAULT_MAX_DELAY) -> None:
        self.root = Path(path)
        self.name = self.root.stem if self.root.is_file() else self.root.resolve().name
        self._max_delay = max_delay
        self._tree = TransformTree()
        self._first_infos: dict[str, Any] = {}
        self._unusable: set[str] = set()
        self._beside: BagFile | None = None
        self._bag = BagFile(self.root)
        try:
            self._open(topic)
        except BaseException:
            self.close()
            raise

    def _open(self, topic: str | None) -> None:
        topics = self._bag.topics
        self.topic = bag_topics.cloud_topic(self.root, topics, topic)
        self._clouds = MessageSequence(self._bag, self.topic)
        if not len(self._clouds):
            raise DriveError(f"{self.root}: topic {self.topic} holds no messages")
        self._cameras = {camera.image: camera for camera in bag_topics.image_topics(topics)}
        self.labels = self._label_space(topics, bag_topics.TRUTH_TOPIC, bag_topics.TRUTH_INFO_TOPIC)
        self.prediction_labels = self._label_space(topics, bag_topics.OUTPUT_TOPIC, bag_topics.OUTPUT_INFO_TOPIC)
        for connection, stamp, raw in self._bag.messages_of("/tf_static"):
            self._add_transforms(self._bag.deserialize(raw, connection), stamp, fixed=True)
        scale = self._bag.custom.get(INTENSITY_KEY)
        try:
            self.stated_intensity_scale = None if scale is None else float(scale)
        except ValueError:
            raise DriveError(f"{self.root}: custom_data {INTENSITY_KEY} is {scale!r}, not a number") from None

    def _label_space(self, topics: list[Topic], cloud: str, info: str) -> LabelSpace | None:
        if not bag_topics.has_labels(topics, cloud, info):
            return None
        for connection, _, raw in self._bag.messages_of(info):
            message = self._bag.deserialize(raw, connection)
            names = {int(c.class_id): str(c.class_name) for c in message.class_map}
            return bag_topics.labels_from_names(names, f"{self.root}: topic {info}")
        return None

    def __enter__(self) -> BagDrive:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._bag.close()
        if self._beside is not None:
            self._beside.close()

    @property
    def intensity_scale(self) -> float:
        """The stated scale, 1 where nobody stated one."""
        return 1.0 if self.stated_intensity_scale is None else self.stated_intensity_scale

    @functools.cached_property
    def axes(self) -> Axes:
        """What `convert` left in the bag; else by the LiDAR's yaw in `base_link`; else x forward, as REP 103 wants.

        A LiDAR that `/tf_static` turns by about -90 degrees has its y axis forward.
        """
        stated = self._bag.custom.get(AXES_KEY)
        if stated is not None:
            return "y_forward" if stated == "y_forward" else "x_forward"
        header = self._first_header()
        for base in BASE_FRAMES if header is not None else ():
            pose = self._tree.lookup(base, str(header.frame_id), nanoseconds(header.stamp))
            if pose is not None:
                yaw = np.degrees(np.arctan2(pose[1, 0], pose[0, 0]))
                return "y_forward" if -135 < yaw < -45 else "x_forward"
        return "x_forward"

    def _first_header(self) -> Any:
        for index in range(min(len(self), 10)):
            connection, _, raw = self._clouds[index]
            try:
                return self._bag.deserialize(raw, connection).header
            except DriveError:
                continue
        return None

    def __len__(self) -> int:
        return len(self._clouds)

    def __iter__(self) -> Iterator[Frame]:
        for index in range(len(self)):
            yield self[index]

    def __getitem__(self, index: int) -> Frame:
        """Read one scan.

        Raises:
            IndexError: no such scan.
            CloudError: the cloud cannot be read.
            DriveError: the bag is damaged.
        """
        connection, log_time, raw = self._clouds[index]
        message = self._bag.deserialize(raw, connection)
        try:
            cloud = parse_pointcloud2(message)
            points, intensity, ring = cloud.xyz(), cloud.intensity(), cloud.ring()
        except CloudError as error:
            raise CloudError(f"{self.root}: topic {self.topic}, message {index}: {error}") from error
        stamp, frame_id = nanoseconds(message.header.stamp), str(message.header.frame_id)
        moment = self._moment(log_time, stamp)
        moves = self._tree.moves(frame_id)
        time = cloud.columns.get("time")
        return Frame(
            name=f"{index if index >= 0 else index + len(self):06d}",
            stamp=stamp,
            points=points,
            intensity=intensity,
            ring=ring,
            labels=self._class_ids(bag_topics.TRUTH_TOPIC, moment.truth, len(points)) if self.labels else None,
            point_time=None if time is None or time.dtype != np.float32 or time.ndim != 1 else time.copy(),
            world_from_lidar=self._tree.root_from(frame_id, stamp)[1] if moves else None,
            views=tuple(self._views(moment, frame_id, stamp)),
        )

    def prediction(self, index: int) -> npt.NDArray[np.uint8] | None:
        """Class ids (N,) uint8 that `mdkt segment` gave a scan, in `prediction_labels`; None where it gave none.

        Raises:
            IndexError, DriveError: as for the scan. CloudError, LabelError: the labels cannot be read.
        """
        connection, log_time, raw = self._clouds[index]
        if self.prediction_labels is None:
            return None
        scan = self._bag.deserialize(raw, connection)
        beside = self._second_reader()
        # Recorded at the cloud's own time, unless a node on a vehicle did it.
        window = beside.messages_of(
            bag_topics.OUTPUT_TOPIC, start=log_time - TRANSPORT_DELAY, stop=log_time + 4 * TRANSPORT_DELAY
        )
        for found, _, labelled in window:
            message = beside.deserialize(labelled, found)
            if message.header.stamp == scan.header.stamp:
                return self._class_ids(bag_topics.OUTPUT_TOPIC, message, int(scan.height) * int(scan.width))
        return None

    def _second_reader(self) -> BagFile:
        """The bag once more, because the stream of clouds is in the middle of the first one."""
        self._beside = self._beside or BagFile(self.root)
        return self._beside

    def _moment(self, log_time: int, stamp: int) -> _Moment:
        """Read what was recorded around a scan; the moving transforms go to the tree."""
        moment = _Moment()
        infos = {camera.info for camera in self._cameras.values()}
        wanted = {*self._cameras, *infos, "/tf", bag_topics.TRUTH_TOPIC}
        if not any(c.topic in wanted for c in self._bag.connections):
            return moment
        beside = self._second_reader()
        self._tree.forget_moving()
        pairing: ImagePairing[str, tuple[Connection, Any]] = ImagePairing(self._max_delay, keep=256)
        reach = self._max_delay + TRANSPORT_DELAY
        for connection, _, raw in beside.messages_of(*wanted, start=log_time - reach, stop=log_time + reach):
            message = beside.deserialize(raw, connection)
            if connection.topic == "/tf":
                self._add_transforms(message, None, fixed=False)
            elif connection.topic in infos:
                moment.infos[connection.topic] = message
            elif connection.topic in self._cameras:
                pairing.add(connection.topic, nanoseconds(message.header.stamp), (connection, message))
            elif nanoseconds(message.header.stamp) == stamp:
                moment.truth = message
        moment.images = pairing.match(stamp)
        return moment

    def _add_transforms(self, message: Any, log_time: int | None, *, fixed: bool) -> None:
        for transform in message.transforms:
            t, r = transform.transform.translation, transform.transform.rotation
            try:
                pose = pose_from_quaternion((r.w, r.x, r.y, r.z), (t.x, t.y, t.z))
            except ValueError:
                continue  # tf2 drops such transforms, too
            stamp = nanoseconds(transform.header.stamp) if log_time is None else log_time
            self._tree.add(transform.header.frame_id, transform.child_frame_id, stamp, pose, fixed=fixed)

    def _class_ids(self, topic: str, message: Any, points: int) -> npt.NDArray[np.uint8] | None:
        if message is None:
            return None
        source = f"{self.root}: topic {topic}"
        try:
            return bag_topics.class_ids(parse_pointcloud2(message), points, source)
        except CloudError as error:
            raise CloudError(f"{source}: {error}") from error

    def _views(self, moment: _Moment, frame_id: str, stamp: int) -> Iterator[View]:
        for topic, paired in moment.images.items():
            image_stamp, (connection, message) = paired.stamp, paired.image
            names = self._cameras[topic]
            optical = str(message.header.frame_id)
            pose = self._tree.lookup(optical, frame_id, image_stamp, source_stamp=stamp)
            info = moment.infos.get(names.info) or self._first_info(names.info)
            if pose is None or info is None:
                self._leave_out(
                    topic, f"/tf_static does not connect {optical} with {frame_id}" if info else "no CameraInfo"
                )
                continue
            try:
                camera = camera_from_info(names.camera, info, pose, rectified="rect" in topic)
            except CameraError as error:
                self._leave_out(topic, str(error))
                continue
            if connection.msgtype == COMPRESSED_IMAGE:
                encoded = functools.partial(bytes, message.data)
                load = functools.partial(decode_compressed, names.camera, message.data)
                yield View(camera, image_stamp, load, encoded)
            else:
                yield View(camera, image_stamp, functools.partial(decode_raw, names.camera, message))

    def _first_info(self, topic: str) -> Any:
        if topic not in self._first_infos:
            beside = self._second_reader()
            first = next(beside.messages_of(topic), None)
            self._first_infos[topic] = None if first is None else beside.deserialize(first[2], first[0])
        return self._first_infos.get(topic)

    def _leave_out(self, topic: str, reason: str) -> None:
        if topic not in self._unusable:
            self._unusable.add(topic)
            warnings.warn(f"{self.root}: images of {topic} are left out: {reason}", stacklevel=4)
