"""Tiny labelled drives and runs for the tests of training: a few hundred points, a few thousand weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

TINY = [
    "model.preset=minkunet14s",
    "model.width=0.25",
    "model.voxel_size=0.5",
    "optim.batch_size=2",
    "device=cpu",
]
"""Overrides that make a run take seconds."""

ROAD, BUILDING, VEGETATION = 8, 12, 14
"""Class ids in SemanticKITTI's label space; their raw ids are 40, 50 and 70."""
RAW = {ROAD: 40, BUILDING: 50, VEGETATION: 70}


def tiny_scan(seed: int, points: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 4) float32 and raw labels (N,) uint32: a floor, a wall, a bush; every tenth point has no class."""
    rng = np.random.default_rng(seed)
    which = rng.integers(0, 3, points)
    x, y, z = rng.uniform(-15, 15, points), rng.uniform(-15, 15, points), rng.uniform(0, 3, points)
    floor, wall = which == 0, which == 1
    z[floor] = -1.7
    y[wall] = 12.0
    x[which == 2] = rng.normal(8, 1.5, (which == 2).sum())
    cloud = np.stack([x, y, z, which / 4 + rng.uniform(0, 0.2, points)], axis=1).astype(np.float32)
    raw = np.array([40, 50, 70], dtype=np.uint32)[which]
    raw[::10] = 0
    return cloud, raw


def write_folder(folder: Path, scans: int = 3, points: int = 300) -> Path:
    """A plain folder of `NN.bin` and `NN.label`."""
    folder.mkdir(parents=True)
    for number in range(scans):
        cloud, raw = tiny_scan(number, points)
        cloud.tofile(folder / f"{number:02}.bin")
        raw.tofile(folder / f"{number:02}.label")
    return folder


def write_semantickitti(root: Path, sequences: tuple[str, ...] = ("00", "01"), scans: int = 2) -> Path:
    """SemanticKITTI's folders, with ScribbleKITTI's label files of which nine in ten points are 0."""
    for sequence in sequences:
        for name in ("velodyne", "labels", "scribbles"):
            (root / "sequences" / sequence / name).mkdir(parents=True)
        for number in range(scans):
            cloud, raw = tiny_scan(number + 100 * int(sequence))
            cloud.tofile(root / "sequences" / sequence / "velodyne" / f"{number:06}.bin")
            raw.tofile(root / "sequences" / sequence / "labels" / f"{number:06}.label")
            scribble = np.where(np.arange(len(raw)) % 10 == 3, raw, 0).astype(np.uint32)
            scribble.tofile(root / "sequences" / sequence / "scribbles" / f"{number:06}.label")
    return root
