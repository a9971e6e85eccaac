"""Builds the rows of nuScenes' tables, with the chains and cross references that its devkit follows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mdkt_ros.camera import Camera
from mdkt_ros.drive.nuscenes_schema import ATTRIBUTES, CATEGORIES, TABLES, VISIBILITIES
from mdkt_ros.drive.pose import quaternion_from_matrix
from mdkt_ros.errors import DriveError

Matrix = npt.NDArray[np.float64]
JsonRow = dict[str, Any]


@dataclass(frozen=True)
class Box:
    """An object at one key frame (a row of sample_annotation).

    nuScenes stores no velocity: its devkit takes the difference of the neighbouring key frames' boxes.

    Attributes:
        instance: name of the object, the same in every frame of its scene.
        category: one of `nuscenes_schema.CATEGORIES`.
        center: (3,) metres, world frame.
        size: (3,) metres: width (across), length (along the box's x), height.
        rotation: (4,) quaternion w, x, y, z, world from box; the box's x points forward.
        attribute: one of `nuscenes_schema.ATTRIBUTES`, or None.
        visibility: 1 to 4: how much of it the cameras see (0-40, 40-60, 60-80, 80-100 %).
    """

    instance: str
    category: str
    center: Sequence[float]
    size: Sequence[float]
    rotation: Sequence[float]
    attribute: str | None = None
    visibility: int = 4


class NuScenesRows:
    """The tables in the making: `begin_scene`, then per key frame a sample and what belongs to it, then `end_scene`.

    Tokens are MD5 sums of what they stand for, so the same input gives the same rows.
    """

    def __init__(self) -> None:
        self.tables: dict[str, list[JsonRow]] = {name: [] for name in TABLES}
        for index, name in enumerate(CATEGORIES):
            self._add("category", _token("category", name), {"name": name, "description": "", "index": index})
        for name in ATTRIBUTES:
            self._add("attribute", _token("attribute", name), {"name": name, "description": ""})
        for level, name in enumerate(VISIBILITIES, start=1):
            description = f"visibility of whole object is between {name[1:].replace('-', ' and ')}%"
            self._add("visibility", str(level), {"level": name, "description": description})
        self._known = {"sensor": set[str](), "calibrated_sensor": set[str](), "log": set[str](), "scene": set[str]()}

    def begin_scene(self, name: str) -> None:
        """Start a scene. Raises DriveError where its name is taken."""
        token = _token("scene", name)
        if token in self._known["scene"]:
            raise DriveError(f"scene {name}: two scenes have this name")
        self._known["scene"].add(token)
        self._scene = name
        self._samples: list[JsonRow] = []
        # The rows last written of each sensor and of each object: the chains prev <-> next.
        self._last_data: dict[str, JsonRow] = {}
        self._last_box: dict[str, JsonRow] = {}
        self._instances: dict[str, JsonRow] = {}

    def log(self, vehicle: str, location: str, microseconds: int) -> str:
        """Row of the log that the scene belongs to, named after its vehicle and time; returns the log's name."""
        date = datetime.fromtimestamp(microseconds // 1_000_000, timezone.utc)
        self._logfile = f"{vehicle}-{date:%Y-%m-%d-%H-%M-%S}+0000"
        self._add_once(
            "log",
            _token("log", self._logfile),
            {
                "logfile": self._logfile,
                "vehicle": vehicle,
                "date_captured": f"{date:%Y-%m-%d}",
                "location": location,
            },
        )
        return self._logfile

    def sample(self, microseconds: int) -> str:
        """Row of a key frame; returns its token. Raises DriveError where it is not later than the one before."""
        previous = self._samples[-1] if self._samples else None
        if previous is not None and microseconds <= previous["timestamp"]:
            raise DriveError(
                f"scene {self._scene}: the key frame at {microseconds} us is not later than the one before"
            )
        token = _token("sample", self._scene, microseconds)
        row = {"timestamp": microseconds, "prev": "", "next": "", "scene_token": _token("scene", self._scene)}
        self._samples.append(self._add("sample", token, row, previous))
        return token

    def sample_data(
        self,
        channel: str,
        sample: str,
        microseconds: int,
        world_from_ego: Matrix,
        ego_from_sensor: Matrix,
        camera: Camera | None,
    ) -> JsonRow:
        """Rows of sensor, calibrated_sensor, ego_pose and sample_data of one recording; returns the last."""
        token = _token("sample_data", self._scene, channel, microseconds)
        # As in the real set, where the pose of a recording has the recording's token.
        self._add("ego_pose", token, {"timestamp": microseconds, **_pose(world_from_ego)})
        suffix = "pcd.bin" if camera is None else "jpg"
        row = {
            "sample_token": sample,
            "ego_pose_token": token,
            "calibrated_sensor_token": self._calibrated_sensor(channel, ego_from_sensor, camera),
            "timestamp": microseconds,
            "fileformat": "pcd" if camera is None else "jpg",
            "is_key_frame": True,
            "height": 0 if camera is None else camera.height,
            "width": 0 if camera is None else camera.width,
            "filename": f"samples/{channel}/{self._logfile}__{channel}__{microseconds}.{suffix}",
            "prev": "",
            "next": "",
        }
        self._last_data[channel] = self._add("sample_data", token, row, self._last_data.get(channel))
        return self._last_data[channel]

    def lidarseg(self, scan: str, version: str) -> str:
        """Row of the label file of a scan (its token in sample_data); returns the file's name below the root."""
        filename = f"lidarseg/{version}/{scan}_lidarseg.bin"
        # The devkit looks a scan's labels up by the scan's own token.
        self._add("lidarseg", scan, {"sample_data_token": scan, "filename": filename})
        return filename

    def annotation(self, box: Box, sample: str, lidar_points: int) -> None:
        """Row of a box in a key frame. Raises DriveError: category, attribute, visibility or size is not possible."""
        who = f"scene {self._scene}, box {box.instance}"
        if box.category not in CATEGORIES:
            raise DriveError(f"{who}: category {box.category!r} is not one of nuScenes' {len(CATEGORIES)}")
        if box.attribute is not None and box.attribute not in ATTRIBUTES:
            raise DriveError(f"{who}: attribute {box.attribute!r} is not one of {', '.join(ATTRIBUTES)}")
        if not 1 <= box.visibility <= len(VISIBILITIES) or min(box.size) <= 0:
            raise DriveError(
                f"{who}: visibility {box.visibility} is not 1 to 4, or size {tuple(box.size)} not positive"
            )
        category = _token("category", box.category)
        token = _token("sample_annotation", sample, box.instance)
        if box.instance not in self._instances:
            row = {"category_token": category, "nbr_annotations": 0, "first_annotation_token": token}
            self._instances[box.instance] = self._add("instance", _token("instance", self._scene, box.instance), row)
        instance = self._instances[box.instance]
        if instance["category_token"] != category:
            raise DriveError(f"{who}: changes its category to {box.category}")
        instance["nbr_annotations"] += 1
        instance["last_annotation_token"] = token
        row = {
            "sample_token": sample,
            "instance_token": instance["token"],
            "visibility_token": str(box.visibility),
            "attribute_tokens": [] if box.attribute is None else [_token("attribute", box.attribute)],
            "translation": [float(v) for v in box.center],
            "size": [float(v) for v in box.size],
            "rotation": [float(v) for v in box.rotation],
            "prev": "",
            "next": "",
            "num_lidar_pts": lidar_points,
            "num_radar_pts": 0,
        }
        self._last_box[box.instance] = self._add("sample_annotation", token, row, self._last_box.get(box.instance))

    def end_scene(self, description: str) -> None:
        """Row of the scene. Raises DriveError where it has no key frames."""
        if not self._samples:
            raise DriveError(f"scene {self._scene}: has no frames")
        row = {
            "log_token": _token("log", self._logfile),
            "nbr_samples": len(self._samples),
            "first_sample_token": self._samples[0]["token"],
            "last_sample_token": self._samples[-1]["token"],
            "name": self._scene,
            "description": description,
        }
        self._add("scene", _token("scene", self._scene), row)

    def maps(self) -> list[str]:
        """Rows of one map a location; returns their files' names below the root."""
        for location in dict.fromkeys(row["location"] for row in self.tables["log"]):
            token = _token("map", location)
            logs = [row["token"] for row in self.tables["log"] if row["location"] == location]
            self._add("map", token, {"category": "semantic_prior", "filename": f"maps/{token}.png", "log_tokens": logs})
        return [row["filename"] for row in self.tables["map"]]

    def write(self, folder: Path, splits: Mapping[str, Sequence[str]] | None) -> None:
        """Write the tables as `<table>.json` into an existing folder; lidarseg only where there are labels."""
        for name, rows in self.tables.items():
            if name != "lidarseg" or rows:
                _write_json(folder / f"{name}.json", rows)
        if splits is not None:
            _write_json(folder / "splits.json", {split: list(names) for split, names in splits.items()})

    def _calibrated_sensor(self, channel: str, ego_from_sensor: Matrix, camera: Camera | None) -> str:
        sensor = _token("sensor", channel)
        self._add_once("sensor", sensor, {"channel": channel, "modality": "lidar" if camera is None else "camera"})
        intrinsic = [] if camera is None else camera.matrix.tolist()
        row = {"sensor_token": sensor, **_pose(ego_from_sensor), "camera_intrinsic": intrinsic}
        token = _token("calibrated_sensor", self._scene, json.dumps(row))
        self._add_once("calibrated_sensor", token, row)
        return token

    def _add(self, table: str, token: str, fields: JsonRow, previous: JsonRow | None = None) -> JsonRow:
        row = {"token": token, **fields}
        if previous is not None:
            previous["next"], row["prev"] = token, previous["token"]
        self.tables[table].append(row)
        return row

    def _add_once(self, table: str, token: str, fields: JsonRow) -> None:
        if token not in self._known[table]:
            self._known[table].add(token)
            self._add(table, token, fields)


def _token(*parts: object) -> str:
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def _pose(pose: Matrix) -> JsonRow:
    return {"rotation": quaternion_from_matrix(pose).tolist(), "translation": pose[:3, 3].tolist()}


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=0, allow_nan=False), encoding="utf-8", newline="\n")
