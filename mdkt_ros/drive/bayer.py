"""Raw images of colour cameras, one colour a pixel, to RGB."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PATTERNS = {f"bayer_{pattern}8": pattern for pattern in ("rggb", "bggr", "gbrg", "grbg")}
"""Encoding of `sensor_msgs/Image` -> colours of the top left 2x2 pixels, row by row."""


def demosaic(raw: npt.NDArray[np.uint8], encoding: str) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 to (H, W, 3) uint8 RGB: a colour that a pixel lacks is the mean of its neighbours that have it."""
    height, width = raw.shape
    out = np.empty((height, width, 3), np.uint8)
    for channel, color in enumerate("rgb"):
        mask = np.zeros((height, width), np.uint16)
        for place, found in enumerate(PATTERNS[encoding]):
            if found == color:
                mask[place // 2 :: 2, place % 2 :: 2] = 1
        weight = np.maximum(_sum_3x3(mask), 1)
        out[..., channel] = np.where(mask == 1, raw, (_sum_3x3(raw * mask) + weight // 2) // weight)
    return out


def _sum_3x3(values: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Sum over each pixel's neighbourhood, those beside it counted twice as much as those across the corner."""
    padded = np.pad(values, 1)
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return np.asarray(rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:], dtype=np.uint16)
