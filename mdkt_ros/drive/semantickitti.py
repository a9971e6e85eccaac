"""SemanticKITTI folders: sequences/XX/{velodyne, labels, image_2, calib.txt, poses.txt, times.txt}."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mdkt_ros.camera import Camera
from mdkt_ros.drive.frame import Axes, Frame, View
from mdkt_ros.drive.images import first_readable, image_view
from mdkt_ros.drive.kitti_calibration import Calibration, read_poses, read_times
from mdkt_ros.drive.read_frame import read_frame
from mdkt_ros.drive.selection import Frames, select
from mdkt_ros.errors import DriveError
from mdkt_ros.labels import LabelSpace

SCAN_PERIOD = 100_000_000
"""Nanoseconds between scans where there is no times.txt: the sensor turns at 10 Hz."""
IMAGE_FOLDERS = ("image_2", "image_3")


class SemanticKitti:
    """One or several sequences as one drive.

    A scan without a label file has no labels (test sequences); without calib.txt there are neither views nor poses.
    `Frame.name` is the scan's number, with the sequence before it (`07_000964`) where there are several sequences.

    Args:
        root: the folder that holds `sequences/` (or `dataset/sequences/`), or one sequence's folder.
        sequences: which sequences, in this order; all of them by default.
        labels: label space; SemanticKITTI's 19 classes by default.
        label_folder: `labels`; `scribbles` for ScribbleKITTI; `predictions` for a network's own.
        frames: positions of the scans to keep, after the sequences are joined.
        image_calibration_size: width and height that calib.txt belongs to, where the images were scaled since; KITTI's
            own calibrations are recognised without it.

    Raises:
        DriveError: no such folder or sequence, no scans, or a calibration key, pose or time is missing.
    """

    axes: Axes = "x_forward"
    intensity_scale: float = 1.0

    def __init__(
        self,
        root: Path | str,
        *,
        sequences: Sequence[str] | None = None,
        labels: LabelSpace | None = None,
        label_folder: str = "labels",
        frames: Frames = None,
        image_calibration_size: tuple[int, int] | None = None,
    ) -> None:
        self.root = Path(root)
        folders = _sequence_folders(self.root, sequences)
        read = [_Sequence(folder, label_folder, image_calibration_size) for folder in folders]
        items = [(sequence, scan) for sequence in read for scan in sequence.scans]
        self._items = select(items, frames, str(self.root))
        self._several = len(read) > 1
        self.name = self.root.name if self._several else f"{folders[0].name}"
        has_labels = any(sequence.label_file(scan.stem).is_file() for sequence, scan in self._items)
        self._space = labels or LabelSpace.load("semantickitti")
        self.labels = self._space if has_labels else None

    def __len__(self) -> int:
        return len(self._items)

    def sequence(self, index: int) -> str:
        """Name of the sequence that a frame belongs to (`08`)."""
        return self._items[index][0].folder.name

    def scan_path(self, index: int) -> Path:
        """The frame's .bin file."""
        return self._items[index][1]

    def __getitem__(self, index: int) -> Frame:
        """Read one scan. Raises CloudError, LabelError or DriveError that names the file."""
        sequence, path = self._items[index]
        number = sequence.number(path)
        label_path = sequence.label_file(path.stem)
        stamp = sequence.stamp(number)
        return read_frame(
            path,
            label_path if label_path.is_file() else None,
            self._space,
            columns=4,
            name=f"{sequence.folder.name}_{path.stem}" if self._several else path.stem,
            stamp=stamp,
            world_from_lidar=sequence.pose(number),
            views=sequence.views(path.stem, stamp),
        )


@dataclass(frozen=True)
class _Sequence:
    folder: Path
    label_folder: str
    calibration_size: tuple[int, int] | None

    def __post_init__(self) -> None:
        last = self.number(self.scans[-1])
        for name, rows in (("poses.txt", self._poses), ("times.txt", self._times)):
            if rows is not None and len(rows) <= last:
                raise DriveError(
                    f"{self.folder / name}: has {len(rows)} lines, scan {self.scans[-1].name} needs {last + 1}"
                )
        _ = self._cameras

    @cached_property
    def scans(self) -> list[Path]:
        scans = sorted((self.folder / "velodyne").glob("*.bin"))
        if not scans:
            raise DriveError(f"{self.folder / 'velodyne'}: no .bin scans")
        return scans

    def number(self, scan: Path) -> int:
        if not scan.stem.isascii() or not scan.stem.isdigit():
            raise DriveError(f"{scan}: the name of a scan is its number, like 000000.bin")
        return int(scan.stem)

    def label_file(self, stem: str) -> Path:
        return self.folder / self.label_folder / f"{stem}.label"

    @cached_property
    def _calibration(self) -> Calibration | None:
        path = self.folder / "calib.txt"
        return Calibration(path) if path.is_file() else None

    @cached_property
    def _times(self) -> npt.NDArray[np.int64] | None:
        path = self.folder / "times.txt"
        return read_times(path) if path.is_file() else None

    @cached_property
    def _poses(self) -> npt.NDArray[np.float64] | None:
        """World from LiDAR: poses.txt moves the camera, Tr brings a point of the LiDAR to the camera."""
        path = self.folder / "poses.txt"
        if self._calibration is None or not path.is_file():
            return None
        camera_from_lidar = self._calibration.rigid("Tr")
        return np.asarray(np.linalg.inv(camera_from_lidar) @ read_poses(path) @ camera_from_lidar)

    @cached_property
    def _cameras(self) -> list[tuple[Camera, str]]:
        """The cameras that have images, each with the images' suffix."""
        cameras: list[tuple[Camera, str]] = []
        if self._calibration is None:
            return cameras
        for name in IMAGE_FOLDERS:
            found = first_readable(sorted((self.folder / name).glob("*.[pj][np]g")))
            if found is not None:
                path, size = found
                tr = self._calibration.rigid("Tr")
                cameras.append((self._calibration.camera(name, tr, size, self.calibration_size), path.suffix))
        return cameras

    def stamp(self, number: int) -> int:
        return number * SCAN_PERIOD if self._times is None else int(self._times[number])

    def pose(self, number: int) -> npt.NDArray[np.float64] | None:
        return None if self._poses is None else self._poses[number]

    def views(self, stem: str, stamp: int) -> tuple[View, ...]:
        return tuple(
            image_view(self.folder / camera.name / f"{stem}{suffix}", camera, stamp) for camera, suffix in self._cameras
        )


def sequences_folder(root: Path) -> Path | None:
    """The folder of sequences below a data set's root, None where there is none."""
    return next((f for f in (root / "sequences", root / "dataset" / "sequences") if f.is_dir()), None)


def _sequence_folders(root: Path, wanted: Sequence[str] | None) -> list[Path]:
    if (root / "velodyne").is_dir():
        if wanted is not None and list(wanted) != [root.name]:
            raise DriveError(f"{root}: is the sequence {root.name}, cannot choose {', '.join(wanted)} from it")
        return [root]
    parent = sequences_folder(root)
    if parent is None:
        raise DriveError(f"{root}: neither a SemanticKITTI root (sequences/) nor a sequence (velodyne/)")
    present = sorted(folder.name for folder in parent.iterdir() if (folder / "velodyne").is_dir())
    for name in wanted or ():
        if name not in present:
            raise DriveError(f"{parent}: no sequence {name}; there are {', '.join(present) or 'none'}")
    if not present or (wanted is not None and not wanted):
        raise DriveError(f"{parent}: no sequence with a velodyne folder")
    return [parent / name for name in (wanted or present)]
