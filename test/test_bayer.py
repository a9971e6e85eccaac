"""Raw Bayer images."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mdkt_ros.drive.bag_images import decode_raw
from mdkt_ros.drive.bayer import PATTERNS, demosaic


def mosaic(image, encoding):
    out = np.empty(image.shape[:2], np.uint8)
    for place, color in enumerate(PATTERNS[encoding]):
        at = (slice(place // 2, None, 2), slice(place % 2, None, 2))
        out[at] = image[(*at, "rgb".index(color))]
    return out


@pytest.mark.parametrize("encoding", PATTERNS)
def test_an_even_colour_comes_back_everywhere(encoding):
    image = np.broadcast_to(np.array([200, 90, 10], np.uint8), (7, 6, 3))
    assert np.array_equal(demosaic(mosaic(image, encoding), encoding), image)


@pytest.mark.parametrize("encoding", PATTERNS)
def test_a_gradient_comes_back_inside_and_what_was_measured_stays(encoding):
    v, u = np.mgrid[:8, :10]
    image = np.stack([4 * u + v, 3 * v + 20, 200 - 2 * u - v], axis=2).astype(np.uint8)
    raw = mosaic(image, encoding)
    out = demosaic(raw, encoding)
    assert np.abs(out[1:-1, 1:-1].astype(int) - image[1:-1, 1:-1]).max() <= 1
    assert np.array_equal(mosaic(out, encoding), raw)


def test_a_raw_message_with_padded_rows_is_read():
    image = np.broadcast_to(np.array([200, 90, 10], np.uint8), (4, 6, 3))
    rows = np.zeros((4, 8), np.uint8)
    rows[:, :6] = mosaic(image, "bayer_rggb8")
    message = SimpleNamespace(encoding="bayer_rggb8", height=4, width=6, step=8, data=rows.reshape(-1))
    assert np.array_equal(decode_raw("front", message), image)
