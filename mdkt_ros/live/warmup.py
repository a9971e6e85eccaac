"""A scan that no sensor took, to make the first real one as fast as those after it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mdkt_ros.segmenter import Segmenter


def street(points: int) -> npt.NDArray[np.float32]:
    """Points (N, 3) float32 metres as a spinning 64-beam sensor sees a street: ground, walls, and bushes between them.

    It fills about as many voxels as a real scan of so many points, so that the memory that a real one takes is there.
    """
    rng = np.random.default_rng(0)
    beams = 64
    columns = max(-(-points // beams), 1)
    elevation, azimuth = np.meshgrid(
        np.radians(np.linspace(2.0, -24.8, beams)), np.linspace(-np.pi, np.pi, columns, endpoint=False)
    )
    direction = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], axis=-1
    )
    with np.errstate(divide="ignore"):
        ground = np.where(direction[..., 2] < 0, -1.73 / direction[..., 2], np.inf)
        wall = 9.0 / np.abs(direction[..., 1])
    bushes = np.where(np.sin(40 * azimuth) > 0, rng.uniform(0, 4, wall.shape), 0)
    distance = np.minimum(np.minimum(ground, wall + bushes), 80.0) + rng.normal(0, 0.02, wall.shape)
    xyz: npt.NDArray[np.float32] = (direction * distance[..., None]).reshape(-1, 3)[:points].astype(np.float32)
    return xyz


def warm_up(segmenter: Segmenter, points: int, passes: int = 3) -> float:
    """Label an invented scan of so many points a few times; the milliseconds that the last pass took."""
    xyz = street(points)
    # A tenth of the full scale: neither dark nor saturated, whatever the sensor's scale is.
    intensity = np.full(points, 0.1 / segmenter.intensity_scale, np.float32)
    total = 0.0
    for _ in range(passes):
        total = segmenter.segment(xyz, intensity).timings["total"]
    return total
