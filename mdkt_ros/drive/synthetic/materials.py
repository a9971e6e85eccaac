"""What surfaces are made of: how a LiDAR sees them. How a camera sees them is `textures.py`."""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Material(enum.IntEnum):
    """Material of a surface; the index into every table of this module and of `textures.py`."""

    ASPHALT = 0
    PAINT = 1
    PAVING = 2
    COBBLE = 3
    CONCRETE = 4
    GRASS = 5
    SOIL = 6
    GRAVEL = 7
    PLASTER = 8
    BRICK = 9
    ROOF = 10
    WOOD = 11
    STEEL = 12
    WINDOW = 13
    LEAF = 14
    BARK = 15
    CAR_PAINT = 16
    CAR_GLASS = 17
    RUBBER = 18
    SIGN_FACE = 19
    CLOTH = 20
    SKIN = 21
    PLASTIC = 22
    WIRE_MESH = 23
    REFLECTOR = 24


class _Optics(NamedTuple):
    kitti: float  # mean remission 0..1, as calibrated by the HDL-64E of KITTI
    nuscenes: float  # mean intensity 0..255 of the HDL-32E of nuScenes
    varies: float  # relative standard deviation from object to object
    grain: float  # relative standard deviation from point to point
    drop: float  # probability that a pulse is lost whatever the range
    gloss: float  # how much more is lost at grazing incidence
    fuzz: float  # metres of extra range noise of a surface that is not smooth


# Means follow per-class medians of real scans; the rest is judged by eye against their range images.
_OPTICS: dict[Material, _Optics] = {
    Material.ASPHALT: _Optics(0.31, 11, 0.03, 0.12, 0.01, 0.10, 0.004),
    Material.PAINT: _Optics(0.46, 38, 0.10, 0.15, 0.00, 0.05, 0.003),
    Material.PAVING: _Optics(0.34, 28, 0.05, 0.13, 0.01, 0.10, 0.005),
    Material.COBBLE: _Optics(0.33, 20, 0.08, 0.18, 0.01, 0.10, 0.010),
    Material.CONCRETE: _Optics(0.36, 32, 0.12, 0.12, 0.01, 0.10, 0.004),
    Material.GRASS: _Optics(0.36, 32, 0.08, 0.24, 0.01, 0.02, 0.030),
    Material.SOIL: _Optics(0.29, 24, 0.08, 0.20, 0.01, 0.02, 0.020),
    Material.GRAVEL: _Optics(0.30, 24, 0.08, 0.20, 0.01, 0.02, 0.015),
    Material.PLASTER: _Optics(0.37, 46, 0.16, 0.08, 0.01, 0.08, 0.003),
    Material.BRICK: _Optics(0.31, 32, 0.15, 0.12, 0.01, 0.08, 0.004),
    Material.ROOF: _Optics(0.27, 24, 0.20, 0.12, 0.02, 0.10, 0.006),
    Material.WOOD: _Optics(0.33, 32, 0.20, 0.15, 0.01, 0.05, 0.004),
    Material.STEEL: _Optics(0.28, 24, 0.50, 0.25, 0.05, 0.30, 0.003),
    Material.WINDOW: _Optics(0.12, 12, 0.50, 0.60, 0.45, 0.50, 0.004),
    Material.LEAF: _Optics(0.32, 19, 0.10, 0.35, 0.02, 0.02, 0.020),
    Material.BARK: _Optics(0.24, 17, 0.12, 0.20, 0.01, 0.02, 0.008),
    Material.CAR_PAINT: _Optics(0.26, 26, 0.25, 0.25, 0.02, 0.55, 0.003),
    Material.CAR_GLASS: _Optics(0.05, 3, 0.40, 0.80, 0.70, 0.50, 0.004),
    Material.RUBBER: _Optics(0.05, 5, 0.40, 0.50, 0.12, 0.30, 0.004),
    Material.SIGN_FACE: _Optics(0.95, 150, 0.06, 0.08, 0.01, 0.00, 0.004),
    Material.CLOTH: _Optics(0.27, 30, 0.45, 0.15, 0.01, 0.02, 0.008),
    Material.SKIN: _Optics(0.38, 36, 0.10, 0.10, 0.01, 0.02, 0.004),
    Material.PLASTIC: _Optics(0.26, 26, 0.40, 0.15, 0.02, 0.20, 0.003),
    Material.WIRE_MESH: _Optics(0.24, 22, 0.20, 0.30, 0.05, 0.10, 0.010),
    Material.REFLECTOR: _Optics(0.90, 130, 0.10, 0.10, 0.00, 0.05, 0.003),
}

OPTICS: npt.NDArray[np.float32] = np.array([_OPTICS[m] for m in Material], dtype=np.float32)
"""(materials, 7) float32; columns as in `_Optics`: kitti, nuscenes, varies, grain, drop, gloss, fuzz."""

RETROREFLECTIVE = np.isin(np.arange(len(Material)), [Material.SIGN_FACE, Material.REFLECTOR])
"""(materials,) bool: sends light back to where it came from, whatever the angle."""

TINTED = np.isin(np.arange(len(Material)), [Material.CAR_PAINT, Material.CLOTH, Material.PLASTIC, Material.STEEL])
"""(materials,) bool: reflectivity follows how bright the paint is (black cars return little)."""
