"""A frame's parts as the bytes of files: what the writers of both data sets share."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from mdkt_ros.drive.frame import Frame, View
from mdkt_ros.errors import LabelError
from mdkt_ros.labels import LabelSpace

_SIGNATURE = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff"}
JPEG_QUALITY = 95


def scan_bytes(frame: Frame, columns: Literal[4, 5], intensity_scale: float) -> bytes:
    """float32 x y z intensity [ring] a point; the intensity times `intensity_scale`, 0 where there is none."""
    scan = np.zeros((len(frame.points), columns), dtype="<f4")
    scan[:, :3] = frame.points
    if frame.intensity is not None:
        scan[:, 3] = frame.intensity * np.float32(intensity_scale)
    if frame.ring is not None and columns == 5:
        scan[:, 4] = frame.ring
    return scan.tobytes()


def raw_labels(frame: Frame, labels: LabelSpace | None, maximum: int) -> npt.NDArray[np.uint32] | None:
    """Raw class ids (N,): the frame's own, or made from its class ids by `labels`; None where it has neither.

    Raises:
        LabelError: class ids without a label space, not as many as points, or an id above `maximum`.
    """
    raw = frame.raw_labels
    if raw is None:
        if frame.labels is None:
            return None
        if labels is None:
            raise LabelError(f"frame {frame.name}: has class ids; give the label space that makes them raw ids")
        raw = labels.to_raw(frame.labels)
    if len(raw) != len(frame.points):
        raise LabelError(f"frame {frame.name}: {len(frame.points)} points, {len(raw)} labels")
    if len(raw) and int(raw.max()) > maximum:
        raise LabelError(f"frame {frame.name}: raw class id {int(raw.max())}; the format has 0 to {maximum}")
    return raw


def image_bytes(view: View, form: Literal["PNG", "JPEG"]) -> bytes:
    """The view's own file where it has this form already (no generation is lost), its pixels encoded otherwise."""
    if view.encoded is not None:
        encoded = view.encoded()
        if encoded.startswith(_SIGNATURE[form]):
            return encoded
    buffer = io.BytesIO()
    image = Image.fromarray(view.load())
    if form == "JPEG":
        image.save(buffer, form, quality=JPEG_QUALITY)
    else:
        # Level 1: a third of the default's time for a tenth more bytes, and as lossless.
        image.save(buffer, form, compress_level=1)
    return buffer.getvalue()
