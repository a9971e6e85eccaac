"""Synthetic drives: a procedural town seen by a spinning LiDAR and by cameras. Needs the extra `synthetic` (embreex).

Towns come from seeds. Those for training and those for testing never share one:
"""

from __future__ import annotations

from mdkt_ros.drive.synthetic.drive import SyntheticDrive
from mdkt_ros.drive.synthetic.synthesize import synthesize

TRAIN_SEEDS = range(1000)
VALIDATION_SEEDS = range(1000, 2000)
TEST_SEEDS = range(2000, 3000)
PRETRAINING_SEEDS = range(3000, 4000)
"""Seeds of the towns that the checkpoint in the package learnt from."""

__all__ = ["PRETRAINING_SEEDS", "TEST_SEEDS", "TRAIN_SEEDS", "VALIDATION_SEEDS", "SyntheticDrive", "synthesize"]
