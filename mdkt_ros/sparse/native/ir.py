"""Writing LLVM IR: numbered values, labels, loops, and vectors of the width that the machine has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

_SHORT = {"float": "f32", "i16": "i16"}
_BYTES = {"float": 4, "i16": 2}

Sums = list[list[str]]
"""Names of vectors that are added to, row by row."""


@dataclass(frozen=True)
class Machine:
    """What a kernel is made for.

    Attributes:
        lanes: float32 values of a vector register.
        registers: vector registers.
        pairs: whether it multiplies pairs of bfloat16 (AVX512-BF16).
    """

    lanes: int
    registers: int
    pairs: bool = False


class Writer:
    """The body of one function. Values are strings (`%v7`, or a number), of type i64 unless a method says otherwise."""

    def __init__(self, machine: Machine):
        self.lanes = machine.lanes
        self.vector = self.of("float")
        self._lines: list[str] = []
        self._declared: dict[str, None] = {}
        self._names = 0
        self._block = "entry"

    def of(self, element: str) -> str:
        """The vector of as many elements as a register has float32."""
        return f"<{self.lanes} x {element}>"

    def constant(self, value: int) -> str:
        """The same i32 in every lane."""
        return f"<{', '.join([f'i32 {value}'] * self.lanes)}>"

    def function(self, head: str) -> str:
        """The module with this one function, `head` its name and parameters."""
        v, bits = self.vector, self.of("i1")
        masked = []
        for kind in ("float", "i16"):
            whole, name = self.of(kind), f"v{self.lanes}{_SHORT[kind]}.p0"
            masked += [
                f"declare {whole} @llvm.masked.load.{name}(ptr, i32, {bits}, {whole})",
                f"declare void @llvm.masked.store.{name}({whole}, ptr, i32, {bits})",
            ]
        return "\n".join(
            [
                "declare i64 @llvm.smin.i64(i64, i64)",
                f"declare {v} @llvm.fma.v{self.lanes}f32({v}, {v}, {v})",
                *masked,
                *self._declared,
                f"define void @{head} {{",
                "entry:",
                *self._lines,
                "  ret void",
                "}",
                "",
            ]
        )

    def take_arguments(self, arguments: Mapping[str, str]) -> None:
        """Load `%name` for each argument (`ptr` or `i64`) from the array of 8-byte values at `%arguments`."""
        for place, (name, element) in enumerate(arguments.items()):
            self._do(f"%{name} = load {element}, ptr {self.at('%arguments', place, 'i64')}")

    def let(self, text: str) -> str:
        """The value of an instruction."""
        value = f"%{self._name()}"
        self._do(f"{value} = {text}")
        return value

    def op(self, name: str, a: str | int, b: str | int) -> str:
        return self.let(f"{name} i64 {a}, {b}")

    def least(self, a: str | int, b: str | int) -> str:
        return self.let(f"call i64 @llvm.smin.i64(i64 {a}, i64 {b})")

    def at(self, pointer: str, index: str | int, element: str = "float") -> str:
        """Pointer to an element behind `pointer`."""
        return self.let(f"getelementptr inbounds {element}, ptr {pointer}, i64 {index}")

    def load(self, pointer: str, index: str | int, element: str) -> str:
        """The element (`float`, `i64`, `ptr`) at `pointer[index]`; `i32` is widened to i64."""
        value = self.let(f"load {element}, ptr {self.at(pointer, index, element)}")
        return self.let(f"sext i32 {value} to i64") if element == "i32" else value

    def load_vector(self, pointer: str, index: str | int = 0, lanes: int | None = None, element: str = "float") -> str:
        """`lanes` elements (all of a register) from `pointer[index]` on, zeros behind them."""
        kind, align = self.of(element), _BYTES[element]
        place = self.at(pointer, index, element)
        if lanes is None or lanes == self.lanes:
            return self.let(f"load {kind}, ptr {place}, align {align}")
        name = f"llvm.masked.load.v{self.lanes}{_SHORT[element]}.p0"
        return self.let(f"call {kind} @{name}(ptr {place}, i32 {align}, {self._mask(lanes)}, {kind} zeroinitializer)")

    def store_vector(self, value: str, pointer: str, index: str | int, lanes: int, element: str = "float") -> None:
        kind, align = self.of(element), _BYTES[element]
        place = self.at(pointer, index, element)
        if lanes == self.lanes:
            self._do(f"store {kind} {value}, ptr {place}, align {align}")
            return
        if lanes == 1:  # LLVM 22 makes a store of 32 bits of one masked i16
            self._do(f"store {element} {self.let(f'extractelement {kind} {value}, i64 0')}, ptr {place}, align {align}")
            return
        name = f"llvm.masked.store.v{self.lanes}{_SHORT[element]}.p0"
        self._do(f"call void @{name}({kind} {value}, ptr {place}, i32 {align}, {self._mask(lanes)})")

    def splat(self, pointer: str, index: str | int) -> str:
        """The float at `pointer[index]` in every lane."""
        return self.splat_value(self.load(pointer, index, "float"), "float")

    def splat_value(self, value: str, element: str) -> str:
        kind = self.of(element)
        first = self.let(f"insertelement {kind} poison, {element} {value}, i64 0")
        return self.let(f"shufflevector {kind} {first}, {kind} poison, {self.of('i32')} zeroinitializer")

    def shift(self, direction: str, words: str) -> str:
        """i32 by half of their bits: `shl` or `lshr`."""
        return self.let(f"{direction} {self.of('i32')} {words}, {self.constant(16)}")

    def add_product(self, total: str, a: str, b: str) -> str:
        v = self.vector
        return self.let(f"call {v} @llvm.fma.v{self.lanes}f32({v} {a}, {v} {b}, {v} {total})")

    def add_pair_product(self, total: str, a: str, b: str) -> str:
        """`total` and, lane by lane, both products of two pairs of bfloat16, each pair an i32."""
        v, words, halves = self.vector, self.of("i32"), f"<{2 * self.lanes} x bfloat>"
        name = f"@llvm.x86.avx512bf16.dpbf16ps.{32 * self.lanes}"
        self._declared[f"declare {v} {name}({v}, {halves}, {halves})"] = None
        pairs = [self.let(f"bitcast {words} {value} to {halves}") for value in (a, b)]
        return self.let(f"call {v} {name}({v} {total}, {halves} {pairs[0]}, {halves} {pairs[1]})")

    def room(self, count: str) -> str:
        """Memory for `count` float32, until the function returns."""
        return self.let(f"alloca float, i64 {count}, align 64")

    def largest(self, a: str, b: str) -> str:
        """Lane by lane; a NaN of `a` stays, as in torch.relu."""
        smaller = self.let(f"fcmp olt {self.vector} {a}, {b}")
        return self.let(f"select <{self.lanes} x i1> {smaller}, {self.vector} {b}, {self.vector} {a}")

    def add(self, a: str, b: str) -> str:
        return self.let(f"fadd {self.vector} {a}, {b}")

    @contextmanager
    def loop(self, start: str | int, stop: str | int, step: str | int = 1) -> Iterator[str]:
        """`for index in range(start, stop, step)`; gives the index."""
        head, body, end, index = (self._name() for _ in range(4))
        before = self._block
        self._do(f"br label %{head}")
        self._label(head)
        place = len(self._lines)
        self._branch(self.let(f"icmp slt i64 %{index}, {stop}"), body, end)
        self._label(body)
        yield f"%{index}"
        after = self.op("add nsw", f"%{index}", step)
        self._lines.insert(place, f"  %{index} = phi i64 [ {start}, %{before} ], [ {after}, %{self._block} ]")
        self._do(f"br label %{head}")
        self._label(end)

    def sum_over(
        self, start: str | int, stop: str | int, step: int, sums: Sums, body: Callable[[str, Sums], Sums]
    ) -> Sums:
        """A loop over a range with `sums` in registers, which `body(index, sums)` gives anew; those after the loop."""
        head, end, index = (self._name() for _ in range(3))
        before = self._block
        # The condition stands at the end of the body, too, so that a turn has one jump.
        self._branch(self.let(f"icmp slt i64 {start}, {stop}"), head, end)
        self._label(head)
        place = len(self._lines)
        carried = [[f"%{self._name()}" for _ in row] for row in sums]
        results = body(f"%{index}", carried)
        after = self.op("add nsw", f"%{index}", step)
        phis = [f"  %{index} = phi i64 [ {start}, %{before} ], [ {after}, %{self._block} ]"]
        for names, firsts, lasts in zip(carried, sums, results, strict=True):
            phis += [
                f"  {name} = phi {self.vector} [ {first}, %{before} ], [ {last}, %{self._block} ]"
                for name, first, last in zip(names, firsts, lasts, strict=True)
            ]
        self._lines[place:place] = phis
        self._branch(self.let(f"icmp slt i64 {after}, {stop}"), head, end)
        last = self._block
        self._label(end)
        return [
            [
                self.let(f"phi {self.vector} [ {first}, %{before} ], [ {result}, %{last} ]")
                for first, result in zip(firsts, lasts, strict=True)
            ]
            for firsts, lasts in zip(sums, results, strict=True)
        ]

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """What is written inside runs where `condition` (i1) holds."""
        yes, end = self._name(), self._name()
        self._branch(condition, yes, end)
        self._label(yes)
        yield
        self._do(f"br label %{end}")
        self._label(end)

    def lane_groups(self, columns: int) -> Sequence[tuple[int, int]]:
        """(first column, lanes in use) of the vectors that hold `columns` columns."""
        return [(first, min(self.lanes, columns - first)) for first in range(0, columns, self.lanes)]

    def _mask(self, lanes: int) -> str:
        bits = ", ".join(f"i1 {'true' if lane < lanes else 'false'}" for lane in range(self.lanes))
        return f"<{self.lanes} x i1> <{bits}>"

    def _name(self) -> str:
        self._names += 1
        return f"v{self._names}"

    def _do(self, text: str) -> None:
        self._lines.append(f"  {text}")

    def _label(self, name: str) -> None:
        self._lines.append(f"{name}:")
        self._block = name

    def _branch(self, condition: str, yes: str, no: str) -> None:
        self._do(f"br i1 {condition}, label %{yes}, label %{no}")
