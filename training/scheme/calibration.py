"""Calibration of image-text scores by the few labels in the cameras' view.

Scores become probabilities by a map that is fitted to the labels and shrunk towards doing nothing, as far as labels of
scans that it has not seen say (matrix scaling with regularised off-diagonals, arXiv 1910.12656). A class weighs what
its precision on such labels is, and a class that the model does not recognise here is switched off.

Beside the scores of the C classes there may be K components: of the images' own features, and of the shape of what
surrounds a point. What they say of a class is learnt from the labels alone: a linear probe that starts from the text's
classifier (LP++, arXiv 2404.02285), and takes part only where labels that it has not seen say that it helps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mdkt_ros.errors import ConfigError
from mdkt_ros.products import times_small
from training.scheme.calibration_map import Floats, choose_map, fit_map, folds, label_losses, map_inputs, softmax

MIN_PRECISION = 0.3
"""Precision below which a class is switched off."""
_PRIOR_LABELS = 4.0
"""Labels that the prior precision counts as."""
_MOST_LABELS = 5_000
"""Labels to fit by; the others tell how right it is."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """From scores to probabilities and weights.

    Attributes:
        names: of the C classes.
        method: temperature | bias | matrix | probe, what the labels could pay for.
        scale: factor on the scores before the map, the model's own logit scale.
        matrix: (C + K, C) float64, and bias (C,): logits = (scale * scores, centred, and components) @ matrix + bias.
        frequency: (C,) float64 of the classes among the labels, smoothed.
        balance: power of the frequency that probabilities are divided by: 0 as frequent as they are, so that a rare
            class is hardly ever named; 1 as if all were alike, so that it is named too often.
        precision: (C,) float64 of what is named, on labels that the map was not fitted to, shrunk where they are few.
        kept: (C,) bool, classes that are not switched off.
        labels: (C,) int64 labelled points in view.
        predicted: (C,) int64 labelled points in view that the model gives the class.
        loss: mean negative log likelihood of the labels, by the model's own scale, and calibrated without `balance`;
            both on labels that were not fitted to.
    """

    names: tuple[str, ...]
    method: str
    scale: float
    matrix: Floats
    bias: Floats
    frequency: Floats
    balance: float
    precision: Floats
    kept: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    loss: tuple[float, float]

    def apply(self, scores: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Probabilities (P, C) and weights (P,) of points from their scores and components (P, C + K).

        The weight of a point is the precision of its likeliest class, 0 where that is switched off.
        """
        inputs, absent = map_inputs(scores, self.scale, len(self.names))
        logits = times_small(inputs, self.matrix) + self.bias - self.balance * np.log(self.frequency)
        probability = softmax(logits, absent)
        weight = np.where(self.kept, self.precision, 0.0)[probability.argmax(1)]
        return probability.astype(np.float32), weight.astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Of JSON types only; `from_dict` reads it."""
        return {
            "method": self.method,
            "scale": self.scale,
            "loss_raw": self.loss[0],
            "loss": self.loss[1],
            "balance": self.balance,
            "matrix": self.matrix.tolist(),
            "classes": {
                name: {
                    "bias": float(self.bias[i]),
                    "frequency": float(self.frequency[i]),
                    "precision": float(self.precision[i]),
                    "kept": bool(self.kept[i]),
                    "labels": int(self.labels[i]),
                    "predicted": int(self.predicted[i]),
                }
                for i, name in enumerate(self.names)
            },
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Calibration:
        """What `to_dict` gave. Raises ConfigError."""
        try:
            rows = list(data["classes"].values())
            return cls(
                names=tuple(data["classes"]),
                method=str(data["method"]),
                scale=float(data["scale"]),
                matrix=np.array(data["matrix"], dtype=np.float64).reshape(-1, len(rows)),
                bias=np.array([row["bias"] for row in rows], dtype=np.float64),
                frequency=np.array([row["frequency"] for row in rows], dtype=np.float64),
                balance=float(data["balance"]),
                precision=np.array([row["precision"] for row in rows], dtype=np.float64),
                kept=np.array([row["kept"] for row in rows], dtype=np.bool_),
                labels=np.array([row["labels"] for row in rows], dtype=np.int64),
                predicted=np.array([row["predicted"] for row in rows], dtype=np.int64),
                loss=(float(data["loss_raw"]), float(data["loss"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"not a calibration: {error}") from error


def fit_calibration(
    scores: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer[Any]],
    names: tuple[str, ...],
    *,
    scale: float = 100.0,
    groups: npt.NDArray[np.integer[Any]] | None = None,
    balance: float = 0.0,
    min_precision: float = MIN_PRECISION,
    seed: int = 0,
) -> Calibration:
    """Calibrate by labelled points.

    Args:
        scores: (L, C + K) image-text scores at the labelled points, `ABSENT` for classes that are not in the image, and
            K components, or none.
        labels: (L,) their class ids.
        names: of the classes.
        scale: the model's own logit scale, which the map starts from.
        groups: (L,) scan of each label; labels of one scan are never on both sides of the check.
        balance: how far rare classes are helped, see `Calibration`.
        min_precision: below it a class is switched off.
        seed: of the choice of folds, and of labels where there are more than the map can use.

    Raises:
        ConfigError: there are no labels, or arrays that do not belong together.
    """
    classes = len(names)
    if scores.ndim != 2 or len(scores) != len(labels) or scores.shape[1] < classes:
        raise ConfigError(f"scores of shape {scores.shape} for {len(labels)} labels of {classes} classes")
    if not len(labels):
        raise ConfigError("none of the drawn labels is in the view of a camera: there is nothing to calibrate by")
    rng = np.random.default_rng(seed)
    truth = np.asarray(labels).astype(np.int64)
    inputs, absent = map_inputs(scores, scale, classes)
    scans = np.arange(len(labels)) if groups is None else np.asarray(groups)
    fold = folds(scans, rng)
    # Labels that are not fitted to are held out anyway.
    some = np.zeros(len(labels), dtype=np.bool_)
    some[rng.permutation(len(labels))[:_MOST_LABELS]] = True
    best, part = choose_map(inputs[some], absent[some], truth[some], fold[some], scans[some])
    matrix, bias = fit_map(inputs[some], absent[some], truth[some], best)
    held_out = softmax(times_small(inputs, matrix) + bias, absent)
    held_out[some] = part
    counts = np.bincount(truth, minlength=classes)
    frequency = (counts + 1) / (counts + 1).sum()
    guess = (held_out / frequency**balance).argmax(1)
    predicted = np.bincount(guess, minlength=classes)
    precision = _shrunk_precision(np.bincount(guess[guess == truth], minlength=classes), predicted)
    return Calibration(
        names=names,
        method=best[0],
        scale=scale,
        matrix=matrix,
        bias=bias,
        frequency=frequency,
        balance=balance,
        precision=precision,
        kept=precision >= min_precision,
        labels=counts,
        predicted=predicted,
        loss=(
            float(label_losses(softmax(inputs[:, :classes], absent), truth).mean()),
            float(label_losses(held_out, truth).mean()),
        ),
    )


def _shrunk_precision(hits: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> Floats:
    """Precision (C,) of classes, as if each had `_PRIOR_LABELS` more predictions of the classes' mean precision."""
    seen = predicted > 0
    prior = float(((hits[seen] + 1) / (predicted[seen] + 2)).mean()) if seen.any() else 0.0
    return np.asarray((hits + _PRIOR_LABELS * prior) / (predicted + _PRIOR_LABELS))
