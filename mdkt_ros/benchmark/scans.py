"""Made-up scans for benches without data."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_BEAMS = 64


def spinning_scan(beams: int = _BEAMS, azimuths: int = 1900, seed: int = 0) -> npt.NDArray[np.float32]:
    """(N, 3) points of a made-up street for benches without data: ground, facades with gaps, scattered poles and cars.

    A real scan of as many points fills about as many voxels, with more neighbours each: it costs half as much again.
    """
    rng = np.random.default_rng(seed)
    azimuth = np.linspace(-np.pi, np.pi, azimuths, endpoint=False)
    elevation = np.radians(np.linspace(2.0, -24.8, beams))
    facade = np.abs(
        rng.uniform(6, 25, 24)[(azimuth * 12 / np.pi).astype(int) + 11] / np.maximum(np.abs(np.sin(azimuth)), 0.08)
    )
    objects = np.where(rng.random(azimuths // 20 + 1) < 0.25, rng.uniform(4, 30, azimuths // 20 + 1), np.inf)
    wall = np.minimum(facade, np.repeat(objects, 20)[:azimuths])
    ground = 1.73 / np.maximum(np.tan(-elevation), 1e-3)
    distance = np.minimum(wall[:, None], ground[None, :]) + rng.normal(0, 0.02, (azimuths, beams))
    x, y = distance * np.cos(azimuth)[:, None], distance * np.sin(azimuth)[:, None]
    z = distance * np.tan(elevation)[None, :]
    seen = distance < 80
    return np.stack([x[seen], y[seen], z[seen]], axis=1).astype(np.float32)


def scan_of(points: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """About so many points of such a street: a sensor with more beams, and more shots of each."""
    beams = int(np.clip(round((points / 120_000) ** 0.5 * _BEAMS), 16, 256))
    return spinning_scan(beams, max(points // beams, 40), seed)
