"""Where the scores of prompts go that no cloud holds: files beside the scans of a folder, a note in a bag."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mdkt_ros.prompts import PromptScores, column_names

FOLDER, INDEX = "prompts", "prompts.json"
"""Folder of a labelled data set that holds `<scan's path>.npy`, (N, P) float32, and what says which column is which."""

CUSTOM_KEY = "mdkt_ros.prompts"
"""Key of a bag's custom_data under which lies `describe`'s JSON."""

MEANING = "probability of the prompt beside all other classes, 0 .. 1; 0 where the point is not labelled"


def describe(prompts: Sequence[str]) -> str:
    """JSON that says which field or column belongs to which prompt."""
    return json.dumps({"fields": dict(zip(column_names(prompts), prompts, strict=True)), "score": MEANING}, indent=1)


def write_scores(root: Path, scan: Path, scores: PromptScores) -> None:
    """Write a scan's scores below `root`, which stands for the data set's folder; `scan` is the scan's path in that."""
    index = root / INDEX
    if not index.is_file():
        root.mkdir(parents=True, exist_ok=True)
        index.write_text(describe(scores.prompts) + "\n", encoding="utf-8")
    path = root / scan.with_name(f"{scan.name}.npy")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, scores.score)
