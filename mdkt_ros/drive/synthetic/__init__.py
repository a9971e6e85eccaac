"""Synthetic drives: a procedural town seen by a spinning LiDAR and by cameras. Needs the extra `synthetic` (embreex).

Towns come from seeds. Those to train in, to choose settings by, to be scored in, and to pre-train images and text on
never share one: `TRAIN_SEEDS`, `VALIDATION_SEEDS`, `TEST_SEEDS`, `PRETRAINING_SEEDS`.
"""

from __future__ import annotations

from mdkt_ros.drive.synthetic.drive import SyntheticDrive
from mdkt_ros.drive.synthetic.synthesize import synthesize

TRAIN_SEEDS = range(1000)
"""Of these the checkpoints in the package learnt from the first 48."""
VALIDATION_SEEDS = range(1000, 2000)
TEST_SEEDS = range(2000, 3000)
PRETRAINING_SEEDS = range(3000, 4000)

__all__ = ["PRETRAINING_SEEDS", "TEST_SEEDS", "TRAIN_SEEDS", "VALIDATION_SEEDS", "SyntheticDrive", "synthesize"]
