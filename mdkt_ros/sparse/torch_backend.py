"""Gather, multiply, sum in plain PyTorch: the back end that runs everywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from mdkt_ros.sparse.kernel_map import Block, KernelMap
from mdkt_ros.sparse.parallel import share
from mdkt_ros.sparse.torch_maps import TorchMaps

_BLOCK_BYTES = 5 << 20
"""What a block gathers and multiplies on the CPU: it should stay in the cache, where a whole layer's would not."""
_BLOCK_ROWS = 2048
"""At most so many output rows, so that thin and wide layers share blocks: making them costs as much as a thin layer."""
_GPU_BLOCK_BYTES = 1 << 30
"""On a GPU blocks only bound the memory; fewer blocks mean fewer launches."""


class TorchBackend:
    """Block of output rows after block: one index_select, a product an offset, one segmented sum.

    An output row's terms are summed in the order of offsets, so every run gives the same bits, on CUDA too.
    """

    maps = TorchMaps()

    def gather_gemm_scatter(
        self, features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap, bias: torch.Tensor | None
    ) -> torch.Tensor:
        out = features.new_empty((kernel_map.out_count, kernel.shape[2]))
        matrices = kernel.unbind(0)

        blocks = kernel_map.blocks(_rows(features, kernel_map, kernel.shape[2]))

        def convolve(first: int, last: int) -> None:
            mine = blocks[first:last]
            gathered, products = _buffer(features, mine), _buffer(out, mine)
            for block in mine:
                pairs = len(block.in_rows)
                torch.index_select(features, 0, block.in_rows, out=gathered[:pairs])
                inputs, terms = torch.split(gathered[:pairs], block.sizes), torch.split(products[:pairs], block.sizes)
                for rows, matrix, term in zip(inputs, matrices, terms, strict=True):
                    torch.mm(rows, matrix, out=term)
                summed = functional.embedding_bag(
                    block.by_row, products[:pairs], block.bounds, mode="sum", include_last_offset=True
                )
                if bias is None:
                    out[block.start : block.stop] = summed
                else:
                    torch.add(summed, bias, out=out[block.start : block.stop])

        share([len(block.in_rows) for block in blocks], convolve, features.is_cpu)
        return out

    def kernel_gradient(
        self, features: torch.Tensor, out_gradient: torch.Tensor, kernel_map: KernelMap
    ) -> torch.Tensor:
        shape = (kernel_map.offsets, features.shape[1], out_gradient.shape[1])

        blocks = kernel_map.blocks(_rows(features, kernel_map, out_gradient.shape[1]))

        def correlate(first: int, last: int) -> torch.Tensor:
            mine = blocks[first:last]
            gradient = features.new_zeros(shape)
            gathered, gathered_out = _buffer(features, mine), _buffer(out_gradient, mine)
            for block in mine:
                pairs = len(block.in_rows)
                torch.index_select(features, 0, block.in_rows, out=gathered[:pairs])
                of_block = out_gradient[block.start : block.stop]
                torch.index_select(of_block, 0, block.out_rows, out=gathered_out[:pairs])
                inputs = torch.split(gathered[:pairs].t(), block.sizes, dim=1)
                outputs = torch.split(gathered_out[:pairs], block.sizes)
                for matrix, columns, rows in zip(gradient.unbind(0), inputs, outputs, strict=True):
                    matrix.addmm_(columns, rows)
            return gradient

        total, *others = share([len(block.in_rows) for block in blocks], correlate, features.is_cpu)
        for other in others:
            total += other
        return total


def _buffer(like: torch.Tensor, blocks: Sequence[Block]) -> torch.Tensor:
    """Memory for the pairs of any block: fresh memory for each would cost more page faults than the gather itself."""
    return like.new_empty((max((len(block.in_rows) for block in blocks), default=0), like.shape[1]))


def _rows(features: torch.Tensor, kernel_map: KernelMap, out_channels: int) -> int:
    """Output rows of a block: 128, 512, 2048, ..., so that layers of similar widths have the same."""
    per_pair = (features.shape[1] + out_channels) * features.element_size()
    per_row = per_pair * max(kernel_map.pairs, 1) / max(kernel_map.out_count, 1)
    on_cpu = features.device.type == "cpu"
    wish = (_BLOCK_BYTES if on_cpu else _GPU_BLOCK_BYTES) / per_row
    rows = 2 * 4 ** max(round((math.log2(wish) - 1) / 2), 3)
    return int(min(rows, _BLOCK_ROWS) if on_cpu else rows)
