"""The contrastive loss against its definition, term by term, and the state that it keeps."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor

from training.scheme.config import ContrastConfig
from training.scheme.contrast import PUSH, Candidates, SemanticContrast

CLASSES, CHANNELS, DIM = 4, 6, 5
CONFIG = ContrastConfig(weight=1, dim=DIM, temperature=0.3, queue=16, anchors=12, momentum=0.9)


def unit(*shape: int, seed: int = 0) -> Tensor:
    values = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return F.normalize(values, dim=-1).float()


def make(text: bool = True, config: ContrastConfig = CONFIG) -> SemanticContrast:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return SemanticContrast(CHANNELS, CLASSES, config, 2 * unit(CLASSES, DIM, seed=9) if text else None)


def candidates(target: list[int], labelled: list[int] | None = None, safe: Tensor | None = None) -> Candidates:
    count = len(target)
    return Candidates(
        row=torch.arange(count),
        target=torch.tensor(target, dtype=torch.int64),
        labelled=torch.tensor([i in (labelled or []) for i in range(count)], dtype=torch.bool),
        safe=torch.ones(count, CLASSES, dtype=torch.bool) if safe is None else safe,
        weight=torch.ones(count),
    )


def reference(module: SemanticContrast, embedding: Tensor, target: int, safe: list[bool]) -> float:
    """L_sem by its definition, one similarity after the other."""

    def of(c: int) -> list[Tensor]:
        found = [] if module.text is None or not module.known[c] else [module.text[c]]
        found += [module.prototypes[c]] if module.seen[c] else []
        return found + list(module.queue[c, : int(module.filled[c])])

    def total(vectors: list[Tensor]) -> float:
        tau = module.config.temperature
        return sum(math.exp(float(embedding.double() @ v.double()) / tau) for v in vectors)

    positive = total(of(target))
    if positive == 0:
        return 0.0
    negative = sum(total(of(c)) for c in range(CLASSES) if c != target and safe[c])
    return -math.log(positive / (positive + negative))


def filled(text: bool = True, classes: tuple[int, ...] = (0, 1, 3)) -> SemanticContrast:
    """With prototypes and queues of some classes."""
    module = make(text)
    for step in range(3):
        target = torch.tensor([classes[i % len(classes)] for i in range(7)])
        module.update(unit(7, DIM, seed=step), target, torch.arange(7) % 2 == 0)
    return module


@pytest.mark.parametrize("text", [True, False, "some"])
def test_the_loss_is_its_definition(text: bool | str):
    module = filled(bool(text))
    if text == "some":
        module.known[:2] = False
    assert module.filled[2] == 0
    assert not module.seen[2]
    embedding = unit(20, DIM, seed=5)
    target = torch.arange(20) % CLASSES
    safe = torch.rand(20, CLASSES, generator=torch.Generator().manual_seed(6)) < 0.5
    result = module.losses(embedding, target, safe)
    for i in range(20):
        expected = reference(module, embedding[i], int(target[i]), safe[i].tolist())
        assert float(result[i]) == pytest.approx(expected, abs=2e-6), i


def test_each_set_takes_part():
    """Text, prototype and queue each pull and push."""
    embedding, target = unit(1, DIM, seed=5), torch.tensor([0])
    everything = torch.ones(1, CLASSES, dtype=torch.bool)
    for part in ("text", "prototypes", "queue"):
        for class_id, sign in ((0, -1), (1, 1)):
            module, results = filled(), []
            for place in (-embedding[0], embedding[0]):
                getattr(module, part)[class_id] = place
                results.append(float(module.losses(embedding, target, everything)))
            assert sign * (results[1] - results[0]) > 0.1, (part, class_id)


@pytest.mark.parametrize("temperature", [0.3, 0.07, 0.03, 0.01])
def test_the_logarithm_of_sums_at_any_temperature(temperature: float):
    """At 0.01 exponentials of cosines span 87 decades, far more than float32 has."""
    module = filled()
    module.config = replace(CONFIG, temperature=temperature)
    embedding, target = unit(6, DIM, seed=3).requires_grad_(), torch.tensor([0, 1, 3, 0, 1, 2])
    safe = torch.ones(6, CLASSES, dtype=torch.bool)
    found = module.losses(embedding, target, safe)
    (gradient,) = torch.autograd.grad(found.sum(), embedding)
    exact = embedding.detach().double().requires_grad_()
    bank, valid = module.bank()
    similarity = torch.einsum("ad,ckd->ack", exact, bank.double()) / temperature
    by_class = similarity.masked_fill(~valid, -1e9).logsumexp(2)
    expected = by_class.logsumexp(1) - by_class.gather(1, target[:, None]).squeeze(1)
    expected = torch.where(valid.any(1)[target], expected, 0.0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    (wanted,) = torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-3, atol=1e-3)


def test_negatives_that_are_not_safe_have_no_influence():
    module = filled()
    embedding, target = unit(2, DIM, seed=5).requires_grad_(), torch.tensor([0, 1])
    safe = torch.tensor([[True, False, False, True], [False, True, False, False]])

    def results() -> tuple[list[float], Tensor]:
        losses = module.losses(embedding, target, safe)
        (gradient,) = torch.autograd.grad(losses.sum(), embedding)
        return losses.tolist(), gradient

    losses, gradient = results()
    assert losses[1] == 0  # nothing but itself to tell it from
    assert gradient[1].abs().max() < 1e-6
    assert module.text is not None
    for part in (module.text, module.prototypes, module.queue):
        part[1] = part[2] = embedding.detach()[0]
    changed, after = results()
    assert changed[0] == losses[0]
    assert torch.equal(after[0], gradient[0])


def test_gradient():
    module = filled().double()
    features = torch.randn(5, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    embedding = F.normalize(torch.randn(5, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), dim=1)
    target = torch.tensor([0, 1, 2, 3, 0])
    safe = torch.rand(5, CLASSES, generator=torch.Generator().manual_seed(2)) < 0.6
    assert torch.autograd.gradcheck(
        lambda e: module.losses(F.normalize(e, dim=1), target, safe), embedding.requires_grad_()
    )
    # To the point network and to each weight of the head, none of which are cut off.
    module.float().train()
    features = features.float().requires_grad_()
    module(features, candidates([0, 1, 2, 3, 0])).sum().backward()
    assert features.grad is not None
    assert (features.grad.abs().sum(1) > 0).all()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("text", [True, False])
def test_no_anchors(text: bool):
    module = filled(text)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    features = torch.randn(9, CHANNELS, requires_grad=True)
    losses = module(features, candidates([]))
    assert losses.shape == (0,)
    losses.sum().backward()
    assert features.grad is not None
    assert not features.grad.any()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    module(torch.zeros(0, CHANNELS), candidates([])).sum().backward()


def test_empty_queues_without_text_are_zero_and_then_filled():
    module = make(text=False).train()
    features = torch.randn(8, CHANNELS, generator=torch.Generator().manual_seed(0), requires_grad=True)
    first = module(features, candidates([0, 1] * 4, labelled=[0]))
    assert first.tolist() == [0] * 8
    first.sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert module.filled.tolist() == [2, 2, 0, 0]  # an eighth of the queue a step
    assert module.seen.tolist() == [True, False, False, False]
    second = module(features, candidates([0, 1] * 4, labelled=[0]))
    assert (second > 0).all()


def test_evaluation_changes_nothing():
    module = filled().eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module(torch.randn(8, CHANNELS), candidates([0, 1] * 4, labelled=[0]))
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_prototypes_are_means_over_labelled_points_that_move():
    module = make(text=False)
    embedding = unit(6, DIM)
    target, labelled = torch.tensor([0, 0, 0, 1, 2, 2]), torch.tensor([True, True, False, False, True, False])
    module.update(embedding, target, labelled)
    assert module.seen.tolist() == [True, False, True, False]
    torch.testing.assert_close(module.prototypes[0], F.normalize(embedding[:2].sum(0), dim=0))
    torch.testing.assert_close(module.prototypes[2], embedding[4])
    old = module.prototypes.clone()
    module.update(embedding[3:4], torch.tensor([0]), torch.tensor([True]))
    torch.testing.assert_close(module.prototypes[0], F.normalize(0.9 * old[0] + 0.1 * embedding[3], dim=0))
    assert torch.equal(module.prototypes[2], old[2])


def test_queues_are_rings():
    module = make(config=replace(CONFIG, queue=PUSH * 2 + 1))
    for step in range(30):
        entries = unit(3, DIM, seed=step)
        module.update(entries, torch.tensor([1, 1, 1]), torch.zeros(3, dtype=torch.bool))
        assert module.filled.tolist() == [0, min(2 * (step + 1), 17), 0, 0]
        place = [(2 * step + i) % 17 for i in range(2)]
        assert torch.equal(module.queue[1, place], entries[:2])
    assert not module.seen.any()
    assert not module.queue[0].any()


def test_anchors_are_alike_in_number_labelled_first_easy_and_hard():
    module = make().eval()
    # Class 0 is common, 1 rare, 2 has one point; 0 and 1 are drawn twice each.
    target = [0] * 300 + [1] * 9 + [2]
    given = candidates(target, labelled=[7, 9, 302, 305])
    features = torch.randn(len(target), CHANNELS, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    losses = module.losses
    module.losses = lambda e, t, s: seen.append(t) or losses(e, t, s)  # type: ignore[method-assign, func-returns-value]
    assert len(module(features, given)) == 9  # a third of 12 each, and the one of class 2
    assert torch.bincount(seen[0]).tolist() == [4, 4, 1]

    from training.scheme.contrast import _draw, _pick

    for seed in range(20):
        pool = _draw(given, 4, CLASSES, torch.Generator().manual_seed(seed))
        assert {7, 9, 302, 305} <= set(pool.tolist())
        assert torch.bincount(given.target[pool]).tolist() == [4, 4, 1]
    own = torch.arange(310) / 310
    picks = [set(_pick(given.target, own, 4, CLASSES, torch.Generator().manual_seed(s)).tolist()) for s in range(50)]
    for pick in picks:
        assert {0, 1, 300, 301, 309} <= pick  # the least like their class
        assert len(pick) == 9
    assert len(set.union(*picks)) > 60


def test_the_generator_decides():
    features = torch.randn(400, CHANNELS, generator=torch.Generator().manual_seed(0))
    given = candidates([0, 1, 2, 3] * 100)
    module = filled().eval()
    one, two, other = (module(features, given, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    torch.manual_seed(5)
    first = module(features, given)
    torch.manual_seed(5)
    assert torch.equal(module(features, given), first)


def test_a_drawn_label_has_no_doubtful_classes():
    features = torch.randn(8, CHANNELS, generator=torch.Generator().manual_seed(0))
    module = filled().eval()
    nothing_safe = torch.zeros(8, CLASSES, dtype=torch.bool)
    pseudo = module(features, candidates([0, 1] * 4, safe=nothing_safe))
    assert pseudo.tolist() == [0] * 8
    assert (module(features, candidates([0, 1] * 4, labelled=list(range(8)), safe=nothing_safe)) > 0).all()


def test_texts_that_mean_nothing_take_no_part():
    text = unit(CLASSES, DIM, seed=9)
    known = torch.tensor([True, False, True, False])
    one, two = SemanticContrast(CHANNELS, CLASSES, CONFIG, text, known=known), make()
    two.load_state_dict(one.state_dict())
    assert two.known.tolist() == known.tolist()
    embedding, target = unit(8, DIM, seed=1), torch.arange(8) % CLASSES
    everything = torch.ones(8, CLASSES, dtype=torch.bool)
    before = one.losses(embedding, target, everything), one.text_losses(embedding, target, everything)
    assert before[1][target % 2 == 1].tolist() == [0] * 4
    assert (before[1][target % 2 == 0] > 0).all()
    assert one.text is not None
    one.text[known.logical_not()] = embedding[1]
    assert torch.equal(one.losses(embedding, target, everything), before[0])
    assert torch.equal(one.text_losses(embedding, target, everything), before[1])


def test_weights_of_pseudo_labels():
    features = torch.randn(8, CHANNELS, generator=torch.Generator().manual_seed(0))
    given = candidates([0, 1] * 4)
    module = filled().eval()
    whole = module(features, given, torch.Generator().manual_seed(1))
    half = module(features, replace(given, weight=torch.full((8,), 0.5)), torch.Generator().manual_seed(1))
    torch.testing.assert_close(half, 0.5 * whole)


@pytest.mark.parametrize("text", [True, False])
def test_a_run_goes_on_from_its_state(text: bool):
    given = candidates([0, 1, 3] * 10, labelled=[0, 4, 8])

    def steps(module: SemanticContrast, first: int, last: int) -> list[list[float]]:
        results = []
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            features = torch.randn(30, CHANNELS, generator=generator)
            losses = module(features, given, generator)
            optimizer = torch.optim.SGD(module.parameters(), 0.1)
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
            results.append(losses.tolist())
        return results

    whole = steps(make(text), 0, 6)
    half = make(text)
    begun = steps(half, 0, 3)
    resumed = make(text)
    resumed.load_state_dict({name: value.clone() for name, value in half.state_dict().items()})
    assert begun + steps(resumed, 3, 6) == whole


def test_embeddings_come_to_lie_near_their_text():
    """What asking by name needs, and what the sum over the positives alone does not bring about."""
    torch.manual_seed(0)
    classes, dim = 6, 32
    # As those of CLIP, the texts are much alike.
    text = F.normalize(torch.randn(classes, dim) + 2 * torch.randn(1, dim), dim=1)
    means = 2 * torch.randn(classes, CHANNELS)
    right = {}
    for align in (0.0, 0.5):
        module = SemanticContrast(CHANNELS, classes, replace(CONFIG, temperature=0.07, anchors=120, align=align), text)
        optimizer = torch.optim.Adam(module.parameters(), 5e-3)
        generator = torch.Generator().manual_seed(1)
        for _ in range(80):
            target = torch.randint(0, classes, (240,), generator=generator)
            features = means[target] + torch.randn(240, CHANNELS, generator=generator)
            given = replace(candidates(target.tolist(), list(range(20))), safe=torch.ones(240, classes).bool())
            loss = module(features, given, generator).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            embedding = module.head(features)
            right[align] = float(((embedding @ text.t()).argmax(1) == target).float().mean())
            own = float(((embedding @ module.prototypes.t()).argmax(1) == target).float().mean())
        assert own > 0.9
    assert right[0.5] > 0.9
    assert right[0.5] > right[0.0] + 0.1


def test_text_that_does_not_fit():
    with pytest.raises(ValueError, match="3 text embeddings for 4 classes"):
        SemanticContrast(CHANNELS, CLASSES, CONFIG, unit(3, DIM))
    assert make().head.dim == DIM
    assert SemanticContrast(CHANNELS, CLASSES, CONFIG, unit(CLASSES, 32)).queue.shape == (CLASSES, 16, 32)


def _one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    module = make()
    embedding, target = unit(8, DIM), torch.arange(8) % 3
    # The second process has no points in its first step.
    for step in range(3):
        mine = slice(0, 0) if step == 0 and rank else slice(4 * rank, 4 * rank + 4)
        module.update(embedding[mine], target[mine], torch.ones(8, dtype=torch.bool)[mine])
    torch.save(module.state_dict(), f"{folder}/{rank}.pt")
    anchors = len(module(torch.randn(50, CHANNELS), candidates([0] * 50)))
    assert anchors == CONFIG.anchors // 2
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_keep_one_state(tmp_path: Path):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(_one_of_two, (str(tmp_path),), nprocs=2)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    module = make()
    embedding, target = unit(8, DIM), torch.arange(8) % 3
    module.update(embedding[:4], target[:4], torch.ones(4, dtype=torch.bool))
    for _ in range(2):
        module.update(embedding, target, torch.ones(8, dtype=torch.bool))
    torch.testing.assert_close(one["prototypes"], module.prototypes)
    # Each process may push an eighth: 2 + 2 rows of class 0 and 1 here, where one process pushes 2 of 3.
    assert one["filled"].tolist() == [2 + 3 + 3, 1 + 3 + 3, 1 + 2 + 2, 0]
