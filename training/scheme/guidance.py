"""What the teacher and the image-text model say about a batch, and which labels follow from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.data.dataset import Batch
from training.data.hints import Hints
from training.processes import Processes
from training.scheme.agreement import (
    SOURCES,
    ClassThresholds,
    ImageText,
    Opinion,
    PseudoTargets,
    decide,
    safe_negatives,
)
from training.scheme.contrast import Candidates

_TINY, _MOST_TRUST = 1e-6, 0.95
"""Least probability of a class before labels speak; most trust in what labels around a point say."""


@dataclass(frozen=True)
class Guidance:
    """What is said about the V voxels of a batch.

    Attributes:
        teacher: (V, C) probabilities; zeros where the teacher has not seen the voxel, or is not asked yet.
        known: (K,) int64 rows that the teacher has seen and that have neither a drawn label nor an opinion.
        pseudo: the pseudo labels.
        opinion: of the image-text model on voxels with neither a drawn nor a pseudo label.
        candidates: of the contrast, None where it is off.
        generator: of this step's random choices: they depend on the step alone, so that a resumed run makes the same.
    """

    teacher: Tensor
    known: Tensor
    pseudo: PseudoTargets
    opinion: Opinion
    candidates: Candidates | None
    generator: torch.Generator

    def counts(self) -> dict[str, int]:
        """Pseudo labels by source."""
        found = torch.bincount(self.pseudo.source.long(), minlength=len(SOURCES)).tolist()
        return {f"labels_{name}": count for name, count in zip(SOURCES, found, strict=True)}


class Guide(nn.Module):
    """Makes a batch's guidance. Its buffers, how sure each source usually is of each class, belong to the run."""

    def __init__(
        self,
        config: TrainConfig,
        labels: npt.NDArray[np.int64],
        processes: Processes,
        *,
        text: bool = False,
    ) -> None:
        """`labels`: (C,) drawn, of each class. `text`: whether there is an image-text model."""
        super().__init__()
        self.config, self.processes = config, processes
        pseudo, classes = config.pseudo, len(labels)
        # Of points that no image shows: as often as the labels have a class, rare ones helped as the images' are.
        prior = ((labels + 1) / (labels + 1).sum()) ** (1 - pseudo.balance)
        self.prior = (prior / prior.sum()).astype(np.float32)

        def thresholds() -> ClassThresholds:
            floor = min(pseudo.floor, pseudo.sure)
            return ClassThresholds(classes, ceiling=pseudo.sure, floor=floor, share=pseudo.share)

        self.teacher_sure = thresholds()
        self.text_sure = thresholds() if text else None

    @torch.no_grad()
    def forward(self, teacher: Tensor | None, batch: Batch, step: int) -> Guidance:
        """`teacher`: (V, C) probabilities, zeros in rows that it has not seen; None: it is not asked yet."""
        text = self.image_text(batch.hints)
        asked = self.config.pseudo.soft + self.config.pseudo.lovasz > 0
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        if teacher is None:
            teacher = batch.voxels.features.new_zeros(len(batch.voxels), len(self.prior))
            none = batch.rows[:0]
            pseudo = PseudoTargets(none, none, none.to(torch.uint8), teacher[:0, 0])
            opinion = Opinion.of(text if asked else None, batch.rows, teacher)
            return Guidance(teacher, none, pseudo, opinion, None, generator)
        seen = teacher.sum(1) > 0
        self.teacher_sure.update(teacher[seen], self.processes.sum_tensor)
        if self.text_sure is not None and text is not None:
            self.text_sure.update(text.probability, self.processes.sum_tensor)
        pseudo = decide(
            teacher,
            text,
            batch.rows,
            self.config.pseudo,
            teacher_sure=self.teacher_sure().to(teacher),
            text_sure=None if self.text_sure is None else self.text_sure().to(teacher),
        )
        candidates = None
        if self.config.contrast.weight > 0:
            row = torch.cat([batch.rows, pseudo.row])
            drawn = torch.zeros_like(row, dtype=torch.bool)
            drawn[: len(batch.rows)] = True
            candidates = Candidates(
                row=row,
                target=torch.cat([batch.target, pseudo.target]),
                labelled=drawn,
                safe=safe_negatives(teacher, text, row, self.config.contrast.negatives),
                weight=torch.cat([torch.ones_like(batch.rows, dtype=pseudo.weight.dtype), pseudo.weight]),
            )
        opinion = Opinion.of(text if asked else None, torch.cat([batch.rows, pseudo.row]), teacher)
        # What images say of a voxel is worth more than the teacher's view of it.
        unlabelled = seen.clone()
        unlabelled[batch.rows] = False
        unlabelled[opinion.row] = False
        return Guidance(teacher, unlabelled.nonzero().squeeze(1), pseudo, opinion, candidates, generator)

    def image_text(self, hints: Hints | None) -> ImageText | None:
        """What images and the drawn labels around say: probabilities, and how far they can be trusted."""
        if hints is None:
            return None
        known, weight, odds = (each.cpu().numpy() for each in (hints.probability, hints.weight, hints.log_odds))
        probability, weight = np.where(known.any(axis=1, keepdims=True), known, self.prior), weight.copy()
        told = odds.max(1, initial=0) > 0
        logits = np.log(np.maximum(probability[told], _TINY)) + odds[told]
        posterior = np.exp(logits - logits.max(1, keepdims=True))
        posterior /= posterior.sum(1, keepdims=True)
        # The chance that not both err, where the labels around say what it comes to.
        named = posterior.argmax(1)
        agreed = np.minimum(1 - np.exp(-odds[told][np.arange(len(named)), named]), _MOST_TRUST)
        probability[told], weight[told] = posterior, np.maximum(weight[told], agreed)
        device = hints.row.device
        return ImageText(hints.row, torch.from_numpy(probability).to(device), torch.from_numpy(weight).to(device))
