"""Losses against their definitions, and their shares among processes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import LossConfig
from training.losses import Labelled, SegmentationLoss, TrainingError, check_finite, lovasz_softmax


def naive_lovasz(probability: np.ndarray, target: np.ndarray) -> float:
    """The Lovasz extension of the Jaccard loss by its definition, from sets of mispredicted points."""
    losses = []
    for c in sorted(set(target.tolist())):
        foreground = {i for i, t in enumerate(target) if t == c}
        errors = [1 - p if i in foreground else p for i, p in enumerate(probability[:, c])]
        order = sorted(range(len(errors)), key=lambda i: -errors[i])

        def jaccard_loss(wrong: set[int], foreground: set[int] = foreground) -> float:
            # Prediction when exactly the points in `wrong` are mispredicted.
            union = foreground | wrong
            return 1 - len(foreground - wrong) / len(union)

        total, wrong, before = 0.0, set(), 0.0
        for i in order:
            wrong.add(i)
            now = jaccard_loss(wrong)
            total += errors[i] * (now - before)
            before = now
        losses.append(total)
    return float(np.mean(losses))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 5))
def test_lovasz_is_its_definition(seed: int, points: int, classes: int):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (points, classes))
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    target = rng.integers(0, classes, points)
    result = lovasz_softmax(torch.from_numpy(probability), torch.from_numpy(target))
    assert float(result) == pytest.approx(naive_lovasz(probability, target), abs=1e-12)


def test_lovasz_of_a_perfect_and_a_wholly_wrong_prediction():
    target = torch.tensor([0, 1, 1, 0])
    right = torch.nn.functional.one_hot(target, 2).double()
    assert float(lovasz_softmax(right, target)) == 0
    assert float(lovasz_softmax(1 - right, target)) == 1


def test_lovasz_gradient():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(9, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    target = torch.randint(0, 4, (9,), generator=generator)
    assert torch.autograd.gradcheck(lambda x: lovasz_softmax(x.softmax(1), target), logits)


def labelled(logits: torch.Tensor, target: list[int], scan: list[int], points: float, scans: float) -> Labelled:
    return Labelled(logits, torch.tensor(target).long(), torch.tensor(scan).long(), points, scans)


def test_lovasz_is_taken_scan_by_scan():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    both = SegmentationLoss(LossConfig()).lovasz(labelled(logits, [0, 1, 2, 2, 1], [0, 0, 3, 3, 3], 5, 2))
    probability = logits.softmax(1)
    one = lovasz_softmax(probability[:2], torch.tensor([0, 1]))
    two = lovasz_softmax(probability[2:], torch.tensor([2, 2, 1]))
    assert float(both) == pytest.approx(float(one + two) / 2)


def test_cross_entropy_with_class_weights():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.5, 2.0, 1.0, 1.0])
    loss = SegmentationLoss(LossConfig(), weights).cross_entropy(labelled(logits, [1, 0, 1], [0, 0, 0], 3, 1))
    expected = -(np.array([2.0, 0.5, 2.0]) * logits.log_softmax(1)[[0, 1, 2], [1, 0, 1]].numpy()).sum() / 3
    assert float(loss) == pytest.approx(expected)


def test_shares_of_processes_average_to_the_whole():
    """What DistributedDataParallel averages: each share is divided by the totals per process."""
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    target, scan = [0, 1, 2, 0, 1, 1, 2], [0, 0, 0, 0, 0, 1, 1]
    loss = SegmentationLoss(LossConfig(lovasz=0.7))
    whole = loss(labelled(logits, target, scan, 7, 2))
    first = loss(labelled(logits[:5], target[:5], scan[:5], 7 / 2, 2 / 2))
    second = loss(labelled(logits[5:], target[5:], scan[5:], 7 / 2, 2 / 2))
    for name in ("cross_entropy", "lovasz"):
        assert float((first[name] + second[name]) / 2) == pytest.approx(float(whole[name]))


def test_a_share_without_labels_is_zero_and_has_a_gradient():
    logits = torch.randn(0, 3, requires_grad=True)
    losses = SegmentationLoss(LossConfig())(labelled(logits, [], [], 0, 0))
    assert [float(value.detach()) for value in losses.values()] == [0, 0]
    sum(losses.values()).backward()
    assert logits.grad is not None


def test_a_weight_of_zero_leaves_a_loss_out():
    assert list(SegmentationLoss(LossConfig(cross_entropy=0)).terms) == ["lovasz"]
    half = SegmentationLoss(LossConfig(cross_entropy=0.5, lovasz=0))
    one = SegmentationLoss(LossConfig(cross_entropy=1, lovasz=0))
    points = labelled(torch.tensor([[1.0, 2.0]]), [0], [0], 1, 1)
    assert float(half(points)["cross_entropy"]) == pytest.approx(0.5 * float(one(points)["cross_entropy"]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_with_its_name_and_scans(value: float):
    check_finite({"cross_entropy": 1.0}, ("00.bin",), 1)
    with pytest.raises(TrainingError, match=rf"step 7: the loss lovasz is {value} on the scans 00\.bin, 01\.bin"):
        check_finite({"cross_entropy": 1.0, "lovasz": value}, ("00.bin", "01.bin"), 7)
