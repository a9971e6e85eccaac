"""How numbers lie in memory, and what a kernel does to compute with them: float32, or bfloat16 two by two.

bfloat16 takes half of the memory, and where the CPU has AVX512-BF16 one instruction multiplies two channels and adds
both products to a float32 sum. Elsewhere the two are taken apart first, which is exact and slower than float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from mdkt_ros.sparse.native.ir import Writer


class Format(ABC):
    """One way.

    Attributes:
        dtype: PyTorch's. element: LLVM's name of what pointers are counted in.
        channels: input channels that one step of a product takes.
    """

    dtype: torch.dtype
    element: str
    channels: int

    @abstractmethod
    def load(self, w: Writer, pointer: str, index: str | int, lanes: int) -> str:
        """A vector of float32 of the `lanes` values from `pointer[index]` on, zeros behind them."""

    @abstractmethod
    def store(self, w: Writer, value: str, pointer: str, index: str | int, lanes: int) -> None:
        """Write the first `lanes` values of a vector of float32."""

    @abstractmethod
    def weights(self, w: Writer, pointer: str, index: str | int) -> str:
        """Packed weights of a step, a register full, `index` in registers."""

    @abstractmethod
    def splat(self, w: Writer, pointer: str, step: str) -> str:
        """The channels of a step of the row at `pointer`, in every lane."""

    @abstractmethod
    def add_product(self, w: Writer, total: str, value: str, weights: str) -> str:
        """`total` and the products of what `splat` and `weights` give."""


class Float32(Format):
    dtype, element, channels = torch.float32, "float", 1

    def load(self, w: Writer, pointer: str, index: str | int, lanes: int) -> str:
        return w.load_vector(pointer, index, lanes)

    def store(self, w: Writer, value: str, pointer: str, index: str | int, lanes: int) -> None:
        w.store_vector(value, pointer, index, lanes)

    def weights(self, w: Writer, pointer: str, index: str | int) -> str:
        return w.load_vector(w.at(pointer, index, w.vector))

    def splat(self, w: Writer, pointer: str, step: str) -> str:
        return w.splat(pointer, step)

    def add_product(self, w: Writer, total: str, value: str, weights: str) -> str:
        return w.add_product(total, value, weights)


class Bfloat16(Format):
    """`native`: whether the CPU multiplies pairs itself."""

    dtype, element, channels = torch.bfloat16, "i16", 2

    def __init__(self, native: bool):
        self._native = native

    def load(self, w: Writer, pointer: str, index: str | int, lanes: int) -> str:
        halves = w.load_vector(pointer, index, lanes, "i16")
        words = w.let(f"zext {w.of('i16')} {halves} to {w.of('i32')}")
        return self._upper(w, w.shift("shl", words))

    def store(self, w: Writer, value: str, pointer: str, index: str | int, lanes: int) -> None:
        if self._native:
            rounded = w.let(f"fptrunc {w.vector} {value} to {w.of('bfloat')}")
            halves = w.let(f"bitcast {w.of('bfloat')} {rounded} to {w.of('i16')}")
        else:
            halves = w.let(f"trunc {w.of('i32')} {self._rounded(w, value)} to {w.of('i16')}")
        w.store_vector(halves, pointer, index, lanes, "i16")

    def weights(self, w: Writer, pointer: str, index: str | int) -> str:
        return w.let(f"load {w.of('i32')}, ptr {w.at(pointer, index, w.of('i32'))}, align 4")

    def splat(self, w: Writer, pointer: str, step: str) -> str:
        pair = w.let(f"load i32, ptr {w.at(pointer, step, 'i32')}, align 2")
        return w.splat_value(pair, "i32")

    def add_product(self, w: Writer, total: str, value: str, weights: str) -> str:
        if self._native:
            return w.add_pair_product(total, value, weights)
        for take in (self._first, self._second):
            total = w.add_product(total, take(w, value), take(w, weights))
        return total

    def _first(self, w: Writer, pairs: str) -> str:
        return self._upper(w, w.shift("shl", pairs))

    def _second(self, w: Writer, pairs: str) -> str:
        return self._upper(w, w.let(f"and {w.of('i32')} {pairs}, {w.constant(-65536)}"))

    def _upper(self, w: Writer, words: str) -> str:
        return w.let(f"bitcast {w.of('i32')} {words} to {w.vector}")

    def _rounded(self, w: Writer, value: str) -> str:
        """The nearest bfloat16, ties to even, as words of 32 bits; NaN stays NaN."""
        kind = w.of("i32")
        words = w.let(f"bitcast {w.vector} {value} to {kind}")
        odd = w.let(f"and {kind} {w.shift('lshr', words)}, {w.constant(1)}")
        carried = w.let(f"add {kind} {w.let(f'add {kind} {words}, {w.constant(0x7FFF)}')}, {odd}")
        sound = w.let(f"fcmp ord {w.vector} {value}, {value}")
        chosen = w.let(f"select {w.of('i1')} {sound}, {kind} {carried}, {kind} {w.constant(0x7FC00000)}")
        return w.shift("lshr", chosen)


def format_of(dtype: torch.dtype, native: bool) -> Format:
    """`native`: whether the CPU computes with bfloat16 itself."""
    return Float32() if dtype == torch.float32 else Bfloat16(native)
