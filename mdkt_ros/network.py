"""The point network: a residual U-Net of sparse convolutions (MinkUNet), in sizes with names.

Layout and parameter names follow MinkUNet of SPVNAS (`core/models/semantic_kitti/minkunet.py`), so that weights trained
there load here; the depths are those of MinkowskiEngine's MinkUNet14, 18 and 34. The classifier of the `multiscale`
ones reads three levels, as in OpenPCSeg (`pcseg/model/segmentor/voxel/minkunet`) and in MinkUNet34v2 of MMDetection3D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mdkt_ros.errors import ConfigError
from mdkt_ros.network_blocks import Block, Classifier, Skip, joined, leave_room, residual_blocks
from mdkt_ros.sparse import (
    BatchNorm,
    ReLU,
    SparseConvolution,
    SparseTensor,
    StridedConv3d,
    SubmanifoldConv3d,
    TransposedConv3d,
    block_threads,
)

STRIDES = (8, 4, 2, 1)
"""Strides of the decoder's stages, in the order of the computation."""

_DEEPEST = 16


@dataclass(frozen=True)
class Preset:
    """Sizes of a network.

    Attributes:
        channels: of the stem, the four encoder stages and the four decoder stages, at width 1.
        blocks: residual blocks of the four encoder stages and the four decoder stages.
        summary: one line for people who choose.
        classified: strides of the levels that the classifier reads, in the order of its inputs; coarse ones are
            interpolated.
    """

    channels: tuple[int, int, int, int, int, int, int, int, int]
    blocks: tuple[int, int, int, int, int, int, int, int]
    summary: str
    classified: tuple[int, ...] = (1,)


_STANDARD = (32, 32, 64, 128, 256, 256, 128, 96, 96)
_DEEP = (2, 3, 4, 6, 2, 2, 2, 2)
_MULTISCALE = (_DEEPEST, 4, 1)

PRESETS: dict[str, Preset] = {
    "minkunet14s": Preset((16, 24, 40, 64, 112, 80, 48, 32, 24), (1,) * 8, "for a laptop's CPU"),
    # Multiples of 16, of which a vector register is full, and few where there are many voxels.
    "minkunet_10hz": Preset((16, 16, 32, 64, 128, 64, 32, 16, 16), (1,) * 8, "10 scans a second on two CPU cores"),
    "minkunet18": Preset(_STANDARD, (2,) * 8, "the field's usual baseline"),
    "minkunet34": Preset(_STANDARD, _DEEP, "deeper encoder, for a GPU"),
    "minkunet18_multiscale": Preset(_STANDARD, (2,) * 8, "minkunet18, classified from three levels", _MULTISCALE),
    "minkunet34_multiscale": Preset(_STANDARD, _DEEP, "minkunet34, classified from three levels", _MULTISCALE),
}


@dataclass(frozen=True)
class NetworkOutput:
    """What the network computes.

    Attributes:
        logits: (V, classes), in the order of the input's coordinates.
        features: decoder features by stride, 8, 4, 2 and 1; those of stride 1 on the input's voxels in their order.
    """

    logits: torch.Tensor
    features: dict[int, SparseTensor]


class PointNetwork(nn.Module):
    """MinkUNet: stem, four stages down to stride 16, four stages up, a linear classifier.

    Attributes:
        preset, width, in_channels, classes: what `build_network` was called with.
        feature_channels: channels of the decoder features by stride.
        classified: strides of the levels that the classifier reads.
    """

    def __init__(self, preset: str, in_channels: int, classes: int, width: float = 1.0):
        super().__init__()
        sizes = PRESETS[preset]
        c = [max(int(width * channels), 1) for channels in sizes.channels]
        self.preset, self.width, self.in_channels, self.classes = preset, width, in_channels, classes
        self.feature_channels = dict(zip(STRIDES, c[5:], strict=True))
        self.stem = nn.Sequential(
            SubmanifoldConv3d(in_channels, c[0]),
            BatchNorm(c[0]),
            ReLU(inplace=True),
            SubmanifoldConv3d(c[0], c[0]),
            BatchNorm(c[0]),
            ReLU(inplace=True),
        )
        self.stage1, self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(
                Block(StridedConv3d(c[stage], c[stage])), *residual_blocks(c[stage], c[stage + 1], sizes.blocks[stage])
            )
            for stage in range(4)
        )
        self.up1, self.up2, self.up3, self.up4 = (
            nn.ModuleList(
                [
                    Block(TransposedConv3d(c[4 + stage], c[5 + stage])),
                    nn.Sequential(*residual_blocks(c[5 + stage] + c[3 - stage], c[5 + stage], sizes.blocks[4 + stage])),
                ]
            )
            for stage in range(4)
        )
        self.classified = sizes.classified
        channels = {_DEEPEST: c[4], **self.feature_channels}
        self.classifier = Classifier([channels[stride] for stride in self.classified], classes)

    def forward(self, x: SparseTensor) -> NetworkOutput:
        """Logits and decoder features of the voxels of `x`, which has `in_channels` channels; none or one voxel too."""
        with block_threads():
            # Sorted rows lie near their neighbours, and the result does not depend on the order of the input.
            order = x.maps.order(x.stride)
            inner = x if order is None else _reorder(x, order)
            if (dtype := self._dtype()) != inner.features.dtype:
                inner = inner.with_features(inner.features.to(dtype))
            inner.maps.prepare([inner.stride * stride for stride in (*reversed(STRIDES), _DEEPEST)])
            deepest, skips = self._encode(inner)
            features = self._decode(deepest, skips)
            logits = self._classify({_DEEPEST: deepest, **features})
            if order is not None:
                features[1] = x.with_features(_unsort(features[1].features, order))
                logits = _unsort(logits, order)
            return NetworkOutput(logits, features)

    def _dtype(self) -> torch.dtype:
        stem = self.stem[0]
        assert isinstance(stem, SparseConvolution)
        return stem.kernel.dtype

    def _encode(self, x: SparseTensor) -> tuple[SparseTensor, list[Skip]]:
        skips = []
        stages = ((self.stem, self.up4), (self.stage1, self.up3), (self.stage2, self.up2), (self.stage3, self.up1))
        for stage, up in stages:
            skips.append(leave_room(stage, x, up))
            x = skips[-1].tensor
        return self.stage4(x), skips

    def _decode(self, out: SparseTensor, skips: list[Skip]) -> dict[int, SparseTensor]:
        features: dict[int, SparseTensor] = {}
        for stride, (up, blocks) in zip(STRIDES, (self.up1, self.up2, self.up3, self.up4), strict=True):
            assert isinstance(up, Block)
            out = blocks(joined(up, out, skips.pop()))
            features[stride] = out
        return features

    def _classify(self, levels: dict[int, SparseTensor]) -> torch.Tensor:
        wanted = [levels[stride] for stride in self.classified]
        logits: torch.Tensor = self.classifier(wanted)
        return logits


def _unsort(values: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(values).index_copy(0, order, values)


def _reorder(x: SparseTensor, order: torch.Tensor) -> SparseTensor:
    return SparseTensor(x.features.index_select(0, order), x.coordinates.index_select(0, order), x.stride)


def build_network(preset: str, *, in_channels: int, classes: int, width: float = 1.0) -> PointNetwork:
    """Build a network by name, with fresh weights.

    Args:
        preset: a name of `PRESETS`.
        in_channels: features of a voxel.
        classes: classes to tell apart.
        width: factor on all channels.

    Raises:
        ConfigError: no preset has this name, or a size is not positive.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset: {preset!r} is unknown; there are {', '.join(PRESETS)}")
    for name, value in (("in_channels", in_channels), ("classes", classes), ("width", width)):
        if not value > 0:
            raise ConfigError(f"{name}: {value} is not positive")
    return PointNetwork(preset, in_channels, classes, width)


def parameter_count(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def flops(network: nn.Module, x: SparseTensor) -> int:
    """Floating-point operations of the matrix products of `network(x)`, run once to count them.

    A multiplication and an addition count as two, for the pairs of voxels that there are; normalisation, rectifiers and
    sums over offsets are left out, as is usual.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[Any], _output: object) -> None:
        nonlocal total
        (given,) = inputs
        if isinstance(module, Classifier):
            pairs = zip(given, module.channels, strict=True)
            total += sum(2 * len(level) * channels * module.classes for level, channels in pairs)
        elif isinstance(module, SparseConvolution) and isinstance(given, SparseTensor):
            total += 2 * module.kernel_map(given).pairs * module.in_channels * module.out_channels

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return total
