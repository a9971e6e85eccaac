"""Which topics of a bag hold the clouds, the images with their calibration, and the truth with its classes."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mdkt_ros.cloud import Cloud
from mdkt_ros.drive.bag_file import Topic
from mdkt_ros.drive.rosmsg import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, LABEL_INFO, POINT_CLOUD
from mdkt_ros.errors import DriveError, LabelError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.resources import config_dir

CLOUD_TOPIC = "/lidar/points"
TRUTH_TOPIC = "/ground_truth/segmentation"
TRUTH_INFO_TOPIC = "/ground_truth/label_info"
OUTPUT_TOPIC = "/segment/output/segmentation"
OUTPUT_INFO_TOPIC = "/segment/output/label_info"


class ImageTopic(NamedTuple):
    """An image topic, its CameraInfo topic, and the camera's name (its namespace)."""

    camera: str
    image: str
    info: str


def _listed(topics: list[Topic]) -> str:
    return ", ".join(f"{topic.name} ({topic.type}, {topic.messages})" for topic in topics) or "none"


def is_result(topic: str) -> bool:
    """Whether this package writes the topic: the truth of a converted drive, or an output of the node."""
    return topic.startswith("/ground_truth/") or "/segment/output/" in topic


def cloud_topic(path: Path, topics: list[Topic], wanted: str | None) -> str:
    """The topic of the clouds: the one asked for, or the only one there is.

    Raises:
        DriveError: none, several, or another type; the message lists the topics.
    """
    if wanted is not None:
        found = next((topic for topic in topics if topic.name == wanted), None)
        if found is None:
            raise DriveError(f"{path}: no topic {wanted}; topics: {_listed(topics)}")
        if found.type != POINT_CLOUD:
            raise DriveError(f"{path}: topic {wanted} is {found.type}, not {POINT_CLOUD}; topics: {_listed(topics)}")
        return wanted
    clouds = [topic for topic in topics if topic.type == POINT_CLOUD and not is_result(topic.name)]
    # A driver's topic that recorded nothing is no candidate beside one that did.
    clouds = [topic for topic in clouds if topic.messages] or clouds
    if not clouds:
        raise DriveError(f"{path}: no topic of type {POINT_CLOUD}; topics: {_listed(topics)}")
    if len(clouds) > 1:
        names = ", ".join(f"{topic.name} ({topic.messages})" for topic in clouds)
        raise DriveError(f"{path}: several cloud topics: {names}; choose one with --topic")
    return clouds[0].name


def image_topics(topics: list[Topic]) -> list[ImageTopic]:
    """Image topics that have a CameraInfo topic beside them, one a camera, compressed ones first.

    image_transport's names: `/cam/image_raw` and `/cam/image_raw/compressed` go with `/cam/camera_info`.
    """
    infos = {topic.name for topic in topics if topic.type == CAMERA_INFO}
    found: dict[str, ImageTopic] = {}
    for kind in (COMPRESSED_IMAGE, IMAGE):
        for topic in topics:
            base = topic.name.removesuffix("/compressed")
            namespace = base.rpartition("/")[0]
            info = f"{namespace}/camera_info"
            if topic.type == kind and topic.messages and info in infos and not is_result(topic.name):
                camera = namespace.rpartition("/")[2] or "camera"
                found.setdefault(info, ImageTopic(camera, topic.name, info))
    return sorted(found.values())


def has_labels(topics: list[Topic], cloud: str, info: str) -> bool:
    """Whether the bag holds the topic `cloud` of labelled points and the topic `info` of their class names."""
    types = {topic.name: topic.type for topic in topics}
    return types.get(cloud) == POINT_CLOUD and types.get(info) == LABEL_INFO


def class_ids(cloud: Cloud, points: int, source: str) -> npt.NDArray[np.uint8]:
    """The labels (N,) uint8 of a truth cloud. Raises LabelError: no `class_id`, or not as many as the scan's points."""
    values = cloud.columns.get("class_id")
    if values is None or values.dtype != np.uint8 or values.ndim != 1:
        raise LabelError(f"{source}: no field class_id of type uint8; fields: {', '.join(cloud.columns)}")
    if len(values) != points:
        raise LabelError(f"{source}: {len(values)} labels for a scan of {points} points")
    return values.copy()


def labels_from_names(names: dict[int, str], source: str) -> LabelSpace:
    """The shipped label space whose classes are these, else one made of the names alone.

    Raises:
        DriveError: the ids are not 0 .. C-1.
    """
    if not names or sorted(names) != list(range(len(names))):
        raise DriveError(f"{source}: class ids {sorted(names)} are not 0, 1, 2, ...")
    ordered = tuple(names[i] for i in range(len(names)))
    for path in sorted((config_dir() / "labels").glob("*.yaml")):
        space = LabelSpace.load(path)
        if space.names == ordered:
            return space
    hues = [colorsys.hsv_to_rgb(i / len(ordered), 0.7, 0.95) for i in range(len(ordered))]
    classes = [
        {"name": name, "color": [round(255 * v) for v in hue], "raw": [i + 1], "submission": i + 1}
        for i, (name, hue) in enumerate(zip(ordered, hues, strict=True))
    ]
    return LabelSpace.from_dict({"name": "bag", "ignore": [0], "classes": classes}, source)
