"""A data set folder or a scan file in, the same with labels out."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive import open_drive
from mdkt_ros.drive.folder import ScanFolder
from mdkt_ros.drive.foreign_predictions import SPACE_FILE, folder_name, own_classes, write_foreign
from mdkt_ros.drive.frame import Drive, Frame
from mdkt_ros.drive.kitti_object import KittiObject
from mdkt_ros.drive.nuscenes import NuScenes
from mdkt_ros.drive.predictions import PredictionSink, predictions_into
from mdkt_ros.drive.semantickitti import SemanticKitti
from mdkt_ros.errors import CloudError, DriveError, LabelError, OutputError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.output import atomic_output, refuse_existing
from mdkt_ros.scan import read_scan, write_scan
from mdkt_ros.segment_prompts import FOLDER as PROMPTS
from mdkt_ros.segment_prompts import write_scores
from mdkt_ros.segment_summary import PointLabeller, SegmentSummary, Tally, for_drive
from mdkt_ros.segmentation import Segmentation

FILE_SUFFIXES = (".pcd", ".label")


def segment_file(
    source: Path, out: Path, segmenter: PointLabeller, *, intensity_scale: float | None = None, force: bool = False
) -> SegmentSummary:
    """Label one scan; `out` is a `.pcd` (x y z intensity class_id probability entropy rgb) or `.label` (uint32 raw).

    The scores of prompts are fields `prompt_...` of the `.pcd`.

    Raises:
        OutputError: another suffix, one that holds no scores, or `out` cannot be written. CloudError, LabelError: the
            scan or its labels.
    """
    if out.suffix.lower() not in FILE_SUFFIXES:
        raise OutputError(f"{out}: the labels of a scan are written as {' or '.join(FILE_SUFFIXES)}")
    refuse_existing(out, force)
    drive = ScanFolder(source)
    start = time.perf_counter()
    cloud = read_scan(source)
    points, intensity = cloud.xyz(), cloud.intensity()
    read_ms = 1e3 * (time.perf_counter() - start)
    result = for_drive(segmenter, drive.axes, _stated_scale(drive), intensity_scale).segment(points, intensity)
    start = time.perf_counter()
    labels = segmenter.labels
    if out.suffix.lower() == ".pcd":
        colors = labels.colors(result.class_id)
        more = None if result.prompts is None else result.prompts.columns
        write_scan(out, cloud, result.class_id, result.probability, result.entropy, colors, more=more, force=force)
    elif result.prompts is not None:
        raise OutputError(f"{out}: a .label file has no room for the scores of prompts; write a .pcd")
    else:
        with atomic_output(out, force=force) as temporary:
            temporary.write_bytes(labels.to_raw(result.class_id).astype("<u4").tobytes())
    tally = Tally(labels, drive.labels)
    if out.suffix.lower() == ".label" and own_classes(drive).names != labels.names:
        tally.note(f"{out.name} holds raw ids of {labels.name}: to see it, `mdkt view ... --labels {labels.name}`")
    tally.add(result, read_ms, 1e3 * (time.perf_counter() - start))
    if drive.labels is not None and drive.labels.names == labels.names:
        tally.score(drive[0].labels, result.class_id)
    return tally.summary(source, out)


def segment_folder(
    source: Path,
    out: Path,
    segmenter: PointLabeller,
    *,
    intensity_scale: float | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    limit: int | None = None,
) -> SegmentSummary:
    """Label a data set: `out` gets the same layout, its files hard links to the input's, and the predictions.

    They are in the form of the data set's benchmark where the checkpoint predicts its classes, else as
    `mdkt_ros.drive.foreign_predictions` says. The scores of prompts are files of `prompts/`, see `segment_prompts`.

    Raises:
        DriveError: not a data set, or not one readable scan. OutputError: `out` exists, or cannot be written.
    """
    drive = open_drive(source)
    labels = segmenter.labels
    tally = Tally(labels, drive.labels)
    own = own_classes(drive)
    foreign = own.names != labels.names
    if foreign:
        tally.note(
            f"the data set's own label files hold {own.name} classes, so the predictions are in "
            f"{folder_name(labels)}/ as .label files of raw ids, which {SPACE_FILE} beside them names"
        )
    segmenter = for_drive(segmenter, drive.axes, _stated_scale(drive), intensity_scale)
    total = len(drive) if limit is None else min(limit, len(drive))
    with atomic_output(out, force=force) as temporary:
        _link_tree(source, temporary)
        predictions = temporary / ".predictions"
        writer = _foreign_predictions(predictions, source, drive, labels) if foreign else None
        with writer or _predictions(predictions, drive, labels) as write:
            for index in range(total):
                result = _segment_frame(drive, index, segmenter, tally, write)
                if result is not None and result.prompts is not None:
                    write_scores(predictions / PROMPTS, _scan_path(drive, index).relative_to(source), result.prompts)
                if progress is not None:
                    progress(index + 1, total)
        if not tally.frames:
            raise DriveError(f"{source}: not one of {total} scans can be read: {tally.reasons}")
        if (predictions / PROMPTS).is_dir():
            _merge(predictions / PROMPTS, temporary / PROMPTS)
        start, place = (Path(), Path()) if foreign else _place(source, drive)
        _merge(predictions / start, temporary / place)
        shutil.rmtree(predictions)
    return tally.summary(source, out)


def _segment_frame(
    drive: Drive, index: int, segmenter: PointLabeller, tally: Tally, write: PredictionSink
) -> Segmentation | None:
    start = time.perf_counter()
    try:
        frame = _read(drive, index, tally)
    except CloudError as error:
        tally.skip(str(error))
        return None
    read = time.perf_counter()
    result = segmenter.segment(frame.points, frame.intensity)
    segmented = time.perf_counter()
    write(index, result.class_id)
    written = time.perf_counter()
    tally.add(result, 1e3 * (read - start), 1e3 * (written - segmented))
    tally.score(frame.labels, result.class_id)
    return result


def _read(drive: Drive, index: int, tally: Tally) -> Frame:
    """A scan, without its labels or images where those are damaged: they are for the score and the eye alone."""
    try:
        return drive[index]
    except LabelError as error:
        tally.unscored(str(error))
    except DriveError as error:
        tally.note(f"labelled all the same: {error}")
    cloud = read_scan(_scan_path(drive, index))
    return Frame("", 0, cloud.xyz(), cloud.intensity())


def _scan_path(drive: Drive, index: int) -> Path:
    assert isinstance(drive, SemanticKitti | NuScenes | KittiObject | ScanFolder)
    return drive.scan_path(index)


def _stated_scale(drive: Drive) -> float | None:
    """The drive's intensity scale; a `.pcd` comes from any sensor, so its name states none."""
    if isinstance(drive, ScanFolder) and drive.kind.suffix == ".pcd":
        return None
    return drive.intensity_scale


@contextmanager
def _foreign_predictions(folder: Path, source: Path, drive: Drive, labels: LabelSpace) -> Iterator[PredictionSink]:
    assert isinstance(drive, SemanticKitti | NuScenes | KittiObject | ScanFolder)
    root = folder / drive.root.relative_to(source)
    yield lambda index, class_id: write_foreign(root, drive, index, class_id, labels)


@contextmanager
def _predictions(folder: Path, drive: Drive, labels: LabelSpace) -> Iterator[PredictionSink]:
    """`predictions_into`, and for KITTI's object benchmark, which knows no point labels, SemanticKITTI's files."""
    if not isinstance(drive, KittiObject):
        split = "test" if isinstance(drive, NuScenes) and drive.version.endswith("test") else "val"
        with predictions_into(folder, drive, labels=labels, split=split) as write:
            yield write
        return
    (folder / "predictions").mkdir(parents=True)

    def write_raw(index: int, class_id: npt.NDArray[np.uint8]) -> None:
        path = folder / "predictions" / f"{drive.scan_path(index).stem}.label"
        path.write_bytes(labels.to_raw(class_id).astype("<u4").tobytes())

    yield write_raw


def _place(source: Path, drive: Drive) -> tuple[Path, Path]:
    """Which folder of the predictions belongs into which folder of the output."""
    if isinstance(drive, SemanticKitti):
        sequence = drive.scan_path(0).parents[1]
        if sequence == source:
            return Path("sequences") / drive.sequence(0), Path()
        return Path(), sequence.parent.parent.relative_to(source)
    if isinstance(drive, KittiObject):
        return Path(), drive.root.relative_to(source)
    return Path(), Path()


def _link_tree(source: Path, target: Path) -> None:
    """The same tree; files are hard links, or copies where the file system has none (or `target` is on another one).

    Links are followed; those that lead nowhere, or to a folder above them, are left out.
    """

    # Not shutil.copytree, which goes on when the disk is full, and then complains of every file at once.
    for name, folders, files in os.walk(source, followlinks=True, onerror=_raise):
        folder = target / Path(name).relative_to(source)
        folder.mkdir()
        here = Path(os.path.realpath(name))
        folders[:] = [one for one in folders if not here.is_relative_to(os.path.realpath(here / one))]
        for file in filter(os.path.isfile, (os.path.join(name, one) for one in files)):
            copy = folder / os.path.basename(file)
            try:
                os.link(os.path.realpath(file), copy)
            except OSError:
                shutil.copy2(file, copy)


def _raise(error: OSError) -> None:
    raise error


def _merge(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
