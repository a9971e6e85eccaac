"""The losses of labels-only training, each a method under the name by which it is weighted, logged and reported.

Both are sums over what a process holds divided by what all processes hold together, so that the gradients which
DistributedDataParallel averages equal those of one process with the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mdkt_ros.errors import MdktError
from training.config import LossConfig


class TrainingError(MdktError):
    """Training that cannot go on: a loss that is not finite, a run that does not fit its state."""


@dataclass(frozen=True)
class Labelled:
    """The labelled points of a batch, in the order of their scans.

    Attributes:
        logits: (L, C) of the voxel that holds the point.
        target: (L,) int64 class ids, none ignored.
        scan: (L,) int64 number of the scan in the batch, ascending.
        points, scans: labelled points and scans with at least one, of all processes, divided by the processes.
    """

    logits: Tensor
    target: Tensor
    scan: Tensor
    points: float
    scans: float


class SegmentationLoss:
    """Cross-entropy and Lovasz-softmax on labelled points."""

    def __init__(self, config: LossConfig, class_weights: Tensor | None = None) -> None:
        """`class_weights`: (C,) factors of the cross-entropy, from the drawn labels alone."""
        self.class_weights = class_weights
        self.label_smoothing = config.label_smoothing
        named: dict[str, tuple[float, Callable[[Labelled], Tensor]]] = {
            "cross_entropy": (config.cross_entropy, self.cross_entropy),
            "lovasz": (config.lovasz, self.lovasz),
        }
        self.terms = {name: term for name, term in named.items() if term[0] > 0}

    def __call__(self, labelled: Labelled) -> dict[str, Tensor]:
        """Weighted losses by name; their sum is to be minimised. Without labelled points each is 0 with gradient 0."""
        return {name: weight * loss(labelled) for name, (weight, loss) in self.terms.items()}

    def cross_entropy(self, labelled: Labelled) -> Tensor:
        """Mean over the labelled points, of all processes."""
        summed = F.cross_entropy(
            labelled.logits.float(),
            labelled.target,
            weight=self.class_weights,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return summed / max(labelled.points, 1e-6)

    def lovasz(self, labelled: Labelled) -> Tensor:
        """Lovasz-softmax of each scan over the classes of its labels, mean over the scans of all processes."""
        probability = labelled.logits.float().softmax(1)
        # Labels lie scan after scan, so a scan is a slice; sorting stays within it.
        rows = torch.unique_consecutive(labelled.scan, return_counts=True)[1].tolist()
        pairs = zip(torch.split(probability, rows), torch.split(labelled.target, rows), strict=True) if rows else ()
        total = sum((lovasz_softmax(p, t) for p, t in pairs), start=probability.sum() * 0)
        return total / max(labelled.scans, 1e-6)


def lovasz_of_scans(logits: Tensor, target: Tensor, scan: Tensor) -> Tensor:
    """Lovasz-softmax (S,) of each scan in turn; logits (R, C), target (R,) int64 and scan (R,) number of its scan.

    Cross-entropy over thousands of voxels hardly notices a class of a few dozen; the IoU of that class does.
    """
    probability = logits.float().softmax(1)
    losses = [lovasz_softmax(probability[scan == k], target[scan == k]) for k in torch.unique(scan)]
    return torch.stack(losses) if losses else logits.sum()[None][:0]


def lovasz_softmax(probability: Tensor, target: Tensor) -> Tensor:
    """Lovasz extension of the Jaccard loss, mean over the classes in `target` (Berman et al., arXiv 1705.08790).

    Args:
        probability: (L, C), rows sum to 1.
        target: (L,) int64.

    Returns:
        Scalar in 0..1.
    """
    present, counts = torch.unique(target, return_counts=True)
    foreground = target[None, :] == present[:, None]
    errors = (foreground.to(probability.dtype) - probability.t()[present]).abs()
    errors, order = errors.sort(dim=1, descending=True)
    hits = foreground.gather(1, order).to(probability.dtype).cumsum(1)
    # Jaccard loss when the k worst points are wrong: 1 - (P - hits) / (P + false), false = k - hits.
    size = counts[:, None].to(probability.dtype)
    rank = torch.arange(1, len(target) + 1, dtype=probability.dtype, device=target.device)
    jaccard = 1 - (size - hits) / (size + rank - hits)
    steps = torch.diff(jaccard, dim=1, prepend=jaccard.new_zeros(len(present), 1))
    loss: Tensor = (errors * steps).sum(1).mean()
    return loss


def check_finite(losses: dict[str, float], scans: tuple[str, ...], step: int) -> None:
    """Raise TrainingError that names the first loss that is NaN or infinite and the scans of the batch."""
    for name, value in losses.items():
        if not value - value == 0:
            raise TrainingError(f"step {step}: the loss {name} is {value} on the scans {', '.join(scans)}")
