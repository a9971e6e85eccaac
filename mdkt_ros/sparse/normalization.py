"""Batch normalisation over all voxels of a batch, and over those of all processes where there are several."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable

from mdkt_ros.sparse.tensor import SparseTensor


class _AllReduceSum(torch.autograd.Function):
    """Sum over processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


class BatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d` on the features of a sparse tensor, with the same parameters and state.

    In training the statistics are those of all voxels of the batch and, under torch.distributed, of all processes:
    what `nn.SyncBatchNorm` does, which refuses CPU tensors. Fewer than two voxels have no variance: they are normalised
    to the bias and leave the running statistics alone.
    """

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """(V, C) to (V, C), the same voxels."""
        return x.with_features(self.normalize(x.features))

    def normalize(self, features: torch.Tensor) -> torch.Tensor:
        """Normalise (V, C) features."""
        if not self.training:
            return self._affine(features)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            return self._normalize_by(features, *self._statistics(features, shared=True))
        if len(features) < 2:
            return self._normalize_by(features, *self._statistics(features, shared=False))
        return super().forward(features)

    def _affine(self, features: torch.Tensor) -> torch.Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        return torch.nn.functional.batch_norm(
            features, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )

    def _statistics(self, features: torch.Tensor, shared: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # Moments around a value near the local mean, joined in double precision: E[x^2] - E[x]^2 cancels in single.
        rows = features.float() if features.dtype != torch.float64 else features
        count = max(len(rows), 1)
        pivot = rows.detach().sum(dim=0) / count
        centred = rows - pivot
        rest = centred.sum(dim=0).double() / count
        mean = pivot.double() + rest
        squares = centred.square().sum(dim=0).double() - count * rest.square()
        number = mean.new_full((1,), len(rows))
        total = torch.cat([number, number * mean, squares + number * mean.square()])
        if shared:
            total = _AllReduceSum.apply(total)  # type: ignore[no-untyped-call]
        number = total[:1].detach()
        mean, square = (total[1:] / number.clamp(min=1)).chunk(2)
        return number, mean, (square - mean.square()).clamp(min=0)

    def _normalize_by(
        self, features: torch.Tensor, number: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor
    ) -> torch.Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        if number.item() >= 2:
            with torch.no_grad():
                unbiased = variance * number / (number - 1)
                self.num_batches_tracked += 1
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
        dtype = features.dtype if features.dtype == torch.float64 else torch.float32
        scale = (variance + self.eps).rsqrt().to(dtype) * self.weight
        return torch.addcmul(self.bias, features.to(dtype) - mean.to(dtype), scale).to(features.dtype)


class ReLU(nn.Module):
    """Rectifier on the features of a sparse tensor; `inplace` overwrites those of its input, as in `nn.ReLU`."""

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def forward(self, x: SparseTensor) -> SparseTensor:
        return x.with_features(x.features.relu_() if self.inplace else x.features.relu())
