"""One picture of one scan, for a report or a glance: from above, in perspective, or on a camera's image."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from PIL import Image

from mdkt_ros.drive.frame import Axes
from mdkt_ros.errors import CameraError, DriveError, LabelError, OutputError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.output import atomic_output
from mdkt_ros.render.birdseye import birdseye, comparison
from mdkt_ros.render.overlay import overlay
from mdkt_ros.render.page_data import PageFrame
from mdkt_ros.render.page_source import open_source
from mdkt_ros.render.perspective import perspective

PictureKind = Literal["birdseye", "overlay", "perspective"]
PICTURES: tuple[PictureKind, ...] = get_args(PictureKind)
"""Every kind of picture."""


def picture_for_path(
    path: str | Path,
    out: str | Path,
    kind: PictureKind = "birdseye",
    *,
    scan: int = 0,
    camera: str | None = None,
    predictions: str | Path | None = None,
    labels: LabelSpace | None = None,
    topic: str | None = None,
    image_size: tuple[int, int] | None = None,
    force: bool = False,
) -> None:
    """Draw a scan of what `mdkt segment` left, or of a labelled drive, to a `.png` or `.jpg`.

    Args:
        path, predictions, labels, topic, image_size: as in `page_for_path`.
        out: the picture.
        kind: `birdseye` shows truth, prediction and error side by side where the drive has both.
        scan: position in the drive.
        camera: of an overlay; the first by default.
        force: replace an existing `out`.

    Raises:
        DriveError: no such scan. LabelError: a scan without labels. CameraError: no such camera, or no image at all.
        OutputError: `out` exists, or is no picture's name.
    """
    out = Path(out)
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise OutputError(f"{out}: a picture is written as .png or .jpg")
    with atomic_output(out, force=force) as temporary:
        beside = None if predictions is None else Path(predictions)
        with open_source(Path(path), beside, labels, topic, image_size) as source:
            if not 0 <= scan < len(source.drive):
                raise DriveError(f"{path}: has no scan {scan}; there are {len(source.drive)}, from 0")
            remarks: list[str] = []
            frame = source.frame(scan, remarks)
            picture = _draw(frame, kind, source.labels, source.drive.axes, camera, remarks)
        picture.save(temporary)


def _draw(
    frame: PageFrame, kind: PictureKind, labels: LabelSpace, axes: Axes, camera: str | None, remarks: list[str]
) -> Image.Image:
    if kind == "birdseye" and frame.class_id is not None and frame.truth is not None:
        return comparison(frame.points, frame.truth, frame.class_id, labels, axes=axes)
    class_id = frame.class_id if frame.class_id is not None else frame.truth
    if class_id is None:
        raise LabelError(f"scan {frame.name}: has neither a prediction nor a truth to draw; run mdkt segment first")
    if kind == "birdseye":
        return birdseye(frame.points, class_id, labels, axes=axes, title=frame.name)
    if kind == "perspective":
        return perspective(frame.points, class_id, labels, axes=axes, legend=True)
    views = {name: (image, lens) for name, image, lens in frame.images}
    if not views:
        raise CameraError(" ".join([f"scan {frame.name}: has no image to draw on.", *remarks]))
    if camera is not None and camera not in views:
        raise CameraError(f"scan {frame.name}: has no image of {camera!r}, but of {', '.join(views)}")
    image, lens = views[camera] if camera is not None else next(iter(views.values()))
    assert not isinstance(image, Image.Image)
    return overlay(image, lens, frame.points, class_id, labels)
