"""What the point network is made of: blocks, the classifier, and memory that both ways of the U share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mdkt_ros.sparse import (
    BatchNorm,
    ReLU,
    SparseConvolution,
    SparseTensor,
    SubmanifoldConv3d,
    cat,
    interpolate,
    sparse_convolution,
)
from mdkt_ros.sparse.convolution import kept_view


class Block(nn.Module):
    """A convolution, its normalisation and a rectifier."""

    def __init__(self, convolution: SparseConvolution):
        super().__init__()
        self.net = nn.Sequential(convolution, BatchNorm(convolution.out_channels), ReLU(inplace=True))
        self.out_channels = convolution.out_channels

    def forward(self, x: SparseTensor, out: torch.Tensor | None = None) -> SparseTensor:
        """`out`: memory for the features; for a fused network alone."""
        if out is not None:
            return self.net[0](x, out=out)  # type: ignore[no-any-return]
        result: SparseTensor = self.net(x)
        return result


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.out_channels = out_channels
        self.net = nn.Sequential(
            SubmanifoldConv3d(in_channels, out_channels),
            BatchNorm(out_channels),
            ReLU(inplace=True),
            SubmanifoldConv3d(out_channels, out_channels),
            BatchNorm(out_channels),
        )
        self.downsample: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.downsample = nn.Sequential(SubmanifoldConv3d(in_channels, out_channels, 1), BatchNorm(out_channels))

    def forward(self, x: SparseTensor, out: torch.Tensor | None = None) -> SparseTensor:
        """`out`: memory for the features; for a fused network alone."""
        shortcut = self.downsample(x)
        if is_fused(self.net):
            if out is None and shortcut is not x:
                out = shortcut.features
            result: SparseTensor = self.net[3](self.net[0](x), add=shortcut.features, relu=True, out=out)
            return result
        features = self.net(x).features
        return x.with_features(features.add_(shortcut.features).relu_())


def is_halved(features: torch.Tensor) -> bool:
    """Whether the network computes in a half precision, for inference; its logits do not."""
    return features.itemsize == 2 and not torch.is_grad_enabled()


def is_fused(layers: nn.Sequential) -> bool:
    """Whether `sparse.fuse` has folded what follows the convolutions into them, and no gradient is recorded."""
    return isinstance(layers[1], nn.Identity) and not torch.is_grad_enabled()


def residual_blocks(in_channels: int, out_channels: int, blocks: int) -> list[nn.Module]:
    """`blocks` of them, the first of which takes `in_channels`."""
    return [ResidualBlock(in_channels if block == 0 else out_channels, out_channels) for block in range(blocks)]


class Classifier(nn.Sequential):
    """A linear layer on the features of one or several levels, the last of which has the voxels that are classified."""

    def __init__(self, channels: list[int], classes: int):
        super().__init__(nn.Linear(sum(channels), classes))
        self.channels = channels
        self.classes = classes

    def forward(self, levels: list[SparseTensor]) -> torch.Tensor:
        linear = self[0]
        assert isinstance(linear, nn.Linear)
        *coarser, finest = levels
        *weights, _ = torch.split(linear.weight, self.channels, dim=1)
        # As a 1^3 convolution, because an engine multiplies thin matrices faster than PyTorch does.
        last = slice(-self.channels[-1], None)
        kernel = kept_view(self, linear.weight, finest.features.dtype, lambda weight: weight[:, last].t()[None])
        exact = None
        if is_halved(finest.features):
            exact = finest.features.new_empty((len(finest), self.classes), dtype=linear.weight.dtype)
        identity = finest.maps.identity(finest.stride)
        logits = sparse_convolution(finest.features, kernel, identity, linear.bias, out=exact)
        for level, weight in zip(coarser, weights, strict=True):
            # Both steps are linear: there are fewer voxels to multiply before, and fewer channels to interpolate after.
            features = level.features.to(weight.dtype) if exact is not None else level.features
            scores = level.with_features(nn.functional.linear(features, weight))
            logits = logits + interpolate(scores, finest)
        return logits


@dataclass(frozen=True)
class Skip:
    """Features on the way down that a stage on the way up joins to its own.

    Attributes:
        room: in a fused network, the memory of both: those of the way up come first in each row.
    """

    tensor: SparseTensor
    room: torch.Tensor | None = None


def leave_room(layers: nn.Sequential, x: SparseTensor, up: nn.ModuleList) -> Skip:
    """`layers(x)`, with room for what `up` will join to it."""
    *before, last = (layer for layer in layers if not isinstance(layer, nn.Identity))
    head = up[0]
    assert isinstance(head, Block)
    if not (is_fused(head.net) and isinstance(last, (SparseConvolution, ResidualBlock))):
        return Skip(layers(x))
    for layer in before:
        x = layer(x)
    room = x.features.new_empty((len(x), head.out_channels + last.out_channels))
    return Skip(last(x, out=room[:, head.out_channels :]), room)


def joined(up: Block, x: SparseTensor, skip: Skip) -> SparseTensor:
    """Channels of `up(x)`, then those of `skip`, which has the voxels that `up` leads to."""
    if skip.room is None:
        return cat([up(x), skip.tensor])
    up(x, out=skip.room[:, : up.out_channels])
    return skip.tensor.with_features(skip.room)
