"""Knowledge transfer at all scales: image features to points, fusion, and the losses that teach the point network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mdkt_ros.errors import ConfigError
from mdkt_ros.labels import IGNORE
from mdkt_ros.network import NetworkOutput
from mdkt_ros.sparse import SparseTensor
from training.data.pairs import Pairs
from training.losses import Labelled, SegmentationLoss, lovasz_softmax
from training.optimization import ParameterGroup
from training.scheme.config import TransferConfig
from training.scheme.deformable import DeformableTransfer, Pyramid
from training.scheme.fusion import Fusion, transfer_kl
from training.scheme.image_network import ImageNetwork


@dataclass(frozen=True)
class TransferOutput:
    """Class scores of P pairs of a point and a pixel.

    Attributes:
        fused, point: (P, C) logits by stride, of the fused branch (which teaches) and of the point network's features.
        image: (P, C) logits of the image network alone, at the pixel.
    """

    fused: dict[int, Tensor]
    point: dict[int, Tensor]
    image: Tensor


@dataclass(frozen=True)
class PairCounts:
    """What losses are divided by. Sum each over all processes and divide by their number, as `Labelled` asks.

    Attributes:
        pairs: of a point and a pixel.
        labelled: those whose point has a label.
        images: with at least one labelled pair.
    """

    pairs: float
    labelled: float
    images: float

    @classmethod
    def of(cls, pairs: Pairs) -> PairCounts:
        """Those of one process's share of a batch."""
        images = pairs.image[pairs.target != IGNORE]
        return cls(float(len(pairs)), float(len(images)), float(len(torch.unique(images))))


class ScaleTransfer(nn.Module):
    """One scale: deformable transfer, fusion and, but for stride 1, a classifier of the point network's features there.

    At stride 1 the point network's own classifier is the one that learns, so that what is taught reaches the exported
    scores without a detour; the others are thrown away with the rest.
    """

    def __init__(self, stride: int, in_channels: int, images: ImageNetwork, classes: int, config: TransferConfig):
        super().__init__()
        self.stride = stride
        self.deformable = DeformableTransfer(
            stride,
            in_channels,
            images.channels,
            images.strides,
            heads=config.heads,
            levels=config.levels,
            offsets=config.offsets,
        )
        self.fusion = Fusion(in_channels, images.channels, classes)
        self.head = nn.Linear(in_channels, classes) if stride > 1 else None

    def forward(self, output: NetworkOutput, rows: Tensor, pyramid: Pyramid) -> tuple[Tensor, Tensor]:
        """Fused and point logits, (P, C) each; `rows` (P,) of the points' voxels at this scale."""
        # Points of a voxel share its features: what depends on them alone is computed once.
        voxels, voxel = torch.unique(rows, return_inverse=True)
        features = output.features[self.stride].features.index_select(0, voxels)
        fused: Tensor = self.fusion(features, voxel, self.deformable(features, voxel, pyramid))
        scores = output.logits.index_select(0, voxels) if self.head is None else self.head(features)
        return fused, scores.index_select(0, voxel)


class Transfer(nn.Module):
    """Multi-scale deformable knowledge transfer from images to a point network.

    Attributes:
        image_network: in training only, as everything here.
        scales: `ScaleTransfer` by stride, written as text.
        head: the image network's own classifier, on its finest level.
    """

    def __init__(
        self, feature_channels: dict[int, int], image_network: ImageNetwork, classes: int, config: TransferConfig
    ) -> None:
        """`feature_channels`: of the point network's decoder by stride, `PointNetwork.feature_channels`.

        Raises:
            ConfigError: a scale that the decoder does not have, or sizes that do not fit the image network.
        """
        super().__init__()
        for stride in config.scales:
            if stride not in feature_channels:
                known = ", ".join(map(str, sorted(feature_channels)))
                raise ConfigError(f"transfer.scales = {config.scales}: the decoder has the strides {known}")
        if not config.scales or len(set(config.scales)) < len(config.scales):
            raise ConfigError(f"transfer.scales = {config.scales}: at least one stride, each once")
        self.config = config
        self.image_network = image_network
        self.scales = nn.ModuleDict(
            {
                str(stride): ScaleTransfer(stride, feature_channels[stride], image_network, classes, config)
                for stride in config.scales
            }
        )
        self.head = nn.Linear(image_network.channels, classes)

    def forward(self, output: NetworkOutput, voxels: SparseTensor, pairs: Pairs) -> TransferOutput:
        """Class scores of every pair.

        Args:
            output: of the point network for `voxels`.
            voxels: its input.
            pairs: of the same batch; none, too, and then every parameter still gets a gradient, of zero.
        """
        if not len(pairs):
            pairs = _no_images(pairs)
        levels = self.image_network(pairs.images, pairs.origin)
        pyramid = Pyramid(levels, self.image_network.strides, pairs.image, pairs.pixel)
        fused, point = {}, {}
        for stride, scale in self._by_stride().items():
            rows = coarse_rows(voxels, output.features[stride], pairs.row)
            fused[stride], point[stride] = scale(output, rows, pyramid)
        image = self.head(pyramid.centre(0))
        if not len(pairs):
            # Empty tensors lead nowhere, yet other processes wait for the gradients of all parameters.
            image = image + sum(p.sum() * 0 for p in self.parameters() if p.requires_grad)
        return TransferOutput(fused, point, image)

    def parameter_groups(self) -> list[ParameterGroup]:
        """All parameters that learn: the image network's groups, the places of the deformable transfer, the rest."""
        places = [
            p
            for scale in self._by_stride().values()
            if scale.deformable.offsets
            for p in scale.deformable.place.parameters()
        ]
        images = self.image_network.parameter_groups()
        taken = {id(p) for p in places} | {id(p) for group in images for p in group["params"]}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in taken]
        return [
            *images,
            {"params": places, "factor": self.config.offset_lr},
            {"params": rest, "factor": 1.0},
        ]

    def losses(
        self, output: TransferOutput, pairs: Pairs, segmentation: SegmentationLoss, counts: PairCounts
    ) -> dict[str, Tensor]:
        """Weighted losses by name: `transfer`, `transfer_lovasz`, and by the labels `fused`, `point` and `image`.

        `point` is of the heads above stride 1, weighted as `fused` is. All are there whatever they weigh, so that every
        parameter gets a gradient.

        Args:
            output: of `forward`.
            pairs: what it was computed for.
            segmentation: the losses by labels.
            counts: of all processes.
        """
        config, strides = self.config, list(output.fused)
        nothing = output.image.sum() * 0
        kl = torch.stack([self._taught(output, s, segmentation.class_weights) for s in strides]).mean()
        where = torch.nonzero(pairs.target != IGNORE).flatten()
        target, image = pairs.target[where], pairs.image[where]

        def by_labels(scales: Sequence[Tensor]) -> Tensor:
            """Mean over the scales."""
            total = nothing
            for logits in scales:
                labelled = Labelled(logits[where], target, image, counts.labelled, counts.images)
                total = total + torch.stack(list(segmentation(labelled).values())).sum()
            return total / max(len(scales), 1)

        return {
            "transfer": nothing + config.weight * kl / max(counts.pairs, 1e-6),
            "transfer_lovasz": nothing + config.weight * config.lovasz * self._taught_iou(output, counts),
            "fused": config.fused * by_labels(list(output.fused.values())),
            "point": config.fused * by_labels([output.point[s] for s in strides if s > 1]),
            "image": config.image * by_labels([output.image]),
        }

    def _taught(self, output: TransferOutput, stride: int, class_weights: Tensor | None) -> Tensor:
        """Sum over the pairs of what the fused branch of a scale teaches, classes weighed as in the losses by labels:
        a mean over pairs alone is nearly all road."""
        fused = output.fused[stride]
        loss = transfer_kl(fused, output.point[stride], self.config.temperature)
        return (loss if class_weights is None else loss * class_weights[fused.argmax(1)]).sum()

    def _taught_iou(self, output: TransferOutput, counts: PairCounts) -> Tensor:
        """Lovasz-softmax of the points against the class that the fused branch names, mean over the scales.

        A divergence over thousands of pairs hardly notices a class of a few dozen, which the points then unlearn.
        """
        if not self.config.lovasz or not len(output.image):
            return output.image.new_zeros(())
        each = [
            lovasz_softmax(output.point[stride].float().softmax(1), fused.detach().argmax(1))
            for stride, fused in output.fused.items()
        ]
        return torch.stack(each).mean() * (len(output.image) / max(counts.pairs, 1e-6))

    def _by_stride(self) -> dict[int, ScaleTransfer]:
        return {int(stride): scale for stride, scale in self.scales.items() if isinstance(scale, ScaleTransfer)}


def coarse_rows(voxels: SparseTensor, features: SparseTensor, rows: Tensor) -> Tensor:
    """Rows (P,) in `features`, another level of the batch, of the voxels that hold `rows` (P,) of `voxels`."""
    if features.stride == voxels.stride:
        return rows
    # The network sorts its voxels and may have other maps than its input; coarser levels are sorted in both.
    return voxels.maps.parents(voxels.stride, features.stride)[rows]


def _no_images(pairs: Pairs) -> Pairs:
    """Without pairs the images say nothing: they are not worth a pass through the image network."""
    return replace(pairs, images=pairs.images[:0], origin=pairs.origin[:0])
