"""Pseudo labels: who may label what, against a reference that goes voxel by voxel."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.scheme.agreement import (
    SOURCES,
    ClassThresholds,
    ImageText,
    Opinion,
    PseudoTargets,
    decide,
    kl_to_teacher,
    merge,
    opinion_kl,
    pseudo_cross_entropy,
    safe_negatives,
)
from training.scheme.config import PseudoConfig

CONFIG = PseudoConfig(sure=0.9, agree=0.5)
NONE = torch.zeros(0, dtype=torch.int64)


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def image_text(row: list[int], probability: Tensor, weight: list[float]) -> ImageText:
    return ImageText(torch.tensor(row), probability, torch.tensor(weight, dtype=torch.float64))


def as_dict(targets: PseudoTargets) -> dict[int, tuple[int, str, float]]:
    values = zip(
        targets.row.tolist(), targets.target.tolist(), targets.source.tolist(), targets.weight.tolist(), strict=True
    )
    return {row: (target, SOURCES[source], round(weight, 6)) for row, target, source, weight in values}


def test_each_rule():
    teacher = rows(
        [0.6, 0.3, 0.1],  # 0: both say 0, the teacher well enough
        [0.4, 0.3, 0.3],  # 1: both say 0, the teacher not well enough, the text not sure
        [0.4, 0.3, 0.3],  # 2: both say 0, the teacher not well enough, the text sure
        [0.95, 0.05, 0.0],  # 3: the teacher sure, the text sure of another
        [0.95, 0.05, 0.0],  # 4: the teacher sure, the text leans to another
        [0.6, 0.3, 0.1],  # 5: the text sure of another than the teacher leans to
        [0.6, 0.3, 0.1],  # 6: neither sure, different
        [0.95, 0.05, 0.0],  # 7: the teacher sure, out of view
        [0.6, 0.3, 0.1],  # 8: the teacher not sure, out of view
        [0.95, 0.05, 0.0],  # 9: the text is sure of another, but is known to err
        [0.95, 0.05, 0.0],  # 10: labelled
    )
    sure, other = [0.95, 0.03, 0.02], [0.02, 0.95, 0.03]
    weak, weak_other = [0.5, 0.3, 0.2], [0.3, 0.5, 0.2]
    text = image_text(
        [0, 1, 2, 3, 4, 5, 6, 9, 10],
        rows(weak, weak, sure, other, weak_other, other, weak_other, other, sure),
        [0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.0, 0.7],
    )
    assert as_dict(decide(teacher, text, torch.tensor([10, 10]), CONFIG)) == {
        0: (0, "agree", 0.88),
        2: (0, "text", 0.7),
        4: (0, "teacher", 0.95),
        5: (1, "text", 0.7),
        7: (0, "teacher", 0.95),
        9: (0, "teacher", 0.95),
    }


def test_the_teacher_alone():
    teacher = rows([0.95, 0.05], [0.5, 0.5], [0.05, 0.95], [0.05, 0.95])
    assert as_dict(decide(teacher, None, torch.tensor([3]), CONFIG)) == {
        0: (0, "teacher", 0.95),
        2: (1, "teacher", 0.95),
    }


def test_nothing_at_all():
    targets = decide(torch.zeros(0, 3), None, NONE, CONFIG)
    assert len(targets) == 0
    assert targets.counts(3).tolist() == [[0] * 3] * len(SOURCES)
    loss = pseudo_cross_entropy(torch.zeros(0, 3, requires_grad=True), targets)
    loss.sum().backward()


def reference(
    teacher: Tensor, text: ImageText | None, labelled: list[int], sure_teacher: list[float], sure_text: list[float]
) -> dict[int, tuple[int, str, float]]:
    result = {}
    for row in range(len(teacher)):
        if row in labelled:
            continue
        p, t = teacher[row].max(0)
        x, q, trust = -1, 0.0, 0.0
        if text is not None:
            pairs = [k for k in range(len(text.row)) if text.row[k] == row and text.weight[k] > 0]
            if pairs:
                weights = text.weight[pairs]
                mean = (text.probability[pairs] * weights[:, None]).sum(0) / weights.sum()
                q, x = float(mean.max()), int(mean.argmax())
                named = [float(text.weight[k]) for k in pairs if int(text.probability[k].argmax()) == x]
                if sum(named) > float(weights.sum()) / 2:
                    trust = sum(named) / len(named)
        t, p = int(t), float(p)
        if trust and x == t and p >= CONFIG.agree:
            result[row] = (t, "agree", round(1 - (1 - p) * (1 - trust), 6))
            continue
        teacher_says = p >= sure_teacher[t]
        text_says = trust > 0 and q >= sure_text[x]
        if teacher_says and not (text_says and x != t):
            result[row] = (t, "teacher", round(p, 6))
        elif text_says and not teacher_says:
            result[row] = (x, "text", round(trust, 6))
    return result


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(0, 25), st.booleans())
def test_voxel_by_voxel(seed: int, voxels: int, pairs: int, adaptive: bool):
    generator = torch.Generator().manual_seed(seed)

    def probability(count: int) -> Tensor:
        return (3 * torch.randn(count, 4, dtype=torch.float64, generator=generator)).softmax(1)

    teacher = probability(voxels)
    weight = torch.rand(pairs, dtype=torch.float64, generator=generator)
    weight[torch.rand(pairs, generator=generator) < 0.3] = 0
    text = ImageText(torch.randint(0, voxels, (pairs,), generator=generator), probability(pairs), weight)
    labelled = torch.randint(0, voxels, (voxels // 3,), generator=generator)
    sure = [0.55 + 0.45 * torch.rand(4, dtype=torch.float64, generator=generator) for _ in range(2)]
    named = {"teacher_sure": sure[0], "text_sure": sure[1]} if adaptive else {}
    thresholds = [s.tolist() for s in sure] if adaptive else [[CONFIG.sure] * 4] * 2
    result = decide(teacher, text, labelled, CONFIG, **named)
    assert as_dict(result) == reference(teacher, text, labelled.tolist(), *thresholds)
    assert result.row.tolist() == sorted(set(result.row.tolist()))
    counts = result.counts(4)
    for source, name in enumerate(SOURCES):
        for c in range(4):
            assert counts[source, c] == sum((t, s) == (c, name) for t, s, _ in as_dict(result).values())


def test_inputs_stay_as_they_are():
    teacher = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    text = ImageText(torch.tensor([0, 1, 2]), teacher[:3].flip(1).contiguous(), torch.ones(3))
    before = [value.clone() for value in (teacher, *text)]
    decide(teacher, text, torch.tensor([5]), PseudoConfig(sure=0.4, agree=0.3))
    for value, old in zip((teacher, *text), before, strict=True):
        assert torch.equal(value, old)


def test_a_voxel_whose_points_differ():
    text = image_text([4, 4, 4, 2], rows([0.9, 0.1], [0.8, 0.2], [0.0, 1.0], [0.3, 0.7]), [1.0, 0.5, 0.5, 0.4])
    row, probability, trust = merge(text)
    assert row.tolist() == [2, 4]
    assert probability.tolist() == [pytest.approx([0.3, 0.7]), pytest.approx([0.65, 0.35])]
    assert trust.tolist() == pytest.approx([0.4, 0.75])
    # The mean leans to 0, but pairs that say 1 weigh more: nobody speaks for the voxel.
    split = image_text([0, 0, 0], rows([1.0, 0.0], [0.4, 0.6], [0.4, 0.6]), [0.5, 0.5, 0.5])
    assert merge(split)[2].tolist() == [0]


def test_safe_negatives_are_unlikely_to_all():
    teacher = rows([0.9, 0.06, 0.04], [0.9, 0.02, 0.08], [0.96, 0.02, 0.02])
    text = image_text([1, 1, 2], rows([0.5, 0.46, 0.04], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]), [0.3, 1.0, 0.0])
    safe = safe_negatives(teacher, text, torch.tensor([0, 1, 2, 1]), 0.05)
    assert safe.tolist() == [
        [False, False, True],
        [False, False, False],  # 1 is what one pair finds likely, 2 what the teacher does
        [False, True, True],  # the pair has no say
        [False, False, False],
    ]
    assert safe_negatives(teacher, None, torch.tensor([1]), 0.05).tolist() == [[False, True, False]]
    assert safe_negatives(teacher, text, NONE, 0.05).shape == (0, 3)


def test_cross_entropy_by_row():
    logits = torch.randn(5, 3, dtype=torch.float32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = PseudoTargets(
        torch.tensor([1, 4]), torch.tensor([2, 0]), torch.zeros(2, dtype=torch.uint8), torch.tensor([0.5, 1.0])
    )
    log_p = logits.detach().log_softmax(1)
    expected = torch.stack([-0.5 * log_p[1, 2], -log_p[4, 0]])
    torch.testing.assert_close(pseudo_cross_entropy(logits, targets).detach(), expected)
    weighted = pseudo_cross_entropy(logits, targets, torch.tensor([3.0, 1.0, 2.0]))
    torch.testing.assert_close(weighted.detach(), expected * torch.tensor([2.0, 3.0]))
    weighted.sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum(1).nonzero().squeeze(1).tolist() == [1, 4]


def test_kl_is_its_definition_and_leaves_the_teacher_alone():
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(4, 3, generator=generator, requires_grad=True)
    logits = torch.randn(4, 3, generator=generator, requires_grad=True)
    teacher = logits.softmax(1)
    loss = kl_to_teacher(student, teacher)
    expected = (teacher * (teacher.log() - student.log_softmax(1))).sum(1)
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    assert logits.grad is None
    assert student.grad is not None
    assert float(kl_to_teacher(logits, teacher).detach().abs().max()) < 1e-6
    sharp = torch.tensor([[1.0, 0.0, 0.0]])
    assert torch.isfinite(kl_to_teacher(student[:1], sharp)).all()
    # A row that is half of each of two classes weighs the mean of theirs.
    weights, halves = torch.tensor([1.0, 3.0]), torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    plain = kl_to_teacher(torch.tensor([[0.0, 2.0], [0.0, 2.0]]), halves)
    weighed = kl_to_teacher(torch.tensor([[0.0, 2.0], [0.0, 2.0]]), halves, weights)
    torch.testing.assert_close(weighed, plain * torch.tensor([2.0, 1.0]))


def predictions(best: list[float], named: int, classes: int = 3) -> Tensor:
    probability = torch.zeros(len(best), classes)
    probability[:, named] = torch.tensor(best)
    probability[:, (named + 1) % classes] = 1 - torch.tensor(best)
    return probability


def test_a_threshold_is_the_quantile_of_its_class():
    thresholds = ClassThresholds(3, ceiling=0.9, floor=0.5, share=0.5)
    assert thresholds().tolist() == pytest.approx([0.9, 0.9, 0.9])
    easy = torch.linspace(0.9, 1.0, 1000).tolist()
    rare = torch.linspace(0.6, 0.8, 101).tolist()
    thresholds.update(torch.cat([predictions(easy, 0), predictions(rare, 1)]))
    values = thresholds().tolist()
    assert values[0] == pytest.approx(0.9)  # never above the ceiling
    assert values[1] == pytest.approx(0.7, abs=0.006)  # half of its predictions reach it
    assert values[2] == pytest.approx(0.9)  # never predicted
    teacher = predictions(rare, 1)
    assert len(decide(teacher, None, NONE, CONFIG)) == 0
    believed = decide(teacher, None, NONE, CONFIG, teacher_sure=thresholds())
    assert len(believed) / len(rare) == pytest.approx(0.5, abs=0.03)
    thresholds.update(predictions([0.51] * 10000, 1))
    assert thresholds().tolist()[1] == pytest.approx(0.51, abs=0.006)
    lower = ClassThresholds(3, ceiling=0.9, floor=0.6)
    lower.update(predictions([0.51] * 100, 1))
    assert lower().tolist()[1] == pytest.approx(0.6)


def test_thresholds_forget_and_resume():
    one = ClassThresholds(3, ceiling=0.9, floor=0.5, momentum=0.5)
    for _ in range(3):
        one.update(predictions([0.6] * 10, 0))
    two = ClassThresholds(3, ceiling=0.9, floor=0.5, momentum=0.5)
    two.load_state_dict(one.state_dict())
    for thresholds in (one, two):
        for _ in range(4):
            thresholds.update(predictions([0.8] * 10, 0))
    assert one().tolist() == two().tolist()
    assert one().tolist()[0] == pytest.approx(0.8, abs=0.006)


def test_thresholds_of_several_processes():
    parts = [torch.randn(50, 3, generator=torch.Generator().manual_seed(seed)).softmax(1) for seed in (0, 1)]
    whole = ClassThresholds(3, ceiling=0.99, floor=0.1)
    whole.update(torch.cat(parts))
    counted = []
    for part in parts:
        ClassThresholds(3, ceiling=0.99, floor=0.1).update(part, lambda counts: counted.append(counts) or counts)
    shared = ClassThresholds(3, ceiling=0.99, floor=0.1)
    shared.update(parts[0], lambda counts: counts + counted[1])
    assert torch.equal(shared.histogram, whole.histogram)


def test_an_opinion_is_what_is_seen_and_has_no_label():
    text = ImageText(
        torch.tensor([2, 0, 2, 5]),
        torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.2, 0.7], [0.2, 0.8, 0.0], [1.0, 0.0, 0.0]]),
        torch.tensor([0.0, 0.9, 0.5, 0.4]),
    )
    like = torch.zeros(7, 3)
    found = Opinion.of(text, torch.tensor([5, 5, 1]), like)
    assert found.row.tolist() == [0, 2]
    # A class that is switched off (weight 0) counts as any other.
    assert torch.allclose(found.probability, torch.tensor([[0.1, 0.2, 0.7], [0.4, 0.6, 0.0]]))
    logits = torch.zeros(7, 3, requires_grad=True)
    plain = opinion_kl(logits, found)
    by_hand = [sum(p * math.log(3 * p) for p in row if p) for row in ([0.1, 0.2, 0.7], [0.4, 0.6])]
    assert plain.tolist() == pytest.approx(by_hand, abs=1e-6)
    weighed = opinion_kl(logits, found, torch.tensor([1.0, 2.0, 10.0]))
    assert weighed.tolist() == pytest.approx([by_hand[0] * 7.5, by_hand[1] * 1.6], abs=1e-6)
    plain.sum().backward()
    assert logits.grad[[0, 2]].abs().sum() > 0
    assert logits.grad[[1, 3, 4, 5, 6]].abs().sum() == 0
    assert len(Opinion.of(None, torch.tensor([1]), like).row) == 0
