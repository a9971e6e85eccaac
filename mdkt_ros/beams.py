"""How far apart a LiDAR's beams are, measured on a scan: drives that say nothing about their sensor are the rule."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

DEFAULT_SPACING = 0.45
"""Degrees: a 64-beam sensor's, for scans too small to tell."""

_COLUMN = 0.4
"""Degrees of azimuth that hold each beam's shot at least once."""
_EVERY = 4
_SAME_BEAM = 0.1
_NEAREST = 3.0
_FEWEST = 100


def beam_spacing(points: npt.NDArray[np.floating]) -> float:
    """Degrees of elevation between neighbouring beams of the scan (N, 3), metres, z up; `DEFAULT_SPACING` if unclear.

    In a narrow column of azimuth each beam is there once or twice, so that the median gap between the elevations of
    a column's points is the spacing, a tenth is added because half of the gaps are wider. About 0.43 for KITTI's 64
    beams, 1.47 for nuScenes' 32.
    """
    x, y, z = (np.asarray(points[:, axis], dtype=np.float64) for axis in range(3))
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.hypot(x, y)
        azimuth = np.degrees(np.arctan2(y, x)) / _COLUMN
        # Beams do not leave from one spot, which shows near the sensor.
        usable = np.isfinite(azimuth) & np.isfinite(z) & np.isfinite(distance) & (distance > _NEAREST)
    index = np.flatnonzero(usable)
    column = np.floor(azimuth[index]).astype(np.int64)
    some = column % _EVERY == 0
    index, column = index[some], column[some]
    elevation = np.degrees(np.arctan2(z[index], distance[index]))
    order = np.lexsort((elevation, column))
    gap, same = np.diff(elevation[order]), np.diff(column[order]) == 0
    gap = gap[same & (gap > _SAME_BEAM)]
    if len(gap) < _FEWEST:
        return DEFAULT_SPACING
    return 1.1 * float(np.median(gap))
