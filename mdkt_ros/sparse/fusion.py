"""Inference needs no normalisation layers: they are linear there, and fold into the convolutions before them."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from mdkt_ros.sparse.convolution import SparseConvolution
from mdkt_ros.sparse.normalization import BatchNorm, ReLU

_Module = TypeVar("_Module", bound=nn.Module)


def fuse(network: _Module) -> _Module:
    """A copy of `network` for inference: every BatchNorm right after a convolution becomes part of its kernel and bias.

    A rectifier after that becomes part of the convolution, too, and no parameter wants a gradient, so that an engine
    may keep the kernels as it likes them. The outputs agree with those of `network.eval()` up to rounding. The original
    is not changed.
    """
    fused = copy.deepcopy(network).eval().requires_grad_(False)
    for module in fused.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for index in range(len(module) - 1):
            convolution, norm = module[index], module[index + 1]
            if not (isinstance(convolution, SparseConvolution) and isinstance(norm, BatchNorm)):
                continue
            _fold(convolution, norm)
            module[index + 1] = nn.Identity()
            if index + 2 < len(module) and isinstance(module[index + 2], ReLU):
                convolution.relu = True
                module[index + 2] = nn.Identity()
    return fused


@torch.no_grad()
def _fold(convolution: SparseConvolution, norm: BatchNorm) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    mean = norm.running_mean.double()
    if convolution.bias is not None:
        mean = mean - convolution.bias.double()
    bias = norm.bias.double() - mean * scale
    dtype = convolution.kernel.dtype
    convolution.kernel.copy_((convolution.kernel.double() * scale).to(dtype))
    convolution.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
