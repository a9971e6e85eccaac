"""Confusion matrix and what follows from it; the same figures as each data set's official evaluator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mdkt_ros.errors import LabelError
from mdkt_ros.labels import IGNORE


def confusion_matrix(
    truth: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8], classes: int
) -> npt.NDArray[np.int64]:
    """Count points by (true class, predicted class), (C, C + 1) int64; the last column counts points left unlabelled.

    Points whose truth is 255 are left out. A prediction of 255 is a miss of the true class, never a way out.

    Raises:
        LabelError: the two differ in length, or the truth holds a class id that is neither below `classes` nor 255.
    """
    if truth.shape != prediction.shape or truth.ndim != 1:
        raise LabelError(f"{truth.shape} true labels and {prediction.shape} predicted ones do not belong together")
    kept = truth != IGNORE
    if (truth[kept] >= classes).any():
        raise LabelError(f"true class id {truth[kept].max()} is not one of {classes} classes")
    predicted = np.minimum(prediction[kept].astype(np.int64), classes)
    flat = truth[kept].astype(np.int64) * (classes + 1) + predicted
    return np.bincount(flat, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


@dataclass(frozen=True)
class Scores:
    """Figures of one confusion matrix; NaN for a class that is neither in the truth nor predicted.

    Attributes:
        iou, precision, recall: (C,) float64, 0..1.
        support: (C,) int64, true points.
        miou: mean over the classes that the truth holds. On a full validation split that is all of them, and the
            official figure; on a part of one, an absent class does not count as 0.
        accuracy: over all points.
    """

    iou: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    support: npt.NDArray[np.int64]
    miou: float
    accuracy: float


def scores(confusion: npt.NDArray[np.int64]) -> Scores:
    """IoU, precision and recall by class and their mean from a (C, C + 1) confusion matrix."""
    classes = len(confusion)
    hits = confusion[:, :classes].diagonal().astype(np.float64)
    support = confusion.sum(1)
    predicted = confusion[:, :classes].sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = hits / (support + predicted - hits)
        precision, recall = hits / predicted, hits / support
        present = support > 0
        miou = float(iou[present].mean()) if present.any() else float("nan")
        accuracy = float(hits.sum() / support.sum()) if support.any() else float("nan")
    return Scores(iou, precision, recall, support, miou, accuracy)
