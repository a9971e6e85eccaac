"""The point network with everything that teaches it, as one module: what DistributedDataParallel wraps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mdkt_ros.network import NetworkOutput, PointNetwork
from training.config import TrainConfig, uses_images, uses_teacher
from training.data.dataset import Batch, TrainingStream
from training.optimization import ParameterGroup, half_of_readers
from training.processes import Processes
from training.scheme.contrast import Candidates, SemanticContrast
from training.scheme.guidance import Guidance, Guide
from training.scheme.image_network import build_image_network
from training.scheme.transfer import Transfer, TransferOutput


@dataclass(frozen=True)
class StudentOutput:
    """What a step's losses are computed from.

    Attributes:
        points: of the point network.
        transfer: predictions at the pairs, None where no images are used.
        contrast: (A,) loss of each anchor, None where it is off.
    """

    points: NetworkOutput
    transfer: TransferOutput | None
    contrast: Tensor | None


class Scheme(nn.Module):
    """Modules that training needs and the vehicle does not; absent ones are None."""

    def __init__(self, transfer: Transfer | None, contrast: SemanticContrast | None, guide: Guide | None) -> None:
        super().__init__()
        self.transfer, self.contrast, self.guide = transfer, contrast, guide


class Student(nn.Module):
    """Point network and scheme."""

    def __init__(self, network: PointNetwork, scheme: Scheme) -> None:
        super().__init__()
        self.network, self.scheme = network, scheme

    def forward(self, batch: Batch, guidance: Guidance | None) -> StudentOutput:
        """Predictions for a batch; every parameter takes part, whatever the batch holds."""
        points = self.network(batch.voxels)
        transfer = contrast = None
        if self.scheme.transfer is not None:
            assert batch.pairs is not None
            transfer = self.scheme.transfer(points, batch.voxels, batch.pairs)
        if self.scheme.contrast is not None:
            features = points.features[1].features
            classes = points.logits.shape[1]
            given = None if guidance is None else guidance.candidates
            generator = None if guidance is None else guidance.generator
            contrast = self.scheme.contrast(features, given or _no_candidates(classes, features.device), generator)
        return StudentOutput(points, transfer, contrast)

    def parameter_groups(self) -> Iterator[ParameterGroup]:
        """Parameters by the factor on their learning rate."""
        yield {"params": list(self.network.parameters()), "factor": 1.0}
        if self.scheme.transfer is not None:
            yield from self.scheme.transfer.parameter_groups()
        if self.scheme.contrast is not None:
            yield {"params": list(self.scheme.contrast.parameters()), "factor": 1.0}


def _no_candidates(classes: int, device: torch.device) -> Candidates:
    none = torch.zeros(0, dtype=torch.int64, device=device)
    safe = torch.zeros(0, classes, dtype=torch.bool, device=device)
    return Candidates(row=none, target=none, labelled=none.bool(), safe=safe, weight=none.float())


def make_scheme(config: TrainConfig, network: PointNetwork, stream: TrainingStream, processes: Processes) -> Scheme:
    """The modules that a configuration asks for, with fresh weights or those that it names."""
    classes, image_text = len(stream.source.labels), stream.image_text
    transfer = contrast = guide = None
    if uses_images(config):
        image_network = build_image_network(config.image_network, half=half_of_readers(config.optim, processes.device))
        transfer = Transfer(network.feature_channels, image_network, classes, config.transfer)
    if config.contrast.weight > 0:
        head = None if image_text is None else image_text.head
        contrast = SemanticContrast(
            network.feature_channels[1],
            classes,
            config.contrast,
            None if head is None else head.text,
            known=None if head is None else torch.tensor(head.known),
        )
    if uses_teacher(config):
        guide = Guide(config, stream.draw.counts.sum(0), processes, text=image_text is not None)
    return Scheme(transfer, contrast, guide)
