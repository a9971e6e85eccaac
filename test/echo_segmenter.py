"""Segmenters without a network: one shows what it was given, one fails in the middle."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np

from mdkt_ros.checkpoint import CheckpointMeta
from mdkt_ros.labels import LabelSpace
from mdkt_ros.segmentation import Segmentation
from mdkt_ros.voxel_grid import VoxelGrid

LABELS = LabelSpace.load("semantickitti")
GRID = VoxelGrid(1.0, (-40.0, -40.0, -40.0), (40.0, 40.0, 40.0))


class Echo:
    """A segmenter that shows what it was given: class = sign of x, probability = scaled intensity, entropy = y."""

    def __init__(self, *, axes="x_forward", scale=1.0, chosen=None, labels=LABELS):
        self.labels = labels
        self.meta = replace(CheckpointMeta("minkunet14s", 1.0, GRID, labels), axes=axes, intensity_scale=scale)
        self.axes, self.intensity_scale = axes, scale if chosen is None else chosen
        self.calls = 0

    def for_sensor(self, *, intensity_scale=None, axes=None):
        other = copy.copy(self)
        other.axes, other.intensity_scale = axes or self.axes, intensity_scale or self.intensity_scale
        return other

    def segment(self, points, intensity=None):
        self.calls += 1
        with np.errstate(invalid="ignore"):
            class_id = np.where(np.isnan(points[:, 0]), 255, points[:, 0] > 0).astype(np.uint8)
        values = (
            np.zeros(len(points), np.float32) if intensity is None else intensity * np.float32(self.intensity_scale)
        )
        return Segmentation(class_id, values.astype(np.float32), points[:, 1].copy(), {"inference": 1.0, "total": 1.0})


class Failing(Echo):
    """Fails at the third scan."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def segment(self, points, intensity=None):
        if self.calls == 2:
            raise self.error
        return super().segment(points, intensity)


ERRORS = [KeyboardInterrupt(), OSError(28, "No space left on device")]
