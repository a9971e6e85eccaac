"""MinkUNets as other projects build and name them, on dense grids: nothing here knows the sparse engine.

A sparse network on a dense grid is the same network with everything outside the occupied voxels set to zero after each
step. spconv's kernels are those of PyTorch's dense convolutions with the inputs last, but for 1^3; torchsparse's are
written as loops over their offsets (`torchsparse/nn/utils/kernel.py`). Grids have sides of multiples of 16.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.functional import conv3d, conv_transpose3d, max_pool3d, pad

CHANNELS = (32, 32, 64, 128, 256, 256, 128, 96, 96)


@dataclass(frozen=True)
class Grid:
    """Values (C, X, Y, Z) of a level and the occupied voxels (X, Y, Z) of all levels so far."""

    values: torch.Tensor
    masks: tuple[torch.Tensor, ...]
    level: int = 0

    def at(self, values: torch.Tensor, level: int | None = None) -> Grid:
        level = self.level if level is None else level
        return Grid(values * self.masks[level], self.masks, level)


def grid_of(occupied: torch.Tensor, features: torch.Tensor) -> Grid:
    """Features (V, C) at the V voxels of `occupied` (X, Y, Z), in the order of `occupied.nonzero()`."""
    values = torch.zeros((features.shape[1], *occupied.shape))
    values[:, occupied] = features.T
    masks = [occupied.float()]
    for _ in range(4):
        masks.append(max_pool3d(masks[-1][None], 2)[0])
    return Grid(values, tuple(masks))


class Torchsparse(nn.Module):
    """`kind`: same, down or up. The kernel is (offsets, in, out), or (in, out) of one offset."""

    def __init__(self, kind: str, in_channels: int, out_channels: int, side: int = 3):
        super().__init__()
        shape = (in_channels, out_channels) if side == 1 else (side**3, in_channels, out_channels)
        self.kernel = nn.Parameter(torch.empty(shape))
        self.kind, self.side = kind, side

    def forward(self, x: Grid) -> Grid:
        kernel = self.kernel if self.kernel.ndim == 3 else self.kernel[None]
        out_channels, (_, *extent) = kernel.shape[2], x.values.shape
        if self.side != 2:
            reach = range(-(self.side // 2), self.side // 2 + 1)
            offsets = [(dx, dy, dz) for dz in reach for dy in reach for dx in reach]
            padded = pad(x.values, (1,) * 6)
            out = torch.zeros((out_channels, *extent))
            for (dx, dy, dz), weight in zip(offsets, kernel, strict=True):
                a, b, c = extent
                there = padded[:, 1 + dx : 1 + dx + a, 1 + dy : 1 + dy + b, 1 + dz : 1 + dz + c]
                out += torch.einsum("cxyz,cd->dxyz", there, weight)
            return x.at(out)
        offsets = list(itertools.product(range(2), repeat=3))
        if self.kind == "down":
            out = torch.zeros((out_channels, *(side // 2 for side in extent)))
            for (dx, dy, dz), weight in zip(offsets, kernel, strict=True):
                out += torch.einsum("cxyz,cd->dxyz", x.values[:, dx::2, dy::2, dz::2], weight)
            return x.at(out, x.level + 1)
        out = torch.zeros((out_channels, *(2 * side for side in extent)))
        for (dx, dy, dz), weight in zip(offsets, kernel, strict=True):
            out[:, dx::2, dy::2, dz::2] = torch.einsum("cxyz,cd->dxyz", x.values, weight)
        return x.at(out, x.level - 1)


class Spconv(nn.Module):
    """The weight is (out, side, side, side, in)."""

    def __init__(self, kind: str, in_channels: int, out_channels: int, side: int = 3):
        super().__init__()
        self.weight = nn.Parameter(torch.empty((out_channels, side, side, side, in_channels)))
        self.kind, self.side = kind, side

    def forward(self, x: Grid) -> Grid:
        if self.kind == "up":
            weight = self.weight.permute(4, 0, 1, 2, 3)
            return x.at(conv_transpose3d(x.values[None], weight, stride=2)[0], x.level - 1)
        if self.side == 1:  # `_conv_forward` of spconv 2.x, `weight.view(self.in_channels, self.out_channels)`
            matrix = self.weight.reshape(self.weight.shape[4], self.weight.shape[0])
            return x.at(torch.einsum("cxyz,cd->dxyz", x.values, matrix))
        weight = self.weight.permute(0, 4, 1, 2, 3)
        if self.kind == "down":
            return x.at(conv3d(x.values[None], weight, stride=2)[0], x.level + 1)
        return x.at(conv3d(x.values[None], weight, padding=self.side // 2)[0])


class Norm(nn.BatchNorm3d):
    def forward(self, x: Grid) -> Grid:
        return x.at(super().forward(x.values[None])[0])


class Relu(nn.Module):
    def forward(self, x: Grid) -> Grid:
        return replace(x, values=x.values.relu())


def convolution(layer: type, kind: str, in_channels: int, out_channels: int, side: int) -> list[nn.Module]:
    return [layer(kind, in_channels, out_channels, side), Norm(out_channels), Relu()]


class Net(nn.Module):
    """What SPVNAS wraps its layers in: they are called net.0, net.1, ..."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.net = nn.Sequential(*layers)

    def forward(self, x: Grid) -> Grid:
        return self.net(x)


class Residual(nn.Module):
    """A block with its layers in `net` (SPVNAS), or called conv1, bn1, conv2, bn2 (MMDetection3D's spconv)."""

    def __init__(self, layer: type, in_channels: int, out_channels: int, numbered: bool):
        super().__init__()
        layers = [
            *convolution(layer, "same", in_channels, out_channels, 3),
            *convolution(layer, "same", out_channels, out_channels, 3)[:2],
        ]
        if numbered:
            self.conv1, self.bn1, _, self.conv2, self.bn2 = layers
        else:
            self.net = nn.Sequential(*layers)
        self._layers = [layers]  # hidden from the state
        self.downsample = None
        if in_channels != out_channels:
            self.downsample = nn.Sequential(*convolution(layer, "same", in_channels, out_channels, 1)[:2])

    def forward(self, x: Grid) -> Grid:
        out = x
        for layer in self._layers[0]:
            out = layer(out)
        skipped = x if self.downsample is None else self.downsample(x)
        return out.at((out.values + skipped.values).relu())


def residuals(layer: type, in_channels: int, out_channels: int, count: int, numbered: bool) -> list[nn.Module]:
    return [Residual(layer, in_channels if i == 0 else out_channels, out_channels, numbered) for i in range(count)]


def joined(a: Grid, b: Grid) -> Grid:
    return a.at(torch.cat([a.values, b.values]))


def devoxelized(x: Grid) -> torch.Tensor:
    """Values of a level at the lower corners of the voxels of the first, trilinear among those that are occupied."""
    ratio = 2**x.level
    rows = []
    for voxel in x.masks[0].nonzero().tolist():
        total, value = 1e-8, torch.zeros(len(x.values))
        for corner in itertools.product(range(2), repeat=3):
            cell = tuple(v // ratio + c for v, c in zip(voxel, corner, strict=True))
            if all(c < side for c, side in zip(cell, x.masks[x.level].shape, strict=True)) and x.masks[x.level][cell]:
                weight = 1.0
                for v, c in zip(voxel, corner, strict=True):
                    upper = v % ratio / ratio
                    weight *= upper if c else 1 - upper
                total += weight
                value += weight * x.values[(slice(None), *cell)]
        rows.append(value / total)
    return torch.stack(rows)


class SpvnasNetwork(nn.Module):
    """As SPVNAS names it; with `multiscale` as OpenPCSeg builds it, which classifies what three levels say."""

    def __init__(
        self, layer: type, width: float, blocks: tuple[int, ...], classes: int, multiscale: bool, features: int = 4
    ):
        super().__init__()
        c = [int(width * channels) for channels in CHANNELS]
        self.stem = nn.Sequential(
            *convolution(layer, "same", features, c[0], 3), *convolution(layer, "same", c[0], c[0], 3)
        )
        for i in range(4):
            down = Net(*convolution(layer, "down", c[i], c[i], 2))
            setattr(self, f"stage{i + 1}", nn.Sequential(down, *residuals(layer, c[i], c[i + 1], blocks[i], False)))
        for i in range(4):
            up = Net(*convolution(layer, "up", c[4 + i], c[5 + i], 2))
            rest = nn.Sequential(*residuals(layer, c[5 + i] + c[3 - i], c[5 + i], blocks[4 + i], False))
            setattr(self, f"up{i + 1}", nn.ModuleList([up, rest]))
        self.classifier = nn.Sequential(nn.Linear(c[4] + c[6] + c[8] if multiscale else c[8], classes))
        self.multiscale = multiscale

    def forward(self, x: Grid) -> torch.Tensor:
        encoder = [self.stage1, self.stage2, self.stage3, self.stage4]
        decoder = [self.up1, self.up2, self.up3, self.up4]
        return self.classifier(run(self.stem, encoder, decoder, x, self.multiscale))


class Mmdet3dNetwork(nn.Module):
    """As MMDetection3D names it, on torchsparse or spconv; with `multiscale` its MinkUNetBackboneV2."""

    def __init__(self, layer: type, width: float, blocks: tuple[int, ...], classes: int, multiscale: bool):
        super().__init__()
        c = [int(width * channels) for channels in CHANNELS]
        flat = layer is Spconv
        wrap = nn.Sequential if flat else Net
        backbone = nn.Module()
        backbone.conv_input = nn.Sequential(
            wrap(*convolution(layer, "same", 4, c[0], 3)), wrap(*convolution(layer, "same", c[0], c[0], 3))
        )
        backbone.encoder, backbone.decoder = nn.ModuleList(), nn.ModuleList()
        for i in range(4):
            down = wrap(*convolution(layer, "down", c[i], c[i], 2))
            backbone.encoder.append(nn.Sequential(down, *residuals(layer, c[i], c[i + 1], blocks[i], flat)))
            up = wrap(*convolution(layer, "up", c[4 + i], c[5 + i], 2))
            rest = nn.Sequential(*residuals(layer, c[5 + i] + c[3 - i], c[5 + i], blocks[4 + i], flat))
            backbone.decoder.append(nn.ModuleList([up, rest]))
        self.backbone = backbone
        self.decode_head = nn.Module()
        self.decode_head.conv_seg = nn.Linear(c[4] + c[6] + c[8] if multiscale else c[8], classes)
        self.multiscale = multiscale

    def forward(self, x: Grid) -> torch.Tensor:
        b = self.backbone
        return self.decode_head.conv_seg(run(b.conv_input, b.encoder, b.decoder, x, self.multiscale))


def run(stem: nn.Module, encoder, decoder, x: Grid, multiscale: bool) -> torch.Tensor:
    """Features (V, C) that the classifier gets."""
    levels = [stem(x)]
    for stage in encoder:
        levels.append(stage(levels[-1]))
    out = levels.pop()
    read = [out]
    for up, blocks in decoder:
        out = blocks(joined(up(out), levels.pop()))
        read.append(out)
    if multiscale:
        return torch.cat([devoxelized(read[0]), devoxelized(read[2]), devoxelized(read[4])], dim=1)
    return read[4].values[:, read[4].masks[0].bool()].T


@torch.no_grad()
def randomize(network: nn.Module, seed: int) -> nn.Module:
    """Weights that keep values near one, and statistics that are not those of a fresh network."""
    generator = torch.Generator().manual_seed(seed)

    def random(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(random(value, 0.3, 0.8))
        elif name.endswith("running_mean"):
            value.copy_(random(value, -0.3, 0.3))
        elif value.ndim >= 2:
            fan = value.numel() / (value.shape[0] if name.endswith("weight") else value.shape[-1])
            value.copy_(random(value, -1, 1) * (3 / fan) ** 0.5)
        elif name.endswith("weight"):
            value.copy_(random(value, 0.7, 1.3))
        elif value.is_floating_point():
            value.copy_(random(value, -0.3, 0.3))
    return network.eval()
