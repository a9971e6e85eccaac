"""The scans of a data set that a run trains or is scored on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mdkt_ros.drive.folder import ScanFolder
from mdkt_ros.drive.frame import Axes, Drive, Frame
from mdkt_ros.drive.nuscenes import NuScenes
from mdkt_ros.drive.semantickitti import SemanticKitti
from mdkt_ros.errors import ConfigError, DriveError
from mdkt_ros.labels import LabelSpace
from training.config import DataConfig
from training.data.towns import open_towns


class FileDrive(Drive, Protocol):
    """A drive that knows the file of each scan."""

    def scan_path(self, index: int) -> Path: ...


@dataclass(frozen=True)
class Source:
    """Labelled scans of one drive.

    Attributes:
        kind: one of `training.config_checks.DATA_KINDS`.
        root: folder of the data set.
        names: of the scans: their files below `root`, which stay the same whatever else is chosen.
        labels: label space of the scans' labels.
        drive: where they are read from.
    """

    kind: str
    root: Path
    names: tuple[str, ...]
    labels: LabelSpace
    drive: Drive

    @property
    def axes(self) -> Axes:
        """Axis convention of the clouds."""
        return self.drive.axes

    @property
    def intensity_scale(self) -> float:
        """Factor that brings the intensity to 0..1."""
        return self.drive.intensity_scale

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Frame:
        """Read one scan. Raises CloudError or LabelError that names the file."""
        return self.drive[index]


def open_source(config: DataConfig) -> Source:
    """Open what the `data` section names, with its labels.

    Raises:
        ConfigError: no root, or a choice that this kind of data set does not have.
        DriveError, LabelError: the data set is incomplete, or has no labels.
    """
    drive, root = open_data(config), Path(config.root)
    if drive.labels is None:
        raise DriveError(f"{root}: none of its {len(drive)} scans has labels")
    names = tuple(drive.scan_path(index).relative_to(root).as_posix() for index in range(len(drive)))
    return Source(config.kind, root, names, drive.labels, drive)


def open_data(config: DataConfig) -> FileDrive:
    """Open what the `data` section names, with or without labels. Raises as `open_source` does."""
    if not config.root:
        raise ConfigError("data.root is not set: give the folder of the data set")
    root = Path(config.root)
    if not root.is_dir():
        raise DriveError(f"{root}: no such folder (data.root)")
    space = LabelSpace.load(config.label_space) if config.label_space else None
    frames = config.frames or None
    if config.kind == "synthetic":
        return open_towns(config)
    kitti = config.kind in ("semantickitti", "scribblekitti")
    for key, fits in (
        ("sequences", kitti),
        ("scenes", config.kind == "nuscenes"),
        ("split", config.kind == "nuscenes"),
    ):
        if getattr(config, key) and not fits:
            raise ConfigError(f"data.{key}: a data set of kind {config.kind} has none; data.frames chooses by position")
    if kitti:
        # YAML reads 00 as a number.
        sequences = [name.zfill(2) for name in config.sequences] or None
        folder = "scribbles" if config.kind == "scribblekitti" else "labels"
        return SemanticKitti(root, sequences=sequences, labels=space, label_folder=folder, frames=frames)
    if config.kind == "nuscenes":
        return NuScenes(root, scenes=config.scenes or None, split=config.split or None, labels=space, frames=frames)
    return ScanFolder(root, labels=space, frames=frames)
