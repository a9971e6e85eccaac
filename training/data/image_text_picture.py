"""Pictures of image-text labels: an image with its dense labels, beside the image with the labels of its points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mdkt_ros.drive.frame import Frame
from mdkt_ros.labels import IGNORE, LabelSpace
from mdkt_ros.output import atomic_output
from mdkt_ros.render.overlay import overlay
from mdkt_ros.render.style import display_palette
from training.data.image_text_maker import Components, Shot, as_images, read_shots
from training.data.image_text_report import named
from training.scheme.calibration import Calibration
from training.scheme.calibration_map import ABSENT
from training.scheme.dense_clip import DenseClip

_ALPHA = 0.6
_ROWS = 128
"""Rows of an image that are labelled at once."""


def picture(
    dense: DenseClip,
    calibration: Calibration,
    of_pixels: Calibration,
    frame: Frame,
    rows: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    labels: LabelSpace,
    components: Components | None = None,
) -> Image.Image | None:
    """A row an image: left what the model says of every place, right the labels that the points get.

    Args:
        dense: the image-text model.
        calibration: of what the cache holds of a point; classes that are switched off are not drawn.
        of_pixels: of scores and components alone, for places of the image, which have no shape.
        frame: the scan.
        rows, scores: of its points, as the cache holds them.
        labels: palette.
        components: of the images' own features, where the cache has them.

    Returns:
        None for a scan without images.
    """
    shots = read_shots(frame)
    if not shots:
        return None
    class_id = np.full(len(frame.points), IGNORE, dtype=np.uint8)
    class_id[rows] = named(*calibration.apply(scores))
    panels = [
        (
            _dense_labels(dense, of_pixels, shot, labels, components),
            overlay(shot.image, shot.camera, frame.points, class_id, labels),
        )
        for shot in shots
    ]
    width, height = max(left.width for left, _ in panels), sum(left.height for left, _ in panels)
    out = Image.new("RGB", (2 * width, height))
    top = 0
    for left, right in panels:
        out.paste(left, (0, top))
        out.paste(right, (width, top))
        top += left.height
    return out


def write_picture(path: Path, image: Image.Image) -> None:
    """Store a picture as a PNG. Raises OutputError."""
    with atomic_output(path, force=True) as temporary:
        image.save(temporary, format="PNG")


def _dense_labels(
    dense: DenseClip, calibration: Calibration, shot: Shot, labels: LabelSpace, components: Components | None
) -> Image.Image:
    maps = dense.scores(as_images([shot.image]))
    height, width = shot.image.shape[:2]
    class_id = np.empty((height, width), dtype=np.uint8)
    columns = np.arange(width)
    for first in range(0, height, _ROWS):
        rows = np.arange(first, min(first + _ROWS, height))
        pixels = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
        scores = maps.at(0, pixels)
        values = [np.where(np.isnan(scores), np.float32(ABSENT), scores)]
        if components is not None:
            values.append(components.at(shot.image, pixels))
        class_id[rows] = named(*calibration.apply(np.hstack(values))).reshape(len(rows), width)
    color = display_palette(labels)[class_id].astype(np.float32)
    alpha = np.where(class_id == IGNORE, 0, _ALPHA)[..., None]
    mixed = color * alpha + shot.image * (1 - alpha)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))
