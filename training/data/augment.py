"""Random changes of a scan. Points move, vanish or are swapped for another scan's, each with its own label or none:
no label is ever copied to a second point, and none is made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mdkt_ros.products import times_small
from training.config import AugmentConfig
from training.data.scan import Scan

Array = npt.NDArray[np.float32]


def augment(scan: Scan, config: AugmentConfig, rng: np.random.Generator) -> Scan:
    """Leave out points, then turn, tilt, mirror, scale, shift and jitter what stays; change the intensity."""
    if config.drop > 0:
        scan = scan.take(rng.random(len(scan)) >= rng.uniform(0, config.drop))
    points = times_small(scan.points, _linear(config, rng).T)
    points[:, 2] += np.float32(rng.uniform(-config.shift, config.shift))
    if config.jitter > 0:
        noise = rng.standard_normal(points.shape, dtype=np.float32)
        points += np.clip(noise, -3, 3) * np.float32(config.jitter)
    intensity = scan.intensity * np.float32(rng.uniform(1 - config.intensity, 1 + config.intensity))
    if rng.random() < config.intensity_drop:
        intensity = np.zeros_like(intensity)
    return replace(scan, points=points, intensity=intensity)


def _linear(config: AugmentConfig, rng: np.random.Generator) -> Array:
    """Scale, mirrors, tilts and yaw as one (3, 3) matrix."""
    yaw, pitch, roll = np.deg2rad(rng.uniform(-1, 1, 3) * (config.yaw, config.tilt, config.tilt))
    about_z = [[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]]
    about_y = [[np.cos(pitch), 0, np.sin(pitch)], [0, 1, 0], [-np.sin(pitch), 0, np.cos(pitch)]]
    about_x = [[1, 0, 0], [0, np.cos(roll), -np.sin(roll)], [0, np.sin(roll), np.cos(roll)]]
    mirror = np.where(rng.random(2) < config.flip, -1.0, 1.0)
    size = rng.uniform(1 - config.scale, 1 + config.scale)
    matrix = np.asarray(about_x) @ about_y @ about_z @ np.diag([*mirror, 1.0]) * size
    return np.asarray(matrix, dtype=np.float32)


def mix(scan: Scan, other: Scan, config: AugmentConfig, rng: np.random.Generator) -> Scan:
    """Swap part of `scan` for the same part of `other`: an azimuth sector or elevation bands.

    Sectors are PolarMix's (arXiv 2208.00223), without its pasted copies, which would multiply labels; bands are
    LaserMix's (arXiv 2207.00026).
    """
    ways = [_sector] * config.mix_sectors + [_bands] * config.mix_bands
    if not ways:
        return scan
    mine, theirs = ways[rng.integers(len(ways))](scan.points, other.points, rng)
    left, right = scan.take(~mine), other.take(theirs)
    return Scan(
        name=f"{scan.name}+{other.name}",
        points=np.concatenate([left.points, right.points]),
        intensity=np.concatenate([left.intensity, right.intensity]),
        target=np.concatenate([left.target, right.target]),
        index=np.concatenate([left.index, right.index]),
        part=np.concatenate([left.part, np.ones(len(right), dtype=np.uint8)]),
    )


Masks = tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]


def _sector(mine: Array, theirs: Array, rng: np.random.Generator) -> Masks:
    """A sector of 60 to 180 degrees, anywhere."""
    start, width = rng.uniform(0, 2 * np.pi), rng.uniform(np.pi / 3, np.pi)

    def inside(points: Array) -> npt.NDArray[np.bool_]:
        azimuth = np.arctan2(points[:, 1], points[:, 0])
        return np.mod(azimuth - np.float32(start), np.float32(2 * np.pi)) < width

    return inside(mine), inside(theirs)


def _bands(mine: Array, theirs: Array, rng: np.random.Generator) -> Masks:
    """Every second of three to six bands of elevation, about -25 to 3 degrees and open at the ends."""
    bands, parity = int(rng.integers(3, 7)), int(rng.integers(2))
    low, high = np.deg2rad(rng.uniform(-30, -20)), np.deg2rad(rng.uniform(0, 6))
    edges = np.linspace(low, high, bands + 1)[1:-1].astype(np.float32)

    def inside(points: Array) -> npt.NDArray[np.bool_]:
        elevation = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
        return np.asarray(np.searchsorted(edges, elevation) % 2 == parity)

    return inside(mine), inside(theirs)
