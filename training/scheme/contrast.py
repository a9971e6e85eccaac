"""Semantic contrastive regularization: points of a class lie near its text, its prototype and each other.

For an anchor i of (pseudo) class y, with unit embeddings e:

    L(i) = -log  sum_{p in P(i)} exp(e_i.p / tau)  /  ( sum_{P(i)} exp(e_i.p / tau) + sum_{n in N(i)} exp(e_i.n / tau) )

P(i): text, prototype and queued points of y. N(i): those of the classes that are safe negatives of i, which no source
gives a noteworthy probability, and of a drawn label all other classes; a class in between is neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mdkt_ros.projection import ProjectionHead
from training.scheme.config import ContrastConfig

POOL = 4
"""Candidates that are embedded for each anchor that is picked; embedding all points of a step costs too much."""

PUSH = 8
"""A queue takes at most this part of its length a step, so that it spans many scenes."""

_NONE = -1e9
"""Similarity of what is not there. Finite: its exp is 0, and gradients through it are 0 rather than NaN."""

_LOW = 0.03
"""A temperature below which exponentials of cosines span more than float32 holds."""


@dataclass(frozen=True)
class Candidates:
    """R voxels that may become anchors, and feed prototypes and queues.

    Attributes:
        row: (R,) int64 row among the step's voxels; a row may come more than once.
        target: (R,) int64 drawn or pseudo class id.
        labelled: (R,) bool, whether the class was drawn.
        safe: (R, C) bool, which classes are safe negatives.
        weight: (R,) float factor on the loss: trust in a pseudo label, 1 of a drawn one.
    """

    row: Tensor
    target: Tensor
    labelled: Tensor
    safe: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.row)


class SemanticContrast(nn.Module):
    """Projection head, texts, prototypes and queues; all of it in parameters and buffers, so that a run resumes.

    With several processes, each picks its share of the anchors among its own scans; prototypes and queues are fed with
    the embeddings of all, so that they stay the same everywhere.

    Attributes:
        head: the projection head, which can go out with the point network.
        text: (C, D) unit text embeddings of the classes, or None; `known` (C,) bool tells which mean something.
        prototypes: (C, D) unit; `seen` (C,) bool tells which classes have one.
        queue: (C, Q, D) ring buffers; `filled` (C,) int64 entries in use, `cursor` (C,) int64 the next to overwrite.
    """

    text: Tensor | None
    known: Tensor
    prototypes: Tensor
    seen: Tensor
    queue: Tensor
    filled: Tensor
    cursor: Tensor

    def __init__(
        self,
        in_channels: int,
        classes: int,
        config: ContrastConfig,
        text: Tensor | None = None,
        *,
        known: Tensor | None = None,
    ) -> None:
        """Fresh weights, empty queues.

        Args:
            text: (C, D) embeddings of the classes, whose D is the embeddings'; without it that is `config.dim`.
            known: (C,) bool, classes of which the text model knows a word; the texts of others take no part.
        """
        # `config.align` adds each anchor's loss against the texts alone. In the sum over P(i) the queued points, much
        # nearer than the text, take nearly the whole gradient: without this the embeddings come to lie well apart by
        # class but not near the text, and cannot be asked for by name.
        super().__init__()
        dim = config.dim if text is None else text.shape[1]
        if text is not None and len(text) != classes:
            raise ValueError(f"{len(text)} text embeddings for {classes} classes")
        self.config, self.classes, self.align = config, classes, config.align
        self.head = ProjectionHead(in_channels, 2 * in_channels, dim)
        self.register_buffer("text", None if text is None else F.normalize(text.detach().float(), dim=1))
        none = torch.full((classes,), text is not None)
        self.register_buffer("known", none if known is None else none & known.bool().cpu())
        self.register_buffer("prototypes", torch.zeros(classes, dim))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.bool))
        self.register_buffer("queue", torch.zeros(classes, config.queue, dim))
        self.register_buffer("filled", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("cursor", torch.zeros(classes, dtype=torch.int64))

    def forward(self, features: Tensor, candidates: Candidates, generator: torch.Generator | None = None) -> Tensor:
        """Weighted loss (A,) of each anchor, A at most `anchors`; the caller sums them and divides.

        Prototypes and queues of the steps before are what anchors are compared with; in training mode they then take in
        this step's embeddings. Without candidates A is 0, and the sum still has a (zero) gradient for each parameter.

        Args:
            features: (V, in_channels) decoder features at stride 1 of the step's voxels.
            generator: of the random choices, on the CPU; None: the global one.
        """
        world = dist.get_world_size() if _several() else 1
        quota = _share(self.config.anchors // world, candidates.target, self.classes)
        pool = _draw(candidates, POOL * quota, self.classes, generator)
        target = candidates.target[pool]
        embedding = self.head(features[candidates.row[pool]])
        with torch.no_grad():
            own = self._own_similarity(embedding, target)
            chosen = _pick(target, own, quota, self.classes, generator)
        picked = pool[chosen]
        # A drawn label is no other class, whatever the sources think.
        safe = candidates.safe[picked] | candidates.labelled[picked, None]
        given = embedding[chosen], target[chosen], safe
        losses = self.losses(*given)
        if self.text is not None and self.align > 0:
            losses = losses + self.align * self.text_losses(*given)
        if self.training:
            self.update(embedding.detach(), target, candidates.labelled[pool])
        return losses * candidates.weight[picked]

    def losses(self, embedding: Tensor, target: Tensor, safe: Tensor) -> Tensor:
        """L (A,) of unit embeddings (A, D) of classes (A,) with safe negatives (A, C); 0 where P(i) is empty."""
        return self._losses(embedding, target, safe, *self.bank())

    def text_losses(self, embedding: Tensor, target: Tensor, safe: Tensor) -> Tensor:
        """The same (A,) with the text embeddings as the only members of P(i) and N(i)."""
        assert self.text is not None
        return self._losses(embedding, target, safe, self.text[:, None], self.known[:, None])

    def _losses(self, embedding: Tensor, target: Tensor, safe: Tensor, bank: Tensor, valid: Tensor) -> Tensor:
        # Divided by tau, a rounding of half precision would be as large as a class is wide.
        with torch.autocast(embedding.device.type, enabled=False):
            by_class = _log_sums(embedding, bank.to(embedding), valid, self.config.temperature)
        own = F.one_hot(target, self.classes).bool()
        positive = by_class.gather(1, target[:, None]).squeeze(1)
        both = by_class.masked_fill(~(own | safe), _NONE).logsumexp(1)
        there = valid.any(1)[target]
        return torch.where(there, both - positive, 0.0)

    def bank(self) -> tuple[Tensor, Tensor]:
        """What anchors are compared with, by class: (C, K, D) text, prototype, queue, and (C, K) bool: is it there?"""
        slot = torch.arange(self.config.queue, device=self.queue.device)
        parts = [self.prototypes[:, None], self.queue]
        valid = [self.seen[:, None], slot < self.filled[:, None]]
        if self.text is not None:
            parts.insert(0, self.text[:, None])
            valid.insert(0, self.known[:, None])
        return torch.cat(parts, 1), torch.cat(valid, 1)

    def _own_similarity(self, embedding: Tensor, target: Tensor) -> Tensor:
        """Mean cosine (R,) with the text and the prototype of the own class, as far as they are there."""
        center, count = self.prototypes, self.seen.float()
        if self.text is not None:
            center, count = center + self.text * self.known[:, None], count + self.known
        return (embedding * center[target]).sum(1) / count[target].clamp_min(1)

    @torch.no_grad()
    def update(self, embedding: Tensor, target: Tensor, labelled: Tensor) -> None:
        """Feed prototypes (drawn labels alone) and queues with unit embeddings (R, D) of all processes."""
        summed = torch.zeros_like(self.prototypes).index_add_(0, target[labelled], embedding[labelled])
        new = torch.zeros(self.classes, self.config.queue // PUSH or 1, embedding.shape[1] + 1).to(embedding)
        for c in torch.unique(target).tolist():
            # The pool is in random order, drawn labels first.
            rows = (target == c).nonzero().squeeze(1)[: new.shape[1]]
            new[c, : len(rows), :-1] = embedding[rows]
            new[c, : len(rows), -1] = 1
        if _several():
            dist.all_reduce(summed)
            every = [torch.empty_like(new) for _ in range(dist.get_world_size())]
            dist.all_gather(every, new)
            new = torch.cat(every, 1)
        self._move_prototypes(summed)
        for c in range(self.classes):
            entries = new[c][new[c, :, -1] > 0, :-1]
            self._push(c, entries[: self.config.queue])

    def _move_prototypes(self, summed: Tensor) -> None:
        """Towards the direction of the sums (C, D) of a step's embeddings; a class's first step sets it."""
        length = summed.norm(dim=1)
        fresh = length > 1e-6
        mean = summed / length.clamp_min(1e-6)[:, None]
        momentum = torch.where(self.seen, self.config.momentum, 0.0)[:, None]
        moved = F.normalize(momentum * self.prototypes + (1 - momentum) * mean, dim=1, eps=1e-6)
        self.prototypes.copy_(torch.where(fresh[:, None], moved, self.prototypes))
        self.seen |= fresh

    def _push(self, class_id: int, entries: Tensor) -> None:
        size, count = self.config.queue, len(entries)
        if not count:
            return
        start = int(self.cursor[class_id])
        place = (start + torch.arange(count, device=entries.device)) % size
        self.queue[class_id, place] = entries
        self.cursor[class_id] = (start + count) % size
        self.filled[class_id] = min(int(self.filled[class_id]) + count, size)


def _log_sums(embedding: Tensor, bank: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """log of the sums (A, C) of exp(cosine / tau) over each class's members, `_NONE` where there are none.

    `logsumexp` by hand: its backward pass would compute the exponentials of tens of thousands of members again. And
    cosines lie in -1..1: unless tau is low, one number is near enough to every maximum, and no pass need look for it.
    """
    near = temperature >= _LOW
    most = torch.full((), 1 / temperature if near else 0.0).to(embedding)
    absent = torch.where(valid, -most, _NONE).flatten()
    similarity = F.linear(embedding / temperature, bank.flatten(0, 1), absent).view(-1, *valid.shape)
    if not near:
        most = similarity.detach().amax(2)
        similarity = similarity - most[:, :, None]
    sums = similarity.exp_().sum(2)
    by_class = sums.clamp_min(torch.finfo(sums.dtype).tiny).log() + most
    return by_class.masked_fill(~valid.any(1), _NONE)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _share(anchors: int, target: Tensor, classes: int) -> int:
    """Anchors a class, the same for all classes that are there."""
    present = int((torch.bincount(target, minlength=classes) > 0).sum())
    return max(1, anchors // max(present, 1))


def _draw(candidates: Candidates, most: int, classes: int, generator: torch.Generator | None) -> Tensor:
    """Positions (K,) of at most `most` candidates of each class in random order, those with drawn labels first."""
    order = torch.randperm(len(candidates), generator=generator).to(candidates.row.device)
    order = order[torch.sort(candidates.labelled[order].logical_not().byte(), stable=True).indices]
    return order[_rank(candidates.target[order], classes) < most]


def _rank(target: Tensor, classes: int) -> Tensor:
    """How many of the same class come before each (R,)."""
    order = torch.sort(target, stable=True).indices
    counts = torch.bincount(target, minlength=classes)
    start = counts.cumsum(0) - counts
    rank = torch.empty_like(target)
    rank[order] = torch.arange(len(target), device=target.device) - start[target[order]]
    return rank


def _pick(target: Tensor, own: Tensor, quota: int, classes: int, generator: torch.Generator | None) -> Tensor:
    """Positions of at most `quota` of each class, ascending: half those least like their class, the rest at random."""
    hard = torch.sort(own, stable=True).indices
    is_hard = torch.zeros_like(target, dtype=torch.bool)
    is_hard[hard] = _rank(target[hard], classes) < math.ceil(quota / 2)
    shuffled = torch.randperm(len(target), generator=generator).to(target.device)
    first = shuffled[torch.sort(is_hard[shuffled].logical_not().byte(), stable=True).indices]
    taken = torch.zeros_like(is_hard)
    taken[first] = _rank(target[first], classes) < quota
    return taken.nonzero().squeeze(1)
