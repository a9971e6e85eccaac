"""A spinning LiDAR: where its beams point, what comes back, how strongly, and what is lost."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.synthetic.kinds import Kind
from mdkt_ros.drive.synthetic.materials import OPTICS, RETROREFLECTIVE, TINTED
from mdkt_ros.drive.synthetic.scene import Moment

Array = npt.NDArray[np.float32]


class Lidar(NamedTuple):
    """A spinning LiDAR.

    Attributes:
        elevations: (B,) degrees, in the order of ring numbers.
        steps: azimuth steps of a revolution.
        height: metres above ground.
        max_range: metres. noise: standard deviation of the range, metres.
        period: seconds of a revolution.
        clockwise: direction of rotation seen from above. start: azimuth of the first step, radians, in vehicle axes.
        ring_major: whether points are stored ring by ring (KITTI) or column by column (nuScenes).
        scale: 0 remission in 0..1 as KITTI, 1 intensity in 0..255 as nuScenes.
        keeps_missing: whether pulses without a return are stored near the origin (nuScenes) or not at all.
        roof: x0, x1, half width and height below the sensor of the vehicle's own roof, metres.
    """

    elevations: tuple[float, ...]
    steps: int
    height: float
    max_range: float
    noise: float
    period: float
    clockwise: bool
    start: float
    ring_major: bool
    scale: int
    keeps_missing: bool
    roof: tuple[float, float, float, float]


_UPPER = np.linspace(2.0, -8.33, 32)
_LOWER = np.linspace(-8.87, -24.8, 32)
HDL64E = Lidar(
    tuple(float(e) for e in np.concatenate([_UPPER, _LOWER])),
    2160, 1.73, 81.0, 0.018, 0.1, False, 0.0, True, 0, False, (-0.9, 0.6, 0.36, 0.25),
)  # fmt: skip
"""Velodyne HDL-64E S2 as on KITTI's vehicle: 32 upper lasers 1/3 degree apart, 32 lower ones about 1/2 degree."""

HDL32E = Lidar(
    tuple(float(e) for e in np.linspace(-30.67, 10.67, 32)),
    1084, 1.84, 100.0, 0.018, 0.05, True, np.pi / 2 + 0.13, False, 1, True, (-1.4, 0.6, 0.42, 0.32),
)  # fmt: skip
"""Velodyne HDL-32E as on nuScenes' vehicles."""


def with_beams(lidar: Lidar, beams: int) -> Lidar:
    """The same sensor with its field of view divided into another number of beams."""
    if beams == len(lidar.elevations):
        return lidar
    return lidar._replace(
        elevations=tuple(float(e) for e in np.linspace(lidar.elevations[0], lidar.elevations[-1], beams))
    )


class Scan(NamedTuple):
    """What a revolution gave, N points in the sensor's axes (x forward).

    Attributes:
        points: (N, 3) float32. intensity: (N,) float32. ring: (N,) uint16. kind: (N,) uint8 `Kind`.
        instance: (N,) uint32. moving: (N,) bool. time: (N,) float32 seconds from the first to the last step.
    """

    points: Array
    intensity: Array
    ring: npt.NDArray[np.uint16]
    kind: npt.NDArray[np.uint8]
    instance: npt.NDArray[np.uint32]
    moving: npt.NDArray[np.bool_]
    time: Array


class Beams(NamedTuple):
    """The pulses of a revolution in the order of storage.

    Attributes:
        direction: (R, 3) float32 unit vectors in the sensor's axes. ring: (R,) uint16.
        share: (R,) float32 of the revolution. gain: (R,) float32 of the beam's receiver.
    """

    direction: Array
    ring: npt.NDArray[np.uint16]
    share: Array
    gain: Array


def beam_directions(lidar: Lidar, rng: np.random.Generator, sensor: np.random.Generator) -> Beams:
    """The pulses of a revolution; `sensor` draws what is particular to this unit: misalignments and gains."""
    beams = len(lidar.elevations)
    tilt = np.radians(np.array(lidar.elevations) + sensor.normal(0, 0.03, beams))
    skew = sensor.normal(0, 0.0025, beams)
    # Beams are not calibrated alike: a few see everything half as bright.
    gain = np.clip(sensor.normal(1.0, 0.09, beams), 0.7, 1.3)
    gain[sensor.random(beams) < 0.08] *= 0.55
    share = (np.arange(lidar.steps) + rng.random()) / lidar.steps
    turn = lidar.start + (-1 if lidar.clockwise else 1) * 2 * np.pi * share
    if lidar.ring_major:
        azimuth, elevation = turn[None, :] + skew[:, None], np.broadcast_to(tilt[:, None], (beams, lidar.steps))
        ring = np.broadcast_to(np.arange(beams)[:, None], azimuth.shape)
        when = np.broadcast_to(share[None, :], azimuth.shape)
    else:
        azimuth, elevation = turn[:, None] + skew[None, :], np.broadcast_to(tilt[None, :], (lidar.steps, beams))
        ring = np.broadcast_to(np.arange(beams)[None, :], azimuth.shape)
        when = np.broadcast_to(share[:, None], azimuth.shape)
    azimuth = azimuth + rng.normal(0, 2e-4, azimuth.shape)
    direction = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], axis=-1
    )
    number = ring.ravel().astype(np.uint16)
    return Beams(
        direction.reshape(-1, 3).astype(np.float32),
        number,
        when.ravel().astype(np.float32),
        gain.astype(np.float32)[number],
    )


def _own_roof(lidar: Lidar, direction: Array) -> npt.NDArray[np.bool_]:
    """Which beams end on the vehicle's own roof."""
    x0, x1, half, below = lidar.roof
    with np.errstate(divide="ignore"):
        reach = np.where(direction[:, 2] < 0, -below / direction[:, 2], np.inf)
    with np.errstate(invalid="ignore"):
        x, y = direction[:, 0] * reach, direction[:, 1] * reach
    return (x > x0) & (x < x1) & (np.abs(y) < half)


def _reflectivity(
    moment: Moment, triangle: npt.NDArray[np.int32], cosine: Array, rng: np.random.Generator, scale: int
) -> Array:
    """Mean returned intensity (N,) in 0..1 (scale 0) or 0..255 (scale 1), varied by object, point and incidence."""
    material, color = moment.of("material", triangle), moment.of("color", triangle)
    optics = OPTICS[material]
    # The colour stands for the object: all of one building, car or coat share a deviation.
    own = np.sin(color @ np.array([129.1, 311.7, 74.7], dtype=np.float32) * 3.1)
    value = optics[:, scale] * (1 + 1.4 * optics[:, 2] * own)
    luminance = color @ np.array([0.3, 0.5, 0.2], dtype=np.float32)
    value = np.where(TINTED[material], value * np.clip(0.06 + 1.9 * np.sqrt(luminance), 0, 1.4), value)
    # Calibration makes up for the angle until the surface is nearly along the beam.
    falls = np.where(RETROREFLECTIVE[material], 1.0, (0.88 + 0.16 * cosine) * np.clip(cosine / 0.09, 0.2, 1) ** 0.6)
    grain = np.clip(1 + optics[:, 3] * rng.standard_normal(len(triangle), dtype=np.float32), 0.1, 3)
    result: Array = (value * falls * grain).astype(np.float32)
    return result


def scan(
    moment: Moment,
    lidar: Lidar,
    origins: Array,
    rotations: Array,
    beams: Beams,
    rng: np.random.Generator,
) -> Scan:
    """One revolution.

    Args:
        origins: sensor positions (1 or R, 3) at each beam's time.
        rotations: world-from-sensor rotations (1 or R, 3, 3) then.
        beams: from `beam_directions`.
    """
    direction, ring, when, gain = beams
    world = direction @ rotations[0].T if len(rotations) == 1 else np.einsum("rij,rj->ri", rotations, direction)
    hits = moment.cast(origins, world)
    triangle = np.maximum(hits.triangle, 0)
    cosine = np.abs(np.einsum("ri,ri->r", moment.normal(triangle), world))
    optics = OPTICS[moment.of("material", triangle)]
    value = _reflectivity(moment, triangle, cosine, rng, lidar.scale)
    distance = hits.distance
    share = value if lidar.scale == 0 else value / 110
    with np.errstate(divide="ignore", invalid="ignore"):
        echo = np.log(np.maximum(share, 1e-4) * np.maximum(cosine, 1e-3) / (distance * distance) / 2.6e-6)
        heard = 1 / (1 + np.exp(-2.2 * echo))
    kept = heard * (1 - optics[:, 4]) * (1 - optics[:, 5] * (1 - cosine) ** 2)
    returned = (hits.triangle >= 0) & (distance < lidar.max_range) & (rng.random(len(kept), dtype=np.float32) < kept)
    fuzz = np.hypot(np.float32(lidar.noise), optics[:, 6]) * rng.standard_normal(len(kept), dtype=np.float32)
    measured = np.where(returned, distance + fuzz, 0).astype(np.float32)
    kind = moment.of("kind", triangle)
    instance = moment.of("instance", triangle).astype(np.uint32)
    moving = hits.triangle >= moment.first_moving
    # Stray returns: dust, sensor errors.
    stray = rng.random(len(kept)) < 2e-4
    upto = np.where(np.isfinite(distance), distance, 60.0)
    measured = np.where(stray, upto * rng.uniform(0.1, 1.0, len(kept)), measured).astype(np.float32)
    roof = _own_roof(lidar, direction)
    measured = np.where(roof, -lidar.roof[3] / np.minimum(direction[:, 2], -1e-3), measured).astype(np.float32)
    kind[stray], kind[roof] = Kind.OUTLIER, Kind.EGO
    keep = (returned | stray | roof) & (measured > 0.9)
    if lidar.keeps_missing:
        missing = ~(returned | stray | roof)
        kind[missing] = Kind.OUTLIER
        measured[missing] = 0.45
        keep = np.ones(len(kept), dtype=np.bool_)
    else:
        keep &= ~roof
    lost = kind == Kind.OUTLIER
    instance[lost | roof], moving[lost | roof] = 0, False
    value = np.where(lost | roof, value * 0.3, value * gain)
    if lidar.scale == 0:
        # The weakest returns are reported as zero, and some others too.
        chance = rng.random(len(value), dtype=np.float32)
        value = np.where(chance < np.where(value < 0.07, 0.8, 0.03), 0, value)
        value = np.round(np.clip(value, 0, 0.99), 2).astype(np.float32)
    else:
        value = np.clip(np.floor(value), 0, 255).astype(np.float32)
    points = direction * measured[:, None]
    return Scan(
        points[keep],
        value[keep],
        ring[keep],
        kind[keep],
        instance[keep],
        moving[keep],
        when[keep] * np.float32(lidar.period),
    )
