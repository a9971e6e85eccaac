"""A stand-in for torchsparse 2.1: what the back end calls, in plain PyTorch, to the documented signature."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch


def conv_forward_gather_scatter_cuda(
    in_feat: torch.Tensor,
    kernel: torch.Tensor,
    neighbor_map: torch.Tensor,
    neighbor_offset: torch.Tensor,
    input_mask: torch.Tensor,
    output_mask: torch.Tensor,
    output_size: int,
    epsilon: float,
    mm_thresh: int,
    conv_mode: int,
    transpose: bool,
    global_buffer: torch.Tensor,
) -> torch.Tensor:
    """With its traps: no float64 or bfloat16, contiguous memory alone, and the middle of an odd kernel unread."""
    assert in_feat.dtype == kernel.dtype
    assert in_feat.dtype in (torch.float32, torch.float16)
    assert all(tensor.is_contiguous() for tensor in (in_feat, kernel, neighbor_map, neighbor_offset))
    assert neighbor_map.dtype == neighbor_offset.dtype == torch.int32
    assert neighbor_map.shape == (int(neighbor_offset.sum()), 2)
    assert neighbor_offset.device.type == "cpu"
    assert conv_mode == 0
    assert not transpose
    volume = len(kernel)
    out = in_feat.new_zeros((output_size, kernel.shape[2]))
    middle = None
    if volume % 2 == 1 and len(in_feat) == output_size:
        assert volume > 1, "it reads past the end of neighbor_offset"
        middle = volume // 2
        out = in_feat @ kernel[middle]
    first = 0
    for offset, size in enumerate(neighbor_offset.tolist()):
        rows = neighbor_map[first : first + size].long()
        first += size
        if offset != middle:
            out[rows[:, 1]] += in_feat[rows[:, 0]] @ kernel[offset]
    return out


def insert(monkeypatch: pytest.MonkeyPatch, version: str = "2.1.0", with_cuda: bool = True) -> None:
    """Make `import torchsparse` find the stand-in."""
    package, compiled = ModuleType("torchsparse"), ModuleType("torchsparse.backend")
    package.__version__ = version  # type: ignore[attr-defined]
    package.backend = compiled  # type: ignore[attr-defined]
    if with_cuda:
        compiled.conv_forward_gather_scatter_cuda = conv_forward_gather_scatter_cuda  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchsparse", package)
    monkeypatch.setitem(sys.modules, "torchsparse.backend", compiled)
