"""Fusion of point and image features, and what it teaches the point network: fusion-to-single distillation
(2DPASS, arXiv 2207.04397)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Fusion(nn.Module):
    """The fused branch of one scale: from point and image features to class scores.

    h = ReLU(W_l f3),  g = W_1 [f2 ; h],  z = ReLU(g * sigmoid(W_2 g)),  p_f = head_f(z)
    """

    def __init__(self, point_channels: int, image_channels: int, classes: int) -> None:
        super().__init__()
        self.learner = nn.Sequential(nn.Linear(point_channels, image_channels), nn.ReLU())
        # W_1 in two parts, so that the points' runs once a voxel and not once a pixel.
        self.from_image = nn.Linear(image_channels, image_channels)
        self.from_point = nn.Linear(image_channels, image_channels, bias=False)
        self.gate = nn.Sequential(nn.Linear(image_channels, image_channels), nn.Sigmoid())
        self.head = nn.Linear(image_channels, classes)

    def forward(self, features: Tensor, voxel: Tensor, image_features: Tensor) -> Tensor:
        """Class scores p_f of P points.

        Args:
            features: f3, (V, point_channels) of voxels.
            voxel: (P,) int64 row in `features` of each point.
            image_features: f2, (P, image_channels).

        Returns:
            (P, classes) logits.
        """
        g = self.from_image(image_features) + self.from_point(self.learner(features)).index_select(0, voxel)
        logits: Tensor = self.head(F.relu(g * self.gate(g)))
        return logits


def transfer_kl(fused_logits: Tensor, point_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(softmax(fused / T) || softmax(point / T)) of each row, times T^2 so that gradients keep their size with T.

    The fused branch teaches: no gradient goes to it.

    Args:
        fused_logits, point_logits: (P, C).

    Returns:
        (P,) float32, nats.
    """
    teacher = F.log_softmax(fused_logits.detach().float() / temperature, dim=1)
    student = F.log_softmax(point_logits.float() / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(1) * temperature**2
