"""What a file or folder is and what is in it, as plain data (`mdkt info`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mdkt_ros.cloud import Cloud
from mdkt_ros.drive import drive_kind, open_drive
from mdkt_ros.drive.bag import BagDrive
from mdkt_ros.drive.bag_file import BagFile
from mdkt_ros.drive.folder import kind_of
from mdkt_ros.drive.frame import Drive, Frame
from mdkt_ros.drive.nuscenes import NuScenes
from mdkt_ros.drive.semantickitti import SemanticKitti
from mdkt_ros.drive.sight import shares
from mdkt_ros.errors import CloudError, DriveError
from mdkt_ros.labels import IGNORE, LabelSpace
from mdkt_ros.resources import checkpoint_path
from mdkt_ros.scan import read_scan

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
"""The last three are never loaded, but what says so is the reader of checkpoints."""


def describe(path: Path | str) -> dict[str, Any]:
    """Describe a bag, a data set folder, a scan file or a checkpoint (one that ships with the package by name).

    Returns:
        JSON types only (no NaN). Always `path` and `kind`: bag, semantickitti, nuscenes, kitti_object, folder, scan or
        checkpoint; sizes in bytes, times in seconds, lengths in metres. What the rest is depends on the kind; what is
        not known is null. `percent_in_view` of the first scan's points fall into an image, `percent_visible` are not
        hidden there behind what the LiDAR looks past.

    Raises:
        DriveError: nothing that is recognised. CheckpointError, CloudError, LabelError: the file cannot be read.
    """
    path = checkpoint_path(path)
    if path.suffix in CHECKPOINT_SUFFIXES:
        return _checkpoint(path)
    kind = drive_kind(path)
    if kind == "bag":
        return _bag(path)
    if path.is_file():
        return _scan(path)
    return {"path": str(path), "kind": kind, **_drive(open_drive(path))}


def _checkpoint(path: Path) -> dict[str, Any]:
    # Late, because torch takes seconds to import and only this kind needs it.
    from mdkt_ros.checkpoint import load_checkpoint

    network, meta = load_checkpoint(path)
    document = meta.to_dict()
    return {
        "path": str(path),
        "kind": "checkpoint",
        "bytes": path.stat().st_size,
        "parameters": sum(int(value.numel()) for value in network.parameters()),
        **{key: document[key] for key in ("format_version", "network", "features", "grid", "intensity_scale", "axes")},
        "labels": _labels(meta.labels),
        "text_embeddings": None if meta.text_embeddings is None else list(meta.text_embeddings.shape),
        "open_vocabulary": document.get("open_vocabulary"),
        "training": meta.training,
        "data": meta.data,
    }


def _labels(labels: LabelSpace | None) -> dict[str, Any] | None:
    if labels is None:
        return None
    return {
        "name": labels.name,
        "classes": list(labels.names),
        "groups": {k: list(v) for k, v in labels.groups.items()},
    }


def _bag(path: Path) -> dict[str, Any]:
    with BagFile(path) as bag:
        topics = bag.topics
        latched = {c.topic for c in bag.connections if _is_latched(c)}
        described: dict[str, Any] = {
            "path": str(path),
            "kind": "bag",
            "bytes": _size(path),
            "storage": bag.storage,
            "compression": bag.compression.name.lower(),
            "ros_distro": bag.ros_distro,
            "start": bag.start / 1e9,
            "duration": bag.duration,
            "messages": sum(topic.messages for topic in topics),
            "topics": [{**topic._asdict(), "latched": topic.name in latched} for topic in topics],
        }
    try:
        with BagDrive(path) as drive:
            described["cloud_topic"] = drive.topic
            described["prediction"] = _labels(drive.prediction_labels)
            described.update(_drive(drive))
            described["intensity_scale"] = drive.stated_intensity_scale
    except (DriveError, CloudError) as error:
        # Without a cloud, or with several, it is still a bag whose topics one wants to see.
        described["cloud_topic"] = None
        described["note"] = str(error)
    return described


def _is_latched(connection: Any) -> bool:
    return any(profile.durability.name == "TRANSIENT_LOCAL" for profile in connection.ext.offered_qos_profiles)


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.iterdir() if p.is_file()) if path.is_dir() else path.stat().st_size


def _drive(drive: Drive) -> dict[str, Any]:
    first = drive[0]
    described: dict[str, Any] = {
        "name": drive.name,
        "scans": len(drive),
        "axes": drive.axes,
        "intensity_scale": drive.intensity_scale,
        "labels": _labels(drive.labels),
        "cameras": [
            {
                "name": v.camera.name,
                "width": v.camera.width,
                "height": v.camera.height,
                "distortion": v.camera.distortion,
            }
            for v in first.views
        ],
        "poses": first.world_from_lidar is not None,
        "first_scan": _frame(first, drive.labels),
    }
    if not isinstance(drive, BagDrive):
        # A bag knows its duration, and its last scan is found only behind all others.
        described["duration"] = (drive[len(drive) - 1].stamp - first.stamp) / 1e9
    if isinstance(drive, SemanticKitti):
        described["sequences"] = _counted([drive.sequence(i) for i in range(len(drive))])
    if isinstance(drive, NuScenes):
        described["version"] = drive.version
        described["scenes"] = _counted([drive.scene(i) for i in range(len(drive))])
    return described


def _counted(names: list[str]) -> dict[str, int]:
    return {name: names.count(name) for name in dict.fromkeys(names)}


def _frame(frame: Frame, labels: LabelSpace | None) -> dict[str, Any]:
    described = _points(frame.points, frame.intensity)
    described["rings"] = None if frame.ring is None or not len(frame.ring) else int(frame.ring.max()) + 1
    in_view, seen = (round(100 * share, 1) for share in shares(frame)) if frame.views else (None, None)
    described["percent_in_view"], described["percent_visible"] = in_view, seen
    described["classes"] = None
    if labels is not None and frame.labels is not None:
        counts = np.bincount(frame.labels, minlength=256)
        described["classes"] = {name: int(counts[i]) for i, name in enumerate(labels.names) if counts[i]}
        described["unlabelled"] = int(counts[IGNORE])
    return described


def _points(points: npt.NDArray[np.float32], intensity: npt.NDArray[np.float32] | None) -> dict[str, Any]:
    finite = np.isfinite(points).all(axis=1)
    kept = points[finite]
    described: dict[str, Any] = {
        "points": len(points),
        "finite_points": int(finite.sum()),
        "minimum": [float(v) for v in kept.min(axis=0)] if len(kept) else None,
        "maximum": [float(v) for v in kept.max(axis=0)] if len(kept) else None,
        "intensity": None,
    }
    if intensity is not None and len(sound := intensity[np.isfinite(intensity)]):
        described["intensity"] = {"minimum": float(sound.min()), "maximum": float(sound.max())}
    return described


def _scan(path: Path) -> dict[str, Any]:
    cloud: Cloud = read_scan(path)
    kind = kind_of(path)
    return {
        "path": str(path),
        "kind": "scan",
        "bytes": path.stat().st_size,
        "format": path.suffix[1:] if kind is None else kind.suffix[1:],
        "height": cloud.height,
        "width": cloud.width,
        "fields": [
            {"name": name, "type": str(values.dtype), "count": 1 if values.ndim == 1 else int(values.shape[1])}
            for name, values in cloud.columns.items()
        ],
        **_points(cloud.xyz(), cloud.intensity()),
        "classes": _predicted(cloud),
    }


def _predicted(cloud: Cloud) -> dict[str, int] | None:
    """Points by class id, of a scan that `mdkt segment` wrote; its class names are in the checkpoint."""
    values = cloud.columns.get("class_id")
    if values is None or values.ndim != 1:
        return None
    ids, counts = np.unique(values, return_counts=True)
    return {str(i): int(count) for i, count in zip(ids.tolist(), counts.tolist(), strict=True) if math.isfinite(i)}
