"""Where the cameras are, from tf2: looked up by the worker, never waited for."""

from __future__ import annotations

import threading
import time

import numpy as np
import numpy.typing as npt
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage
from tf2_ros import BufferCore, TransformException

from mdkt_ros.drive.pose import pose_from_quaternion
from mdkt_ros.errors import CameraError
from mdkt_ros.ros.messages import stamp_of

KEPT = 10.0
"""Seconds of transforms that are remembered."""
JUMP = 5_000_000_000
"""Nanoseconds by which a transform must be older than the newest to mean that time ran backward, not a slow sender."""
REFRESHED = 1.0
"""Seconds after which a mount is looked up again."""

Pose = npt.NDArray[np.float64]


class Transforms:
    """Listens to /tf and /tf_static. `camera_from_lidar` may be called from any thread.

    Args:
        node: subscribes.
        fixed_frame: in which the world stands still; empty: mounts alone count.
    """

    def __init__(self, node: Node, fixed_frame: str) -> None:
        self._node, self._fixed_frame = node, fixed_frame
        self._buffer = BufferCore(Duration(seconds=KEPT))
        self._newest = 0
        self._lock = threading.Lock()
        self._mounts: dict[tuple[str, str], tuple[float, Pose]] = {}
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._subscriptions = [
            node.create_subscription(TFMessage, "/tf", self._moving, QoSProfile(depth=100)),
            node.create_subscription(TFMessage, "/tf_static", self._static, latched),
        ]

    def close(self) -> None:
        """Stop listening."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())

    def _moving(self, message: TFMessage) -> None:
        for transform in message.transforms:
            stamp = stamp_of(transform.header)
            if 0 < stamp < self._newest - JUMP:
                # tf2 refuses what is older than its memory, so that after a loop of a bag it would learn nothing more.
                self._buffer.clear()
                self._newest = stamp
            self._newest = max(self._newest, stamp)
            self._buffer.set_transform(transform, "tf")

    def _static(self, message: TFMessage) -> None:
        for transform in message.transforms:
            self._buffer.set_transform_static(transform, "tf_static")
        with self._lock:
            self._mounts.clear()

    def camera_from_lidar(self, camera: str, image_stamp: int, lidar: str, scan_stamp: int) -> Pose:
        """(4, 4) metres: points of the LiDAR at the scan's time, as the camera saw them at the image's time.

        The motion between the two is left out where the fixed frame is not known at both times.

        Raises:
            CameraError: tf does not connect the two frames.
        """
        camera, lidar, fixed = camera.lstrip("/"), lidar.lstrip("/"), self._fixed_frame.lstrip("/")
        if fixed:
            try:
                at_image, at_scan = Time(nanoseconds=image_stamp), Time(nanoseconds=scan_stamp)
                return _pose(self._buffer.lookup_transform_full_core(camera, at_image, lidar, at_scan, fixed))
            except (TransformException, ValueError):
                pass
        now = time.monotonic()
        with self._lock:
            found, mount = self._mounts.get((camera, lidar), (-np.inf, np.eye(4)))
        if now - found <= REFRESHED:
            return mount
        try:
            mount = _pose(self._buffer.lookup_transform_core(camera, lidar, Time()))
        except (TransformException, ValueError) as error:
            raise CameraError(f"no transform from {lidar!r} to {camera!r}: {' '.join(str(error).split())}") from error
        with self._lock:
            self._mounts[camera, lidar] = now, mount
        return mount


def _pose(stamped: object) -> Pose:
    transform = stamped.transform  # type: ignore[attr-defined]
    r, t = transform.rotation, transform.translation
    return pose_from_quaternion((r.w, r.x, r.y, r.z), (t.x, t.y, t.z))
