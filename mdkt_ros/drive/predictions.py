"""Prediction files in the form that each benchmark's server takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.folder import ScanFolder
from mdkt_ros.drive.frame import Drive
from mdkt_ros.drive.nuscenes import NuScenes
from mdkt_ros.drive.semantickitti import SemanticKitti
from mdkt_ros.errors import DriveError, LabelError
from mdkt_ros.labels import IGNORE, LabelSpace
from mdkt_ros.output import atomic_output

PredictionSink = Callable[[int, npt.NDArray[np.uint8]], None]


@contextmanager
def prediction_writer(
    out: Path | str,
    drive: Drive,
    *,
    labels: LabelSpace | None = None,
    split: str = "val",
    uses_images: bool = False,
    uses_external: bool = False,
    force: bool = False,
) -> Iterator[PredictionSink]:
    """Yield `write(index, class_id)`: position in `drive`, (N,) uint8 class ids. `out` appears when the block ends.

    - SemanticKITTI: sequences/XX/predictions/NNNNNN.label, uint32 raw ids; zip `out` for the server.
    - nuScenes: lidarseg/<split>/<scan's token>_lidarseg.bin, uint8 1 to 16, and <split>/submission.json. The server
      refuses 0, so a point without a class (255) gets the commonest class of its scan.
    - A plain folder: predictions/<name>.label or <name>_lidarseg.bin, as its label files are.

    Args:
        out: folder to make.
        drive: a SemanticKitti, NuScenes or ScanFolder.
        labels: label space of the class ids; the drive's own by default.
        split: nuScenes' split (`train`, `val`, `test`).
        uses_images, uses_external: what the nuScenes server wants to know: whether the method, in training or after it,
            used camera images or data from outside.
        force: replace `out` where it exists.

    Raises:
        OutputError: `out` exists and `force` is false, or cannot be written.
        DriveError: the drive has another form. LabelError: no label space, or a wrong number of class ids for a scan.
    """
    with (
        atomic_output(out, force=force) as temporary,
        predictions_into(
            temporary, drive, labels=labels, split=split, uses_images=uses_images, uses_external=uses_external
        ) as write,
    ):
        yield write


@contextmanager
def predictions_into(
    folder: Path,
    drive: Drive,
    *,
    labels: LabelSpace | None = None,
    split: str = "val",
    uses_images: bool = False,
    uses_external: bool = False,
) -> Iterator[PredictionSink]:
    """The same, written into a new folder as they come: for a result that is a part of a larger one."""
    if not isinstance(drive, SemanticKitti | NuScenes | ScanFolder):
        raise DriveError(f"{drive.name}: predictions are written for SemanticKITTI, nuScenes and plain folders only")
    space = labels or drive.labels
    if space is None:
        raise LabelError(f"{drive.name}: has no labels, so give the label space of the predictions")
    folder.mkdir()

    def write(index: int, class_id: npt.NDArray[np.uint8]) -> None:
        _check(drive.scan_path(index), class_id, space)
        name, data = _encode(drive, index, class_id, space, split)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    yield write
    if isinstance(drive, NuScenes):
        used = {"camera": uses_images, "lidar": True, "radar": False, "map": False, "external": uses_external}
        meta = {f"use_{what}": flag for what, flag in used.items()}
        (folder / split).mkdir()
        (folder / split / "submission.json").write_text(json.dumps({"meta": meta}, indent=2), encoding="utf-8")


def _encode(
    drive: SemanticKitti | NuScenes | ScanFolder,
    index: int,
    class_id: npt.NDArray[np.uint8],
    space: LabelSpace,
    split: str,
) -> tuple[str, bytes]:
    """Name below the output folder, and the file's bytes."""
    if isinstance(drive, SemanticKitti):
        name = f"sequences/{drive.sequence(index)}/predictions/{drive.scan_path(index).stem}.label"
        return name, space.to_submission(class_id).astype("<u4").tobytes()
    if isinstance(drive, NuScenes):
        name = f"lidarseg/{split}/{drive.lidar_token(index)}_lidarseg.bin"
        return name, space.to_submission(_without_gaps(class_id)).astype(np.uint8).tobytes()
    name = f"predictions/{drive.stem(index)}{drive.kind.label_suffix}"
    dtype = "<u4" if drive.kind.label_suffix == ".label" else "u1"
    return name, space.to_raw(class_id).astype(dtype).tobytes()


def _without_gaps(class_id: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    counts = np.bincount(class_id, minlength=256)[:IGNORE]
    return np.where(class_id == IGNORE, np.argmax(counts), class_id).astype(np.uint8)


def _check(scan: Path, class_id: npt.NDArray[np.uint8], space: LabelSpace) -> None:
    """What the server would find only after the upload. Of a .pcd the length is not known without reading it."""
    if scan.suffix == ".bin":
        points = scan.stat().st_size // (20 if scan.name.endswith(".pcd.bin") else 16)
        if len(class_id) != points:
            raise LabelError(f"{scan}: has {points} points, the prediction {len(class_id)}")
    if (unknown := class_id[(class_id >= len(space)) & (class_id != IGNORE)]).size:
        raise LabelError(f"{scan}: class id {unknown[0]} predicted; {space.name} has 0 to {len(space) - 1}")
