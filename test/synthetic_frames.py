"""What the tests of synthetic drives share: the seed of their town, and frames as seen from it."""

from __future__ import annotations

SEED = 2004


def in_world(frame):
    """Points (N, 3) in the world's axes."""
    pose = frame.world_from_lidar
    return frame.points @ pose[:3, :3].T + pose[:3, 3]


def named(frame, drive, name):
    """Which points (N,) bool are of the class."""
    return frame.labels == drive.labels.index(name)
