"""Points to pixels: round splats into a depth buffer, then eye-dome lighting, which gives a cloud its shape."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

EMPTY = -1


class Raster(NamedTuple):
    """A rendered cloud.

    Attributes:
        point: (H, W) int64, the point that a pixel shows, -1 where none.
        depth: (H, W) float32, its depth, inf where none.
    """

    point: npt.NDArray[np.int64]
    depth: npt.NDArray[np.float32]


def rasterize(
    pixels: npt.NDArray[np.floating],
    depth: npt.NDArray[np.floating],
    radius: npt.NDArray[np.floating] | float,
    width: int,
    height: int,
) -> Raster:
    """Draw every point as a disc; the nearest one wins a pixel, whatever the order of the points.

    Args:
        pixels: (N, 2), u right and v down.
        depth: (N,), smaller is nearer. Points with a pixel or depth that is not finite are left out.
        radius: (N,) or one, pixels; below 0.5 a disc is one pixel.
        width, height: of the result.
    """
    far = len(pixels)
    shown = np.flatnonzero(np.isfinite(pixels).all(axis=1) & np.isfinite(depth))
    # Outside by more than the largest disc: clipped first, so that the cast to int cannot overflow.
    centre = np.floor(np.clip(pixels[shown], -1e6, 1e6)).astype(np.int64)
    radii = np.broadcast_to(np.asarray(radius, dtype=np.float64), (far,))[shown]
    near_to_far = np.argsort(depth[shown], kind="stable")
    rank = np.empty(len(shown), dtype=np.int64)
    rank[near_to_far] = np.arange(len(shown))

    buffer = np.full(width * height, far, dtype=np.int64)
    reach = int(np.floor(radii.max())) if len(radii) else 0
    for dv in range(-reach, reach + 1):
        for du in range(-reach, reach + 1):
            u, v = centre[:, 0] + du, centre[:, 1] + dv
            drawn = (u >= 0) & (u < width) & (v >= 0) & (v < height)
            if du or dv:
                drawn &= du * du + dv * dv <= radii * radii
            np.minimum.at(buffer, v[drawn] * width + u[drawn], rank[drawn])

    index = np.full(width * height, EMPTY, dtype=np.int64)
    image_depth = np.full(width * height, np.inf, dtype=np.float32)
    hit = buffer < far
    index[hit] = shown[near_to_far][buffer[hit]]
    image_depth[hit] = depth[index[hit]]
    return Raster(index.reshape(height, width), image_depth.reshape(height, width))


def eye_dome_lighting(
    depth: npt.NDArray[np.float32], *, strength: float, step: int = 2, floor: float = 0.35
) -> npt.NDArray[np.float32]:
    """Brightness (H, W) float32 in floor..1: a pixel darkens by how far it lies behind its neighbours.

    Source: Boucheny, "Interactive scientific visualization of large datasets", PhD thesis, Grenoble 2009.

    Args:
        depth: (H, W), inf where nothing was drawn; empty neighbours count as far away and do not darken.
        strength: per unit of depth.
        step: pixels to the neighbours.
        floor: darkest value.
    """
    finite = np.isfinite(depth)
    here = np.where(finite, depth, np.float32(0))
    behind = np.zeros_like(here)
    padded = np.pad(depth, step, constant_values=np.float32(np.inf))
    rows, columns = depth.shape
    for dv, du in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)):
        there = padded[step + dv * step :, step + du * step :][:rows, :columns]
        behind += np.maximum(0, here - np.where(np.isfinite(there), there, here))
    return np.maximum(np.exp(behind * np.float32(-strength / 8)), np.float32(floor))


def compose(
    raster: Raster,
    colors: npt.NDArray[np.floating],
    background: npt.NDArray[np.floating],
    brightness: npt.NDArray[np.floating] | None = None,
) -> npt.NDArray[np.uint8]:
    """Picture (H, W, 3) uint8 from point colours (N, 3) in 0..255 over a background (H, W, 3) or (3,)."""
    canvas = np.broadcast_to(np.asarray(background, dtype=np.float32), (*raster.point.shape, 3)).copy()
    hit = raster.point >= 0
    lit = colors[raster.point[hit]].astype(np.float32)
    if brightness is not None:
        lit *= brightness[hit][:, None]
    canvas[hit] = lit
    return (np.clip(canvas, 0, 255) + 0.5).astype(np.uint8)


def shrink(image: npt.NDArray[np.uint8], factor: int) -> Image.Image:
    """Average blocks of `factor` x `factor` pixels: what turns a supersampled picture into an antialiased one."""
    return Image.fromarray(image).reduce(factor)
