"""The projection head: the point network's features in the space of a text model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionHead(nn.Sequential):
    """Decoder features at stride 1 -> embeddings in the text model's space: two linear layers, a rectifier between.

    Attributes:
        in_channels, hidden, dim: channels of the features, of the layer between, and of the embeddings.
    """

    def __init__(self, in_channels: int, hidden: int, dim: int) -> None:
        super().__init__(nn.Linear(in_channels, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.in_channels, self.hidden, self.dim = in_channels, hidden, dim

    def forward(self, features: Tensor) -> Tensor:
        """Unit vectors (R, dim) float32 of features (R, in_channels)."""
        embedding = features
        for layer in self:
            embedding = layer(embedding)
        return F.normalize(embedding.float(), dim=1, eps=1e-6)


@torch.no_grad()
def cosines(head: ProjectionHead, features: Tensor, texts: Tensor, chunk: int = 16384) -> Tensor:
    """Cosine (V, P) float32 of the embedding of each voxel's features (V, in_channels) with unit texts (P, dim).

    In chunks of voxels, since the embeddings of a whole scan would take a hundred times the room of its points.
    """
    out = features.new_empty(len(features), len(texts), dtype=torch.float32)
    for start in range(0, len(features), chunk):
        rows = slice(start, start + chunk)
        out[rows] = head(features[rows]) @ texts.t()
    return out
