"""Untrained checkpoints for tests that need one but not what it says."""

from __future__ import annotations

import torch

from mdkt_ros.checkpoint_meta import CheckpointMeta
from mdkt_ros.labels import LabelSpace
from mdkt_ros.network import PointNetwork, build_network
from mdkt_ros.voxel_grid import VoxelGrid


def random_network(seed: int = 0) -> PointNetwork:
    """The smallest preset at a quarter of its width, SemanticKITTI's classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network("minkunet14s", in_channels=4, classes=19, width=0.25)
    return network.eval()


def random_meta() -> CheckpointMeta:
    """What `random_network` is loaded with."""
    grid = VoxelGrid(0.2, (-50.0, -50.0, -4.0), (50.0, 50.0, 4.0))
    return CheckpointMeta("minkunet14s", 0.25, grid, LabelSpace.load("semantickitti"))
