"""Ranges and choices of the settings, checked before any scan is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mdkt_ros.errors import ConfigError
from mdkt_ros.network import PRESETS, STRIDES
from mdkt_ros.sparse import engines
from mdkt_ros.voxels import check_features
from training.data.budgets import BUDGETS

DATA_KINDS = ("semantickitti", "scribblekitti", "nuscenes", "folder", "synthetic")


_CHOICES = {
    "data.kind": DATA_KINDS,
    "data.town_format": ("semantickitti", "nuscenes"),
    "data.budget": BUDGETS,
    "model.preset": tuple(PRESETS),
    "optim.amp": ("auto", "off", "bf16", "fp16"),
    "loss.class_weights": ("none", "sqrt"),
    "engine": engines(),
}

_RANGES: list[tuple[str, Callable[[Any], bool], str]] = [
    (
        "model.voxel_size model.width optim.epochs optim.lr optim.batch_size save_every images.cameras images.scale "
        "image_network.channels transfer.every transfer.levels transfer.heads transfer.temperature contrast.dim "
        "contrast.temperature contrast.queue contrast.anchors distill.weight distill.temperature",
        lambda value: value > 0,
        "above 0",
    ),
    (
        "data.town_first optim.steps optim.weight_decay optim.clip loss.cross_entropy loss.lovasz workers augment.yaw "
        "augment.tilt augment.shift augment.jitter image_network.lr transfer.weight transfer.lovasz transfer.fused "
        "transfer.image transfer.offsets transfer.offset_lr images.pairs pseudo.weight pseudo.soft pseudo.lovasz "
        "pseudo.spread contrast.weight contrast.align teacher.weight distill.lovasz",
        lambda value: value >= 0,
        "0 or more",
    ),
    (
        "augment.flip augment.intensity_drop augment.mix loss.label_smoothing images.flip pseudo.sure pseudo.agree "
        "pseudo.floor pseudo.share pseudo.balance pseudo.precision contrast.negatives",
        lambda value: 0 <= value <= 1,
        "from 0 to 1",
    ),
    (
        "optim.warmup optim.average augment.drop augment.scale augment.intensity images.color contrast.momentum "
        "schedule.opinions schedule.labels_only schedule.ramp",
        lambda value: 0 <= value < 1,
        "0 or more and below 1",
    ),
    ("data.percent", lambda value: 0 < value <= 100, "above 0 and at most 100"),
    ("model.minimum model.maximum", lambda value: len(value) == 3, "three numbers"),
    (
        "transfer.scales",
        lambda value: value and set(value) <= set(STRIDES) and len(set(value)) == len(value),
        f"different ones of {', '.join(map(str, STRIDES))}",
    ),
]


def check_values(flat: dict[str, Any]) -> None:
    """Check every setting by its `section.key`. Raises ConfigError that names the first bad one and what would do."""

    def need(key: str, good: bool, what: str) -> None:
        if not good:
            raise ConfigError(f"{key} = {flat[key]!r}: must be {what}")

    for key, value in flat.items():
        numbers = value if isinstance(value, list) else [value]
        need(key, all(math.isfinite(n) for n in numbers if isinstance(n, float)), "finite")
    for key, allowed in _CHOICES.items():
        need(key, flat[key] in allowed, f"one of {', '.join(allowed)}")
    for keys, good, what in _RANGES:
        for key in keys.split():
            need(key, bool(good(flat[key])), what)
    for key in ("data.towns", "data.town_scans", "data.town_rate"):
        need(key, flat["data.kind"] != "synthetic" or flat[key] > 0, "above 0 for synthetic data")
    share = flat["data.budget"] != "clicks" or flat["data.percent"] == 100
    need("data.percent", share, "100 for data.budget = clicks, which has no share")
    above = all(a < b for a, b in zip(flat["model.minimum"], flat["model.maximum"], strict=True))
    need("model.maximum", above, "above minimum")
    try:
        check_features(flat["model.features"])
    except ConfigError as error:
        raise ConfigError(f"model.features: {error}") from error
    need("loss.lovasz", flat["loss.lovasz"] + flat["loss.cross_entropy"] > 0, "above 0 when loss.cross_entropy is 0")
    channels = flat["image_network.channels"]
    need("transfer.heads", channels % flat["transfer.heads"] == 0, f"a divisor of image_network.channels = {channels}")
    same = flat["image_network.weights"] and not (
        flat["image_network.lr"] or flat["images.color"] or flat["images.flip"]
    )
    what = "false unless image_network.weights are given and image_network.lr, images.color and images.flip are 0"
    need("image_network.keep", not flat["image_network.keep"] or bool(same), what)
    taught = flat["pseudo.weight"] + flat["contrast.weight"] + flat["teacher.weight"] > 0
    need(
        "optim.average",
        not taught or flat["optim.average"] > 0,
        "above 0 for a teacher, which pseudo, contrast and teacher ask",
    )
