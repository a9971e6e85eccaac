"""Calibration of image-text scores by the few labels in the cameras' view.

Scores become probabilities by a map that is fitted to the labels and shrunk towards doing nothing, as far as labels of
scans that it has not seen say (matrix scaling with regularised off-diagonals, arXiv 1910.12656). A class weighs what
its precision on such labels is, and a class that the model does not recognise here is switched off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mdkt_ros.errors import ConfigError
from mdkt_ros.products import times_small

ABSENT = -1.0
"""Score of a class that is not in the image."""
MIN_PRECISION = 0.3
"""Precision below which a class is switched off."""
_PRIOR_LABELS = 4.0
"""Labels that the prior precision counts as."""
_FOLDS = 3
_BLOCK = 512
_MOST_LABELS = 5_000
"""Labels to fit by; the others tell how right it is."""
_CANDIDATES: tuple[tuple[str, float, float], ...] = (
    ("temperature", math.inf, math.inf),
    ("bias", 0.3, math.inf),
    ("matrix", 0.3, 300.0),
    ("matrix", 0.3, 30.0),
    ("matrix", 0.3, 3.0),
)
"""Maps to choose from, the stiffest first: name, and how strongly bias and matrix are held to zero."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """From scores to probabilities and weights.

    Attributes:
        names: of the C classes.
        method: temperature | bias | matrix, what the labels could pay for.
        scale: factor on the scores before the map, the model's own logit scale.
        matrix: (C, C) float64, and bias (C,): logits = (scale * scores, centred) @ matrix + bias.
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
        """Probabilities (P, C) and weights (P,) of points from their scores (P, C).

        The weight of a point is the precision of its likeliest class, 0 where that is switched off.
        """
        inputs, absent = _inputs(scores, self.scale)
        logits = times_small(inputs, self.matrix) + self.bias - self.balance * np.log(self.frequency)
        probability = _softmax(logits, absent)
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
                matrix=np.array(data["matrix"], dtype=np.float64).reshape(len(rows), len(rows)),
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
        scores: (L, C) image-text scores at the labelled points, `ABSENT` for classes that are not in the image.
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
    if scores.ndim != 2 or scores.shape != (len(labels), classes):
        raise ConfigError(f"scores of shape {scores.shape} for {len(labels)} labels of {classes} classes")
    if not len(labels):
        raise ConfigError("none of the drawn labels is in the view of a camera: there is nothing to calibrate by")
    rng = np.random.default_rng(seed)
    truth = np.asarray(labels).astype(np.int64)
    inputs, absent = _inputs(scores, scale)
    scans = np.arange(len(labels)) if groups is None else np.asarray(groups)
    fold = _folds(scans, rng)
    # Labels that are not fitted to are held out anyway.
    some = np.zeros(len(labels), dtype=np.bool_)
    some[rng.permutation(len(labels))[:_MOST_LABELS]] = True
    best, part = _choose(inputs[some], absent[some], truth[some], fold[some], scans[some])
    matrix, bias = _fit(inputs[some], absent[some], truth[some], best)
    held_out = _softmax(times_small(inputs, matrix) + bias, absent)
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
        loss=(float(_losses(_softmax(inputs, absent), truth).mean()), float(_losses(held_out, truth).mean())),
    )


def _inputs(scores: npt.NDArray[np.floating], scale: float) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Scaled scores (P, C), centred, and the mask (P, C) of absent classes, which take the lowest present score."""
    scores = np.asarray(scores, dtype=np.float64)
    absent = scores <= ABSENT
    absent &= ~absent.all(1, keepdims=True)
    lowest = np.where(absent, np.inf, scores).min(1, keepdims=True, initial=np.inf)
    scaled = scale * np.where(absent, lowest, scores)
    return scaled - scaled.mean(1, keepdims=True), absent


def _softmax(logits: Floats, absent: npt.NDArray[np.bool_]) -> Floats:
    logits = np.where(absent, -np.inf, logits)
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(exp / exp.sum(1, keepdims=True))


def _losses(probability: Floats, truth: npt.NDArray[np.int64]) -> Floats:
    # An absent class may be the truth after all: as bad as it can be, but finite.
    return np.asarray(-np.log(np.maximum(probability[np.arange(len(truth)), truth], 1e-6)))


def _folds(groups: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Fold 0 .. _FOLDS - 1 of each label; a group's labels share one."""
    _, group = np.unique(groups, return_inverse=True)
    return np.asarray(rng.permutation(group.max() + 1)[group] % _FOLDS)


def _choose(
    inputs: Floats,
    absent: npt.NDArray[np.bool_],
    truth: npt.NDArray[np.int64],
    fold: npt.NDArray[np.int64],
    groups: npt.NDArray[Any],
) -> tuple[tuple[str, float, float], Floats]:
    """The stiffest candidate that gives held-out labels as high a likelihood as any, and its probabilities (L, C).

    A candidate takes the place of stiffer ones when it is better by more than the standard error of the difference.
    """
    _, group = np.unique(groups, return_inverse=True)
    best, result = _CANDIDATES[0], np.empty_like(inputs)
    for candidate in _CANDIDATES:
        held_out = np.empty_like(inputs)
        for number in np.unique(fold):
            out = fold == number
            # A single group has nothing beside it to fit to: it keeps the model's own scale.
            fitted = _fit(inputs[~out], absent[~out], truth[~out], candidate)
            held_out[out] = _softmax(times_small(inputs[out], fitted[0]) + fitted[1], absent[out])
        if candidate is _CANDIDATES[0]:
            result = held_out
            continue
        gain = np.bincount(group, weights=_losses(result, truth) - _losses(held_out, truth))
        if gain.sum() > math.sqrt(len(gain)) * gain.std(ddof=1 if len(gain) > 1 else 0):
            best, result = candidate, held_out
    return best, result


def _fit(
    inputs: Floats,
    absent: npt.NDArray[np.bool_],
    truth: npt.NDArray[np.int64],
    candidate: tuple[str, float, float],
) -> tuple[Floats, Floats]:
    """Matrix (C, C) and bias (C,) of the largest posterior, priors centred on the identity and on zero."""
    classes, count = inputs.shape[1], len(truth)
    if not count:
        return np.eye(classes), np.zeros(classes)
    _, hold_bias, hold_matrix = candidate
    free_bias, free_matrix = math.isfinite(hold_bias), math.isfinite(hold_matrix)
    rows = np.arange(count)
    # A label whose class was dropped from its image says nothing about the map.
    mask = absent & (np.arange(classes) != truth[:, None])
    flat = torch.zeros(1 + free_bias * classes + free_matrix * classes**2, dtype=torch.float64, requires_grad=True)
    parameters = flat.detach().numpy()  # the same memory

    def unpack() -> tuple[float, Floats, Floats]:
        bias = parameters[1 : 1 + classes] if free_bias else np.zeros(classes)
        change = parameters[1 + classes :].reshape(classes, classes) if free_matrix else np.zeros((classes, classes))
        return math.exp(parameters[0]), bias, change

    def objective() -> float:
        """Mean loss at `flat`, and its gradient: by hand, which is ten times as fast at this size."""
        slope, bias, change = unpack()
        probability = _softmax(slope * inputs + times_small(inputs, change) + bias, mask)
        loss = -np.log(np.maximum(probability[rows, truth], 1e-300)).sum() + 2 * parameters[0] ** 2
        probability[rows, truth] -= 1
        parts = [np.array([slope * (probability * inputs).sum() + 4 * parameters[0]])]
        if free_bias:
            loss += hold_bias / 2 * (bias**2).sum()
            parts.append(probability.sum(0) + hold_bias * bias)
        if free_matrix:
            loss += hold_matrix / 2 * (change**2).sum()
            parts.append((_gram(inputs, probability) + hold_matrix * change).ravel())
        flat.grad = torch.from_numpy(np.concatenate(parts) / count)
        return float(loss) / count

    optimizer = torch.optim.LBFGS(
        [flat], max_iter=60, history_size=10, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )
    optimizer.step(objective)  # type: ignore[no-untyped-call]
    slope, bias, change = unpack()
    return np.eye(classes) * slope + change, bias.copy()


def _gram(x: Floats, y: Floats) -> Floats:
    """x.T @ y, in blocks so small that BLAS starts no threads, see `products`."""
    return np.asarray(sum(x[i : i + _BLOCK].T @ y[i : i + _BLOCK] for i in range(0, len(x), _BLOCK)))


def _shrunk_precision(hits: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> Floats:
    """Precision (C,) of classes, as if each had `_PRIOR_LABELS` more predictions of the classes' mean precision."""
    seen = predicted > 0
    prior = float(((hits[seen] + 1) / (predicted[seen] + 2)).mean()) if seen.any() else 0.0
    return np.asarray((hits + _PRIOR_LABELS * prior) / (predicted + _PRIOR_LABELS))
