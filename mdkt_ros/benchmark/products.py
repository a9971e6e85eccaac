"""The matrix products of a forward pass alone: what an engine that gathers and scatters around them cannot beat."""

from __future__ import annotations

from typing import Any

import torch

from mdkt_ros.network import PointNetwork
from mdkt_ros.sparse import SparseConvolution, SparseTensor


class Products:
    """Calls `torch.mm` for every offset of every convolution, on rows that lie ready side by side.

    All offsets of a layer read and write the same memory, so it is warmer than it could be in a network.
    """

    def __init__(self, network: PointNetwork, x: SparseTensor):
        self._layers: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]] = []
        hooks = [
            module.register_forward_hook(self._record)
            for module in network.modules()
            if isinstance(module, SparseConvolution)
        ]
        try:
            with torch.inference_mode():
                network(x)
        finally:
            for hook in hooks:
                hook.remove()

    def _record(self, module: Any, inputs: tuple[SparseTensor], _output: object) -> None:
        counts = module.kernel_map(inputs[0]).lists.counts.tolist()
        kernel = module.kernel.detach().view(-1, module.in_channels, module.out_channels)
        rows = torch.rand((max(counts), module.in_channels), device=kernel.device)
        self._layers.append((rows, kernel, rows.new_empty((max(counts), module.out_channels)), counts))

    def __call__(self) -> None:
        """Multiply."""
        with torch.inference_mode():
            for rows, kernel, out, counts in self._layers:
                for matrix, count in zip(kernel, counts, strict=True):
                    torch.mm(rows[:count], matrix, out=out[:count])
