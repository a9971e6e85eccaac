"""Pseudo labels: which unlabelled voxels get a class, from the image-text model, from the teacher, or from both.

Decided anew at each step, since the teacher learns. Two that name the same class are believed; one alone only when it
is sure; two that are sure of different classes cancel out. Drawn labels are never replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.losses import lovasz_of_scans
from training.scheme.config import PseudoConfig

SOURCES = ("agree", "teacher", "text")
"""Who named the class, by source code: both, the teacher alone, the image-text model alone."""

AGREE, TEACHER, TEXT = range(3)


class ImageText(NamedTuple):
    """What the image-text model says of P pairs of a point and a pixel; a voxel may be in any number of them.

    Where drawn labels are spread it includes what they say, also of points that no image shows.

    Attributes:
        row: (P,) int64 row of the point's voxel.
        probability: (P, C) calibrated, rows sum to 1.
        weight: (P,) trust in the likeliest class, 0..1 (its precision on drawn labels); 0: it has no say.
    """

    row: Tensor
    probability: Tensor
    weight: Tensor


@dataclass(frozen=True)
class PseudoTargets:
    """Q voxels with a pseudo label.

    Attributes:
        row: (Q,) int64, ascending, each once.
        target: (Q,) int64 class ids.
        source: (Q,) uint8 index into `SOURCES`.
        weight: (Q,) float, 0..1: how likely the label is right, as far as the sources know.
    """

    row: Tensor
    target: Tensor
    source: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.row)

    def counts(self, classes: int) -> Tensor:
        """(sources, classes) int64: which source labelled how many voxels as what."""
        cell = self.source.long() * classes + self.target
        return torch.bincount(cell, minlength=len(SOURCES) * classes).reshape(len(SOURCES), classes)


class Opinion(NamedTuple):
    """What the image-text model says of voxels that have no label of any kind.

    Where it is not believed its probabilities still hold in the mean: a student that learns them from many points sees
    what their shapes have in common, and may name a rare class that no single picture was sure of.

    Attributes:
        row: (Q,) int64, ascending, each once.
        probability: (Q, C), rows sum to 1.
    """

    row: Tensor
    probability: Tensor

    @classmethod
    def of(cls, text: ImageText | None, labelled: Tensor, like: Tensor) -> Opinion:
        """Of the voxels that `text` speaks of, outside `labelled`. `like`: (V, C) of the batch's voxels."""
        if text is None or not len(text.row):
            return cls(labelled.new_zeros(0), like.new_zeros(0, like.shape[1]))
        # A class that is switched off has no say alone; in the mean it is as right as its calibration.
        row, probability, _ = merge(text._replace(weight=torch.ones_like(text.weight)))
        free = torch.ones(len(like), dtype=torch.bool, device=row.device)
        free[labelled] = False
        kept = free[row]
        return cls(row[kept], probability[kept].to(like.dtype))


@torch.no_grad()
def decide(
    teacher: Tensor,
    text: ImageText | None,
    labelled: Tensor,
    config: PseudoConfig,
    *,
    teacher_sure: Tensor | None = None,
    text_sure: Tensor | None = None,
) -> PseudoTargets:
    """The pseudo labels of a batch.

    - agree: both name the same class, the teacher with at least `config.agree`. Weight: the chance that not both err
      if they err independently, 1 - (1 - p)(1 - trust).
    - teacher: it gives its class at least `config.sure`, and no sure image-text model names another. Weight p.
    - text: it gives its class at least `config.sure`, and no sure teacher names another. Weight: the trust in it.

    Args:
        teacher: (V, C) probabilities of the EMA teacher for every voxel.
        text: of the voxels in view; None: the teacher alone decides.
        labelled: (L,) int64 rows that have drawn labels, in any order, repeated or not; they get no pseudo label.
        teacher_sure, text_sure: (C,) thresholds in place of `config.sure`, see `ClassThresholds`.
    """
    fixed = teacher.new_full((teacher.shape[1],), config.sure)
    best, target = teacher.max(1)
    sure = best >= (fixed if teacher_sure is None else teacher_sure)[target]
    source = torch.where(sure, TEACHER, -1)
    weight = torch.where(sure, best, 0)
    if text is not None and len(text.row):
        row, probability, trust = merge(text)
        highest, named = probability.max(1)
        certain = (trust > 0) & (highest >= (fixed if text_sure is None else text_sure)[named])
        same = (trust > 0) & (named == target[row])
        both = same & (best[row] >= config.agree)
        alone = certain & ~same & ~sure[row]
        cancelled = certain & ~same & sure[row]
        source[row[cancelled]] = -1
        source[row[both]] = AGREE
        weight[row[both]] = 1 - (1 - best[row[both]]) * (1 - trust[both])
        # Where it is sure, also of what the teacher finds likeliest but hardly believes.
        alone |= certain & same & ~both & ~sure[row]
        source[row[alone]] = TEXT
        target[row[alone]] = named[alone]
        weight[row[alone]] = trust[alone]
    source[labelled] = -1
    row = (source >= 0).nonzero().squeeze(1)
    return PseudoTargets(row, target[row], source[row].to(torch.uint8), weight[row])


def merge(text: ImageText) -> tuple[Tensor, Tensor, Tensor]:
    """One opinion a voxel: rows (U,) int64 ascending, mean probability (U, C), trust (U,).

    Pairs count by their weights. The trust is the mean weight of the pairs that name the voxel's class; it is 0 unless
    they hold the majority of the voxel's weight, and where all weights are 0.
    """
    row, inverse = torch.unique(text.row, return_inverse=True)
    pair_weight = text.weight.to(text.probability.dtype)
    total = pair_weight.new_zeros(len(row)).index_add_(0, inverse, pair_weight)
    summed = text.probability.new_zeros(len(row), text.probability.shape[1])
    summed.index_add_(0, inverse, text.probability * pair_weight[:, None])
    probability = summed / total.clamp_min(torch.finfo(total.dtype).tiny)[:, None]
    same = text.probability.argmax(1) == probability.argmax(1)[inverse]
    agrees = (same & (pair_weight > 0)).to(total.dtype)
    agreeing = torch.zeros_like(total).index_add_(0, inverse, pair_weight * agrees)
    count = torch.zeros_like(total).index_add_(0, inverse, agrees)
    trust = torch.where(2 * agreeing > total, agreeing / count.clamp_min(1), 0)
    return row, probability, trust


@torch.no_grad()
def safe_negatives(teacher: Tensor, text: ImageText | None, rows: Tensor, most: float) -> Tensor:
    """Mask (R, C) of the classes that no source gives more than `most` to the voxels `rows` (R,).

    Pushing a point away from a class that it may well belong to does harm, so a class must be unlikely to the teacher
    and to the image-text model in each of the voxel's pairs where that has a say.
    """
    safe = teacher[rows] <= most
    if text is None or not len(text.row):
        return safe
    doubted = torch.zeros_like(teacher, dtype=torch.bool)
    pair, named = ((text.probability > most) & (text.weight > 0)[:, None]).nonzero(as_tuple=True)
    doubted[text.row[pair], named] = True
    return safe & ~doubted[rows]


def pseudo_cross_entropy(logits: Tensor, targets: PseudoTargets, class_weights: Tensor | None = None) -> Tensor:
    """Weighted cross-entropy (Q,) of each pseudo label; the caller sums and divides. logits: (V, C) of all voxels."""
    rows = logits[targets.row].float()
    loss = F.cross_entropy(rows, targets.target, weight=class_weights, reduction="none")
    return loss * targets.weight


def opinion_kl(logits: Tensor, opinion: Opinion, class_weights: Tensor | None = None) -> Tensor:
    """KL(image-text || student) (Q,) in nats, classes weighed as in the losses by labels. logits: (V, C)."""
    return kl_to_teacher(logits[opinion.row], opinion.probability, class_weights)


def pseudo_lovasz(logits: Tensor, pseudo: PseudoTargets, opinion: Opinion, scan: Tensor) -> Tensor:
    """Lovasz-softmax (S,) of each scan on its pseudo labels and on the likeliest class of every opinion.

    Args:
        logits: (V, C) of all voxels.
        scan: (V,) number of each voxel's scan.
    """
    row = torch.cat([pseudo.row, opinion.row])
    target = torch.cat([pseudo.target, opinion.probability.argmax(1)])
    return lovasz_of_scans(logits[row], target, scan[row])


def kl_to_teacher(student: Tensor, teacher: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """KL(teacher || student) (R,) in nats of each row; no gradient reaches the teacher.

    Args:
        student: (R, C) logits.
        teacher: (R, C) probabilities.
        class_weights: (C,) as in the losses by labels, of which a row takes the mean: a mean over rows alone is nearly
            all road, and unlearns what is rare.
    """
    teacher = teacher.detach().float()
    loss = F.kl_div(student.float().log_softmax(1), teacher, reduction="none").sum(1)
    return loss if class_weights is None else loss * (teacher @ class_weights.to(teacher))


class ClassThresholds(nn.Module):
    """How sure a source must be, class by class, so that rare classes are not starved.

    One threshold for all lets through nearly all road and hardly a bicycle. Here each class takes the confidence that
    the surest `share` of its own predictions reach, never above `ceiling` nor below `floor` (class-balanced
    self-training, Zou et al., arXiv 1810.07911). The confidences are remembered as a histogram a class that fades.
    """

    histogram: Tensor

    def __init__(
        self,
        classes: int,
        *,
        ceiling: float,
        floor: float,
        share: float = 0.5,
        momentum: float = 0.99,
        bins: int = 200,
    ) -> None:
        super().__init__()
        self.ceiling, self.floor, self.share, self.momentum = ceiling, floor, share, momentum
        self.register_buffer("histogram", torch.zeros(classes, bins, dtype=torch.float64))

    @torch.no_grad()
    def update(self, probability: Tensor, total: Callable[[Tensor], Tensor] | None = None) -> None:
        """Take in a step's probabilities (V, C). `total` sums a tensor over all processes, each of which calls this."""
        classes, bins = self.histogram.shape
        best, named = probability.max(1)
        cell = named * bins + (best.double() * bins).long().clamp_(0, bins - 1)
        counts = torch.bincount(cell, minlength=classes * bins).reshape(classes, bins).double()
        if total is not None:
            counts = total(counts).to(counts.device)
        self.histogram.mul_(self.momentum).add_(counts)

    def forward(self) -> Tensor:
        """(C,) float32 thresholds; of a class that was never predicted, `ceiling`."""
        bins = self.histogram.shape[1]
        # Mass at and above each bin's lower edge.
        above = self.histogram.flip(1).cumsum(1).flip(1)
        reached = (above >= self.share * above[:, :1]).sum(1) - 1
        quantile = reached.double() / bins
        quantile = torch.where(above[:, 0] > 0, quantile, self.ceiling)
        return quantile.clamp(self.floor, self.ceiling).float()
