"""Pictures of image-text labels: an image with its dense labels, beside the image with the labels of its points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional as F

from mdkt_ros.drive.frame import Frame
from mdkt_ros.labels import IGNORE, LabelSpace
from mdkt_ros.output import atomic_output
from mdkt_ros.render.overlay import overlay
from mdkt_ros.render.style import display_palette
from training.data.image_text_maker import Shot, as_images, read_shots
from training.data.image_text_report import named
from training.scheme.calibration import ABSENT, Calibration
from training.scheme.dense_clip import DenseClip, ScoreMaps

_ALPHA = 0.6


def picture(
    dense: DenseClip,
    calibration: Calibration,
    frame: Frame,
    rows: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    labels: LabelSpace,
) -> Image.Image | None:
    """A row an image: left what the model says of every place, right the labels that the points get.

    Args:
        dense: the image-text model.
        calibration: of its scores; classes that are switched off are not drawn.
        frame: the scan.
        rows, scores: of its points, as the cache holds them.
        labels: palette.

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
            _dense_labels(dense, calibration, shot, labels),
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


def _dense_labels(dense: DenseClip, calibration: Calibration, shot: Shot, labels: LabelSpace) -> Image.Image:
    maps: ScoreMaps = dense.scores(as_images([shot.image]))
    scores = maps.scores[0].clone()
    scores[torch.from_numpy(~maps.present[0])] = ABSENT
    height, width = shot.image.shape[:2]
    large = F.interpolate(scores[None], size=(height, width), mode="bilinear", align_corners=False)[0]
    values = large.permute(1, 2, 0).reshape(-1, len(scores)).numpy()
    class_id = named(*calibration.apply(values)).reshape(height, width)
    color = display_palette(labels)[class_id].astype(np.float32)
    alpha = np.where(class_id == IGNORE, 0, _ALPHA)[..., None]
    mixed = color * alpha + shot.image * (1 - alpha)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))
