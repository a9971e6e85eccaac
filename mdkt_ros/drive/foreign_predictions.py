"""Predictions in other classes than the data set's own, which its label files and its server could not hold.

They lie in `predictions_<label space>/` of the data set's folder (SemanticKITTI: of each sequence), one `<scan>.label`
of uint32 raw ids a scan, with a `label_space.yaml` that says what the ids mean, in the form of `config/labels/*.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import yaml

from mdkt_ros.drive.folder import ScanFolder
from mdkt_ros.drive.frame import Drive
from mdkt_ros.drive.kitti_object import KittiObject
from mdkt_ros.drive.nuscenes import NuScenes
from mdkt_ros.drive.semantickitti import SemanticKitti
from mdkt_ros.labels import LabelSpace

SPACE_FILE = "label_space.yaml"
_FilesDrive = SemanticKitti | NuScenes | KittiObject | ScanFolder


class ForeignPredictions(NamedTuple):
    """Label space of predictions, and the file of each scan by its position, None where it has none."""

    labels: LabelSpace
    file: Callable[[int], Path | None]


def own_classes(drive: Drive) -> LabelSpace:
    """The label space of the data set's own label files."""
    if drive.labels is not None:
        return drive.labels
    if isinstance(drive, ScanFolder):
        return LabelSpace.load(drive.kind.label_space)
    return LabelSpace.load("nuscenes" if isinstance(drive, NuScenes) else "semantickitti")


def folder_name(labels: LabelSpace) -> str:
    """`predictions_<label space>`."""
    return "predictions_" + re.sub(r"[^\w.-]", "_", labels.name)


def write_foreign(
    root: Path, drive: _FilesDrive, index: int, class_id: npt.NDArray[np.uint8], labels: LabelSpace
) -> None:
    """Write a scan's class ids (N,) uint8 of `labels` below `root`, which stands for the drive's own root."""
    folder = root / _below(drive, index) / folder_name(labels)
    if not folder.is_dir():
        folder.mkdir(parents=True)
        text = yaml.safe_dump(labels.to_dict(), sort_keys=False, default_flow_style=None, width=120)
        (folder / SPACE_FILE).write_text(text, encoding="utf-8")
    (folder / _name(drive, index)).write_bytes(labels.to_raw(class_id).astype("<u4").tobytes())


def is_foreign(path: Path) -> bool:
    """Whether a folder of predictions, or one file of it, says itself which classes it holds."""
    return (path.with_name(SPACE_FILE) if path.is_file() else path / SPACE_FILE).is_file()


def find_foreign(drive: _FilesDrive, given: Path | None = None) -> ForeignPredictions | None:
    """The predictions that `write_foreign` left with a drive, or those at `given`; None: there are none.

    Args:
        given: a folder that stands for the drive's own, the folder of the predictions itself, or one file of it.

    Raises:
        LabelError: their label_space.yaml cannot be read.
    """
    if given is not None and is_foreign(given):
        if given.is_file():
            return ForeignPredictions(LabelSpace.load(given.with_name(SPACE_FILE)), lambda _: given)
        return ForeignPredictions(
            LabelSpace.load(given / SPACE_FILE), lambda index: _present(given / _name(drive, index))
        )
    root = given or _home(drive, None)
    found = min((root / _below(drive, 0)).glob(f"predictions_*/{SPACE_FILE}"), default=None)
    if found is None:
        return None
    folder = found.parent.name
    return ForeignPredictions(
        LabelSpace.load(found), lambda index: _present(root / _below(drive, index) / folder / _name(drive, index))
    )


def _present(path: Path) -> Path | None:
    return path if path.is_file() else None


def _home(drive: _FilesDrive, index: int | None) -> Path:
    """The folder that the predictions of a scan lie in; of None, the root of all of them."""
    if isinstance(drive, SemanticKitti) and index is not None:
        return drive.scan_path(index).parents[1]
    if isinstance(drive, ScanFolder) and drive.root.is_file():
        return drive.root.parent
    return drive.root


def _below(drive: _FilesDrive, index: int) -> Path:
    return _home(drive, index).relative_to(_home(drive, None))


def _name(drive: _FilesDrive, index: int) -> str:
    if isinstance(drive, NuScenes):
        return f"{drive.lidar_token(index)}.label"
    return f"{drive.stem(index) if isinstance(drive, ScanFolder) else drive.scan_path(index).stem}.label"
