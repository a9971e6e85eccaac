"""The node's publishers, and who listens to them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Float64
from vision_msgs.msg import LabelInfo
from visualization_msgs.msg import MarkerArray

from mdkt_ros.cloud import CloudMessage
from mdkt_ros.labels import LabelSpace
from mdkt_ros.live.labeller import LABEL_INFO, LEGEND, OVERLAY, SEGMENTATION, VISUALIZATION, Scan
from mdkt_ros.ros.messages import cloud_message, image_message, label_info, legend

STAGES = {
    "preprocess": ("parse", "voxelize"),
    "inference": ("inference",),
    "postprocess": ("gather", "build", "publish"),
    "total": ("total",),
}
"""Debug topic -> stages of a scan that it sums up."""
PIPELINE = "pipeline_latency"
QUIET = 5.0
"""Seconds between two warnings of one kind."""

LEGEND_PERIOD = 2.0
"""Seconds after which the legend is published again."""


class RosOutputs:
    """Publishes results under `~/output` and times under `~/debug`; reliable, depth 1.

    Args:
        node: publishes.
        labels: classes and groups of the checkpoint.
        axes: of the LiDAR's frame, `x_forward` or `y_forward`.
        cameras: number of overlays.
    """

    def __init__(self, node: LifecycleNode, labels: LabelSpace, axes: str, cameras: int) -> None:
        self._node, self._labels, self._axes = node, labels, axes
        types = {SEGMENTATION: PointCloud2, VISUALIZATION: PointCloud2, **dict.fromkeys(labels.groups, PointCloud2)}
        types |= {f"{OVERLAY}{index}": Image for index in range(cameras)}
        self._publishers = {
            name: node.create_lifecycle_publisher(kind, f"~/output/{name}", QoSProfile(depth=1))
            for name, kind in types.items()
        }
        self._debug = {
            name: node.create_lifecycle_publisher(Float64, f"~/debug/{name}_ms", QoSProfile(depth=1))
            for name in (*STAGES, PIPELINE)
        }
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._info = node.create_lifecycle_publisher(LabelInfo, f"~/output/{LABEL_INFO}", latched)
        self._legend = node.create_lifecycle_publisher(MarkerArray, f"~/output/{LEGEND}", latched)
        self._legend_frame: str | None = None
        self._legend_at = 0.0
        self._told: dict[str, tuple[float, int]] = {}

    def close(self) -> None:
        """Take the topics away."""
        for publisher in (*self._publishers.values(), *self._debug.values(), self._info, self._legend):
            self._node.destroy_lifecycle_publisher(publisher)

    def announce(self) -> None:
        """Publish what the class ids mean, for whoever comes and whenever."""
        self._legend_frame = None
        self._info.publish(label_info(self._labels, self._node.get_clock().now().to_msg()))

    def wanted(self) -> frozenset[str]:
        """Outputs with a subscriber."""
        found = {name for name, publisher in self._publishers.items() if publisher.get_subscription_count()}
        if any(publisher.get_subscription_count() for publisher in self._debug.values()):
            found.add("times")
        return frozenset(found)

    def watched(self, camera: int) -> bool:
        """Whether a camera's overlay has a subscriber."""
        return bool(self._publishers[f"{OVERLAY}{camera}"].get_subscription_count())

    def cloud(self, output: str, cloud: CloudMessage, scan: Scan) -> None:
        """Publish a cloud with the scan's header; after the first one, and now and then, the legend in its frame."""
        self._publishers[output].publish(cloud_message(cloud, scan.message.header))
        now = time.monotonic()
        # RViz forgets markers when time runs backward or somebody presses its button Reset, and is not sent again what
        # is latched.
        if scan.frame_id != self._legend_frame or now - self._legend_at > LEGEND_PERIOD:
            self._legend_frame, self._legend_at = scan.frame_id, now
            self._legend.publish(legend(self._labels, scan.frame_id, self._axes))

    def image(self, output: str, pixels: npt.NDArray[np.uint8], image: Any) -> None:
        """Publish an overlay with the image's header."""
        self._publishers[output].publish(image_message(pixels, image.header))

    def times(self, milliseconds: Mapping[str, float], scan: Scan) -> None:
        """Publish what a scan took; its age too, unless it has no stamp or the simulated clock does not run yet."""
        found = {name: sum(milliseconds[stage] for stage in stages) for name, stages in STAGES.items()}
        now = self._node.get_clock().now().nanoseconds
        if now and scan.stamp:
            found[PIPELINE] = 1e-6 * (now - scan.stamp)
        for name, value in found.items():
            if self._debug[name].get_subscription_count():
                self._debug[name].publish(Float64(data=value))

    def complain(self, what: str, message: str) -> None:
        """Warn in the log, at most every few seconds of each kind; those in between are counted."""
        now = time.monotonic()
        last, silent = self._told.get(what, (-np.inf, 0))
        if now - last < QUIET:
            self._told[what] = last, silent + 1
            return
        self._told[what] = now, 0
        self._node.get_logger().warning(message + (f" (and {silent} more since the last warning)" if silent else ""))
