"""nuScenes from its JSON tables, without its devkit: key frames with point labels, six cameras and poses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mdkt_ros.camera import Camera
from mdkt_ros.drive.frame import Axes, Frame, View
from mdkt_ros.drive.images import image_view
from mdkt_ros.drive.nuscenes_tables import Row, Tables
from mdkt_ros.drive.pose import inverse
from mdkt_ros.drive.read_frame import read_frame
from mdkt_ros.drive.selection import Frames, select
from mdkt_ros.errors import DriveError
from mdkt_ros.labels import LabelSpace

LIDAR = "LIDAR_TOP"


@dataclass(frozen=True)
class _Sensor:
    channel: str
    modality: str
    ego_from_sensor: npt.NDArray[np.float64]
    matrix: npt.NDArray[np.float64] | None


@dataclass(frozen=True)
class _Recording:
    """A row of sample_data with what it refers to."""

    row: Row
    sensor: _Sensor
    world_from_ego: npt.NDArray[np.float64]

    @property
    def world_from_sensor(self) -> npt.NDArray[np.float64]:
        return self.world_from_ego @ self.sensor.ego_from_sensor

    @property
    def stamp(self) -> int:
        return self.row.integer("timestamp") * 1000


@dataclass(frozen=True)
class _KeyFrame:
    token: str
    scene: str
    lidar: _Recording
    cameras: tuple[_Recording, ...]
    label_file: Path | None


class NuScenes:
    """The key frames of a data set, by scene and then by time. `Frame.name` is the sample's token.

    Args:
        root: the folder that holds `v1.0-*/`, `samples/` and `lidarseg/`.
        version: the tables' folder, where there are several (`v1.0-mini`, `v1.0-trainval`, `v1.0-test`).
        scenes: names of the scenes, in this order; all of them, sorted, by default.
        split: instead of `scenes`, a split of `<version>/splits.json` ({split: [scene, ...]}, as the devkit reads it).
        labels: label space; the 16 classes of nuScenes-lidarseg by default.
        frames: positions of the key frames to keep.

    Raises:
        DriveError: no such version, scene or split; a table, row or field is missing: the message names it.
    """

    axes: Axes = "y_forward"
    intensity_scale: float = 1 / 255

    def __init__(
        self,
        root: Path | str,
        *,
        version: str | None = None,
        scenes: Sequence[str] | None = None,
        split: str | None = None,
        labels: LabelSpace | None = None,
        frames: Frames = None,
    ) -> None:
        self.root = Path(root)
        self.version = _version(self.root, version)
        tables = Tables(self.root / self.version)
        if split is not None:
            if scenes is not None:
                raise DriveError(f"{self.root}: give scenes or a split, not both")
            scenes = read_split(tables.folder / "splits.json", split)
        self._frames = select(_key_frames(self.root, tables, scenes), frames, str(self.root))
        self._space = labels or LabelSpace.load("nuscenes")
        self.labels: LabelSpace | None = self._space if any(f.label_file for f in self._frames) else None
        names = {frame.scene for frame in self._frames}
        self.name = names.pop() if len(names) == 1 else f"{self.root.name}-{self.version}"

    def __len__(self) -> int:
        return len(self._frames)

    def scene(self, index: int) -> str:
        """Name of the scene that a frame belongs to (`scene-0103`)."""
        return self._frames[index].scene

    def lidar_token(self, index: int) -> str:
        """Token of the scan in sample_data, which label and prediction files are named by."""
        return self._frames[index].lidar.row.text("token")

    def scan_path(self, index: int) -> Path:
        """The frame's .pcd.bin file."""
        return self.root / self._frames[index].lidar.row.text("filename")

    def ego_from_lidar(self, index: int) -> npt.NDArray[np.float64]:
        """Pose (4, 4) of the LiDAR on the vehicle, metres."""
        return self._frames[index].lidar.sensor.ego_from_sensor

    def __getitem__(self, index: int) -> Frame:
        """Read one key frame. Raises CloudError, LabelError or DriveError that names the file."""
        frame = self._frames[index]
        world_from_lidar = frame.lidar.world_from_sensor
        return read_frame(
            self.scan_path(index),
            frame.label_file,
            self._space,
            columns=5,
            name=frame.token,
            stamp=frame.lidar.stamp,
            world_from_lidar=world_from_lidar,
            views=tuple(self._view(camera, world_from_lidar) for camera in frame.cameras),
        )

    def _view(self, recording: _Recording, world_from_lidar: npt.NDArray[np.float64]) -> View:
        row, sensor = recording.row, recording.sensor
        assert sensor.matrix is not None
        # lidar -> ego at the scan's time -> world -> ego at the image's time -> camera
        camera_from_lidar = inverse(recording.world_from_sensor) @ world_from_lidar
        camera = Camera(sensor.channel, row.integer("width"), row.integer("height"), sensor.matrix, camera_from_lidar)
        return image_view(self.root / row.text("filename"), camera, recording.stamp)


def read_split(path: Path, split: str) -> list[str]:
    """Scenes of a split of a `splits.json`. Raises DriveError that lists the splits."""
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DriveError(f"{path}: the splits cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DriveError(f"{path}: not JSON: {error}") from error
    if not isinstance(splits, dict) or not isinstance(splits.get(split), list):
        known = ", ".join(splits) if isinstance(splits, dict) else "none"
        raise DriveError(f"{path}: no split {split!r}; there are {known}")
    return [str(name) for name in splits[split]]


def _version(root: Path, version: str | None) -> str:
    present = sorted(path.parent.name for path in root.glob("v1.0-*/sample.json"))
    if version is not None:
        if not (root / version).is_dir():
            raise DriveError(f"{root}: no version {version}; there are {', '.join(present) or 'none'}")
        return version
    if not present:
        raise DriveError(f"{root}: no nuScenes tables (v1.0-mini/sample.json or the like)")
    if len(present) > 1:
        raise DriveError(f"{root}: holds {', '.join(present)}; choose a version")
    return present[0]


def _key_frames(root: Path, tables: Tables, scenes: Sequence[str] | None) -> list[_KeyFrame]:
    by_name = {row.text("name"): row.text("token") for row in tables.rows("scene")}
    for name in scenes or ():
        if name not in by_name:
            raise DriveError(f"{tables.path('scene')}: no scene {name}; there are {len(by_name)}: {_some(by_name)}")
    chosen = sorted(by_name) if scenes is None else list(scenes)
    order = {by_name[name]: position for position, name in enumerate(chosen)}
    known = set(by_name.values())
    samples: list[Row] = []
    for row in tables.rows("sample"):
        scene = row.text("scene_token")
        if scene not in known:
            needed_by = f"sample {row.text('token')}, field scene_token"
            raise DriveError(f"{tables.path('scene')}: no row with token {scene!r}, needed by {needed_by}")
        if scene in order:
            samples.append(row)
    samples.sort(key=lambda row: (order[row.text("scene_token")], row.integer("timestamp")))
    if not samples:
        raise DriveError(f"{tables.path('sample')}: no samples in the scenes chosen")
    recordings = _recordings(tables, {row.text("token") for row in samples})
    label_files = _label_files(root, tables)
    frames: list[_KeyFrame] = []
    for row in samples:
        token = row.text("token")
        channels = recordings.get(token, {})
        if LIDAR not in channels:
            raise DriveError(f"{tables.path('sample_data')}: no key frame of {LIDAR} for sample {token}")
        lidar = channels[LIDAR]
        cameras = tuple(r for _, r in sorted(channels.items()) if r.sensor.modality == "camera")
        label_file = label_files.get(lidar.row.text("token"))
        frames.append(_KeyFrame(token, chosen[order[row.text("scene_token")]], lidar, cameras, label_file))
    return frames


def _recordings(tables: Tables, samples: set[str]) -> dict[str, dict[str, _Recording]]:
    """sample token -> channel -> key frame of that LiDAR or camera."""
    sensors = _sensors(tables)
    rows: list[tuple[Row, _Sensor]] = []
    for row in tables.rows("sample_data"):
        if row.flag("is_key_frame") and row.text("sample_token") in samples:
            token = row.text("calibrated_sensor_token")
            needed_by = f"sample_data {row.text('token')}, field calibrated_sensor_token"
            sensor = tables.find(sensors, "calibrated_sensor", token, needed_by)
            if sensor.modality in ("lidar", "camera"):
                rows.append((row, sensor))
    wanted = {row.text("ego_pose_token") for row, _ in rows}
    poses = tables.by_token("ego_pose", wanted.__contains__)
    recordings: dict[str, dict[str, _Recording]] = {}
    for row, sensor in rows:
        needed_by = f"sample_data {row.text('token')}, field ego_pose_token"
        pose = tables.find(poses, "ego_pose", row.text("ego_pose_token"), needed_by)
        recordings.setdefault(row.text("sample_token"), {})[sensor.channel] = _Recording(row, sensor, pose.pose())
    return recordings


def _sensors(tables: Tables) -> dict[str, _Sensor]:
    """Calibrated sensors by token."""
    channels = tables.by_token("sensor")
    sensors: dict[str, _Sensor] = {}
    for row in tables.rows("calibrated_sensor"):
        token = row.text("token")
        needed_by = f"calibrated_sensor {token}, field sensor_token"
        sensor = tables.find(channels, "sensor", row.text("sensor_token"), needed_by)
        modality = sensor.text("modality")
        matrix = row.array("camera_intrinsic", (3, 3)) if modality == "camera" else None
        sensors[token] = _Sensor(sensor.text("channel"), modality, row.pose(), matrix)
    return sensors


def _label_files(root: Path, tables: Tables) -> dict[str, Path]:
    """Scan's token -> label file; empty for the test version, which has no lidarseg table."""
    if not tables.path("lidarseg").is_file():
        return {}
    return {row.text("sample_data_token"): root / row.text("filename") for row in tables.rows("lidarseg")}


def _some(names: dict[str, str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")
