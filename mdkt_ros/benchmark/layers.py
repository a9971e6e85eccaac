"""Each convolution of a forward pass against what the machine's arithmetic and memory allow: the roofline.

S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for multicore architectures",
CACM 52(4), 2009.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mdkt_ros.network import PointNetwork
from mdkt_ros.sparse import SparseConvolution, SparseTensor, use_engine


@dataclass(frozen=True)
class LayerRow:
    """One convolution.

    Attributes:
        kernel: (K, Cin, Cout). voxels: rows of its output. pairs: rows that it multiplies.
        intensity: operations a byte, if input, output, weights and pairs are moved once.
        gflops: 10^9 operations a second, best of the passes.
    """

    engine: str
    kernel: tuple[int, int, int]
    voxels: int
    pairs: int
    intensity: float
    gflops: float


class _Timer:
    """Times of the convolutions of a network, in the order in which they run."""

    def __init__(self) -> None:
        self.seconds: list[list[float]] = []
        self.layers: list[tuple[tuple[int, int, int], int, int, int]] = []
        self._start = 0.0
        self._at = 0
        self._first = True

    def next_pass(self) -> None:
        self._first = self._at == 0
        self._at = 0

    def before(self, module: Any, inputs: tuple[SparseTensor]) -> None:
        self._start = time.perf_counter()

    def after(self, module: Any, inputs: tuple[SparseTensor], output: SparseTensor) -> None:
        if output.features.is_cuda:
            torch.cuda.synchronize(output.features.device)
        took = time.perf_counter() - self._start
        if self._first:
            kernel_map = module.kernel_map(inputs[0])
            kernel = (kernel_map.offsets, module.in_channels, module.out_channels)
            self.layers.append((kernel, len(inputs[0]), len(output), kernel_map.pairs))
            self.seconds.append([])
        else:
            self.seconds[self._at].append(took)
        self._at += 1


@torch.inference_mode()
def measure_layers(network: PointNetwork, x: SparseTensor, engines: Sequence[str], repeats: int) -> list[LayerRow]:
    """Every convolution of a fused `network` by each engine, `repeats` passes after one that warms up."""
    rows = []
    for engine in engines:
        timer = _Timer()
        modules = [module for module in network.modules() if isinstance(module, SparseConvolution)]
        hooks = [module.register_forward_pre_hook(timer.before) for module in modules]
        hooks += [module.register_forward_hook(timer.after) for module in modules]
        try:
            with use_engine(engine):
                fresh = SparseTensor(x.features, x.coordinates)
                for _ in range(repeats + 1):
                    timer.next_pass()
                    network(fresh)
        finally:
            for hook in hooks:
                hook.remove()
        for (kernel, inputs, outputs, pairs), seconds in zip(timer.layers, timer.seconds, strict=True):
            volume, cin, cout = kernel
            operations = 2 * pairs * cin * cout
            moved = 4 * (inputs * cin + outputs * cout + volume * cin * cout) + 8 * pairs
            rows.append(LayerRow(engine, kernel, outputs, pairs, operations / moved, 1e-9 * operations / min(seconds)))
    return rows
