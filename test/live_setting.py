"""A labeller without ROS, with everything around it, and the messages that it gets."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
from fake_drive import jpeg

from mdkt_ros.cloud import build_pointcloud2
from mdkt_ros.errors import CameraError
from mdkt_ros.live.health import Health, Limits
from mdkt_ros.live.images import ImageStore
from mdkt_ros.live.labeller import Labeller, Scan
from mdkt_ros.live.statistics import Statistics
from mdkt_ros.live.warmup import street

MS = 1_000_000


@dataclass
class Listener:
    """Outputs that keep what they get."""

    listens: frozenset = frozenset({"segmentation"})
    clouds: dict = field(default_factory=dict)
    pictures: dict = field(default_factory=dict)
    milliseconds: list = field(default_factory=list)
    complaints: list = field(default_factory=list)
    order: list = field(default_factory=list)

    def wanted(self):
        return self.listens

    def cloud(self, output, cloud, scan):
        self.order.append(output)
        self.clouds[output] = cloud

    def image(self, output, pixels, image):
        self.order.append(output)
        self.pictures[output] = pixels

    def times(self, milliseconds, scan):
        self.order.append("times")
        self.milliseconds.append(milliseconds)

    def complain(self, what, message):
        self.complaints.append((what, message))


OPTICAL = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])


class Setting:
    """A labeller with everything around it."""

    def __init__(self, segmenter, **options):
        self.segmenter = segmenter
        self.listener, self.statistics, self.health = Listener(), Statistics(), Health(Limits())
        self.images = ImageStore(50 * MS)
        self.labeller = Labeller(
            segmenter, self.listener, self.statistics, self.health, self.images, self.extrinsics, **options
        )

    def extrinsics(self, camera, image_stamp, lidar, scan_stamp):
        if camera != "optical":
            raise CameraError(f"no transform from {lidar} to {camera}")
        return OPTICAL

    def process(self, message, stamp=1000 * MS, **more):
        self.statistics.count("received")
        self.labeller.process(Scan(message, stamp, "lidar", time.perf_counter(), **more))


def cloud_message(count=500, **changes):
    """An organised cloud with padding-free rows, a ring and one NaN."""
    points = street(count)
    points[3:4] = np.nan
    columns = {
        "ring": np.arange(count, dtype=np.uint16),
        **{name: points[:, axis] for axis, name in enumerate("xyz")},
        "intensity": np.linspace(0, 1, count, dtype=np.float32),
    }
    message = build_pointcloud2(columns, height=2 if count % 2 == 0 else 1, is_dense=False)
    return SimpleNamespace(**{**vars(message), **changes})


def image(stamp, frame="optical", data=None):
    header = SimpleNamespace(stamp=stamp, frame_id=frame)
    return SimpleNamespace(header=header, format="jpeg", data=jpeg(0, 64, 48) if data is None else data)


def info(**changes):
    k = np.array([40.0, 0, 32, 0, 40, 24, 0, 0, 1])
    p = np.array([40.0, 0, 32, 0, 0, 40, 24, 0, 0, 0, 1, 0])
    fields = {"width": 64, "height": 48, "distortion_model": "plumb_bob", "d": np.zeros(5), "k": k, "p": p}
    return SimpleNamespace(**{**fields, **changes})
