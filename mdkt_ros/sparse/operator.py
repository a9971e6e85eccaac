"""Autograd around the back end's operator."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from mdkt_ros.sparse.backend import current_backend
from mdkt_ros.sparse.kernel_map import KernelMap


class _SparseConvolution(torch.autograd.Function):
    """Keeps features and kernel for the backward pass, never what was gathered from them."""

    @staticmethod
    def forward(
        ctx: Any,
        features: torch.Tensor,
        kernel: torch.Tensor,
        bias: torch.Tensor | None,
        kernel_map: KernelMap,
    ) -> torch.Tensor:
        ctx.save_for_backward(features, kernel)
        ctx.kernel_map = kernel_map
        return current_backend().gather_gemm_scatter(features, kernel, kernel_map, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        features, kernel = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        backend = current_backend()
        wanted = ctx.needs_input_grad
        by_features = by_kernel = by_bias = None
        if wanted[0]:
            # A symmetric map serves its own transpose; the other's blocks need not be made.
            mirrored = kernel.flip(0) if ctx.kernel_map.symmetric else kernel
            kernel_map = ctx.kernel_map if ctx.kernel_map.symmetric else ctx.kernel_map.reversed
            by_features = backend.gather_gemm_scatter(gradient, mirrored.transpose(1, 2), kernel_map, None)
        if wanted[1]:
            by_kernel = backend.kernel_gradient(features, gradient, ctx.kernel_map)
        if wanted[2]:
            by_bias = gradient.sum(dim=0)
        return by_features, by_kernel, by_bias, None


def sparse_convolution(
    features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Convolve (V, Cin) features with a (K, Cin, Cout) kernel over the pairs of `kernel_map`; differentiable once.

    Under autocast it computes in autocast's dtype, as dense convolutions do.

    Returns:
        (kernel_map.out_count, Cout).
    """
    device = features.device.type
    if not torch.is_autocast_enabled(device):
        return _apply(features, kernel, kernel_map, bias)
    dtype = features.dtype if features.dtype == torch.float64 else torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        return _apply(features.to(dtype), kernel.to(dtype), kernel_map, None if bias is None else bias.to(dtype))


def _apply(
    features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap, bias: torch.Tensor | None
) -> torch.Tensor:
    result: torch.Tensor = _SparseConvolution.apply(features, kernel, bias, kernel_map)  # type: ignore[no-untyped-call]
    return result
