"""Small random drives for the tests of readers and writers: a few frames, right in every part, made in no time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdkt_ros.camera import Camera
from mdkt_ros.drive.frame import Frame, View
from mdkt_ros.drive.pose import inverse, pose_from_quaternion
from mdkt_ros.drive.write_nuscenes import Box, Scene, write_nuscenes
from mdkt_ros.drive.write_semantickitti import write_semantickitti
from mdkt_ros.labels import LabelSpace

KITTI_TR = inverse(pose_from_quaternion([0.5, -0.49, 0.5, -0.51], [0.27, 0.0, -0.08]))
EGO_FROM_LIDAR = pose_from_quaternion([0.7077955, -0.0064923, 0.0106462, -0.7063073], [0.94, 0.0, 1.84])
EGO_FROM_CAMERA = {
    "CAM_FRONT": pose_from_quaternion([0.499, -0.502, 0.498, -0.501], [1.7, 0.01, 1.5]),
    "CAM_BACK": pose_from_quaternion([0.504, -0.497, -0.498, 0.501], [0.03, 0.0, 1.57]),
}


def image(rng: np.random.Generator, width: int = 40, height: int = 24) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def view(camera: Camera, stamp: int, pixels: np.ndarray) -> View:
    return View(camera, stamp, load=lambda: pixels)


def kitti_frames(count: int = 3, seed: int = 0) -> list[Frame]:
    """Frames as KITTI has them: moving, labelled with instances, two rectified cameras."""
    rng = np.random.default_rng(seed)
    space = LabelSpace.load("semantickitti")
    raw_ids = np.array(sorted(space.raw_ids), dtype=np.uint32)
    matrix = np.array([[30.0, 0, 19.5], [0, 30, 11.5], [0, 0, 1]])
    cameras = [
        Camera(name, 40, 24, matrix, KITTI_TR, projection_offset=np.array(offset))
        for name, offset in (("image_2", [1.8, 0.01, 0.004]), ("image_3", [-13.5, 0.09, 0.003]))
    ]
    frames = []
    for i in range(count):
        points = rng.normal(0, 10, (50 + i, 3)).astype(np.float32)
        raw = rng.choice(raw_ids, len(points))
        stamp = 7_000_000_000 + i * 103_622_400
        frames.append(
            Frame(
                name=f"{i:06d}",
                stamp=stamp,
                points=points,
                intensity=rng.random(len(points), dtype=np.float32),
                labels=space.from_raw(raw, "test"),
                raw_labels=raw,
                instance=rng.integers(0, 65536, len(points), dtype=np.uint32),
                world_from_lidar=pose_from_quaternion([1, 0.01 * i, 0, 0.1 * i], [5.0 + 1.2 * i, 40, 3]),
                views=tuple(view(camera, stamp, image(rng)) for camera in cameras),
            )
        )
    return frames


def nuscenes_scene(name: str = "scene-0001", count: int = 3, seed: int = 0) -> Scene:
    """A scene as nuScenes has it: cameras fire between scans while the vehicle moves; one box stays, one leaves."""
    rng = np.random.default_rng(seed)
    space = LabelSpace.load("nuscenes")
    matrix = np.array([[30.0, 0, 19.5], [0, 30, 11.5], [0, 0, 1]])
    frames = []
    start = 1_532_402_927_647_951_000 + seed * 60_000_000_000

    def ego(seconds: float) -> np.ndarray:
        turn = 0.2 * seconds
        return pose_from_quaternion([np.cos(turn), 0, 0, np.sin(turn)], [400 + 8 * seconds, 1180 + seconds, 0])

    for i in range(count):
        points = rng.normal(0, 10, (60 + i, 3)).astype(np.float32)
        raw = rng.integers(0, 32, len(points), dtype=np.uint32)
        world_from_lidar = ego(0.5 * i) @ EGO_FROM_LIDAR
        views = []
        for delay, (camera_name, ego_from_camera) in zip((-0.035, 0.01), EGO_FROM_CAMERA.items(), strict=True):
            camera_from_lidar = inverse(ego(0.5 * i + delay) @ ego_from_camera) @ world_from_lidar
            camera = Camera(camera_name, 40, 24, matrix, camera_from_lidar)
            views.append(view(camera, start + i * 500_000_000 + round(delay * 1e9), image(rng)))
        frame = Frame(
            name=str(i),
            stamp=start + i * 500_000_000,
            points=points,
            intensity=rng.integers(0, 256, len(points)).astype(np.float32),
            ring=rng.integers(0, 32, len(points), dtype=np.uint16),
            labels=space.from_raw(raw, "test"),
            raw_labels=raw,
            world_from_lidar=world_from_lidar,
            views=tuple(views),
        )
        boxes = [Box("car 1", "vehicle.car", (410, 1185, 1), (1.9, 4.5, 1.7), (1, 0, 0, 0), "vehicle.parked")]
        if i == 0:
            boxes.append(Box("child", "human.pedestrian.child", (405, 1180, 1), (60, 60, 60), (1, 0, 0, 0), None, 1))
        frames.append((frame, boxes))
    return Scene(name, frames, EGO_FROM_LIDAR, EGO_FROM_CAMERA, description="A test")


def write_kitti(root: Path, count: int = 3, sequence: str = "00", seed: int = 0) -> Path:
    """A SemanticKITTI data set below `root`; returns the sequence's folder."""
    write_semantickitti(root, kitti_frames(count, seed), sequence=sequence)
    return root / "sequences" / sequence


def write_nuscenes_set(root: Path, scenes: int = 1, count: int = 3) -> Path:
    """A nuScenes data set at `root`; returns its tables' folder."""
    write_nuscenes(root, [nuscenes_scene(f"scene-{i + 1:04d}", count, i) for i in range(scenes)])
    return root / "v1.0-mini"


def kitti_scan(path: Path, count: int = 60, seed: int = 0) -> np.ndarray:
    """A scan alone, (count, 4): no labels, no cameras, no calibration."""
    values = np.random.default_rng(seed).normal(0, 10, (count, 4)).astype("<f4")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(values.tobytes())
    return values


def kitti_drive(root: Path, sequence: str = "08", scans: int = 3) -> Path:
    """SemanticKITTI's folders of scans and labels alone: class 1, bicycle, where x > 0, else class 0, car."""
    for i in range(scans):
        folder = root / "sequences" / sequence
        values = kitti_scan(folder / "velodyne" / f"{i:06d}.bin", seed=i)
        (folder / "labels").mkdir(exist_ok=True)
        raw = np.where(values[:, 0] > 0, 11, 10).astype("<u4")
        (folder / "labels" / f"{i:06d}.label").write_bytes(raw.tobytes())
    return root


def tree(root: Path) -> dict[str, bytes]:
    """Every file below `root`, to compare results byte for byte."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
