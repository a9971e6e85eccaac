"""Scans of a path with the predictions that belong to them, wherever `mdkt segment` or a benchmark put those."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mdkt_ros.camera import Camera
from mdkt_ros.cloud import Cloud, pack_rgb, parse_pointcloud2
from mdkt_ros.drive import bag_topics, open_drive
from mdkt_ros.drive.bag import BagDrive
from mdkt_ros.drive.bag_file import BagFile
from mdkt_ros.drive.folder import ScanFolder
from mdkt_ros.drive.foreign_predictions import find_foreign, is_foreign
from mdkt_ros.drive.frame import Drive, Frame
from mdkt_ros.drive.kitti_object import KittiObject
from mdkt_ros.drive.nuscenes import NuScenes
from mdkt_ros.drive.rosmsg import nanoseconds
from mdkt_ros.drive.semantickitti import SemanticKitti
from mdkt_ros.errors import CameraError, CloudError, DriveError, LabelError
from mdkt_ros.labels import IGNORE, LabelSpace
from mdkt_ros.render.page_data import PageFrame
from mdkt_ros.resources import config_dir
from mdkt_ros.scan import read_labels, read_scan


class Prediction(NamedTuple):
    """Labels of one scan: (N,) uint8 class ids, and (N,) float32 probabilities or None."""

    class_id: npt.NDArray[np.uint8]
    probability: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class Source:
    """A drive, the label space of the page, and where the prediction of a frame is.

    Attributes:
        drive: the scans.
        labels: of the predictions; of the truth where there are none.
        predict: (position, frame) -> its prediction, or None.
        facts: what the page says about the drive.
        labelled: positions of the scans that have a prediction, where that is known beforehand.
    """

    drive: Drive
    labels: LabelSpace
    predict: Callable[[int, Frame], Prediction | None]
    facts: tuple[tuple[str, str], ...]
    labelled: tuple[int, ...] = ()

    def frame(self, index: int, remarks: list[str]) -> PageFrame:
        """The frame at a position of the drive, with its images; what is wrong with one of those goes to `remarks`."""
        frame = self.drive[index]
        prediction = self.predict(index, frame)
        return PageFrame(
            name=frame.name,
            stamp=frame.stamp,
            points=frame.points,
            class_id=None if prediction is None else prediction.class_id,
            probability=None if prediction is None else prediction.probability,
            # Truth in other classes than the page's cannot be compared, nor named by its legend.
            truth=frame.labels if _same_classes(self.drive.labels, self.labels) else None,
            intensity=frame.intensity,
            images=list(_images(frame, remarks)),
        )


def _images(frame: Frame, remarks: list[str]) -> Iterator[tuple[str, npt.NDArray[np.uint8], Camera]]:
    for view in frame.views:
        try:
            yield view.camera.name, view.load(), view.camera
        except (CameraError, DriveError) as error:
            remarks.append(f"Scan {frame.name} is shown without its image of {view.camera.name}: {error}.")


@contextmanager
def open_source(
    path: Path,
    predictions: Path | None,
    labels: LabelSpace | None,
    topic: str | None,
    image_size: tuple[int, int] | None = None,
) -> Iterator[Source]:
    """Open a drive with its predictions. Raises MdktError: not a drive, or predictions that cannot be read."""
    # Of predictions that lie elsewhere, the truth beside the scans may be in other classes.
    own = labels if predictions is None else None
    drive = open_drive(path, topic=topic, labels=own, image_size=image_size)
    if predictions is not None and not predictions.exists():
        raise LabelError(f"{predictions}: does not exist")
    if isinstance(drive, BagDrive):
        with drive, BagFile(path) as bag:
            if predictions is not None:
                raise DriveError(f"{predictions}: the predictions of a bag are in the bag itself")
            yield _of_bag(drive, bag, labels)
    else:
        yield _of_files(drive, predictions, labels)


def _same_classes(one: LabelSpace | None, other: LabelSpace) -> bool:
    return one is not None and one.names == other.names


def _facts(drive: Drive, labels: LabelSpace, *more: tuple[str, str], labelled: bool) -> tuple[tuple[str, str], ...]:
    other = drive.labels is not None and not _same_classes(drive.labels, labels)
    truth = (("Truth", "left out, it is in other classes"),) if other else ()
    classes = (("Classes", f"{len(labels)}, {labels.name}"),) if labelled or drive.labels is not None else ()
    return (*more, *classes, *truth)


def _of_bag(drive: BagDrive, bag: BagFile, labels: LabelSpace | None) -> Source:
    results = [t.name for t in bag.topics if t.name.endswith(bag_topics.OUTPUT_TOPIC) and t.messages]
    result = results[0] if results else None
    if result is not None and labels is None:
        labels = _labels_of_result(bag, result)
    space = labels or drive.labels or LabelSpace.load("semantickitti")
    reader = None if result is None else _BagPredictions(bag, result)

    def predict(index: int, frame: Frame) -> Prediction | None:
        return None if reader is None else reader.at(frame.stamp, len(frame.points))

    return Source(drive, space, predict, _facts(drive, space, ("Topic", drive.topic), labelled=result is not None))


def _labels_of_result(bag: BagFile, result: str) -> LabelSpace:
    info = result.removesuffix(bag_topics.OUTPUT_TOPIC) + bag_topics.OUTPUT_INFO_TOPIC
    for connection, _, raw in bag.messages_of(info):
        names = {int(c.class_id): str(c.class_name) for c in bag.deserialize(raw, connection).class_map}
        return bag_topics.labels_from_names(names, f"{bag.path}: topic {info}")
    raise DriveError(f"{bag.path}: topic {result} has labels, but there is no {info} that names their classes")


class _BagPredictions:
    """Reads the segmentation topic once, forwards; a scan and its labels have the same stamp."""

    def __init__(self, bag: BagFile, topic: str) -> None:
        self._bag = bag
        self._topic = topic
        self._stream = bag.messages_of(topic)
        self._held: tuple[int, Cloud] | None = None

    def at(self, stamp: int, points: int) -> Prediction | None:
        while self._held is None or self._held[0] < stamp:
            entry = next(self._stream, None)
            if entry is None:
                self._held = None
                return None
            message = self._bag.deserialize(entry[2], entry[0])
            found = nanoseconds(message.header.stamp)
            # A skipped message is not worth parsing.
            if found >= stamp:
                self._held = (found, self._parse(message))
        if self._held[0] != stamp:
            return None
        cloud, source = self._held[1], f"{self._bag.path}: topic {self._topic}"
        return Prediction(bag_topics.class_ids(cloud, points, source), _probability(cloud))

    def _parse(self, message: object) -> Cloud:
        try:
            return parse_pointcloud2(message)
        except CloudError as error:
            raise CloudError(f"{self._bag.path}: topic {self._topic}: {error}") from error


def _probability(cloud: Cloud) -> npt.NDArray[np.float32] | None:
    values = cloud.columns.get("probability")
    return None if values is None or values.ndim != 1 else values.astype(np.float32)


def _of_files(drive: Drive, predictions: Path | None, labels: LabelSpace | None) -> Source:
    if isinstance(drive, ScanFolder) and drive.kind.suffix == ".pcd" and predictions is None:
        first = read_scan(drive.scan_path(0))
        if "class_id" in first.columns:
            space = labels or _labels_by_color(first, drive.scan_path(0))
            return Source(
                drive, space, lambda index, _: _of_pcd(drive.scan_path(index)), _facts(drive, space, labelled=True)
            )
    default = "nuscenes" if drive.axes == "y_forward" else "semantickitti"
    space = labels or drive.labels or LabelSpace.load(default)
    submission = isinstance(drive, NuScenes)
    find: Callable[[int], Path | None] = functools.partial(_prediction_file, drive, root=predictions)
    labelled = _having(drive, find)
    if not labelled or (predictions is not None and is_foreign(predictions)):
        assert isinstance(drive, SemanticKitti | NuScenes | KittiObject | ScanFolder)
        foreign = find_foreign(drive, predictions)
        if foreign is not None:
            space, find, submission = labels or foreign.labels, foreign.file, False
            labelled = _having(drive, find)

    def predict(index: int, frame: Frame) -> Prediction | None:
        path = find(index)
        if path is None:
            return None
        return Prediction(_read_prediction(path, len(frame.points), space, submission=submission), None)

    if predictions is not None and not labelled:
        raise LabelError(f"{predictions}: holds no prediction of a scan of {drive.name}")
    return Source(drive, space, predict, _facts(drive, space, labelled=bool(labelled)), labelled)


def _having(drive: Drive, find: Callable[[int], Path | None]) -> tuple[int, ...]:
    return tuple(index for index in range(len(drive)) if find(index) is not None)


def _of_pcd(path: Path) -> Prediction:
    cloud = read_scan(path)
    return Prediction(bag_topics.class_ids(cloud, len(cloud), str(path)), _probability(cloud))


def _labels_by_color(cloud: Cloud, path: Path) -> LabelSpace:
    """A labelled `.pcd` holds ids and colours, no names: the shipped label space that paints its ids so."""
    class_id = bag_topics.class_ids(cloud, len(cloud), str(path))
    for file in sorted((config_dir() / "labels").glob("*.yaml")):
        space = LabelSpace.load(file)
        rgb = pack_rgb(space.colors(class_id)).view(np.uint32)
        found = cloud.columns.get("rgb")
        if found is not None and found.dtype.itemsize == 4 and np.array_equal(found.view(np.uint32), rgb):
            return space
    raise LabelError(f"{path}: its colours are of no shipped label space, so the names of its classes are not known")


def _prediction_file(drive: Drive, index: int, root: Path | None) -> Path | None:
    """Where a prediction is: beside the scans, in a folder as `prediction_writer` makes it, or a file given by name."""
    if root is not None and root.is_file():
        return root
    candidates: list[Path] = []
    if isinstance(drive, SemanticKitti):
        path = drive.scan_path(index)
        name = f"{path.stem}.label"
        candidates = [path.parent.parent / "predictions" / name]
        if root is not None:
            below = (f"sequences/{drive.sequence(index)}/predictions", "predictions", ".")
            candidates = [root / folder / name for folder in below]
    elif isinstance(drive, KittiObject):
        candidates = [(root or drive.root) / "predictions" / f"{drive.scan_path(index).stem}.label"]
    elif isinstance(drive, ScanFolder):
        name = drive.stem(index) + drive.kind.label_suffix
        candidates = [(root or drive.scan_path(index).parent) / "predictions" / name]
        candidates += [root / name] if root is not None else []
    elif isinstance(drive, NuScenes):
        name = f"{drive.lidar_token(index)}_lidarseg.bin"
        # lidarseg/v1.0-mini holds the truth, under the same names; lidarseg/val is what the server takes.
        found = sorted((root or drive.root).glob(f"lidarseg/*/{name}"))
        candidates = [path for path in found if not path.parent.name.startswith("v1.0")]
        candidates += [root / name] if root is not None else []
    return next((path for path in candidates if path.is_file()), None)


def _read_prediction(path: Path, points: int, space: LabelSpace, *, submission: bool) -> npt.NDArray[np.uint8]:
    if path.suffix == ".label":
        return space.from_raw(read_labels(path, points, np.uint32) & np.uint32(0xFFFF), str(path))
    raw = read_labels(path, points, np.uint8)
    if not submission:
        return space.from_raw(raw, str(path))
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[list(space.submission_ids)] = np.arange(len(space), dtype=np.uint8)
    return np.asarray(table[raw], dtype=np.uint8)
