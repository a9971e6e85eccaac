"""What a training step changes, and how: networks, losses, teacher, optimizer."""

from __future__ import annotations

import contextlib
import inspect
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mdkt_ros.metrics import confusion_matrix, scores
from training.average import WeightAverage
from training.config import TrainConfig
from training.data.dataset import Batch, TrainingStream
from training.export import make_network
from training.losses import Labelled, SegmentationLoss, check_finite
from training.optimization import (
    balance_inputs,
    class_weights,
    half_of_readers,
    half_precision,
    learning_rate,
    make_optimizer,
)
from training.processes import Processes
from training.scheme.agreement import SOURCES
from training.scheme.distillation import Distillation, TrainedTeacher
from training.scheme.guidance import Guidance
from training.scheme.objective import Objective
from training.scheme.schedule import shares
from training.scheme.student import Student, make_scheme


@dataclass
class Learner:
    """What a step changes, and how it computes.

    Attributes:
        student, shared: the point network with the scheme's modules, and the same behind DistributedDataParallel if
            there are several processes.
        average: the running mean of the point network's weights, or None.
        confusion: (C, C + 1) int64 of this process, over the drawn labels of the current epoch.
        pseudo_labels: how many voxels of the last step got one of this process, by source.
    """

    config: TrainConfig
    processes: Processes
    student: Student
    shared: nn.Module
    loss: SegmentationLoss
    objective: Objective
    distillation: Distillation
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: WeightAverage | None
    dtype: torch.dtype | None
    confusion: Tensor
    pseudo_labels: dict[str, int] = field(default_factory=dict)

    def losses(self, batch: Batch, step: int, steps: int) -> tuple[dict[str, Tensor], float]:
        """Weighted losses by name of this process's share of the step, and the labelled points of all processes."""
        scans = len(torch.unique_consecutive(batch.scan))
        points, scans_of_all = self.processes.sum([len(batch.rows), scans])
        world = self.processes.world
        share = shares(step, steps, self.config.schedule)
        with torch.autocast(self.processes.device.type, self.dtype, enabled=self.dtype is not None):
            guidance = self.guidance(batch, step, teacher=share.teacher > 0) if max(share) > 0 else None
            output = self.shared(batch, guidance)
        logits = output.points.logits
        # Labels are on points: a voxel counts once for each labelled point in it, and labels no other point.
        labelled = Labelled(logits[batch.rows], batch.target, batch.scan, points / world, scans_of_all / world)
        predicted = labelled.logits.detach().argmax(1).to(torch.uint8).cpu().numpy()
        truth = batch.target.to(torch.uint8).cpu().numpy()
        self.confusion += torch.from_numpy(confusion_matrix(truth, predicted, logits.shape[1]))
        self.pseudo_labels = {} if guidance is None else guidance.counts()
        losses = {**self.loss(labelled), **self.objective(output, batch, guidance, share)}
        return losses | self.distillation(logits, batch), points

    @torch.no_grad()
    def guidance(self, batch: Batch, step: int, *, teacher: bool = True) -> Guidance | None:
        """What the teacher, if it is asked, and the image-text model say about the batch's voxels."""
        guide = self.student.scheme.guide
        if guide is None or self.average is None or batch.view is None:
            return None
        if not teacher:
            first: Guidance = guide(None, batch, step)
            return first
        device = self.processes.device
        half = half_of_readers(self.config.optim, device)
        with torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext():
            probability = self.average.network(batch.view.voxels).logits.float().softmax(1)
        known = batch.view.row >= 0
        guidance: Guidance = guide(probability[batch.view.row.clamp(min=0)] * known[:, None], batch, step)
        return guidance

    def step(self, batch: Batch, step: int, steps: int) -> dict[str, float | None]:
        """One step, `step` from 0. Raises TrainingError when a loss is NaN or infinite."""
        optim = self.config.optim
        rate = learning_rate(step, steps, optim.lr, optim.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.zero_grad(set_to_none=True)
        losses, points = self.losses(batch, step, steps)
        values = dict(zip(losses, torch.stack([v.detach() for v in losses.values()]).tolist(), strict=True))
        check_finite(values, batch.names, step + 1)
        self.scaler.scale(torch.stack(list(losses.values())).sum()).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        clip = optim.clip if optim.clip > 0 else math.inf
        norm = nn.utils.clip_grad_norm_(self.student.network.parameters(), clip)
        if others := list(self.student.scheme.parameters()):
            # Apart, so that an image network's first steps do not shrink the point network's.
            nn.utils.clip_grad_norm_(others, clip)
        if not self.scaler.is_enabled():
            check_finite({"gradient norm": float(norm)}, batch.names, step + 1)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.student.network, step + 1)
        means = [total / self.processes.world for total in self.processes.sum(list(values.values()))]
        named = dict(zip(values, means, strict=True))
        counts = self.processes.sum([self.pseudo_labels.get(name, 0) for name in self.columns])
        sources = dict(zip(self.columns, counts, strict=True))
        return {"lr": rate, "loss": sum(means), **named, "gradient_norm": float(norm), "labels": points, **sources}

    @property
    def terms(self) -> list[str]:
        """Names of the losses in the order of the log."""
        return [*self.loss.terms, *self.objective.terms, *self.distillation.terms]

    @property
    def columns(self) -> list[str]:
        """Names of the log's counts of pseudo labels by source; none where nothing makes them."""
        return [] if self.student.scheme.guide is None else [f"labels_{name}" for name in SOURCES]

    def miou(self) -> float:
        """mIoU over the drawn labels since the last call, of all processes."""
        result = scores(self.processes.sum_tensor(self.confusion).numpy()).miou
        self.confusion.zero_()
        return result


def make_learner(
    config: TrainConfig, processes: Processes, stream: TrainingStream, teacher: TrainedTeacher | None = None
) -> Learner:
    """Networks, losses and optimizer with fresh weights for a stream of scans, the same in every process.

    `teacher`: the trained network that teaches besides, whose sight `stream` knows.
    """
    torch.manual_seed(config.seed)
    classes = len(stream.source.labels)
    network = make_network(config, classes)
    if config.optim.balance_inputs:
        balance_inputs(network, stream.some_features())
    # After the point network, whose first weights must not depend on what else there is.
    student = Student(network, make_scheme(config, network, stream, processes)).to(processes.device).train()
    weights = class_weights(config.loss.class_weights, stream.draw)
    dtype = half_precision(config.optim, processes.device)
    loss = SegmentationLoss(config.loss, None if weights is None else weights.to(processes.device))
    return Learner(
        config=config,
        processes=processes,
        student=student,
        shared=_distribute(student, processes),
        loss=loss,
        objective=Objective(config, processes, loss, student.scheme.transfer),
        distillation=Distillation(config, processes, teacher, loss.class_weights),
        optimizer=make_optimizer([*student.parameter_groups()], config.optim),
        scaler=torch.amp.GradScaler(processes.device.type, enabled=dtype is torch.float16),
        average=WeightAverage(network, config.optim.average) if config.optim.average > 0 else None,
        dtype=dtype,
        confusion=torch.zeros(classes, classes + 1, dtype=torch.int64),
    )


def _distribute(student: Student, processes: Processes) -> nn.Module:
    if processes.world == 1:
        return student
    devices = [processes.device] if processes.device.type == "cuda" else None
    # Statistics are of all processes already, so there is nothing to hand round before each step. PyTorch 2.13
    # renamed the argument that says so.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    nothing: dict[str, Any] = {name: False}
    return DistributedDataParallel(student, device_ids=devices, **nothing)
