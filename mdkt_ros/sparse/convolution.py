"""Sparse convolutions as modules. Their weights are those of torchsparse 2.1: `kernel` and an optional `bias`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from mdkt_ros.sparse.kernel_map import KernelMap
from mdkt_ros.sparse.operator import sparse_convolution
from mdkt_ros.sparse.tensor import SparseTensor


def kept_view(
    module: nn.Module, parameter: torch.Tensor, dtype: torch.dtype, make: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """`make(parameter)` as `dtype`; the same tensor again as long as a parameter that is not trained stays what it is.

    Engines remember what they have made of a kernel by the tensor that they were given.
    """
    if parameter.requires_grad or parameter.is_inference():
        return make(parameter).to(dtype)
    state = (parameter.data_ptr(), parameter._version, parameter.device, dtype)
    kept: tuple[tuple[object, ...], torch.Tensor, torch.Tensor] | None = module.__dict__.get("_kept_view")
    if kept is None or kept[0] != state:
        # One that was made in inference mode could not be told from another. The parameter's memory is held, too, so
        # that no other values come to lie at its address.
        with torch.inference_mode(False), torch.no_grad():
            kept = module.__dict__["_kept_view"] = (state, make(parameter).to(dtype), parameter.detach())
    return kept[1]


class SparseConvolution(nn.Module):
    """What the three convolutions share.

    Attributes:
        relu: whether the result is rectified; what `fuse` sets.
        kernel: parameter (K, Cin, Cout), or (Cin, Cout) where K is 1.
        bias: parameter (Cout,) or None.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool, fan: int):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.relu = False
        volume = kernel_size**3
        shape = (volume, in_channels, out_channels) if volume > 1 else (in_channels, out_channels)
        self.kernel = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        bound = 1 / math.sqrt(fan * volume)  # as torchsparse initialises
        nn.init.uniform_(self.kernel, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def kernel_map(self, x: SparseTensor) -> KernelMap:
        """The map by which the module convolves `x`, from the cache of `x`."""
        raise NotImplementedError

    def out_stride(self, stride: int) -> int:
        """Stride of the result of an input of `stride`."""
        return stride

    def forward(
        self, x: SparseTensor, *, add: torch.Tensor | None = None, relu: bool = False, out: torch.Tensor | None = None
    ) -> SparseTensor:
        """Convolve (V, Cin); see `sparse_convolution` for `add`, `relu` and `out`."""
        kernel: torch.Tensor = self.kernel
        if kernel.ndim == 2:
            kernel = kept_view(self, kernel, kernel.dtype, lambda plain: plain[None])
        relu = relu or self.relu
        features = sparse_convolution(x.features, kernel, self.kernel_map(x), self.bias, add=add, relu=relu, out=out)
        return x.at_stride(features, self.out_stride(x.stride))

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, bias={self.bias is not None}"


class SubmanifoldConv3d(SparseConvolution):
    """Convolution whose output lies on the voxels of its input: kernel 3^3 (or 1^3), stride 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, *, bias: bool = False):
        if kernel_size not in (1, 3):
            raise ValueError(f"kernel_size must be 1 or 3, not {kernel_size}")
        super().__init__(in_channels, out_channels, kernel_size, bias, in_channels)

    def kernel_map(self, x: SparseTensor) -> KernelMap:
        return x.maps.identity(x.stride) if self.kernel_size == 1 else x.maps.submanifold(x.stride)


class StridedConv3d(SparseConvolution):
    """Convolution of stride 2, kernel 2^3 or 3^3: every voxel that holds an input voxel becomes an output voxel."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 2, *, bias: bool = False):
        if kernel_size not in (2, 3):
            raise ValueError(f"kernel_size must be 2 or 3, not {kernel_size}")
        super().__init__(in_channels, out_channels, kernel_size, bias, in_channels)

    def kernel_map(self, x: SparseTensor) -> KernelMap:
        return x.maps.strided(x.stride, self.kernel_size)

    def out_stride(self, stride: int) -> int:
        return 2 * stride


class TransposedConv3d(SparseConvolution):
    """Transposed 2^3 convolution of stride 2, back onto the voxels that the matching `StridedConv3d` came from."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = False):
        super().__init__(in_channels, out_channels, 2, bias, out_channels)

    def kernel_map(self, x: SparseTensor) -> KernelMap:
        return x.maps.transposed(x.stride // 2)

    def out_stride(self, stride: int) -> int:
        return stride // 2
