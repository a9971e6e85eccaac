"""Where the figures of a training run come from: its times, engine and pre-trained weights."""

from __future__ import annotations

import csv
import itertools
import statistics
from pathlib import Path

from bench.methods import image_text_model
from mdkt_ros.device import resolve_device
from mdkt_ros.sparse import current_engine, use_engine
from training.config import TrainConfig


def times(log: Path) -> tuple[float, float]:
    """Median milliseconds of a step, with its data, and minutes of all, by the clock."""
    with log.open(newline="", encoding="utf-8") as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    steps = [b - a for a, b in itertools.pairwise(seconds) if b > a] or seconds
    return round(1000 * statistics.median(steps), 1), round(seconds[-1] / 60, 2)


def origins(config: TrainConfig) -> dict[str, str | None]:
    """Which image-text model and image weights a run learnt from, None where it used none."""
    weights = f"{config.image_network.name}, {config.image_network.weights or 'no weights'}"
    return {
        "image_text_model": image_text_model(config) if config.pseudo.weight > 0 else None,
        "image_weights": weights if config.transfer.weight > 0 else None,
    }


def engine_of(config: TrainConfig) -> str:
    """What computed its convolutions."""
    with use_engine(config.engine):
        return current_engine(resolve_device(config.device)).name
