"""Recorded drives in all their forms; `open_drive` chooses the form by looking at the path."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mdkt_ros.drive.frame import Axes, Drive, Frame, View
from mdkt_ros.errors import DriveError
from mdkt_ros.labels import LabelSpace

__all__ = ["Axes", "Drive", "DriveKind", "Frame", "View", "drive_kind", "open_drive"]

DriveKind = Literal["semantickitti", "nuscenes", "kitti_object", "bag", "folder"]

RECOGNISED = (
    "a SemanticKITTI root (sequences/) or sequence (velodyne/), a nuScenes root (v1.0-*/sample.json), "
    "a KITTI object split (velodyne/ and calib/), a rosbag2 (metadata.yaml, .mcap, .db3), "
    "or a folder of scans or one scan (.bin, .pcd.bin, .pcd)"
)


def drive_kind(path: Path | str) -> DriveKind:
    """Which form of a drive is at `path`, by the names of files and folders alone.

    Raises:
        DriveError: nothing is there, or nothing that is recognised; the message lists what is.
    """
    path = Path(path)
    if not path.exists():
        raise DriveError(f"{path}: does not exist")
    if path.is_file():
        if path.suffix in {".mcap", ".db3"}:
            return "bag"
        if path.suffix in {".bin", ".pcd"}:
            return "folder"
    elif (path / "metadata.yaml").is_file() or _any(path, "*.mcap") or _any(path, "*.db3"):
        return "bag"
    elif _any(path, "v1.0-*/sample.json"):
        return "nuscenes"
    elif (path / "velodyne").is_dir():
        return "kitti_object" if (path / "calib").is_dir() else "semantickitti"
    elif (path / "sequences").is_dir() or (path / "dataset" / "sequences").is_dir():
        return "semantickitti"
    elif (path / "training" / "velodyne").is_dir():
        return "kitti_object"
    elif _any(path, "*.bin") or _any(path, "*.pcd"):
        return "folder"
    raise DriveError(f"{path}: is not a recorded drive that is recognised: {RECOGNISED}")


def open_drive(
    path: Path | str,
    *,
    labels: LabelSpace | None = None,
    kind: DriveKind | None = None,
    sequence: str | None = None,
    topic: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> Drive:
    """Open a recorded drive.

    Args:
        path: a folder or file; see `RECOGNISED`.
        labels: label space of its label files; by default that of the data set.
        kind: the form, instead of looking at the path.
        sequence: SemanticKITTI sequence (`08`) or nuScenes scene (`scene-0103`); all of them by default.
        topic: cloud topic of a bag with several.
        image_size: width and height that a KITTI calibration belongs to, where the images were scaled since and it is
            not one of KITTI's own, which are recognised.

    Raises:
        DriveError: not recognised, incomplete, or an argument that this form does not take.
    """
    path = Path(path)
    chosen = kind or drive_kind(path)
    if sequence is not None and chosen not in ("semantickitti", "nuscenes"):
        raise DriveError(f"{path}: is a {chosen} drive, which has no sequences to choose {sequence} from")
    if topic is not None and chosen != "bag":
        raise DriveError(f"{path}: is a {chosen} drive, which has no topics to choose {topic} from")
    if image_size is not None and chosen not in ("semantickitti", "kitti_object"):
        raise DriveError(f"{path}: is a {chosen} drive, whose calibration tells the images' size itself")
    if chosen == "semantickitti":
        from mdkt_ros.drive.semantickitti import SemanticKitti

        sequences = None if sequence is None else [sequence]
        return SemanticKitti(path, sequences=sequences, labels=labels, image_calibration_size=image_size)
    if chosen == "nuscenes":
        from mdkt_ros.drive.nuscenes import NuScenes

        return NuScenes(path, scenes=None if sequence is None else [sequence], labels=labels)
    if chosen == "kitti_object":
        from mdkt_ros.drive.kitti_object import KittiObject

        return KittiObject(path, image_calibration_size=image_size)
    if chosen == "bag":
        from mdkt_ros.drive.bag import BagDrive

        return BagDrive(path, topic=topic)
    from mdkt_ros.drive.folder import ScanFolder

    return ScanFolder(path, labels=labels)


def _any(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None
