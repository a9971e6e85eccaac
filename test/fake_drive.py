"""A small drive made of numbers, for the tests of whatever takes a drive."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from mdkt_ros.camera import Camera
from mdkt_ros.drive.frame import Frame, View
from mdkt_ros.drive.pose import inverse, pose_from_quaternion
from mdkt_ros.labels import LabelSpace

MS = 1_000_000
START = 1_500_000_000_000_000_000


def jpeg(seed: int, width: int = 32, height: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


class FakeDrive:
    """A vehicle that drives a curve; one camera fires with the scan, the other 30 ms later, a quarter of a metre on."""

    name = "fake"

    def __init__(
        self,
        frames: int = 4,
        points: int = 50,
        *,
        axes: str = "x_forward",
        labelled: bool = True,
        cameras: bool = True,
        poses: bool = True,
        start: int = START,
        period: int = 100 * MS,
        intensity_scale: float = 1 / 255,
        label_space: str = "semantickitti",
    ) -> None:
        self.frames, self.points, self.axes = frames, points, axes
        self.labelled, self.cameras, self.poses = labelled, cameras, poses
        self.start, self.period = start, period
        self.intensity_scale = intensity_scale
        self.labels = LabelSpace.load(label_space) if labelled else None
        optical = np.array([[0, -1, 0, 0.1], [0, 0, -1, -0.2], [1, 0, 0, -0.3], [0, 0, 0, 1.0]])
        turn = pose_from_quaternion((np.cos(0.4), 0, 0, np.sin(0.4)), (0.5, 0.3, 0.2))
        self.mounts = {"image_2": optical, "CAM LEFT": optical @ inverse(turn)}

    def __len__(self) -> int:
        return self.frames

    def pose(self, stamp: int) -> np.ndarray:
        t = (stamp - self.start) / 1e9
        return pose_from_quaternion((np.cos(0.1 * t), 0, 0, np.sin(0.1 * t)), (8 * t, 0.5 * t, 0))

    def views(self, index: int, stamp: int) -> tuple[View, ...]:
        matrix = np.array([[20.0, 0, 16], [0, 21, 12], [0, 0, 1]])
        out = []
        for k, (name, mount) in enumerate(self.mounts.items()):
            at = stamp + k * 30 * MS
            from_lidar = mount @ inverse(self.pose(at)) @ self.pose(stamp) if self.poses else mount
            lens = {"distortion": "plumb_bob", "coefficients": (-0.1, 0.01, 0.001, 0.002, 0.0)} if k else {}
            offset = np.array([4.5, 0.2, 0.003]) if k == 0 else np.zeros(3)
            camera = Camera(name, 32, 24, matrix, from_lidar, projection_offset=offset, **lens)
            data = jpeg(100 * index + k)
            encoded = None if k else (lambda data=data: data)
            out.append(View(camera, at, lambda data=data: decode(data), encoded))
        return tuple(out)

    def __getitem__(self, index: int) -> Frame:
        if not 0 <= index < self.frames:
            raise IndexError(index)
        rng = np.random.default_rng(index)
        n = self.points + index
        stamp = self.start + index * self.period
        points = rng.normal(0, 10, (n, 3)).astype(np.float32)
        points[0] = np.nan
        return Frame(
            name=f"{index:06d}",
            stamp=stamp,
            points=points,
            intensity=rng.uniform(0, 255, n).astype(np.float32),
            ring=rng.integers(0, 32, n).astype(np.uint16),
            labels=rng.choice([0, 3, 8, 255], n).astype(np.uint8) if self.labelled else None,
            point_time=np.linspace(0, 0.1, n, dtype=np.float32),
            world_from_lidar=self.pose(stamp) if self.poses else None,
            views=self.views(index, stamp) if self.cameras else (),
        )
