"""Writing LLVM IR: numbered values, labels, loops, and vectors of the width that the machine has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Sums = list[list[str]]
"""Names of vectors that are added to, row by row."""


@dataclass(frozen=True)
class Machine:
    """What a kernel is made for.

    Attributes:
        lanes: float32 values of a vector register.
        registers: vector registers.
    """

    lanes: int
    registers: int


class Writer:
    """The body of one function. Values are strings (`%v7`, or a number), of type i64 unless a method says otherwise."""

    def __init__(self, machine: Machine):
        self.lanes = machine.lanes
        self.vector = f"<{machine.lanes} x float>"
        self._lines: list[str] = []
        self._names = 0
        self._block = "entry"

    def function(self, head: str) -> str:
        """The module with this one function, `head` its name and parameters."""
        v, bits = self.vector, f"<{self.lanes} x i1>"
        return "\n".join(
            [
                "declare i64 @llvm.smin.i64(i64, i64)",
                f"declare {v} @llvm.fma.v{self.lanes}f32({v}, {v}, {v})",
                f"declare {v} @llvm.masked.load.v{self.lanes}f32.p0(ptr, i32, {bits}, {v})",
                f"declare void @llvm.masked.store.v{self.lanes}f32.p0({v}, ptr, i32, {bits})",
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

    def load_vector(self, pointer: str, index: str | int = 0, lanes: int | None = None) -> str:
        """`lanes` values (all of a register) from `pointer[index]` on, zeros behind them."""
        place = self.at(pointer, index)
        if lanes is None or lanes == self.lanes:
            return self.let(f"load {self.vector}, ptr {place}, align 4")
        kind = f"llvm.masked.load.v{self.lanes}f32.p0"
        return self.let(
            f"call {self.vector} @{kind}(ptr {place}, i32 4, {self._mask(lanes)}, {self.vector} zeroinitializer)"
        )

    def store_vector(self, value: str, pointer: str, index: str | int, lanes: int) -> None:
        place = self.at(pointer, index)
        if lanes == self.lanes:
            self._do(f"store {self.vector} {value}, ptr {place}, align 4")
            return
        kind = f"llvm.masked.store.v{self.lanes}f32.p0"
        self._do(f"call void @{kind}({self.vector} {value}, ptr {place}, i32 4, {self._mask(lanes)})")

    def splat(self, pointer: str, index: str | int) -> str:
        """The float at `pointer[index]` in every lane."""
        first = self.let(f"insertelement {self.vector} poison, float {self.load(pointer, index, 'float')}, i64 0")
        return self.let(
            f"shufflevector {self.vector} {first}, {self.vector} poison, <{self.lanes} x i32> zeroinitializer"
        )

    def add_product(self, total: str, a: str, b: str) -> str:
        v = self.vector
        return self.let(f"call {v} @llvm.fma.v{self.lanes}f32({v} {a}, {v} {b}, {v} {total})")

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
