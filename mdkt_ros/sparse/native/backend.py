"""The engine `native`: convolutions on the CPU in kernels that are compiled at run time, in float32 or bfloat16."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.weak import WeakTensorKeyDictionary

from mdkt_ros.sparse.kernel_map import KernelMap
from mdkt_ros.sparse.native import loops
from mdkt_ros.sparse.native.formats import format_of
from mdkt_ros.sparse.native.ir import Machine
from mdkt_ros.sparse.native.maps import NativeMaps
from mdkt_ros.sparse.native.program import Program, convolution_program, kernel_gradient_program, this_machine
from mdkt_ros.sparse.native.team import PIECES, Shares, team
from mdkt_ros.sparse.native.tiles import pack, step_width
from mdkt_ros.sparse.parallel import cpu_threads
from mdkt_ros.sparse.torch_backend import TorchBackend

_DTYPES = (torch.float32, torch.bfloat16)
_BLOCK_BYTES = 256 << 10
"""Rows that a block reads and writes: they stay in a second-level cache."""
_CHUNK_BYTES = 24 << 10
"""Rows that a chunk of pairs reads: most of a first-level cache."""


class _Array:
    """An int64 array and its address, which NumPy takes microseconds to tell: as long as a thin layer's other needs."""

    def __init__(self, values: npt.NDArray[np.int64]):
        self.values = values
        self.address: int = values.ctypes.data


@dataclass(frozen=True, eq=False)
class _Lists:
    """Addresses and lengths (K,) of a map's pairs."""

    in_rows: _Array
    out_rows: _Array
    counts: _Array


@dataclass(frozen=True, eq=False)
class _Plan:
    """A map in blocks of `rows` output rows: where each block's pairs begin (blocks + 1, K), and who computes which."""

    rows: int
    bounds: _Array
    shares: Shares


class NativeBackend:
    """Pairs are gathered, multiplied and added up in registers; nothing is copied and nothing but the output allocated.

    An output row's terms are summed in the order of offsets and channels, whatever the blocks and however many threads:
    the same bits every time, gradients included. bfloat16 is summed in float32 and rounded once. Gradients of bfloat16,
    and other dtypes, go to the back end `torch`.
    """

    def __init__(self, machine: Machine | None = None):
        """`machine`: what the kernels are made for; None: this CPU. Raises EngineUnavailable."""
        self.maps = NativeMaps()
        self._machine = this_machine() if machine is None else machine
        self._torch = TorchBackend()
        self._packed = WeakTensorKeyDictionary()

    def gather_gemm_scatter(
        self, features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap, bias: torch.Tensor | None
    ) -> torch.Tensor:
        out = features.new_empty((kernel_map.out_count, kernel.shape[2]))
        if self.convolve(features, kernel, kernel_map, bias, None, False, out):
            return out
        return self._torch.gather_gemm_scatter(features, kernel, kernel_map, bias)

    def convolve(
        self,
        features: torch.Tensor,
        kernel: torch.Tensor,
        kernel_map: KernelMap,
        bias: torch.Tensor | None,
        add: torch.Tensor | None,
        relu: bool,
        out: torch.Tensor,
    ) -> bool:
        given, taken = features.dtype, out.dtype
        if not (features.is_cpu and given in _DTYPES and taken in (given, torch.float32)):
            return False
        inputs, outputs = kernel.shape[1:]
        weights = self._pack(kernel, given)
        if given == torch.bfloat16 and inputs % 2:  # a step takes two channels
            inputs, features = inputs + 1, torch.nn.functional.pad(features, (0, 1))
        features = _rows_of(features)
        if out.stride(1) != 1:
            raise ValueError("out: the channels of a row must lie side by side")
        bias = torch.zeros(outputs) if bias is None else bias.float().contiguous()
        add = None if add is None else _rows_of(add.to(taken))
        lists = _lists(kernel_map)
        # Sums that are not the result itself are on the stack, in whole registers: a block bounds them, too.
        sums = outputs if taken == torch.float32 else step_width(self._machine, outputs)
        plan = _plan(kernel_map, lists, given.itemsize * inputs + 4 * sums)
        arguments = _addresses(out, features, weights, bias)
        arguments += [0 if add is None else add.data_ptr(), lists.in_rows.address, lists.out_rows.address]
        arguments += [plan.bounds.address, out.stride(0), features.stride(0), 0 if add is None else add.stride(0)]
        arguments += [inputs, kernel_map.offsets, plan.rows, kernel_map.out_count, int(relu)]
        _compute(convolution_program(self._machine, outputs, given, taken), arguments, plan.shares)
        return True

    def kernel_gradient(
        self, features: torch.Tensor, out_gradient: torch.Tensor, kernel_map: KernelMap
    ) -> torch.Tensor:
        if not (features.is_cpu and features.dtype == torch.float32):
            return self._torch.kernel_gradient(features, out_gradient, kernel_map)
        inputs, outputs = features.shape[1], out_gradient.shape[1]
        features, out_gradient = features.contiguous(), out_gradient.contiguous()
        gradient = features.new_zeros((kernel_map.offsets, inputs, outputs))
        lists = _lists(kernel_map)
        chunk = max(_CHUNK_BYTES // (4 * (inputs + outputs)), 16)
        arguments = _addresses(gradient, features, out_gradient)
        arguments += [lists.in_rows.address, lists.out_rows.address, lists.counts.address, inputs, chunk]
        shares = Shares(lists.counts.values, cpu_threads())
        _compute(kernel_gradient_program(self._machine, outputs), arguments, shares)
        return gradient

    def _pack(self, kernel: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The packed kernel; that of a network which is not trained is kept."""
        if kernel.requires_grad or kernel.is_inference() or not kernel.is_leaf:
            return self._packed_anew(kernel, dtype)
        state = (kernel._version, kernel.data_ptr(), dtype)
        kept = self._packed.get(kernel)  # type: ignore[no-untyped-call]
        if kept is None or kept[0] != state:
            kept = self._packed[kernel] = (state, self._packed_anew(kernel, dtype))
        packed: torch.Tensor = kept[1]
        return packed

    def _packed_anew(self, kernel: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return pack(self._machine, kernel.detach().to(dtype), format_of(dtype, self._machine.pairs).channels)


def _addresses(*tensors: torch.Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _compute(program: Program, arguments: list[int], shares: Shares) -> None:
    """Run a program over all parts of its work, on as many threads as it is shared among."""
    packed = (ctypes.c_int64 * len(arguments))(*arguments)
    address = ctypes.addressof(packed)
    if shares.threads > 1 and shares.parts > 1 and team(shares.threads - 1).run(program.address, address, shares):
        return
    program.call(address, 0, shares.parts)


def _rows_of(values: torch.Tensor) -> torch.Tensor:
    """The same (V, C) values, the channels of a row side by side; rows may lie further apart."""
    return values if values.stride(1) == 1 else values.contiguous()


def _lists(kernel_map: KernelMap) -> _Lists:
    if "native" not in kernel_map.kept:
        lists = kernel_map.lists
        first, step = lists.columns.data_ptr(), 4 * lists.columns.shape[1]
        columns = (first + step * lists.in_column, first + step * lists.out_column, lists.counts)
        kernel_map.kept["native"] = _Lists(*map(_Array, columns))
    known: _Lists = kernel_map.kept["native"]
    return known


def _plan(kernel_map: KernelMap, lists: _Lists, row_bytes: int) -> _Plan:
    """Blocks whose rows fit a cache, of 64, 128, 256, ... rows, so that layers of similar widths share them."""
    threads = cpu_threads()
    wish = _BLOCK_BYTES // row_bytes
    if threads > 1:
        wish = min(wish, kernel_map.out_count // (PIECES * threads))
    rows = 1 << max(wish.bit_length() - 1, 6)
    key = ("native", rows, threads)
    if key not in kernel_map.kept:
        blocks = -(-kernel_map.out_count // rows)
        bounds = np.empty((blocks + 1, kernel_map.offsets), dtype=np.int64)
        costs = np.empty(blocks, dtype=np.int64)
        loops.find_bounds(lists.out_rows.values, lists.counts.values, rows, bounds, costs)
        kernel_map.kept[key] = _Plan(rows, _Array(bounds), Shares(costs, threads))
    plan: _Plan = kernel_map.kept[key]
    return plan
