"""The grid of cubic voxels that points are put into."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mdkt_ros.errors import ConfigError

# 20 bits an axis: three fit an int64 key, and float32 still tells neighbouring voxels apart.
_MAX_CELLS = 1 << 20
_MAX_METRES = 1e6


@dataclass(frozen=True)
class VoxelGrid:
    """Cubic voxels of `voxel_size` metres in the box `minimum <= p < maximum` (x, y, z in metres, LiDAR frame).

    Raises:
        ConfigError: a value that is not finite, an empty box, or more than 2**20 voxels along an axis.
    """

    voxel_size: float
    minimum: tuple[float, float, float]
    maximum: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.voxel_size) and 0 < self.voxel_size <= _MAX_METRES):
            raise ConfigError(f"voxel_size: {self.voxel_size} is not a positive number of metres")
        for name, corner in (("minimum", self.minimum), ("maximum", self.maximum)):
            if len(corner) != 3 or not all(math.isfinite(v) and abs(v) <= _MAX_METRES for v in corner):
                raise ConfigError(f"{name}: {corner} is not three finite numbers of metres (x, y, z)")
            object.__setattr__(self, name, tuple(float(v) for v in corner))
        object.__setattr__(self, "voxel_size", float(self.voxel_size))
        for axis, low, high in zip("xyz", self.minimum, self.maximum, strict=True):
            # In float32, because the points are: a box that is empty there holds no point.
            if not np.float32(low) < np.float32(high):
                raise ConfigError(f"range of {axis}: minimum {low} is not below maximum {high}")
            if (high - low) / self.voxel_size > _MAX_CELLS:
                raise ConfigError(
                    f"range of {axis}: {low} .. {high} m is more than {_MAX_CELLS} voxels of {self.voxel_size} m"
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y, z."""
        # The slack forgives (70.4 - 0) / 0.1 = 704.0000000000001.
        x, y, z = (
            max(1, math.ceil((high - low) / self.voxel_size - 1e-6))
            for low, high in zip(self.minimum, self.maximum, strict=True)
        )
        return x, y, z
