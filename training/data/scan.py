"""A scan on its way to the network: points, what is known about them, and where each came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.frame import Frame


@dataclass(frozen=True)
class Scan:
    """Points of one scan, or of two that were mixed; all arrays have one row a point.

    Attributes:
        name: of the scan; both names where two were mixed.
        points: (N, 3) float32 metres, finite.
        intensity: (N,) float32, 0..1 by the drive's scale; zeros where the sensor has none.
        target: (N,) uint8 class ids; 255 where the label draw holds no label.
        index: (N,) int64 row of the point in its recorded scan, so that images and caches find it again.
        part: (N,) uint8, 0 the scan itself, 1 the scan that was mixed in.
    """

    name: str
    points: npt.NDArray[np.float32]
    intensity: npt.NDArray[np.float32]
    target: npt.NDArray[np.uint8]
    index: npt.NDArray[np.int64]
    part: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.points)

    def find(self, part: int, recorded: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """Rows (P,) of this scan that hold the recorded points (P,) of a part; -1 for points that were left out."""
        rows = np.flatnonzero(self.part == part)
        table = np.full(int(max(self.index[rows].max(initial=-1), recorded.max(initial=-1))) + 1, -1, dtype=np.int64)
        table[self.index[rows]] = rows
        found: npt.NDArray[np.int64] = table[recorded]
        return found

    def take(self, kept: npt.NDArray[np.bool_]) -> Scan:
        """The points of the mask `kept` (N,), everything known about them with them."""
        return replace(
            self,
            points=self.points[kept],
            intensity=self.intensity[kept],
            target=self.target[kept],
            index=self.index[kept],
            part=self.part[kept],
        )


def make_scan(name: str, frame: Frame, target: npt.NDArray[np.uint8], intensity_scale: float) -> Scan:
    """The finite points of a frame with their drawn labels (N,) uint8; intensity comes out as 0..1."""
    points = frame.points
    if frame.intensity is None:
        intensity = np.zeros(len(points), dtype=np.float32)
    else:
        intensity = frame.intensity * np.float32(intensity_scale)
    kept = np.isfinite(points).all(1) & np.isfinite(intensity)
    index = np.flatnonzero(kept)
    part = np.zeros(len(index), dtype=np.uint8)
    return Scan(name, points[kept], intensity[kept], target[kept], index, part)
