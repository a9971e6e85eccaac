"""Points by name: the part of the network that speaks the text model's language."""

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


@torch.inference_mode()
def similarity(head: ProjectionHead, features: Tensor, texts: Tensor, chunk: int = 32768) -> Tensor:
    """Cosine (V, P) float32 of each voxel's embedding with each text (P, dim), unit vectors.

    In chunks of voxels: the embeddings of a whole scan would take a hundred times the room of its points.
    """
    parts = [head(part) @ texts.t() for part in torch.split(features, chunk)] if len(features) else []
    return torch.cat(parts) if parts else features.new_zeros(0, len(texts), dtype=torch.float32)
