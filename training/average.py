"""The running mean of a network's weights: steadier than the weights themselves, and a teacher to learn from."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average of a network's parameters and running statistics.

    Attributes:
        network: a network of the same kind that holds the average; in evaluation mode, without gradients.
    """

    def __init__(self, network: nn.Module, momentum: float) -> None:
        self.momentum = momentum
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the weights after step `step` (from 1); early steps count more, so the start is forgotten."""
        share = 1 - min(self.momentum, step / (step + 9))
        current = network.state_dict()
        for name, mean in self.network.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(current[name], share)
            else:
                mean.copy_(current[name])
