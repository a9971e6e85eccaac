"""Autograd around the back end's operator."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from mdkt_ros.sparse.backend import Backend, current_backend, is_fusing
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
        ctx.backend = backend = current_backend(features.device)
        return backend.gather_gemm_scatter(features, kernel, kernel_map, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        features, kernel = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        backend: Backend = ctx.backend
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
    features: torch.Tensor,
    kernel: torch.Tensor,
    kernel_map: KernelMap,
    bias: torch.Tensor | None = None,
    *,
    add: torch.Tensor | None = None,
    relu: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolve (V, Cin) features with a (K, Cin, Cout) kernel over the pairs of `kernel_map`; differentiable once.

    Under autocast it computes in autocast's dtype, as dense convolutions do.

    Args:
        add: (out_count, Cout) added to the result. relu: whether that is rectified. Both are free in an engine that
            computes them on the way (`native`), where no gradient is recorded.
        bias: (Cout,), of the features' dtype or float32.
        out: (out_count, Cout) to write to, which may be `add`, or float32 where the features are of a half precision;
            only where no gradient is recorded.

    Returns:
        (kernel_map.out_count, Cout); `out` where it was given.
    """
    device = features.device.type
    if torch.is_autocast_enabled(device):
        dtype = features.dtype if features.dtype == torch.float64 else torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            features, kernel = features.to(dtype), kernel.to(dtype)
            bias = None if bias is None else bias.to(dtype)
            return sparse_convolution(features, kernel, kernel_map, bias, add=add, relu=relu, out=out)
    backend = current_backend(features.device)
    given = (features, kernel, bias, add)
    recorded = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given)
    if recorded and out is not None:
        raise ValueError("out: a result whose gradient is wanted cannot be written to given memory")
    if is_fusing(backend) and not recorded:
        result = features.new_empty((kernel_map.out_count, kernel.shape[2])) if out is None else out
        if backend.convolve(features, kernel, kernel_map, bias, add, relu, result):
            return result
    if out is not None and out.dtype != features.dtype:
        features, kernel = features.to(out.dtype), kernel.to(out.dtype)
    if kernel_map.identity and not (is_fusing(backend) and recorded):
        plain = features @ kernel[0] if bias is None else torch.addmm(bias.to(features.dtype), features, kernel[0])
        return _finished(plain, add, relu, out)
    if recorded:
        result = _SparseConvolution.apply(features, kernel, bias, kernel_map)  # type: ignore[no-untyped-call]
        return _finished(result, add, relu, None)
    return _finished(backend.gather_gemm_scatter(features, kernel, kernel_map, bias), add, relu, out)


def _finished(result: torch.Tensor, add: torch.Tensor | None, relu: bool, out: torch.Tensor | None) -> torch.Tensor:
    if add is not None:
        result = result + add
    if relu:
        result = result.relu()
    return result if out is None else out.copy_(result)
