"""Scans whose cameras' images say where each pixel is, and the finder of their pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdkt_ros.camera import Camera
from mdkt_ros.drive.frame import Frame, View
from mdkt_ros.errors import DriveError
from mdkt_ros.labels import LabelSpace
from training.data.pair_finder import ImagePairs, PairFinder
from training.data.pairs import ExamplePairs
from training.data.source import Source
from training.scheme.config import ImagesConfig

OPTICAL = np.array([[0, -1, 0, 0.0], [0, 0, -1, 0.0], [1, 0, 0, 0.0], [0, 0, 0, 1.0]])
"""x right, y down, z forward of a camera that looks along the LiDAR's x."""
AS_IT_IS = ImagesConfig(cameras=9, scale=1.0, color=0.0)


def camera(name: str = "front", width: int = 200, height: int = 100, yaw: float = 0.0) -> Camera:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]]
    matrix = np.array([[80.0, 0, width / 2 - 0.5], [0, 80.0, height / 2 - 0.5], [0, 0, 1]])
    return Camera(name, width, height, matrix, OPTICAL @ turn)


def coordinates_image(width: int = 200, height: int = 100) -> np.ndarray:
    """Red says the column, green the row."""
    v, u = np.mgrid[:height, :width]
    return np.stack([u, v, np.full_like(u, 77)], axis=2).astype(np.uint8)


def cloud(points: int = 400, seed: int = 0) -> np.ndarray:
    """Points in all directions, on a sphere so that none hides another; the first is lost."""
    direction = np.random.default_rng(seed).normal(0, 1, (points, 3)) * (1, 1, 0.2)
    xyz = (10 * direction / np.linalg.norm(direction, axis=1, keepdims=True)).astype(np.float32)
    xyz[0] = np.nan
    return xyz


class Recorded:
    """Scans with views, that counts what is read."""

    name, axes, intensity_scale = "recorded", "x_forward", 1.0
    labels = LabelSpace.load("semantickitti")

    def __init__(self, cameras: list[Camera], scans: int = 2) -> None:
        self.cameras, self.scans, self.frames_read, self.images_read = cameras, scans, 0, 0

    def __len__(self) -> int:
        return self.scans

    def load(self, lens: Camera) -> np.ndarray:
        self.images_read += 1
        if lens.name == "broken":
            raise DriveError("broken.png: is truncated")
        return coordinates_image(lens.width, lens.height)

    def __getitem__(self, index: int) -> Frame:
        self.frames_read += 1
        points = cloud(seed=index)
        labels = (np.arange(len(points)) % 5).astype(np.uint8)
        views = tuple(View(lens, 0, lambda lens=lens: self.load(lens)) for lens in self.cameras)
        return Frame(f"{index:06}", 0, points, labels=labels, views=views)


def source(*cameras: Camera) -> Source:
    drive = Recorded(list(cameras))
    return Source("folder", Path("."), ("a", "b"), drive.labels, drive)


def finder(*cameras: Camera, images: ImagesConfig = AS_IT_IS, **options: bool) -> PairFinder:
    return PairFinder(source(*cameras), images, **{"train": False, **options})


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def under(pairs: ImagePairs | ExamplePairs) -> np.ndarray:
    """Colour (P, 3) of the pixel nearest to each pair."""
    u, v = np.rint(pairs.pixel).astype(int).T
    return pairs.images[pairs.image, :, v, u]
