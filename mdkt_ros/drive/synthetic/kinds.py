"""What things in a town are, and the raw label ids that each data set gives them."""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt


class Kind(enum.IntEnum):
    """Kind of a surface. Finer than either data set's classes, so that one town serves both."""

    OUTLIER = 0
    ROAD = 1
    LANE_MARKING = 2
    PARKING = 3
    SIDEWALK = 4
    OTHER_GROUND = 5
    TERRAIN = 6
    BUILDING = 7
    FENCE = 8
    OTHER_STRUCTURE = 9
    VEGETATION = 10
    TRUNK = 11
    POLE = 12
    SIGN = 13
    OTHER_OBJECT = 14
    CAR = 15
    TRUCK = 16
    BUS = 17
    TRAILER = 18
    BICYCLE = 19
    MOTORCYCLE = 20
    PERSON = 21
    BICYCLIST = 22
    MOTORCYCLIST = 23
    BARRIER = 24
    CONE = 25
    CONSTRUCTION_VEHICLE = 26
    BICYCLE_RACK = 27
    EGO = 28


# Kind: (SemanticKITTI standing, SemanticKITTI moving, nuScenes)
_RAW: dict[Kind, tuple[int, int, int]] = {
    Kind.OUTLIER: (1, 1, 0),
    Kind.ROAD: (40, 40, 24),
    Kind.LANE_MARKING: (60, 60, 24),
    Kind.PARKING: (44, 44, 24),
    Kind.SIDEWALK: (48, 48, 26),
    Kind.OTHER_GROUND: (49, 49, 25),
    Kind.TERRAIN: (72, 72, 27),
    Kind.BUILDING: (50, 50, 28),
    Kind.FENCE: (51, 51, 28),
    Kind.OTHER_STRUCTURE: (52, 52, 28),
    Kind.VEGETATION: (70, 70, 30),
    Kind.TRUNK: (71, 71, 30),
    Kind.POLE: (80, 80, 28),
    Kind.SIGN: (81, 81, 28),
    Kind.OTHER_OBJECT: (99, 99, 29),
    Kind.CAR: (10, 252, 17),
    Kind.TRUCK: (18, 258, 23),
    Kind.BUS: (13, 257, 16),
    Kind.TRAILER: (20, 259, 22),
    Kind.BICYCLE: (11, 11, 14),
    Kind.MOTORCYCLE: (15, 15, 21),
    Kind.PERSON: (30, 254, 2),
    Kind.BICYCLIST: (31, 253, 14),
    Kind.MOTORCYCLIST: (32, 255, 21),
    Kind.BARRIER: (51, 51, 9),
    Kind.CONE: (99, 99, 12),
    Kind.CONSTRUCTION_VEHICLE: (20, 259, 18),
    Kind.BICYCLE_RACK: (99, 99, 13),
    Kind.EGO: (0, 0, 31),
}

_TABLE = np.array([_RAW[kind] for kind in Kind], dtype=np.uint32)

THINGS = frozenset(
    {
        Kind.CAR,
        Kind.TRUCK,
        Kind.BUS,
        Kind.TRAILER,
        Kind.BICYCLE,
        Kind.MOTORCYCLE,
        Kind.PERSON,
        Kind.BICYCLIST,
        Kind.MOTORCYCLIST,
        Kind.BARRIER,
        Kind.CONE,
        Kind.CONSTRUCTION_VEHICLE,
    }
)
"""Kinds that are countable: they carry instance ids, and boxes in nuScenes."""


def raw_semantickitti(kind: npt.NDArray[np.uint8], moving: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    """SemanticKITTI raw ids (N,) of kinds (N,); moving things get 252 to 259."""
    table: npt.NDArray[np.uint32] = np.where(moving, _TABLE[kind, 1], _TABLE[kind, 0])
    return table


def raw_nuscenes(kind: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """nuScenes-lidarseg raw ids (N,) of kinds (N,)."""
    table: npt.NDArray[np.uint32] = _TABLE[kind, 2]
    return table
