"""Gather, multiply, scatter in plain PyTorch: the back end that runs everywhere."""

from __future__ import annotations

import torch

from mdkt_ros.sparse.backend import register_backend
from mdkt_ros.sparse.kernel_map import KernelMap


class TorchBackend:
    """One offset after the other: index_select, mm, index_add_.

    Within an offset no output row occurs twice, so sums are formed in the order of offsets and every run gives the same
    bits, on CUDA too.
    """

    def gather_gemm_scatter(
        self, features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap, bias: torch.Tensor | None
    ) -> torch.Tensor:
        out = self._initial(features, kernel, kernel_map, bias)
        start = 0
        for k, size in enumerate(kernel_map.sizes):
            if size == 0:
                continue
            stop = start + size
            product = features.index_select(0, kernel_map.in_rows[start:stop]) @ kernel[k]
            out.index_add_(0, kernel_map.out_rows[start:stop], product.to(out.dtype))
            start = stop
        return out.to(features.dtype)

    def kernel_gradient(
        self, features: torch.Tensor, out_gradient: torch.Tensor, kernel_map: KernelMap
    ) -> torch.Tensor:
        gradient = features.new_zeros((len(kernel_map.sizes), features.shape[1], out_gradient.shape[1]))
        if kernel_map.identity is not None:
            gradient[kernel_map.identity] = features.t() @ out_gradient
        start = 0
        for k, size in enumerate(kernel_map.sizes):
            if size == 0:
                continue
            stop = start + size
            gathered = features.index_select(0, kernel_map.in_rows[start:stop])
            gradient[k] = gathered.t() @ out_gradient.index_select(0, kernel_map.out_rows[start:stop])
            start = stop
        return gradient

    @staticmethod
    def _initial(
        features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap, bias: torch.Tensor | None
    ) -> torch.Tensor:
        # Sums of half precision are kept in single: 27 terms would lose most of bfloat16's eight bits.
        dtype = torch.float32 if features.dtype in (torch.float16, torch.bfloat16) else features.dtype
        if kernel_map.identity is None:
            out = features.new_zeros((kernel_map.out_count, kernel.shape[2]), dtype=dtype)
            return out if bias is None else out.add_(bias)
        centre = kernel[kernel_map.identity]
        return (features @ centre if bias is None else torch.addmm(bias, features, centre)).to(dtype)


register_backend("torch", TorchBackend())
