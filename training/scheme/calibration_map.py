"""The map from image-text scores to logits, fitted to labels; how free it is, labels that it has not seen decide."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mdkt_ros.products import times_small

ABSENT = -1.0
"""Score of a class that is not in the image."""
_FOLDS = 3
_BLOCK = 512
COMPONENT_SCALE = 16.0
"""Factor on components, whose root mean square is 1 / 16: between the bounds of scores."""


class Candidate(NamedTuple):
    """A map to choose: how strongly the bias and what scores and components add to the classes are held to zero."""

    name: str
    bias: float = math.inf
    scores: float = math.inf
    components: float = math.inf


CANDIDATES = (
    Candidate("temperature"),
    Candidate("bias", 0.3),
    Candidate("matrix", 0.3, 300.0),
    Candidate("matrix", 0.3, 30.0),
    Candidate("matrix", 0.3, 3.0),
    Candidate("probe", 0.3, 30.0, 300.0),
    Candidate("probe", 0.3, 30.0, 100.0),
    Candidate("probe", 0.3, 30.0, 30.0),
    Candidate("probe", 0.3, 30.0, 10.0),
)
"""The stiffest first; without components there is no probe."""

Floats = npt.NDArray[np.float64]


def map_inputs(scores: npt.NDArray[np.floating], scale: float, classes: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Inputs (P, C + K) of the map: scaled and centred scores of the C classes, in which absent ones take the lowest
    present score, and components of unit size; and the mask (P, C) of absent classes."""
    values = np.asarray(scores, dtype=np.float64)
    scores, components = values[:, :classes], values[:, classes:]
    absent = scores <= ABSENT
    absent &= ~absent.all(1, keepdims=True)
    lowest = np.where(absent, np.inf, scores).min(1, keepdims=True, initial=np.inf)
    scaled = scale * np.where(absent, lowest, scores)
    return np.hstack([scaled - scaled.mean(1, keepdims=True), COMPONENT_SCALE * components]), absent


def softmax(logits: Floats, absent: npt.NDArray[np.bool_]) -> Floats:
    logits = np.where(absent, -np.inf, logits)
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(exp / exp.sum(1, keepdims=True))


def label_losses(probability: Floats, truth: npt.NDArray[np.int64]) -> Floats:
    # An absent class may be the truth after all: as bad as it can be, but finite.
    return np.asarray(-np.log(np.maximum(probability[np.arange(len(truth)), truth], 1e-6)))


def folds(groups: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Fold 0 .. _FOLDS - 1 of each label; a group's labels share one."""
    _, group = np.unique(groups, return_inverse=True)
    return np.asarray(rng.permutation(group.max() + 1)[group] % _FOLDS)


def choose_map(
    inputs: Floats,
    absent: npt.NDArray[np.bool_],
    truth: npt.NDArray[np.int64],
    fold: npt.NDArray[np.int64],
    groups: npt.NDArray[Any],
) -> tuple[Candidate, Floats]:
    """The stiffest candidate that gives held-out labels as high a likelihood as any, and its probabilities (L, C).

    A candidate takes the place of stiffer ones when it is better by more than the standard error of the difference.
    """
    _, group = np.unique(groups, return_inverse=True)
    best, result = CANDIDATES[0], np.empty(absent.shape)
    more = inputs.shape[1] > absent.shape[1]
    for candidate in CANDIDATES:
        if math.isfinite(candidate.components) and not more:
            continue
        held_out = np.empty(absent.shape)
        for number in np.unique(fold):
            out = fold == number
            # A single group has nothing beside it to fit to: it keeps the model's own scale.
            fitted = fit_map(inputs[~out], absent[~out], truth[~out], candidate)
            held_out[out] = softmax(times_small(inputs[out], fitted[0]) + fitted[1], absent[out])
        if candidate is CANDIDATES[0]:
            result = held_out
            continue
        gain = np.bincount(group, weights=label_losses(result, truth) - label_losses(held_out, truth))
        if gain.sum() > math.sqrt(len(gain)) * gain.std(ddof=1 if len(gain) > 1 else 0):
            best, result = candidate, held_out
    return best, result


def fit_map(
    inputs: Floats,
    absent: npt.NDArray[np.bool_],
    truth: npt.NDArray[np.int64],
    candidate: Candidate,
) -> tuple[Floats, Floats]:
    """Matrix (C + K, C) and bias (C,) of the largest posterior, priors centred on the identity and on zero."""
    (count, width), classes = inputs.shape, absent.shape[1]
    identity = np.eye(width, classes)
    if not count:
        return identity, np.zeros(classes)
    hold = np.repeat([candidate.scores, candidate.components], [classes, width - classes])[:, None]
    free = int(np.isfinite(hold).sum())  # rows of the matrix that learn, the first ones
    free_bias, hold, learnt = math.isfinite(candidate.bias), hold[:free], inputs[:, :free]
    scores, rows = inputs[:, :classes], np.arange(count)
    # A label whose class was dropped from its image says nothing about the map.
    mask = absent & (np.arange(classes) != truth[:, None])
    flat = torch.zeros(1 + (free_bias + free) * classes, dtype=torch.float64, requires_grad=True)
    parameters = flat.detach().numpy()  # the same memory

    def unpack() -> tuple[float, Floats, Floats]:
        bias = parameters[1 : 1 + classes] if free_bias else np.zeros(classes)
        return math.exp(parameters[0]), bias, parameters[1 + free_bias * classes :].reshape(free, classes)

    def objective() -> float:
        """Mean loss at `flat`, and its gradient: by hand, which is ten times as fast at this size."""
        slope, bias, change = unpack()
        probability = softmax(slope * scores + times_small(learnt, change) + bias, mask)
        loss = -np.log(np.maximum(probability[rows, truth], 1e-300)).sum() + 2 * parameters[0] ** 2
        probability[rows, truth] -= 1
        parts = [np.array([slope * (probability * scores).sum() + 4 * parameters[0]])]
        if free_bias:
            loss += candidate.bias / 2 * (bias**2).sum()
            parts.append(probability.sum(0) + candidate.bias * bias)
        if free:
            loss += (hold / 2 * change**2).sum()
            parts.append((_gram(learnt, probability) + hold * change).ravel())
        flat.grad = torch.from_numpy(np.concatenate(parts) / count)
        return float(loss / count)

    optimizer = torch.optim.LBFGS(
        [flat], max_iter=60, history_size=10, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )
    optimizer.step(objective)  # type: ignore[no-untyped-call]
    slope, bias, change = unpack()
    matrix = slope * identity
    matrix[:free] += change
    return matrix, bias.copy()


def _gram(x: Floats, y: Floats) -> Floats:
    """x.T @ y, in blocks so small that BLAS starts no threads, see `products`."""
    return np.asarray(sum(x[i : i + _BLOCK].T @ y[i : i + _BLOCK] for i in range(0, len(x), _BLOCK)))
