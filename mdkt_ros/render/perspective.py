"""A labelled cloud as seen from behind and above the vehicle: a still picture for a report or a README."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from mdkt_ros.drive.frame import Axes
from mdkt_ros.errors import LabelError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.render import style
from mdkt_ros.render.birdseye import beside_legend
from mdkt_ros.render.raster import compose, eye_dome_lighting, rasterize, shrink

_SUPERSAMPLE = 2
_NEAR = 1.0


def perspective(
    points: npt.NDArray[np.floating],
    class_id: npt.NDArray[np.uint8],
    labels: LabelSpace,
    *,
    width: int = 1280,
    height: int = 720,
    azimuth: float = 205.0,
    elevation: float = 28.0,
    distance: float = 42.0,
    target: tuple[float, float, float] = (8.0, 0.0, -1.0),
    field_of_view: float = 50.0,
    axes: Axes = "x_forward",
    title: str | None = None,
    legend: bool = False,
) -> Image.Image:
    """Picture of a labelled cloud through a pinhole camera that looks at `target`.

    Args:
        points: (N, 3) metres, LiDAR frame. Points that are not finite are left out.
        class_id: (N,) uint8, 255 is grey.
        labels: palette.
        width, height: pixels.
        azimuth: degrees of the eye around z, 180 is behind the vehicle, 90 on its left.
        elevation: degrees of the eye above the horizon.
        distance: metres from the eye to the target.
        target: metres, x forward, y left, z up.
        field_of_view: vertical, degrees.
        axes: axis convention of `points`.
        title: written in the upper left corner.
        legend: add a column with the classes that occur.

    Raises:
        LabelError: `class_id` is not one label a point.
    """
    if class_id.shape != (len(points),):
        raise LabelError(f"class_id has shape {class_id.shape} for {len(points)} points")
    xyz = style.to_x_forward(points, axes)
    around, up = math.radians(azimuth), math.radians(elevation)
    back = np.array([math.cos(up) * math.cos(around), math.cos(up) * math.sin(around), math.sin(up)])
    right = np.array([-math.sin(around), math.cos(around), 0.0])
    above = np.cross(back, right)
    seen = (xyz - (np.asarray(target) + distance * back)) @ np.stack([right, above, -back], axis=1)
    columns, rows = width * _SUPERSAMPLE, height * _SUPERSAMPLE
    focal = rows / 2 / math.tan(math.radians(field_of_view) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        depth = np.where(seen[:, 2] > _NEAR, seen[:, 2], np.nan)
        pixels = np.stack([columns / 2 + focal * seen[:, 0] / depth, rows / 2 - focal * seen[:, 1] / depth], axis=1)
        radius = np.clip(0.045 * focal / depth, 1.0, 4.5) * rows / 1440
    raster = rasterize(pixels, depth, radius, columns, rows)
    light = eye_dome_lighting(np.log2(raster.depth), strength=28.0, step=2)
    low, high = style.height_range(xyz[:, 2])
    rise = np.nan_to_num(np.clip((xyz[:, 2] - low) / (high - low), 0, 1))
    colors = style.display_palette(labels)[class_id] * (0.82 + 0.18 * rise)[:, None]
    haze = np.nan_to_num(np.clip((depth - 2 * distance) / (4 * distance), 0, 0.6))[:, None]
    colors = colors * (1 - haze) + np.asarray(style.BACKGROUND) * haze
    picture = shrink(compose(raster, colors, np.asarray(style.BACKGROUND, dtype=np.float32), light), _SUPERSAMPLE)
    if title:
        style.text_at(picture, (round(height * 0.03),) * 2, title, max(12, round(height * 0.032)), style.INK)
    return beside_legend(picture, style.class_entries(class_id, labels), "share of points") if legend else picture
