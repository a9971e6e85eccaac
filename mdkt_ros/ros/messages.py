"""Results as rclpy's messages."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from vision_msgs.msg import LabelInfo, VisionClass
from visualization_msgs.msg import Marker, MarkerArray

from mdkt_ros.cloud import CloudMessage
from mdkt_ros.labels import LabelSpace
from mdkt_ros.live.legend import legend_places
from mdkt_ros.render.style import display_palette


def cloud_message(cloud: CloudMessage, header: Header) -> PointCloud2:
    """PointCloud2 with the header of the scan that it belongs to."""
    return cloud.to_message(PointCloud2, PointField, header, rclpy=True)


def image_message(pixels: npt.NDArray[np.uint8], header: Header) -> Image:
    """Image, rgb8, of pixels (H, W, 3) uint8."""
    height, width = pixels.shape[:2]
    # array.array is the only form that rclpy takes without a check of every byte.
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(pixels).data.cast("B"))
    return Image(header=header, height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width, data=data)


def label_info(labels: LabelSpace, stamp: Time) -> LabelInfo:
    """LabelInfo: class ids and their names; 255 is nobody's, as vision_msgs reserves it for uint8 masks."""
    classes = [VisionClass(class_id=i, class_name=name) for i, name in enumerate(labels.names)]
    return LabelInfo(header=Header(stamp=stamp), class_map=classes, threshold=0.0)


def legend(labels: LabelSpace, frame_id: str, axes: str) -> MarkerArray:
    """The class names in their colours, as text that stands to the left of the vehicle in the LiDAR's frame."""
    markers = MarkerArray()
    places = legend_places(len(labels), axes)
    for index, (name, color) in enumerate(zip(labels.names, display_palette(labels), strict=False)):
        r, g, b = (float(value) / 255 for value in color)
        marker = Marker(
            header=Header(frame_id=frame_id), ns="legend", id=index, type=Marker.TEXT_VIEW_FACING, text=name
        )
        # Stamp 0: always the newest transform. The text moves with the sensor.
        marker.frame_locked = True
        marker.color = ColorRGBA(r=r, g=g, b=b, a=1.0)
        marker.scale.z = 1.5
        position = marker.pose.position
        position.x, position.y, position.z = map(float, places[index])
        marker.pose.orientation.w = 1.0
        markers.markers.append(marker)
    return markers


def stamp_of(header: Any) -> int:
    """Nanoseconds of a header's stamp."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)
