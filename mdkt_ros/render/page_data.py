"""What the report page shows of a scan, reduced and packed: quantised positions, one byte a label, JPEG images."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mdkt_ros.camera import Camera
from mdkt_ros.drive.frame import Axes
from mdkt_ros.errors import CameraError, LabelError
from mdkt_ros.labels import IGNORE, LabelSpace
from mdkt_ros.metrics import confusion_matrix
from mdkt_ros.render.overlay import dots
from mdkt_ros.render.style import height_range, to_x_forward

FARTHEST = 1000.0
"""Metres: a coordinate beyond is no LiDAR's, and would take the resolution of 16 bits from all others."""

_THINNING_CELL = 0.2
_JPEG_QUALITY = 80
_UV_STEPS = 16


@dataclass(frozen=True)
class PageFrame:
    """One scan of a report page.

    Attributes:
        name: shown above the cloud; any text.
        stamp: nanoseconds.
        points: (N, 3) metres, LiDAR frame.
        class_id: (N,) uint8 prediction, 255 not labelled; None where there is none.
        probability: (N,) float 0..1 of the prediction, or None.
        truth: (N,) uint8, 255 ignored, or None.
        intensity: (N,) as the sensor gives it, or None.
        images: (name, RGB image as PIL or (H, W, 3) uint8, camera); the image has the size of its camera.
        timings: stage -> milliseconds, or None.
    """

    name: str
    stamp: int
    points: npt.NDArray[np.floating[Any]]
    class_id: npt.NDArray[np.uint8] | None = None
    probability: npt.NDArray[np.floating[Any]] | None = None
    truth: npt.NDArray[np.uint8] | None = None
    intensity: npt.NDArray[np.floating[Any]] | None = None
    images: Sequence[tuple[str, Image.Image | npt.NDArray[np.uint8], Camera]] = field(default=())
    timings: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for what in ("class_id", "probability", "truth", "intensity"):
            column = getattr(self, what)
            if column is not None and column.shape != (len(self.points),):
                raise LabelError(f"frame {self.name}: {what} has shape {column.shape} for {len(self.points)} points")


@dataclass
class PageStatistics:
    """Counts over the whole frames of a page, before points are left out.

    Attributes:
        predicted, true: (256,) int64 points by class id; index 255 is not labelled or ignored.
        confusion: (C, C + 1) int64, of the frames that have both.
        timings: stage -> milliseconds of each frame.
        frames, points, shown: frames, their points, and those that the page holds.
    """

    labels: LabelSpace
    predicted: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    true: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    confusion: npt.NDArray[np.int64] = field(init=False)
    has_prediction: bool = False
    has_truth: bool = False
    timings: dict[str, list[float]] = field(default_factory=dict)
    frames: int = 0
    points: int = 0
    shown: int = 0

    def __post_init__(self) -> None:
        self.confusion = np.zeros((len(self.labels), len(self.labels) + 1), dtype=np.int64)

    def add(self, frame: PageFrame) -> None:
        """Count a frame. Raises LabelError: a class id that the label space does not have."""
        for what, ids in (("class_id", frame.class_id), ("truth", frame.truth)):
            if ids is not None and (foreign := ids[(ids >= len(self.labels)) & (ids != IGNORE)]).size:
                raise LabelError(
                    f"frame {frame.name}: {what} {foreign[0]}; {self.labels.name} has 0 to {len(self.labels) - 1}"
                )
        self.frames += 1
        self.points += len(frame.points)
        if frame.class_id is not None:
            self.has_prediction = True
            self.predicted += np.bincount(frame.class_id, minlength=256)
        if frame.truth is not None:
            self.has_truth = True
            self.true += np.bincount(frame.truth, minlength=256)
        if frame.class_id is not None and frame.truth is not None:
            self.confusion += confusion_matrix(frame.truth, frame.class_id, len(self.labels))
        for stage, milliseconds in (frame.timings or {}).items():
            self.timings.setdefault(stage, []).append(float(milliseconds))


def thin(points: npt.NDArray[np.floating[Any]], limit: int) -> npt.NDArray[np.int64]:
    """Indices, ascending, of at most `limit` points (N, 3) that keep the shape of the scan; only those within 1 km.

    Points crowd near the sensor. So each cell of 0.2 m gives its first point before any cell gives its second: what is
    left out comes from where points are many, and a pole at 60 m keeps all of its few. Deterministic.
    """
    with np.errstate(invalid="ignore"):
        near = np.flatnonzero((np.abs(points) <= FARTHEST).all(axis=1))
    if len(near) <= limit:
        return near
    shuffled = np.random.default_rng(0).permutation(near)
    cell = np.floor(points[shuffled] / _THINNING_CELL).astype(np.int64)
    key = (cell[:, 0] * 1_000_003 + cell[:, 1]) * 1_000_003 + cell[:, 2]
    order = np.argsort(key, kind="stable")
    run = key[order]
    starts = np.flatnonzero(np.concatenate([[True], run[1:] != run[:-1]]))
    within = np.arange(len(run)) - np.repeat(starts, np.diff(np.append(starts, len(run))))
    rank = np.empty(len(run), dtype=np.int64)
    rank[order] = within
    return np.sort(shuffled[np.argsort(rank, kind="stable")[:limit]])


def pack_frame(frame: PageFrame, *, axes: Axes, limit: int, image_width: int) -> dict[str, Any]:
    """The frame as JSON types: at most `limit` points (see `thin`), arrays little-endian in base64.

    Positions are int16 x `scale` metres, x forward; labels, probability and intensity one byte a point.

    Raises:
        CameraError: an image has another size than its camera.
    """
    kept = thin(frame.points, limit)
    xyz = to_x_forward(frame.points[kept], axes)
    scale = max(float(np.abs(xyz).max(initial=0.0)), 1.0) / 32767
    columns, about = _columns(frame, axes)
    packed: dict[str, Any] = {
        "name": frame.name,
        "stamp": str(frame.stamp),
        "total": len(frame.points),
        "n": len(kept),
        "scale": scale,
        "xyz": _base64(np.round(xyz / scale), "<i2"),
        **about,
        **_encode(columns, kept),
    }
    if frame.class_id is not None:
        packed["predictionCounts"] = _counts(frame.class_id)
    if frame.truth is not None:
        packed["truthCounts"] = _counts(frame.truth)
    if frame.class_id is not None and frame.truth is not None:
        scored = frame.truth != IGNORE
        packed["scored"] = int(scored.sum())
        packed["wrong"] = int((scored & (frame.truth != frame.class_id)).sum())
    packed["images"] = [_pack_image(frame, columns, image_width, *image) for image in frame.images]
    return packed


def _columns(frame: PageFrame, axes: Axes) -> tuple[dict[str, npt.NDArray[np.uint8]], dict[str, Any]]:
    """What a point can be coloured by, one byte each (N,), and what the ends of the scales mean."""
    z = to_x_forward(frame.points, axes)[:, 2]
    low, high = height_range(z)
    columns = {"height": _byte(np.nan_to_num(z - low) / (high - low))}
    about: dict[str, Any] = {"heights": [low, high]}
    if frame.class_id is not None:
        columns["prediction"] = frame.class_id
    if frame.truth is not None:
        columns["truth"] = frame.truth
    if frame.probability is not None:
        columns["probability"] = _byte(np.nan_to_num(frame.probability))
    if frame.intensity is not None:
        values = np.nan_to_num(np.asarray(frame.intensity, dtype=np.float64), posinf=0.0, neginf=0.0)
        # A retroreflector would leave everything else black: the scale ends at the 98th percentile.
        top = float(np.percentile(values, 98)) if len(values) else 1.0
        about["intensityTop"] = top if top > 0 else 1.0
        columns["intensity"] = _byte(values / about["intensityTop"])
    return columns, about


def _byte(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
    scaled: npt.NDArray[np.uint8] = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return scaled


def _encode(columns: Mapping[str, npt.NDArray[np.uint8]], kept: npt.NDArray[np.int64]) -> dict[str, str]:
    return {name: _base64(column[kept], "u1") for name, column in columns.items()}


def _pack_image(
    frame: PageFrame,
    columns: Mapping[str, npt.NDArray[np.uint8]],
    width: int,
    name: str,
    image: Image.Image | npt.NDArray[np.uint8],
    camera: Camera,
) -> dict[str, Any]:
    picture = (image if isinstance(image, Image.Image) else Image.fromarray(image)).convert("RGB")
    if picture.size != (camera.width, camera.height):
        raise CameraError(
            f"frame {frame.name}, image {name}: {picture.width}x{picture.height} pixels, "
            f"the camera is calibrated for {camera.width}x{camera.height}"
        )
    # Every point that the camera sees, not the thinned ones: a few per cent of the scan, where detail counts.
    seen = dots(camera, frame.points)
    shrink = min(1.0, width / picture.width)
    size = (max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink)))
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    # What was right on the full image would be lost in a reduced one.
    radius = seen.radius if shrink == 1 else np.maximum(seen.radius * shrink, 1.1)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    centre = np.clip((seen.pixels + 0.5) * shrink * _UV_STEPS, 0, 65535)
    return {
        "name": name,
        "size": size,
        "src": "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"),
        "step": 1 / _UV_STEPS,
        "uv": _base64(np.round(centre), "<u2"),
        "radius": _base64(np.round(np.clip(radius * 32, 1, 255)), "u1"),
        **_encode(columns, seen.point),
    }


def _counts(class_id: npt.NDArray[np.uint8]) -> dict[str, int]:
    counts = np.bincount(class_id, minlength=256)
    return {str(c): int(counts[c]) for c in np.flatnonzero(counts)}


def _base64(values: npt.NDArray[Any], dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(dtype).tobytes()).decode("ascii")
