"""What the scheme's losses of a step are divided by."""

from __future__ import annotations

import pytest
import torch
from sparse_inputs import few_voxels

from mdkt_ros.network import NetworkOutput
from training.config import load_config
from training.data.dataset import Batch
from training.data.hints import Hints
from training.losses import SegmentationLoss
from training.processes import Processes
from training.scheme.agreement import Opinion, PseudoTargets, opinion_kl, pseudo_cross_entropy
from training.scheme.guidance import Guidance
from training.scheme.objective import Objective
from training.scheme.schedule import Shares
from training.scheme.student import StudentOutput


def pseudo_loss(share: Shares, hints: Hints | None) -> float:
    """The weighted cross-entropy of two pseudo labels, of a batch that has hints or none."""
    config = load_config(None, ["pseudo.weight=2", "pseudo.soft=0.5", "optim.average=0.9"])
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    row = torch.tensor([0, 2])
    pseudo = PseudoTargets(row, torch.tensor([1, 0]), torch.zeros(2, dtype=torch.uint8), torch.full((2,), 0.8))
    none = torch.zeros(0, dtype=torch.int64)
    guidance = Guidance(
        logits.softmax(1), none, pseudo, Opinion(none, logits[:0]), None, torch.Generator().manual_seed(0)
    )
    batch = Batch(("scan",), few_voxels([[0, 0, i, 0] for i in range(4)], 1), none, none, none, hints=hints)
    objective = Objective(config, Processes(0, 1, torch.device("cpu")), SegmentationLoss(config.loss), None)
    losses = objective(StudentOutput(NetworkOutput(logits, {}), None, None), batch, guidance, share)
    assert "pseudo" in losses
    return losses["pseudo"].item()


def test_pseudo_labels_of_the_teacher_alone_wait_for_it():
    whole = pseudo_loss(Shares(1.0, 1.0), None)
    assert whole > 0
    assert pseudo_loss(Shares(1.0, 0.25), None) == pytest.approx(0.25 * whole)
    assert pseudo_loss(Shares(1.0, 0.0), None) == 0


def test_pseudo_labels_that_opinions_turn_into_keep_their_weight():
    hints = Hints(torch.tensor([1]), torch.zeros(1, 3), torch.zeros(1), torch.zeros(1, 3))
    assert pseudo_loss(Shares(1.0, 0.25), hints) == pytest.approx(pseudo_loss(Shares(1.0, 1.0), None))


def test_a_doubtful_voxel_weighs_as_much_as_one_that_is_agreed_on():
    config = load_config(None, ["pseudo.weight=2", "pseudo.soft=0.5", "optim.average=0.9"])
    processes = Processes(0, 1, torch.device("cpu"))
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    pseudo = PseudoTargets(
        torch.tensor([0, 2, 3]), torch.tensor([1, 0, 2]), torch.zeros(3, dtype=torch.uint8), torch.full((3,), 0.8)
    )
    opinion = Opinion(torch.tensor([5]), torch.tensor([[0.2, 0.5, 0.3]]))
    guidance = Guidance(logits.softmax(1), torch.arange(6), pseudo, opinion, None, torch.Generator().manual_seed(0))
    none = torch.zeros(0, dtype=torch.int64)
    batch = Batch(("scan",), few_voxels([[0, 0, i, 0] for i in range(6)], 1), none, none, none)
    objective = Objective(config, processes, SegmentationLoss(config.loss), None)
    losses = objective(StudentOutput(NetworkOutput(logits, {}), None, None), batch, guidance, share=Shares(1.0, 1.0))
    assert losses.keys() == {"pseudo", "opinion"}
    # Four voxels are told something: three by pseudo labels, one by an opinion.
    assert losses["pseudo"].item() == pytest.approx(2 * pseudo_cross_entropy(logits, pseudo).sum().item() / 4)
    assert losses["opinion"].item() == pytest.approx(2 * 0.5 * opinion_kl(logits, opinion).item() / 4)
