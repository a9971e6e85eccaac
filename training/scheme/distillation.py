"""A trained network that teaches another: a large one what a small one will drive with.

Knowledge distillation (Hinton et al., arXiv 1503.02531) on every voxel, labelled or not. Unlike the running mean of the
weights the teacher is as good in the first step as in the last; its grid, features and size are its own. It sees a scan
as recorded, the student sees it turned, thinned and mixed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mdkt_ros.checkpoint import load_checkpoint
from mdkt_ros.checkpoint_meta import CheckpointMeta
from mdkt_ros.errors import ConfigError
from mdkt_ros.image_text_model import weights_fingerprint
from mdkt_ros.resources import checkpoint_path
from mdkt_ros.sparse import fuse, in_precision
from mdkt_ros.voxels import Voxels, collate
from training.config import TrainConfig
from training.data.dataset import Batch, Sight
from training.data.source import Source
from training.losses import lovasz_of_scans
from training.optimization import half_of_readers, half_precision
from training.processes import Processes
from training.scheme.agreement import kl_to_teacher


@dataclass(frozen=True)
class Lesson:
    """What the teacher says of a batch: `probability` (K, C) of the voxels `row` (K,) int64, each at most once."""

    row: Tensor
    probability: Tensor


class TrainedTeacher:
    """The network of a checkpoint, which never learns.

    Attributes:
        meta: what the checkpoint says about it.
        fingerprint: 16 hex digits of its weights, wherever the file lies.
    """

    def __init__(
        self,
        network: nn.Module,
        meta: CheckpointMeta,
        columns: list[int],
        *,
        temperature: float = 1.0,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        keep: bool = False,
    ) -> None:
        """Take a network of float32.

        Args:
            columns: its class id of each class of the data.
            temperature: that divides its logits.
            keep: remember what it says of each recorded scan, since it never changes its mind (small sets).
        """
        self.meta, self.columns, self.temperature = meta, columns, temperature
        self.device = device or torch.device("cpu")
        self.fingerprint = weights_fingerprint(network)
        self._network = in_precision(fuse(network), dtype).to(self.device)
        self._said: dict[int, Tensor] | None = {} if keep else None

    @property
    def sight(self) -> Sight:
        """How it takes a scan."""
        return Sight(self.meta.grid, self.meta.features)

    def describe(self) -> dict[str, str | float]:
        """What a run and its checkpoint tell about it."""
        return {"preset": self.meta.preset, "width": self.meta.width, "weights": self.fingerprint}

    def __call__(self, batch: Batch) -> Lesson:
        """What it says of the voxels of a batch that lie in its grid."""
        views = [example.distill_view for example in batch.examples if example.distill_view is not None]
        numbers = [index for example in batch.examples for index in example.recorded]
        said = self._of_scans(dict(zip(numbers, (part for view in views for part in view.voxels), strict=True)))
        rows, probability, first = [], [], 0
        recorded = iter(numbers)
        for example, view in zip(batch.examples, views, strict=True):
            seen = torch.from_numpy(view.row).to(self.device)
            known = torch.nonzero(seen >= 0).flatten()
            parts = torch.cat([said[next(recorded)] for _ in view.voxels])
            rows.append(known + first)
            probability.append(parts[seen[known]].float())
            first += len(example.voxels)
        return Lesson(torch.cat(rows), torch.cat(probability))

    @torch.no_grad()
    def _of_scans(self, scans: dict[int, Voxels]) -> dict[int, Tensor]:
        """Probabilities (V, C) float16 of the voxels of each recorded scan, by its number."""
        kept = {} if self._said is None else self._said
        missing = [number for number in scans if number not in kept]
        said = {number: kept[number] for number in scans if number in kept}
        if missing:
            voxels, _ = collate([scans[number] for number in missing])
            logits = self._network(voxels.to(self.device)).logits[:, self.columns].float()
            each = (logits / self.temperature).softmax(1).half().split([len(scans[number]) for number in missing])
            said |= zip(missing, each, strict=True)
        if self._said is not None:
            self._said.update(said)
        return said


def open_teacher(config: TrainConfig, source: Source, processes: Processes) -> TrainedTeacher | None:
    """The teacher that `distill.checkpoint` names, None where it names none.

    Raises:
        CheckpointError: a file that cannot be used.
        ConfigError: a network that does not know the data's classes, or has learnt with other axes.
    """
    path = config.distill.checkpoint
    if not path:
        return None
    network, meta = load_checkpoint(checkpoint_path(path))
    names = list(meta.labels.names)
    if unknown := [name for name in source.labels.names if name not in names]:
        raise ConfigError(
            f"distill.checkpoint = {path!r}: does not know {', '.join(unknown)} of {config.data.root}; it has "
            f"{', '.join(names)}"
        )
    if meta.axes != source.axes:
        raise ConfigError(
            f"distill.checkpoint = {path!r}: has learnt clouds with {meta.axes}, those of {config.data.root} have "
            f"{source.axes}"
        )
    half = half_precision(config.optim, processes.device)
    if half_of_readers(config.optim, processes.device):
        half = torch.bfloat16
    return TrainedTeacher(
        network,
        meta,
        [names.index(name) for name in source.labels.names],
        temperature=config.distill.temperature,
        device=processes.device,
        dtype=half or torch.float32,
        keep=config.data.cache,
    )


class Distillation:
    """The losses of what a trained teacher says; none where there is none.

    Attributes:
        terms: names of the losses, in the order of the log.
    """

    def __init__(
        self,
        config: TrainConfig,
        processes: Processes,
        teacher: TrainedTeacher | None,
        class_weights: Tensor | None = None,
    ) -> None:
        """`class_weights`: (C,) as in the losses by labels, which a voxel's divergence is weighed by."""
        self.config, self.processes, self.teacher = config.distill, processes, teacher
        self.class_weights = class_weights
        on = {"distill": teacher is not None, "distill_lovasz": teacher is not None and self.config.lovasz > 0}
        self.terms = [name for name, used in on.items() if used]

    def __call__(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses by name; logits: (V, C) of the student. Means over the voxels and scans of all processes."""
        if self.teacher is None:
            return {}
        lesson, temperature = self.teacher(batch), self.config.temperature
        student, weight = logits[lesson.row], self.config.weight
        # Times T^2, so that gradients keep their size with T.
        divergence = kl_to_teacher(student / temperature, lesson.probability, self.class_weights) * temperature**2
        sums = {"distill": (divergence.sum(), len(divergence), weight)}
        if "distill_lovasz" in self.terms:
            scan = batch.voxels.coordinates[lesson.row, 0]
            iou = lovasz_of_scans(student, lesson.probability.argmax(1), scan)
            sums["distill_lovasz"] = iou.sum(), len(iou), weight * self.config.lovasz
        totals = self.processes.sum([count for _, count, _ in sums.values()])
        return {
            name: factor * total / max(count / self.processes.world, 1e-6)
            for (name, (total, _, factor)), count in zip(sums.items(), totals, strict=True)
        }
