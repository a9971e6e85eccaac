"""ROS 2 messages without ROS: the types of each distribution, quality of service, and what this package writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mdkt_ros.camera import Camera
from mdkt_ros.drive.pose import inverse, quaternion_from_matrix
from mdkt_ros.labels import LabelSpace
from mdkt_ros.pointcloud2 import CloudMessage

Distro = Literal["humble", "jazzy", "lyrical"]
BagVersion = Literal[8, 9]

POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
TF = "tf2_msgs/msg/TFMessage"
ODOMETRY = "nav_msgs/msg/Odometry"
LABEL_INFO = "vision_msgs/msg/LabelInfo"

_STORES = {"humble": Stores.ROS2_HUMBLE, "jazzy": Stores.ROS2_JAZZY, "lyrical": Stores.ROS2_LYRICAL}
BAG_VERSIONS: dict[Distro, BagVersion] = {"humble": 8, "jazzy": 9, "lyrical": 9}
"""Version of a bag's metadata that a distribution reads; 9 writes quality of service as Humble cannot read it."""


def sourced_distro() -> Distro:
    """The distribution whose `setup.bash` was sourced (`ROS_DISTRO`), if it is one that is known; else jazzy."""
    sourced = os.environ.get("ROS_DISTRO", "")
    return next((distro for distro in get_args(Distro) if distro == sourced), "jazzy")


def qos(*, latched: bool = False) -> list[Qos]:
    """Offered quality of service: reliable, so that every subscriber matches; latched is transient local, depth 1."""
    unset = QosTime(0, 0)
    return [
        Qos(
            QosHistory.KEEP_LAST,
            1 if latched else 10,
            QosReliability.RELIABLE,
            QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
            unset,
            unset,
            QosLiveliness.AUTOMATIC,
            unset,
            False,
        )
    ]


def typestore(distro: Distro = "jazzy") -> Typestore:
    """Message types of a distribution, vision_msgs (which rosbags does not carry) among them."""
    store = get_typestore(_STORES[distro])
    folder = Path(__file__).parent / "messages"
    for name in ("VisionClass", "LabelInfo"):
        text = (folder / f"{name}.msg").read_text(encoding="utf-8")
        store.register(get_types_from_msg(text, f"vision_msgs/msg/{name}"))
    return store


def nanoseconds(stamp: Any) -> int:
    """A builtin_interfaces/Time in nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


class Messages:
    """Builds messages of one distribution's types and serialises them. Stamps are nanoseconds, poses (4, 4) metres."""

    def __init__(self, store: Typestore) -> None:
        self.store = store

    def _new(self, name: str, /, **fields: Any) -> Any:
        return self.store.types[name](**fields)

    def serialize(self, message: Any) -> memoryview:
        """CDR bytes of a message."""
        return self.store.serialize_cdr(message, message.__msgtype__)

    def stamp(self, stamp: int) -> Any:
        return self._new("builtin_interfaces/msg/Time", sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000)

    def header(self, stamp: int, frame_id: str) -> Any:
        return self._new("std_msgs/msg/Header", stamp=self.stamp(stamp), frame_id=frame_id)

    def point_cloud(self, header: Any, cloud: CloudMessage) -> Any:
        """PointCloud2."""
        types = self.store.types
        return cloud.to_message(types[POINT_CLOUD], types["sensor_msgs/msg/PointField"], header)

    def label_info(self, stamp: int, frame_id: str, labels: LabelSpace) -> Any:
        """LabelInfo: class ids and their names; 255 is nobody's, as vision_msgs reserves it for uint8 masks."""
        classes = [
            self._new("vision_msgs/msg/VisionClass", class_id=i, class_name=name) for i, name in enumerate(labels.names)
        ]
        return self._new(LABEL_INFO, header=self.header(stamp, frame_id), class_map=classes, threshold=0.0)

    def compressed_image(self, header: Any, data: bytes) -> Any:
        """CompressedImage of a JPEG or PNG file's own bytes."""
        image_format = "png" if data[:4] == b"\x89PNG" else "jpeg"
        return self._new(COMPRESSED_IMAGE, header=header, format=image_format, data=np.frombuffer(data, dtype=np.uint8))

    def camera_info(self, header: Any, camera: Camera) -> Any:
        """CameraInfo; an undistorted camera is plumb_bob with zeros, the projection offset is P's fourth column."""
        undistorted = camera.distortion == "none"
        p = np.column_stack([camera.matrix, camera.projection_offset])
        region = self._new(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return self._new(
            CAMERA_INFO,
            header=header,
            height=camera.height,
            width=camera.width,
            distortion_model="plumb_bob" if undistorted else camera.distortion,
            d=np.zeros(5) if undistorted else np.asarray(camera.coefficients, dtype=np.float64),
            k=np.asarray(camera.matrix, dtype=np.float64).reshape(9),
            r=np.eye(3).reshape(9),
            p=np.asarray(p, dtype=np.float64).reshape(12),
            binning_x=0,
            binning_y=0,
            roi=region,
        )

    def _vector(self, name: str, xyz: npt.NDArray[np.float64]) -> Any:
        return self._new(f"geometry_msgs/msg/{name}", x=float(xyz[0]), y=float(xyz[1]), z=float(xyz[2]))

    def _quaternion(self, pose: npt.NDArray[np.float64]) -> Any:
        w, x, y, z = map(float, quaternion_from_matrix(pose))
        return self._new("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)

    def transform(self, stamp: int, parent: str, child: str, parent_from_child: npt.NDArray[np.float64]) -> Any:
        """TransformStamped."""
        return self._new(
            "geometry_msgs/msg/TransformStamped",
            header=self.header(stamp, parent),
            child_frame_id=child,
            transform=self._new(
                "geometry_msgs/msg/Transform",
                translation=self._vector("Vector3", parent_from_child[:3, 3]),
                rotation=self._quaternion(parent_from_child),
            ),
        )

    def tf(self, transforms: list[Any]) -> Any:
        """TFMessage of TransformStamped messages."""
        return self._new(TF, transforms=transforms)

    def odometry(
        self,
        stamp: int,
        parent: str,
        child: str,
        pose: npt.NDArray[np.float64],
        before: npt.NDArray[np.float64] | None,
        seconds: float,
    ) -> Any:
        """Odometry at `pose`; the twist, in the child frame, is the mean since the pose `before`, `seconds` ago."""
        linear, angular = np.zeros(3), np.zeros(3)
        if before is not None and seconds > 0:
            step = inverse(before) @ pose
            linear = step[:3, :3].T @ step[:3, 3] / seconds
            quaternion = quaternion_from_matrix(step)
            sine = float(np.linalg.norm(quaternion[1:]))
            if sine > 1e-12:
                angular = quaternion[1:] / sine * 2 * np.arctan2(sine, quaternion[0]) / seconds
        covariance = np.zeros(36)
        return self._new(
            ODOMETRY,
            header=self.header(stamp, parent),
            child_frame_id=child,
            pose=self._new(
                "geometry_msgs/msg/PoseWithCovariance",
                pose=self._new(
                    "geometry_msgs/msg/Pose",
                    position=self._vector("Point", pose[:3, 3]),
                    orientation=self._quaternion(pose),
                ),
                covariance=covariance,
            ),
            twist=self._new(
                "geometry_msgs/msg/TwistWithCovariance",
                twist=self._new(
                    "geometry_msgs/msg/Twist",
                    linear=self._vector("Vector3", linear),
                    angular=self._vector("Vector3", angular),
                ),
                covariance=covariance,
            ),
        )
