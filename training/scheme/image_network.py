"""The image network: a ResNet-like backbone from timm and a feature pyramid of equal channels on top of it.

No image's features depend on another image, nor on how many processes share a batch: a batch holds one or two images of
each process, whose batch statistics would be poor. So a backbone with weights keeps the running statistics of its batch
norms (their scale and shift go on learning, slowly); in one without, group norms take their place. The pyramid is
normalised pixel by pixel over the channels.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.optimization import ParameterGroup
from training.scheme.backbone import group_norms, load_backbone, make_backbone
from training.scheme.config import ImageNetworkConfig

STRIDES = (4, 8, 16, 32)
"""Strides of the pyramid's levels."""


class ImageNetwork(nn.Module):
    """Backbone and feature pyramid (Lin et al., arXiv 1612.03144, with bilinear instead of nearest upsampling, which
    leaves no blocks that a 3x3 convolution a level would have to smooth: half the pyramid's cost).

    Attributes:
        channels: of every level.
        strides: of the levels, 4 to 32.
        name: of the timm model.
        stages: numbers of the backbone's feature maps that the levels are made of.
        pretrained: whether the backbone began with weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Any,
        channels: int,
        *,
        name: str = "",
        pretrained: bool = False,
        lr: float = 1.0,
        half: bool = False,
        keep: bool = False,
    ) -> None:
        """
        Args:
            backbone: of `make_backbone`.
            lr: factor on the learning rate of a pretrained backbone; 0: it stays.
            half: a backbone that stays computes in bfloat16, see `half_of_readers`.
            keep: a backbone that stays remembers its feature maps of images whose origin is known.
        """
        super().__init__()
        self.channels, self.strides, self.name = channels, STRIDES, name
        self.pretrained, self._lr = pretrained, lr
        if not pretrained:
            group_norms(backbone)
        self.backbone = backbone
        self._frozen = pretrained and lr == 0
        self._half = half and self._frozen
        self._keep = keep and self._frozen
        self._kept: dict[tuple[int, ...], list[Tensor]] = {}
        backbone.requires_grad_(not self._frozen)
        info = backbone.feature_info
        # Where several stages share a stride, the last has seen most.
        last = {stride: number for number, stride in enumerate(info.reduction())}
        self.stages = [last[stride] for stride in STRIDES]
        self.lateral = nn.ModuleList(nn.Conv2d(info.channels()[stage], channels, 1) for stage in self.stages)
        self.norm = nn.ModuleList(nn.LayerNorm(channels) for _ in STRIDES)
        mean, std = (backbone.pretrained_cfg[key] for key in ("mean", "std"))
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        # Convolutions on the CPU, and in half precision on CUDA, run faster with the channels innermost.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.train(self.training)

    def train(self, mode: bool = True) -> ImageNetwork:
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor, origin: Tensor | None = None) -> list[Tensor]:
        """Features of every level.

        Args:
            images: (I, 3, H, W) RGB in 0..1, of any size; padded with the mean colour at the right and the bottom.
            origin: (I, 2) int64 by which an image is known again; None where it is not.

        Returns:
            (I, channels, h, w) for each stride s, the finest first; h is H / s, rounded up so that all levels cover the
            same padded image. Without images, levels of one pixel that every parameter is connected to.
        """
        if not len(images):
            nothing = sum((p.sum() * 0 for p in self.parameters()), start=images.new_zeros(()))
            return [images.new_zeros(0, self.channels, 1, 1) + nothing for _ in STRIDES]
        maps = self.maps(images) if origin is None or not self._keep else self._remember(images, origin)
        if self._half:
            maps = [each.to(images.dtype) for each in maps]
        parts = list(zip(maps, self.lateral, self.norm, strict=True))
        above: Tensor | None = None
        levels: list[Tensor] = []
        for stage, lateral, norm in parts[::-1]:
            # A convolution of one pixel is a matrix product, which PyTorch's convolutions do not all know.
            assert isinstance(lateral, nn.Conv2d)
            level = F.linear(stage.permute(0, 2, 3, 1), lateral.weight.flatten(1), lateral.bias).permute(0, 3, 1, 2)
            if above is not None:
                level = level + F.interpolate(above, size=level.shape[2:], mode="bilinear", align_corners=False)
            above = level
            levels.append(norm(level.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return levels[::-1]

    def maps(self, images: Tensor) -> list[Tensor]:
        """The backbone's feature maps of the pyramid's strides, (I, d, h, w) of images as `forward` takes them."""
        height, width = images.shape[2:]
        images = (images - self.mean) / self.std
        images = F.pad(images, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]))
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen),
            torch.autocast(images.device.type, torch.bfloat16) if self._half else contextlib.nullcontext(),
        ):
            stages = self.backbone(images.contiguous(memory_format=torch.channels_last))
        return [stages[number] for number in self.stages]

    def _remember(self, images: Tensor, origin: Tensor) -> list[Tensor]:
        """The same, of images that were seen before from memory."""
        # Beside larger images an image is padded, and its maps are larger, too.
        keys = [(*key, *images.shape[2:]) for key in origin.tolist()]
        for number, key in enumerate(keys):
            if key not in self._kept:
                # One by one: the last bits must not depend on which others were new, or a resumed run would differ.
                self._kept[key] = [each[0].permute(1, 2, 0) for each in self.maps(images[number : number + 1])]
        # Stacked with the channels innermost, as they are.
        stages = zip(*(self._kept[key] for key in keys), strict=True)
        return [torch.stack(stage).permute(0, 3, 1, 2) for stage in stages]

    def kept(self) -> tuple[int, int]:
        """How many images' feature maps are remembered, and the bytes that they take."""
        maps = [each for kept in self._kept.values() for each in kept]
        return len(self._kept), sum(each.numel() * each.element_size() for each in maps)

    def parameter_groups(self) -> list[ParameterGroup]:
        """All parameters that learn, those of a pretrained backbone at their own rate."""
        backbone = [] if self._frozen else list(self.backbone.parameters())
        pyramid = [*self.lateral.parameters(), *self.norm.parameters()]
        return [
            {"params": backbone, "factor": self._lr if self.pretrained else 1.0},
            {"params": pyramid, "factor": 1.0},
        ]


def build_image_network(config: ImageNetworkConfig, *, half: bool = False) -> ImageNetwork:
    """The network that the `image_network` section describes; `half` as in `ImageNetwork`.

    Raises:
        ConfigError: timm is missing, has no such model or no such weights, or the model has not all
            strides from 4 to 32.
        CheckpointError: the weights' file is missing, damaged, or does not fit the model.
    """
    published = config.weights == "timm"
    backbone = make_backbone(config.name, STRIDES, published=published)
    if config.weights and not published:
        load_backbone(backbone, Path(config.weights), config.name)
    return ImageNetwork(
        backbone,
        config.channels,
        name=config.name,
        pretrained=bool(config.weights),
        lr=config.lr,
        half=half,
        keep=config.keep,
    )
