"""Calibration by few labels: on data whose true probabilities are known, and on degenerate data."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mdkt_ros.errors import ConfigError
from training.scheme import calibration, calibration_map
from training.scheme.calibration import Calibration, fit_calibration
from training.scheme.calibration_map import ABSENT, Candidate

CLASSES = 6
NAMES = tuple(f"class {i}" for i in range(CLASSES))
PRIOR = np.array([0.5, 0.25, 0.15, 0.05, 0.03, 0.02])


def world(seed: int = 0) -> np.ndarray:
    """Mean score (C, C) of each class's points: right on the whole, with confusions; the same in sum."""
    rng = np.random.default_rng(seed)
    mean = 0.05 * np.eye(CLASSES) + 0.015 * rng.normal(size=(CLASSES, CLASSES))
    return 0.2 + mean - mean.mean(1, keepdims=True)


def points(count: int, seed: int, noise: float = 0.03) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, 1])
    labels = rng.choice(CLASSES, count, p=PRIOR)
    return (world()[labels] + noise * rng.normal(size=(count, CLASSES))).astype(np.float32), labels


def posterior(scores: np.ndarray, noise: float = 0.03) -> np.ndarray:
    """The true probabilities of `points`."""
    log = np.log(PRIOR) - ((scores[:, None] - world()) ** 2).sum(2) / (2 * noise**2)
    p = np.exp(log - log.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def likelihood(probability: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(np.maximum(probability[np.arange(len(labels)), labels], 1e-6)).mean())


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def test_many_labels_find_the_true_probabilities():
    scores, labels = points(4000, 0)
    fitted = fit_calibration(scores, labels, NAMES, scale=100)
    assert fitted.method == "matrix"
    fresh, truth = points(20000, 1)
    probability, _ = fitted.apply(fresh)
    best = likelihood(posterior(fresh), truth)
    assert best <= likelihood(probability, truth) < best + 0.02
    assert fitted.loss[1] == pytest.approx(likelihood(probability, truth), abs=0.05)
    assert fitted.loss[0] == pytest.approx(likelihood(softmax(100.0 * scores), labels), rel=1e-5)
    # As sure as it is right.
    for low, high in ((0.3, 0.6), (0.6, 0.8), (0.8, 0.95), (0.95, 1.0)):
        some = (probability.max(1) >= low) & (probability.max(1) < high)
        assert probability.max(1)[some].mean() == pytest.approx((probability.argmax(1) == truth)[some].mean(), abs=0.04)


def test_class_frequencies_come_out_right():
    scores, labels = points(4000, 0)
    fresh, truth = points(20000, 1)
    probability, _ = fit_calibration(scores, labels, NAMES).apply(fresh)
    np.testing.assert_allclose(probability.mean(0), np.bincount(truth, minlength=CLASSES) / len(truth), atol=0.01)


@pytest.mark.parametrize("count", [1, 3, 10, 30, 100])
def test_few_labels_do_no_harm(count: int):
    fresh, truth = points(5000, 99)
    raw = likelihood(softmax(100.0 * fresh), truth)
    losses = []
    for seed in range(8):
        scores, labels = points(count, seed)
        probability, _ = fit_calibration(scores, labels, NAMES, scale=100).apply(fresh)
        losses.append(likelihood(probability, truth))
    assert np.mean(losses) < raw * 1.05
    assert count < 30 or np.mean(losses) < 0.9 * raw


def test_weights_are_precision_on_labels_that_were_not_fitted_to():
    scores, labels = points(3000, 0)
    fitted = fit_calibration(scores, labels, NAMES)
    fresh, truth = points(40000, 1)
    probability, weight = fitted.apply(fresh)
    guess = probability.argmax(1)
    for c in range(3):
        assert fitted.precision[c] == pytest.approx((truth[guess == c] == c).mean(), abs=0.05)
        assert np.all(weight[guess == c] == np.float32(fitted.precision[c]))
    assert fitted.labels.tolist() == np.bincount(labels, minlength=CLASSES).tolist()
    assert fitted.predicted.sum() == len(labels)


def test_balance_names_rare_classes_more_often():
    scores, labels = points(3000, 0, noise=0.05)
    fresh, truth = points(20000, 1, noise=0.05)
    plain, half, full = (fit_calibration(scores, labels, NAMES, balance=b) for b in (0.0, 0.5, 1.0))
    named = [np.bincount(f.apply(fresh)[0].argmax(1), minlength=CLASSES)[3:].sum() for f in (plain, half, full)]
    assert named[0] < named[1] < named[2]
    frequency = (np.bincount(labels, minlength=CLASSES) + 1) / (len(labels) + CLASSES)
    np.testing.assert_allclose(full.frequency, frequency)
    divided = plain.apply(fresh)[0] / frequency
    np.testing.assert_allclose(full.apply(fresh)[0], divided / divided.sum(1, keepdims=True), rtol=1e-3, atol=1e-6)
    # The weight is the precision of what is named, not of what would have been.
    guess = full.apply(fresh)[0].argmax(1)
    assert full.precision[3] == pytest.approx((truth[guess == 3] == 3).mean(), abs=0.08)
    assert full.precision[3] < plain.precision[3]


def test_precision_is_shrunk_where_labels_are_few():
    # Class 0: 10 of 20 right, class 1: 1 of 1, class 2: never named. Their mean with Laplace's two is 0.583.
    hits, predicted = np.array([10, 1, 0]), np.array([20, 1, 0])
    prior = (11 / 22 + 2 / 3) / 2
    found = calibration._shrunk_precision(hits, predicted)
    np.testing.assert_allclose(found, [(10 + 4 * prior) / 24, (1 + 4 * prior) / 5, prior])
    assert calibration._shrunk_precision(np.zeros(2, int), np.zeros(2, int)).tolist() == [0, 0]


def test_a_class_that_the_model_cannot_see_is_switched_off():
    scores, labels = points(3000, 0)
    rng = np.random.default_rng(5)
    # Of class 2 the model says what it says of class 1, and the other way round.
    scores[:, 2] = scores[:, 1] + rng.normal(0, 1e-6, len(scores))
    fitted = fit_calibration(scores, labels, NAMES, min_precision=0.7)
    assert fitted.kept[0]
    assert not fitted.kept[1] or not fitted.kept[2]
    probability, weight = fitted.apply(scores)
    off = ~fitted.kept[probability.argmax(1)]
    assert off.any()
    assert np.all(weight[off] == 0)
    assert np.all(weight[~off] >= 0.7)


def test_a_class_that_is_not_in_the_image_has_no_probability():
    scores, labels = points(500, 0)
    fitted = fit_calibration(scores, labels, NAMES)
    with_all, _ = fitted.apply(scores)
    scores[:, 3] = ABSENT
    probability, _ = fitted.apply(scores)
    assert np.all(probability[:, 3] == 0)
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-5)
    # The others go on as they were.
    rest = np.delete(with_all, 3, axis=1)
    assert (np.delete(probability, 3, axis=1).argmax(1) == rest.argmax(1)).mean() > 0.9
    nothing, _ = fitted.apply(np.full((2, CLASSES), ABSENT))
    assert np.isfinite(nothing).all()


def test_labels_of_classes_that_were_dropped_from_the_image():
    scores, labels = points(400, 0)
    scores[labels == 1, 1] = ABSENT
    fitted = fit_calibration(scores, labels, NAMES)
    probability, _ = fitted.apply(scores)
    assert np.isfinite(probability).all()
    assert np.isfinite(fitted.loss).all()


def test_the_order_of_classes_does_not_matter():
    scores, labels = points(600, 0)
    order = np.array([3, 5, 0, 1, 4, 2])
    place = np.argsort(order)
    plain = fit_calibration(scores, labels, NAMES)
    turned = fit_calibration(scores[:, order], place[labels], tuple(NAMES[i] for i in order))
    assert turned.method == plain.method
    np.testing.assert_allclose(turned.precision, plain.precision[order])
    np.testing.assert_allclose(turned.apply(scores[:, order])[0], plain.apply(scores)[0][:, order], atol=2e-3)


def test_what_is_added_to_all_scores_does_not_matter():
    scores, labels = points(300, 0)
    fitted = fit_calibration(scores, labels, NAMES)
    shift = np.random.default_rng(0).uniform(-0.1, 0.1, (300, 1))
    np.testing.assert_allclose(fitted.apply(scores + shift)[0], fitted.apply(scores)[0], atol=1e-4)


@pytest.mark.parametrize("candidate", calibration_map.CANDIDATES)
def test_the_fit_is_where_the_gradient_of_the_objective_vanishes(candidate: Candidate):
    scores, labels = points(1200, 0)
    scores[:40, 2] = ABSENT
    every = with_components(scores, labels, 0.1)
    inputs, absent = calibration_map.map_inputs(every, 60.0, len(NAMES))
    whole, bias = calibration_map.fit_map(inputs, absent, labels, candidate)
    matrix, probe = whole[:CLASSES], whole[CLASSES:]
    hold_bias, hold_matrix = candidate.bias, candidate.scores
    if not np.isfinite(hold_matrix):
        np.testing.assert_allclose(matrix, np.eye(CLASSES) * matrix[0, 0])
    assert probe.any() == np.isfinite(candidate.components)
    # The objective again, as autograd sees it; slope and diagonal are told apart by their priors at the optimum.
    m = torch.from_numpy(matrix).requires_grad_()
    p = torch.from_numpy(probe).requires_grad_()
    b = torch.from_numpy(bias).requires_grad_()
    mask = torch.from_numpy(absent & (np.arange(CLASSES) != labels[:, None]))
    logits = (torch.from_numpy(inputs) @ torch.cat([m, p]) + b).masked_fill(mask, -torch.inf)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="sum")
    loss.backward()
    off = ~np.eye(CLASSES, dtype=bool)
    if np.isfinite(hold_matrix):
        np.testing.assert_allclose(m.grad.numpy()[off], -hold_matrix * matrix[off], atol=1.0)
    else:
        # d loss / d slope, times slope for its logarithm, against the prior's.
        slope = matrix[0, 0]
        assert abs(m.grad.numpy().trace() * slope + 4 * np.log(slope)) < 0.5
    if np.isfinite(candidate.components):
        np.testing.assert_allclose(p.grad.numpy(), -candidate.components * probe, atol=1.0)
    if np.isfinite(hold_bias):
        np.testing.assert_allclose(b.grad.numpy(), -hold_bias * bias, atol=0.5)
    else:
        assert not bias.any()


def with_components(scores: np.ndarray, labels: np.ndarray, told: float, count: int = 8, seed: int = 0) -> np.ndarray:
    """Scores (P, C), and components (P, `count`) of which the second tells class 1 from the others."""
    rng = np.random.default_rng([seed, 2])
    components = rng.normal(size=(len(scores), count)) / calibration_map.COMPONENT_SCALE
    components[:, 1] += told * (labels == 1)
    return np.hstack([scores, components]).astype(np.float32)


def test_components_tell_classes_apart_that_scores_do_not():
    scores, labels = points(1500, 0, noise=0.1)
    fresh, truth = points(10000, 1, noise=0.1)
    alone = fit_calibration(scores, labels, NAMES)
    fitted = fit_calibration(with_components(scores, labels, 0.3), labels, NAMES)
    assert fitted.method == "probe"
    assert fitted.matrix.shape == (CLASSES + 8, CLASSES)
    before, _ = alone.apply(fresh)
    probability, weight = fitted.apply(with_components(fresh, truth, 0.3, seed=1))
    one = truth == 1
    assert (before.argmax(1) == truth)[one].mean() < 0.6
    assert (probability.argmax(1) == truth)[one].mean() > 0.95
    assert likelihood(probability, truth) < likelihood(before, truth) - 0.3
    assert fitted.loss[1] == pytest.approx(likelihood(probability, truth), abs=0.1)
    assert fitted.loss[0] == pytest.approx(alone.loss[0])
    assert weight[one].mean() > 0.9
    again = Calibration.from_dict(fitted.to_dict())
    assert np.array_equal(again.apply(with_components(fresh, truth, 0.3, seed=1))[0], probability)


@pytest.mark.parametrize("count", [20, 300, 1500])
def test_components_that_say_nothing_are_left_alone(count: int):
    scores, labels = points(count, 0)
    fitted = fit_calibration(with_components(scores, labels, 0.0, count=64), labels, NAMES)
    alone = fit_calibration(scores, labels, NAMES)
    assert fitted.method == alone.method != "probe"
    assert not fitted.matrix[CLASSES:].any()
    np.testing.assert_array_equal(fitted.matrix[:CLASSES], alone.matrix)
    np.testing.assert_array_equal(fitted.precision, alone.precision)


def test_labels_of_one_scan_are_on_one_side():
    groups = np.repeat(np.arange(20), 7)
    fold = calibration_map.folds(groups, np.random.default_rng(0))
    assert all(len(set(fold[groups == g])) == 1 for g in range(20))
    assert set(fold) == set(range(calibration_map._FOLDS))


def test_repeated_points_of_a_scan_do_not_pass_for_evidence():
    # Pure noise, each label repeated fifty times: with the scans kept together nothing is to be gained.
    rng = np.random.default_rng(3)
    scores, labels = np.repeat(rng.normal(0.2, 0.01, (12, CLASSES)), 50, axis=0), np.repeat(rng.integers(0, 6, 12), 50)
    together = fit_calibration(scores, labels, NAMES, groups=np.repeat(np.arange(12), 50))
    apart = fit_calibration(scores, labels, NAMES)
    assert apart.loss[1] < 0.2  # it learnt them by heart
    assert together.loss[1] > 1.0
    assert not together.kept.any()
    assert apart.kept.any()


def test_more_labels_than_are_fitted_to(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibration, "_MOST_LABELS", 200)
    scores, labels = points(3000, 0)
    fitted = fit_calibration(scores, labels, NAMES)
    assert fitted.predicted.sum() == 3000
    assert fitted.labels.sum() == 3000
    fresh, truth = points(20000, 1)
    assert likelihood(fitted.apply(fresh)[0], truth) == pytest.approx(fitted.loss[1], abs=0.06)


def test_the_same_labels_give_the_same_calibration():
    scores, labels = points(300, 0)
    one, two = (fit_calibration(scores, labels, NAMES).to_dict() for _ in range(2))
    assert one == two


def test_json_keeps_it(tmp_path):
    scores, labels = points(300, 0)
    fitted = fit_calibration(scores, labels, NAMES)
    again = Calibration.from_dict(json.loads(json.dumps(fitted.to_dict())))
    for one, two in zip(fitted.apply(scores), again.apply(scores), strict=True):
        assert np.array_equal(one, two)
    assert again.to_dict() == fitted.to_dict()
    with pytest.raises(ConfigError, match="not a calibration: 'matrix'"):
        Calibration.from_dict({k: v for k, v in fitted.to_dict().items() if k != "matrix"})


def test_input_that_does_not_fit():
    scores, labels = points(10, 0)
    with pytest.raises(ConfigError, match=r"scores of shape \(10, 6\) for 9 labels of 6 classes"):
        fit_calibration(scores, labels[:9], NAMES)
    with pytest.raises(ConfigError, match="none of the drawn labels is in the view"):
        fit_calibration(scores[:0], labels[:0], NAMES)


def test_no_points_is_no_trouble():
    scores, labels = points(10, 0)
    probability, weight = fit_calibration(scores, labels, NAMES).apply(scores[:0])
    assert probability.shape == (0, CLASSES)
    assert weight.shape == (0,)
