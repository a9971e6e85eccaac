"""Which points of a batch its images show, and where: the pairs that knowledge passes over."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """P pairs of a point and a pixel; a point that two cameras see is two pairs, image after image.

    Attributes:
        images: (I, 3, H, W) float32 RGB in 0..1, all of one size; smaller images are padded with zeros at the right
            and the bottom.
        row: (P,) int64 row in the batch's voxels of the voxel that holds the point.
        image: (P,) int64 number of the image, ascending.
        pixel: (P, 2) float32 (u, v) in pixels of `images`; the centre of the top left pixel is (0, 0).
        target: (P,) int64 drawn class id of the point, 255 where none was drawn.
    """

    images: Tensor
    row: Tensor
    image: Tensor
    pixel: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.row)

    def to(self, device: torch.device) -> Pairs:
        return replace(
            self, **{name: getattr(self, name).to(device) for name in ("images", "row", "image", "pixel", "target")}
        )
