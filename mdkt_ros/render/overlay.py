"""Labelled points drawn on a camera's image, where the camera sees them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from mdkt_ros.beams import beam_spacing
from mdkt_ros.camera import Camera, visible
from mdkt_ros.errors import CameraError, LabelError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.render.raster import rasterize
from mdkt_ros.render.style import display_palette

_SUPERSAMPLE = 2


class Dots(NamedTuple):
    """Points as an image shows them.

    Attributes:
        point: (M,) int64 points that the camera sees, the farthest first.
        pixels: (M, 2) float64 in the image.
        radius: (M,) float64 pixels, smaller with depth.
    """

    point: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.float64]
    radius: npt.NDArray[np.float64]


def dots(camera: Camera, points: npt.NDArray[np.floating]) -> Dots:
    """Where those points of a whole scan (N, 3) that a camera sees fall in its image, and how large to draw them."""
    projection = camera.project(points)
    index = np.flatnonzero(visible(projection, camera, beam_spacing=beam_spacing(points)))
    index = index[np.argsort(-projection.depth[index], kind="stable")]
    # A dot covers about 6 cm at its depth, between what the eye still sees and what hides the image.
    focal = float(camera.matrix[0, 0])
    scale = max(camera.width, camera.height) / 1240
    radius = np.clip(0.03 * focal / projection.depth[index], max(0.75, 0.9 * scale), max(1.5, 2.4 * scale))
    return Dots(index, projection.pixels[index], radius)


def overlay(
    image: npt.NDArray[np.uint8],
    camera: Camera,
    points: npt.NDArray[np.floating],
    class_id: npt.NDArray[np.uint8],
    labels: LabelSpace,
    *,
    alpha: float = 0.85,
) -> Image.Image:
    """Draw labelled points on the image of a camera; near points larger, and over far ones.

    Args:
        image: (H, W, 3) uint8 RGB, of the size that the camera is calibrated for.
        camera: projects the LiDAR frame; points behind something nearer are left out.
        points: (N, 3) metres, LiDAR frame.
        class_id: (N,) uint8; points that are not labelled (255) are left out.
        labels: palette.
        alpha: 0 shows the image alone, 1 opaque points.

    Raises:
        CameraError: the image has another size than the camera.
        LabelError: `class_id` is not one label a point.
    """
    image = np.asarray(image)
    if image.shape != (camera.height, camera.width, 3):
        raise CameraError(
            f"camera {camera.name}: calibrated for {camera.width}x{camera.height}, the image has shape {image.shape}"
        )
    if class_id.shape != (len(points),):
        raise LabelError(f"class_id has shape {class_id.shape} for {len(points)} points")
    seen = dots(camera, points)
    kept = class_id[seen.point] < len(labels)
    index, pixels, radius = seen.point[kept], seen.pixels[kept], seen.radius[kept]
    raster = rasterize(
        (pixels + 0.5) * _SUPERSAMPLE,
        -np.arange(len(index), dtype=np.float64),
        radius * _SUPERSAMPLE,
        camera.width * _SUPERSAMPLE,
        camera.height * _SUPERSAMPLE,
    )
    hit = raster.point >= 0
    layer = np.zeros((*hit.shape, 4), dtype=np.uint8)
    layer[hit, :3] = display_palette(labels)[class_id[index]][raster.point[hit]]
    layer[hit, 3] = round(255 * min(max(alpha, 0.0), 1.0))
    # reduce() weighs colour by alpha for RGBA, so that edges do not turn dark.
    top = Image.fromarray(layer).reduce(_SUPERSAMPLE)
    return Image.alpha_composite(Image.fromarray(image).convert("RGBA"), top).convert("RGB")
