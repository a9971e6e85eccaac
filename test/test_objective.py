"""What the scheme's losses of a step are divided by."""

from __future__ import annotations

import pytest
import torch
from sparse_inputs import few_voxels

from mdkt_ros.network import NetworkOutput
from training.config import load_config
from training.data.dataset import Batch
from training.losses import SegmentationLoss
from training.processes import Processes
from training.scheme.agreement import Opinion, PseudoTargets, opinion_kl, pseudo_cross_entropy
from training.scheme.guidance import Guidance
from training.scheme.objective import Objective
from training.scheme.schedule import Shares
from training.scheme.student import StudentOutput


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
