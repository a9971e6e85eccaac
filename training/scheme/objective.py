"""The scheme's losses of a step by name: METHOD's total, but for the losses on the points' drawn labels."""

from __future__ import annotations

import torch
from torch import Tensor

from training.config import TrainConfig
from training.data.dataset import Batch
from training.data.pairs import Pairs
from training.losses import SegmentationLoss
from training.processes import Processes
from training.scheme.agreement import kl_to_teacher, opinion_kl, pseudo_cross_entropy, pseudo_lovasz
from training.scheme.guidance import Guidance
from training.scheme.schedule import Shares
from training.scheme.student import StudentOutput
from training.scheme.transfer import PairCounts, Transfer, TransferOutput


class Objective:
    """Weighs and divides the losses; each is a mean over what all processes hold together.

    Attributes:
        terms: names of the losses that are on, in the order of the log.
    """

    def __init__(
        self, config: TrainConfig, processes: Processes, loss: SegmentationLoss, transfer_module: Transfer | None
    ) -> None:
        """`loss`: of drawn labels, which the fused branch and the image network learn from too."""
        self.config, self.processes, self.loss, self.transfer = config, processes, loss, transfer_module
        transfer = config.transfer
        on = {
            "transfer": transfer.weight > 0,
            "transfer_lovasz": transfer.weight * transfer.lovasz > 0,
            "fused": transfer.weight > 0,
            "point": transfer.weight > 0,
            "image": transfer.weight > 0,
            "fused_pseudo": transfer.weight * transfer.fused * config.pseudo.weight > 0,
            "pseudo": config.pseudo.weight > 0,
            "opinion": config.pseudo.weight * config.pseudo.soft > 0,
            "pseudo_lovasz": config.pseudo.weight * config.pseudo.lovasz > 0,
            "contrast": config.contrast.weight > 0,
            "teacher": config.teacher.weight > 0,
        }
        self.terms = [name for name, used in on.items() if used]

    def __call__(
        self, output: StudentOutput, batch: Batch, guidance: Guidance | None, share: Shares
    ) -> dict[str, Tensor]:
        """Weighted losses by name; `share`: the schedule's factors on those that need guidance."""
        losses: dict[str, Tensor] = {}
        if output.transfer is not None and batch.pairs is not None:
            losses |= self._transfer(output.transfer, batch.pairs)
        nothing = output.points.logits.sum() * 0
        names = ("fused_pseudo", "pseudo", "opinion", "pseudo_lovasz", "contrast", "teacher")
        sums = dict.fromkeys(names, nothing)
        counts = dict.fromkeys(sums, 0)
        config = self.config
        # Opinions turn into pseudo labels, and back, from step to step: one factor for both. Without any opinion,
        # pseudo labels are the teacher's alone, which has to learn first.
        told = share.teacher if batch.hints is None else max(share)
        weights = {
            "fused_pseudo": told * config.pseudo.weight * config.transfer.fused * config.transfer.every,
            "pseudo": told * config.pseudo.weight,
            "opinion": told * config.pseudo.weight * config.pseudo.soft,
            "pseudo_lovasz": told * config.pseudo.weight * config.pseudo.lovasz,
            "contrast": share.teacher * config.contrast.weight,
            "teacher": share.teacher * config.teacher.weight,
        }
        logits = output.points.logits
        if guidance is not None:
            if "fused_pseudo" in self.terms and output.transfer is not None and batch.pairs is not None:
                each = self._fused_by_guidance(output.transfer, batch.pairs, guidance, logits)
                sums["fused_pseudo"], counts["fused_pseudo"] = each.sum(), len(each)
            if "pseudo" in self.terms:
                sums["pseudo"] = pseudo_cross_entropy(logits, guidance.pseudo, self.loss.class_weights).sum()
                counts["pseudo"] = len(guidance.pseudo)
            if "opinion" in self.terms:
                sums["opinion"] = opinion_kl(logits, guidance.opinion, self.loss.class_weights).sum()
                counts["opinion"] = len(guidance.opinion.row)
            if "pseudo_lovasz" in self.terms:
                scan = batch.voxels.coordinates[:, 0]
                each = pseudo_lovasz(logits, guidance.pseudo, guidance.opinion, scan)
                sums["pseudo_lovasz"], counts["pseudo_lovasz"] = each.sum(), len(each)
            if "teacher" in self.terms:
                rows = guidance.known
                sums["teacher"] = kl_to_teacher(logits[rows], guidance.teacher[rows], self.loss.class_weights).sum()
                counts["teacher"] = len(rows)
        if output.contrast is not None:
            sums["contrast"] = output.contrast.sum()
            counts["contrast"] = len(output.contrast)
        # One mean over all voxels that are told anything: a few doubtful ones, which sources disagree about, would
        # otherwise weigh as much as the many that they agree on.
        counts["pseudo"] = counts["opinion"] = counts["pseudo"] + counts["opinion"]
        totals = self.processes.sum(list(counts.values()))
        for (name, total), count in zip(sums.items(), totals, strict=True):
            if name in self.terms:
                losses[name] = weights[name] * total / max(count / self.processes.world, 1e-6)
        return {name: losses[name] for name in self.terms}

    def _fused_by_guidance(self, output: TransferOutput, pairs: Pairs, guidance: Guidance, logits: Tensor) -> Tensor:
        """KL (Q,) of the pseudo labels and opinions to the fused branch, mean over its scales.

        A fused branch that learns from the drawn labels alone knows nothing of the classes that they lack, and would
        teach the point network to forget what the pseudo labels tell it about them.
        """
        wanted = torch.zeros_like(logits)
        wanted[guidance.pseudo.row, guidance.pseudo.target] = 1
        wanted[guidance.opinion.row] = guidance.opinion.probability.to(wanted)
        wanted = wanted[pairs.row]
        told = torch.nonzero(wanted.sum(1) > 0).flatten()
        wanted = wanted[told]
        weights = self.loss.class_weights
        return torch.stack([kl_to_teacher(fused[told], wanted, weights) for fused in output.fused.values()]).mean(0)

    def _transfer(self, output: TransferOutput, pairs: Pairs) -> dict[str, Tensor]:
        mine = PairCounts.of(pairs)
        totals = self.processes.sum([mine.pairs, mine.labelled, mine.images])
        counts = PairCounts(*(total / self.processes.world for total in totals))
        assert self.transfer is not None
        losses = self.transfer.losses(output, pairs, self.loss, counts)
        # So that a setting for the cost leaves the balance of the losses as it is (lazy regularization, Karras et al.,
        # arXiv 1912.04958).
        return {name: self.config.transfer.every * loss for name, loss in losses.items()}
