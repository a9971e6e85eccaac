"""The point network with everything that teaches it, as one module: what DistributedDataParallel wraps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from mdkt_ros.network import NetworkOutput, PointNetwork
from training.config import TrainConfig, uses_images
from training.data.dataset import Batch, TrainingStream
from training.optimization import ParameterGroup
from training.scheme.contrast import SemanticContrast
from training.scheme.guidance import Guidance
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

    def __init__(self, transfer: Transfer | None, contrast: SemanticContrast | None) -> None:
        super().__init__()
        self.transfer, self.contrast = transfer, contrast


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
            contrast = self.scheme.contrast(points.features[1].features, batch, guidance)
        return StudentOutput(points, transfer, contrast)

    def parameter_groups(self) -> Iterator[ParameterGroup]:
        """Parameters by the factor on their learning rate."""
        yield {"params": list(self.network.parameters()), "factor": 1.0}
        if self.scheme.transfer is not None:
            yield from self.scheme.transfer.parameter_groups()
        if self.scheme.contrast is not None:
            yield {"params": list(self.scheme.contrast.parameters()), "factor": 1.0}


def make_scheme(config: TrainConfig, network: PointNetwork, stream: TrainingStream) -> Scheme:
    """The modules that a configuration asks for, with fresh weights or those that it names."""
    classes = len(stream.source.labels)
    transfer = contrast = None
    if uses_images(config):
        image_network = build_image_network(config.image_network)
        transfer = Transfer(network.feature_channels, image_network, classes, config.transfer)
    if config.contrast.weight > 0:
        text = stream.image_text.text if stream.image_text is not None else None
        contrast = SemanticContrast(network.feature_channels[1], classes, text, config.contrast)
    return Scheme(transfer, contrast)
