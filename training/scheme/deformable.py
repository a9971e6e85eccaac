"""Multi-scale deformable transfer: from the one pixel of a point to several places in several levels of the pyramid.

Deformable attention (Zhu et al., arXiv 2010.04159) with the features of points as queries. It starts out as the
one-to-one mapping, exactly, and learns to reach out.

Pixel (u, v) of the image, whose top left pixel has its centre at (0, 0), lies in a level of stride s at
((u + 0.5) / s - 0.5, (v + 0.5) / s - 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdkt_ros.errors import ConfigError


@dataclass(frozen=True)
class Pyramid:
    """Features of a batch's images, and the pixels to look at them from.

    Attributes:
        levels: (I, D, h, w) each, the finest first.
        strides: of the levels.
        image: (P,) int64 number of the image of each pixel, ascending.
        pixel: (P, 2) floating point (u, v) in pixels of the images.
    """

    levels: list[Tensor]
    strides: tuple[int, ...]
    image: Tensor
    pixel: Tensor
    _centre: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _rows: list[int] = field(default_factory=list, repr=False)

    def rows(self) -> list[int]:
        """Number of pixels in each image."""
        if not self._rows:
            self._rows.extend(torch.bincount(self.image, minlength=len(self.levels[0])).tolist())
        return self._rows

    def size(self, level: int) -> Tensor:
        """(2,) width and height of level number `level`."""
        height, width = self.levels[level].shape[2:]
        return self.pixel.new_tensor((width, height))

    def grid(self, level: int) -> Tensor:
        """(P, 2) the pixels in level number `level`, -1..1 between its edges."""
        return (2 * level_pixels(self.pixel, self.strides[level]) + 1) / self.size(level) - 1

    def centre(self, level: int) -> Tensor:
        """(P, D) features of level number `level` at the pixels themselves; computed once."""
        if level not in self._centre:
            self._centre[level] = sample(self.levels[level], self.grid(level)[None, None], None, self.rows())
        return self._centre[level]


@dataclass(frozen=True)
class Look:
    """Where queries look: M heads, L levels, K places each.

    Attributes:
        strides: (L) of the levels.
        offset: (P, M, L, K, 2) from the query's own pixel, in pixels of the level.
        weight: (P, M, L, K), the sum over a head is 1.
    """

    strides: tuple[int, ...]
    offset: Tensor
    weight: Tensor

    def __getitem__(self, rows: Tensor) -> Look:
        return Look(self.strides, self.offset.index_select(0, rows), self.weight.index_select(0, rows))

    def reach(self) -> Tensor:
        """(P,) mean length of the offsets in pixels of the image, weighted as the features are."""
        stride = self.offset.new_tensor(self.strides)[:, None]
        length: Tensor = self.offset.norm(dim=-1) * stride
        return (length * self.weight).sum((1, 2, 3)) / self.weight.sum((1, 2, 3))


def level_pixels(pixel: Tensor, stride: int) -> Tensor:
    """Pixels (..., 2) of the image in pixels of a level."""
    place: Tensor = (pixel + 0.5) / stride - 0.5
    return place


def sample(level: Tensor, grid: Tensor, weight: Tensor | None, rows: Sequence[int]) -> Tensor:
    """Weighted sums of bilinear interpolations, zeros outside the level.

    Points run innermost, so that sums over the places need no strides: twice as fast as points outermost.

    Args:
        level: (I, M * c, h, w), the channels of a head next to each other.
        grid: (M, K, P, 2) where each head looks, -1..1 between the level's edges; images one after the other.
        weight: (M, K, P) of the places; None: 1.
        rows: how many of the P belong to each of the I images.

    Returns:
        (P, M * c).
    """
    heads = len(grid)
    sums = [level.new_zeros(level.shape[1], 0)]
    done = 0
    for image, count in zip(level, rows, strict=True):
        if count:
            values = image.reshape(heads, -1, *image.shape[1:])
            here = slice(done, done + count)
            found = F.grid_sample(values, grid[:, :, here], padding_mode="zeros", align_corners=False)
            if weight is not None:
                found = found * weight[:, None, :, here]
            sums.append(found.sum(2).flatten(0, 1))
        done += count
    return torch.cat(sums, dim=1).t()


def home_level(stride: int, strides: Sequence[int]) -> int:
    """Number of the pyramid's level that a voxel of `stride` is compared with: the coarsest no coarser than it.

    A voxel of 0.1 m, 20 m away, spans a few pixels: at strides 1, 2 and 4 the finest level is the nearest in size. The
    top-down sums give every level the context of the coarser ones.
    """
    return max((number for number, level in enumerate(strides) if level <= stride), default=0)


class DeformableTransfer(nn.Module):
    """Image features for the points of one scale: their own pixel's, plus what they find around it.

    f2 = F_home(u) + sum_m W_m sum_l sum_k A_mlk(q) W'_m F_l(u + D_mlk(q)),  q = LayerNorm(W_q f3)

    `offsets` 0 is the one-to-one mapping f2 = F_home(u), without parameters.

    Attributes:
        home: number of the level whose features at the pixel itself are taken.
        levels: numbers of the levels that a query looks at.
    """

    def __init__(
        self,
        stride: int,
        in_channels: int,
        channels: int,
        strides: Sequence[int],
        *,
        heads: int,
        levels: int,
        offsets: int,
    ) -> None:
        """
        Args:
            stride: of the decoder's stage whose features ask.
            in_channels: of these features.
            channels: of the pyramid.
            strides: of the pyramid.
            heads, offsets: M and K.
            levels: L; from the home level on to coarser ones, from further down where there are not as many.

        Raises:
            ConfigError: the heads do not divide the channels, or there are not as many levels.
        """
        super().__init__()
        if not 1 <= levels <= len(strides):
            raise ConfigError(f"transfer.levels = {levels}: the pyramid has {len(strides)} levels")
        if heads < 1 or channels % heads:
            raise ConfigError(f"transfer.heads = {heads} does not divide image_network.channels = {channels}")
        self.home = home_level(stride, strides)
        first = min(self.home, len(strides) - levels)
        self.levels = range(first, first + levels)
        self.heads, self.offsets, self.strides = heads, offsets, tuple(strides)
        if not offsets:
            return
        self.query = nn.Sequential(nn.Linear(in_channels, channels), nn.LayerNorm(channels))
        self.place = nn.Linear(channels, heads * levels * offsets * 2)
        self.attention = nn.Linear(channels, heads * levels * offsets)
        self.value = nn.Linear(channels, channels, bias=False)
        self.out = nn.Linear(channels, channels, bias=False)
        for fresh in (self.place.weight, self.attention.weight, self.attention.bias, self.out.weight):
            nn.init.zeros_(fresh)
        with torch.no_grad():
            self.place.bias.copy_(rings(heads, offsets)[:, None].expand(-1, levels, -1, -1).flatten())

    def look(self, features: Tensor) -> Look:
        """Where the points with these features (V, C) look. Not for the one-to-one mapping."""
        query = self.query(features)
        shape = (len(features), self.heads, len(self.levels), self.offsets)
        weight = self.attention(query).view(*shape[:2], shape[2] * shape[3]).softmax(-1).view(shape)
        # Places in the image need more digits than half precision has.
        offset = self.place(query).float() if query.dtype != torch.float64 else self.place(query)
        return Look(tuple(self.strides[level] for level in self.levels), offset.view(*shape, 2), weight)

    def forward(self, features: Tensor, voxel: Tensor, pyramid: Pyramid) -> Tensor:
        """Image features of P points.

        Args:
            features: (V, in_channels) of voxels.
            voxel: (P,) int64 row in `features` of each point.
            pyramid: the levels, and the image and pixel of each point.

        Returns:
            (P, channels).
        """
        centre = pyramid.centre(self.home)
        if not self.offsets:
            return centre
        look = self.look(features)[voxel]
        offsets, weights = look.offset.permute(2, 1, 3, 0, 4).contiguous(), look.weight.permute(2, 1, 3, 0).contiguous()
        found: Tensor | None = None
        for level, offset, weight in zip(self.levels, offsets, weights, strict=True):
            projected = self.value(pyramid.levels[level].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            grid = torch.addcmul(pyramid.grid(level), offset, 2 / pyramid.size(level))
            part = sample(projected, grid, weight, pyramid.rows())
            found = part if found is None else found + part
        out: Tensor = centre + self.out(found)
        return out


def rings(heads: int, offsets: int) -> Tensor:
    """(M, K, 2) places around the centre: the k-th of a head at k + 1 pixels, the heads in all directions, every other
    ring turned by half a step."""
    radius = torch.arange(1, offsets + 1, dtype=torch.float32)
    turn = torch.arange(heads, dtype=torch.float32)[:, None] + 0.5 * ((radius - 1) % 2)
    angle = 2 * math.pi * turn / heads
    return torch.stack([angle.cos() * radius, angle.sin() * radius], dim=-1)
