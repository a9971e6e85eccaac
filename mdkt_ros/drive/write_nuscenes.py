"""Writes scenes as a nuScenes data set that its devkit opens: JSON tables, scans, images, point labels, boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mdkt_ros.drive.frame import Frame, View
from mdkt_ros.drive.nuscenes import LIDAR
from mdkt_ros.drive.nuscenes_rows import Box, Matrix, NuScenesRows
from mdkt_ros.drive.nuscenes_schema import CATEGORIES
from mdkt_ros.drive.pose import inverse, pose_from_quaternion
from mdkt_ros.drive.write_frame import image_bytes, raw_labels, scan_bytes
from mdkt_ros.errors import DriveError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.output import atomic_output
from mdkt_ros.products import times_small

__all__ = ["Box", "Scene", "write_nuscenes"]


@dataclass(frozen=True)
class Scene:
    """A drive to write.

    Attributes:
        name: `scene-0001`.
        frames: key frames in order of time, each with its boxes; every frame has a pose.
        ego_from_lidar: (4, 4) pose of the LiDAR on the vehicle (x forward, y left, z up), metres.
        ego_from_camera: the same of each camera by its name (`CAM_FRONT`). The vehicle's pose at an image's time
            follows from it and from the view's `camera_from_lidar`, which includes the motion since the scan.
        description: a sentence.
        location: name of the map (the real ones: boston-seaport, singapore-onenorth, ...).
        vehicle: name of the vehicle.
    """

    name: str
    frames: Iterable[tuple[Frame, Sequence[Box]]]
    ego_from_lidar: Matrix
    ego_from_camera: Mapping[str, Matrix] = field(default_factory=dict)
    description: str = ""
    location: str = "synthetic-town"
    vehicle: str = "n000"


def write_nuscenes(
    root: Path | str,
    scenes: Iterable[Scene],
    *,
    version: str = "v1.0-mini",
    labels: LabelSpace | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
    intensity_scale: float = 1.0,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    total: int = 0,
) -> None:
    """Write a data set: samples/, lidarseg/, maps/ and the tables in `<version>/`; frames are read one at a time.

    Same input, same bytes. Time is kept to the microsecond. Only key frames are written (no sweeps/).

    Args:
        root: folder to make.
        scenes: with distinct names.
        labels: label space of the frames; turns class ids into raw ids where a frame has no `raw_labels`.
        splits: split -> scene names, written as `<version>/splits.json`, where the devkit looks for custom splits.
        intensity_scale: factor that brings the frames' intensity to nuScenes' 0..255.
        force: replace `root` where it exists.
        progress: called with (frames done, `total`).

    Raises:
        OutputError: `root` exists and `force` is false, or cannot be written; nothing is left half-written.
        DriveError: no frames, or a frame, camera or box that the format has no place for: the message says why.
        LabelError: raw class ids beyond the 32 categories, or class ids without a label space.
    """
    with atomic_output(root, force=force) as temporary:
        for folder in (f"samples/{LIDAR}", "maps", version):
            (temporary / folder).mkdir(parents=True)
        writer = _SampleWriter(temporary, version, labels, intensity_scale)
        done = 0
        for scene in scenes:
            writer.rows.begin_scene(scene.name)
            for frame, boxes in scene.frames:
                writer.add(scene, frame, boxes)
                done += 1
                if progress is not None:
                    progress(done, total)
            writer.rows.end_scene(scene.description)
        if not done:
            raise DriveError("a nuScenes data set needs at least one scene")
        for filename in writer.rows.maps():
            # Empty: nothing here reads it, but the devkit wants the map of every log.
            Image.new("L", (100, 100)).save(temporary / filename)
        writer.rows.write(temporary / version, splits)


class _SampleWriter:
    def __init__(self, root: Path, version: str, labels: LabelSpace | None, intensity_scale: float) -> None:
        self.root, self.version = root, version
        self.labels, self.intensity_scale = labels, intensity_scale
        self.rows = NuScenesRows()
        self._logged = ""

    def add(self, scene: Scene, frame: Frame, boxes: Sequence[Box]) -> None:
        if frame.world_from_lidar is None:
            raise DriveError(f"scene {scene.name}, frame {frame.name}: has no pose, which nuScenes needs")
        microseconds = frame.stamp // 1000
        if self._logged != scene.name:
            self.rows.log(scene.vehicle, scene.location, microseconds)
            self._logged = scene.name
        sample = self.rows.sample(microseconds)
        world_from_ego = frame.world_from_lidar @ inverse(scene.ego_from_lidar)
        data = self.rows.sample_data(LIDAR, sample, microseconds, world_from_ego, scene.ego_from_lidar, None)
        # Not tofile, which hides from the caller that the disk is full.
        (self.root / data["filename"]).write_bytes(scan_bytes(frame, 5, self.intensity_scale))
        raw = raw_labels(frame, self.labels, len(CATEGORIES) - 1)
        if raw is not None:
            path = self.root / self.rows.lidarseg(data["token"], self.version)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw.astype(np.uint8).tobytes())
        for view in frame.views:
            self._view(scene, view, sample, frame.world_from_lidar)
        for box in boxes:
            self.rows.annotation(box, sample, _points_in_box(box, frame.points, frame.world_from_lidar))

    def _view(self, scene: Scene, view: View, sample: str, world_from_lidar: Matrix) -> None:
        camera = view.camera
        if camera.name not in scene.ego_from_camera:
            raise DriveError(f"scene {scene.name}: ego_from_camera lacks the camera {camera.name}")
        if camera.distortion != "none" or np.any(camera.projection_offset):
            raise DriveError(f"camera {camera.name}: nuScenes' images are rectified; distortion has no place there")
        ego_from_camera = scene.ego_from_camera[camera.name]
        world_from_ego = world_from_lidar @ inverse(camera.camera_from_lidar) @ inverse(ego_from_camera)
        data = self.rows.sample_data(camera.name, sample, view.stamp // 1000, world_from_ego, ego_from_camera, camera)
        path = self.root / data["filename"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image_bytes(view, "JPEG"))


def _points_in_box(box: Box, points: npt.NDArray[np.float32], world_from_lidar: Matrix) -> int:
    try:
        world_from_box = pose_from_quaternion(box.rotation, box.center)
    except ValueError as error:
        raise DriveError(f"box {box.instance}: {error}") from error
    box_from_lidar = inverse(world_from_box) @ world_from_lidar
    local = times_small(points, box_from_lidar[:3, :3].T) + box_from_lidar[:3, 3]
    width, length, height = box.size
    return int((np.abs(local) <= np.array([length, width, height]) / 2).all(axis=1).sum())
