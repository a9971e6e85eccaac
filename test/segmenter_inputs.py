"""What the tests of the segmenter give it: a network with random weights that decides, and clouds."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch

from mdkt_ros.checkpoint import CheckpointMeta
from mdkt_ros.labels import LabelSpace
from mdkt_ros.network import PointNetwork, build_network
from mdkt_ros.voxel_grid import VoxelGrid

LABELS = LabelSpace.load("semantickitti")
META = CheckpointMeta("minkunet14s", 0.25, VoxelGrid(0.5, (-40.0, -40.0, -4.0), (40.0, 40.0, 4.0)), LABELS)


def network(seed: int = 0) -> PointNetwork:
    """Random weights, loud enough that many classes win somewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_network("minkunet14s", in_channels=4, classes=19, width=0.25)
        for name, value in net.state_dict().items():
            if "running_var" in name:
                value.uniform_(0.01, 0.1)
            elif name.startswith("classifier"):
                value.normal_()
    return net.eval()


def scan(count: int = 4000, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    points = rng.normal(0, [8, 8, 0.5], (count, 3)).astype(np.float32)
    return points, rng.random(count, dtype=np.float32)


def caught(action: Callable[[], object]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        action()
    return list(messages)
