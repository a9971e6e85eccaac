"""How right the image-text labels are, where the truth is known: each class, before and after calibration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.table import Table

from mdkt_ros.labels import IGNORE
from mdkt_ros.metrics import Scores, confusion_matrix, scores
from training.data.image_text import ImageTextCache
from training.scheme.calibration import Calibration


@dataclass(frozen=True, eq=False)
class Report:
    """Confusion matrices (C, C + 1) int64 over the points in view that have a class.

    Attributes:
        raw: the class of the highest score.
        calibrated: the likeliest class; left unlabelled where that is switched off.
        sure: the same, left unlabelled below the probability `limit` as well.
        calibration: that was applied.
        limit: probability from which an image-text label is believed alone (`pseudo.sure`).
        scans: compared.
    """

    raw: npt.NDArray[np.int64]
    calibrated: npt.NDArray[np.int64]
    sure: npt.NDArray[np.int64]
    calibration: Calibration
    limit: float
    scans: int

    def to_dict(self) -> dict[str, Any]:
        """Figures by name, of JSON types only; null where there is nothing to divide by."""
        parts = {name: getattr(self, name) for name in ("raw", "calibrated", "sure")}
        figures = {name: scores(part) for name, part in parts.items()}
        return {
            "scans": self.scans,
            "points_in_view": int(self.raw.sum()),
            "sure_from": self.limit,
            **{
                name: {
                    "miou": _number(result.miou),
                    "precision": _number(precision_of_labelled(parts[name])),
                    "labelled": _number(_labelled(parts[name])),
                }
                for name, result in figures.items()
            },
            "classes": {
                class_name: {
                    "points": int(figures["raw"].support[i]),
                    **{name: _figures(result, i) for name, result in figures.items()},
                }
                for i, class_name in enumerate(self.calibration.names)
            },
            "calibration": self.calibration.to_dict(),
        }

    def table(self) -> Table:
        """Per-class figures in percent; last mean IoU, and precision and recall of all points together."""
        names = ("points", "labels", "weight", "raw IoU", "IoU", "prec.", "recall", "sure prec.", "recall")
        out = Table("class", *names, box=box.SIMPLE, pad_edge=False, collapse_padding=True)
        for column in out.columns[1:]:
            column.justify = "right"
        raw, calibrated, sure = (scores(part) for part in (self.raw, self.calibrated, self.sure))
        for i, name in enumerate(self.calibration.names):
            row = (raw.iou[i], calibrated.iou[i], calibrated.precision[i], calibrated.recall[i])
            weight = _percent(self.calibration.precision[i]) if self.calibration.kept[i] else "off"
            out.add_row(
                name,
                f"{raw.support[i]:,}",
                f"{self.calibration.labels[i]:,}",
                weight,
                *map(_percent, (*row, sure.precision[i], sure.recall[i])),
            )
        out.add_section()
        whole = (
            raw.miou,
            calibrated.miou,
            precision_of_labelled(self.calibrated),
            calibrated.accuracy,
            precision_of_labelled(self.sure),
            sure.accuracy,
        )
        labels = f"{int(self.calibration.labels.sum()):,}"
        out.add_row("mean, all", f"{raw.support.sum():,}", labels, "", *map(_percent, whole), style="bold")
        return out


def make_report(
    cache: ImageTextCache,
    calibration: Calibration,
    limit: float,
    *,
    most: int = 500,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Compare the labels of up to `most` scans, spread over the source, with the truth."""
    classes = len(calibration.names)
    raw, calibrated, sure = np.zeros((3, classes, classes + 1), dtype=np.int64)
    chosen = np.unique(np.linspace(0, len(cache.source) - 1, most).astype(int)).tolist()
    for done, index in enumerate(chosen, 1):
        truth = cache.source[index].labels
        if truth is not None:
            rows, values = cache.scan(index)
            probability, weight = calibration.apply(values)
            likeliest = named(probability, weight)
            raw += confusion_matrix(truth[rows], values[:, :classes].argmax(1).astype(np.uint8), classes)
            calibrated += confusion_matrix(truth[rows], likeliest, classes)
            likeliest[probability.max(1) < limit] = IGNORE
            sure += confusion_matrix(truth[rows], likeliest, classes)
        if progress is not None:
            progress(done, len(chosen))
    return Report(raw, calibrated, sure, calibration, limit, len(chosen))


def named(probability: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Likeliest class (P,) uint8, 255 where it is switched off."""
    return np.where(weight > 0, probability.argmax(1), IGNORE).astype(np.uint8)


def precision_of_labelled(confusion: npt.NDArray[np.int64]) -> float:
    """Share of the points that got a label whose label is right."""
    labelled = confusion[:, :-1]
    return float(labelled.trace() / labelled.sum()) if labelled.any() else math.nan


def _labelled(confusion: npt.NDArray[np.int64]) -> float:
    return float(confusion[:, :-1].sum() / confusion.sum()) if confusion.any() else math.nan


def _figures(result: Scores, i: int) -> dict[str, float | None]:
    return {name: _number(getattr(result, name)[i]) for name in ("iou", "precision", "recall")}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
