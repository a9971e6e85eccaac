"""The methods of the label efficiency experiment: one recipe, and what each of them changes in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mdkt_ros.errors import ConfigError
from training.config import PLACE_KEYS, TrainConfig, flatten, load_config, uses_images, uses_teacher
from training.data.image_text_head import read_head

RECIPE = Path(__file__).resolve().parents[1] / "config" / "train" / "mdkt_towns.yaml"
"""The whole scheme. A method switches off what it does not have."""

PARTS: dict[str, tuple[str, ...]] = {
    "labels": (),
    "images": ("images", "image_network", "transfer"),
    "pseudo": ("pseudo", "schedule"),
    "contrast": ("contrast",),
    "teacher": ("teacher",),
}
"""Sections of the recipe that a method has or has not; all others are of `labels`."""

_NO_TEACHER = ("teacher.weight=0",)
_NO_CONTRAST = (*_NO_TEACHER, "contrast.weight=0")
_NO_TEXT = (*_NO_CONTRAST, "pseudo.weight=0")
_NO_IMAGES = (*_NO_TEXT, "transfer.weight=0")


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: as in the results. title: as in the table. overrides: settings over those of the recipe.
        adds: the name of the row that it should not fall below, empty where there is none; not always the one above it.
        budgets: label budgets in percent of the points.
    """

    name: str
    title: str
    overrides: tuple[str, ...]
    adds: str
    budgets: tuple[float, ...] = (0.1,)


METHODS = (
    Method("labels_only", "labels only", _NO_IMAGES, "", (0.1, 0.01, 1.0)),
    Method("one_to_one", "+ one-to-one transfer", (*_NO_TEXT, "transfer.offsets=0"), "labels_only"),
    Method(
        "deformable_single_scale",
        "+ deformable, one scale",
        (*_NO_TEXT, "transfer.scales=[1]", "transfer.levels=1"),
        "labels_only",
    ),
    Method("deformable_multi_scale", "+ deformable, multi-scale", _NO_TEXT, "one_to_one"),
    Method(
        "spread_labels",
        "+ drawn labels spread over clusters",
        (*_NO_CONTRAST, "pseudo.cache="),
        "deformable_multi_scale",
    ),
    Method("image_text", "+ image-text pseudo labels", _NO_CONTRAST, "deformable_multi_scale"),
    Method("contrast", "+ contrast", _NO_TEACHER, "image_text"),
    Method("ema", "+ EMA teacher: the whole scheme", (), "contrast", (0.1, 0.01, 1.0)),
    Method("full_supervision", "full supervision, labels only", _NO_IMAGES, "", (100.0,)),
)
"""In the order of the table; each of the middle ones is the row above it and one part more."""


@dataclass(frozen=True)
class Run:
    """One training: a method with a budget and a seed, which is that of the label draw, too."""

    method: Method
    budget: float
    seed: int

    @property
    def key(self) -> tuple[str, float, int]:
        """What identifies its row."""
        return (self.method.name, self.budget, self.seed)

    def __str__(self) -> str:
        return f"{self.method.name} at {self.budget:g} %, seed {self.seed}"

    def overrides(self, more: Iterable[str] = ()) -> list[str]:
        """Settings over the recipe's: `more`, over them what makes the run.

        In this order, since `transfer.offsets=2` for the whole table must not give one-to-one transfer offsets, nor
        `transfer.weight=16` transfer to the runs without.
        """
        return [
            *more,
            *self.method.overrides,
            f"data.percent={self.budget:g}",
            f"data.draw_seed={self.seed}",
            f"seed={self.seed}",
        ]

    def config(self, more: Iterable[str] = (), recipe: Path = RECIPE) -> TrainConfig:
        """The settings of the run: the recipe's and over them `overrides(more)`. Raises ConfigError."""
        return load_config(recipe, self.overrides(more))


def budget_of(more: Iterable[str] = (), recipe: Path = RECIPE) -> float:
    """Percent of the points with a label, as the recipe and the settings over it say. Raises ConfigError."""
    return load_config(recipe, [*more]).data.percent


def method_named(name: str) -> Method:
    """Raises ConfigError that lists the methods when there is none of that name."""
    for method in METHODS:
        if method.name == name:
            return method
    raise ConfigError(f"no method {name}; there are {', '.join(method.name for method in METHODS)}")


def plan(methods: Iterable[str], budgets: Iterable[float], seeds: Iterable[int]) -> list[Run]:
    """The runs of the experiment, seed after seed; empty methods or budgets: those of the table.

    A budget that the table does not have for a method can be asked for, if the method is named with it.
    """
    chosen = [method_named(name) for name in methods]
    wanted = tuple(budgets)
    runs = []
    for seed in seeds:
        for method in chosen or METHODS:
            known = wanted if chosen and wanted else [b for b in method.budgets if not wanted or b in wanted]
            runs += [Run(method, budget, seed) for budget in known]
    return runs


def used_parts(config: TrainConfig) -> list[str]:
    """Names of the parts of `PARTS` that have a say in what a run computes."""
    on = {
        "labels": True,
        "images": uses_images(config),
        "pseudo": uses_teacher(config),
        "contrast": config.contrast.weight > 0,
        "teacher": config.teacher.weight > 0,
    }
    return [name for name in PARTS if on[name]]


def settings_digests(run: Run, more: Iterable[str] = (), recipe: Path = RECIPE) -> dict[str, str]:
    """8 hex digits for each part of the recipe that has a say in what the run computes, wherever that happens.

    A row stays as good as it was when a part changes that its method does not have. What the method itself changes,
    the budget and the seed are not in it: rows of one table can be compared when their digests are the same.
    """
    config = load_config(recipe, [*more])
    # A trained teacher is no part of the scheme: without one its settings say nothing.
    settings = {k: v for k, v in flatten(config).items() if config.distill.checkpoint or not k.startswith("distill.")}
    settings = {k: v for k, v in settings.items() if k not in PLACE_KEYS}
    of = {section: part for part, sections in PARTS.items() for section in sections}
    digests = {}
    for part in used_parts(run.config(more, recipe)):
        own = {key: value for key, value in settings.items() if of.get(key.partition(".")[0], "labels") == part}
        digests[part] = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:8]
    return digests


def image_text_model(config: TrainConfig) -> str | None:
    """Which model made the scores of `pseudo.cache`, None where there are none. Raises ConfigError."""
    if not config.pseudo.cache:
        return None
    description = read_head(Path(config.pseudo.cache)).description
    return " ".join(value for value in description.values() if value) or "unnamed"
