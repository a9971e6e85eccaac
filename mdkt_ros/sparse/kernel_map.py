"""A kernel map: which input row meets which output row under every offset of a convolution kernel."""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from mdkt_ros.sparse.pair_lists import PairLists, flat_nonzero


@dataclass(frozen=True, eq=False)
class Block:
    """The pairs of a range of output rows, laid out for one gather, a product an offset and one sum over pairs.

    Attributes:
        start, stop: the range of output rows.
        in_rows: (P,) int32 input row of each pair; offset after offset, output rows ascending within.
        sizes: pairs of each of the K offsets.
        by_row: (P,) int32 the pairs again, output row after output row, offsets ascending within.
        bounds: (stop - start + 1,) int32 where each output row's pairs begin and end in `by_row`.
    """

    start: int
    stop: int
    in_rows: torch.Tensor
    sizes: list[int]
    by_row: torch.Tensor
    bounds: torch.Tensor

    @cached_property
    def out_rows(self) -> torch.Tensor:
        """(P,) int32 output row of each pair, counted from `start`; in the order of `in_rows`."""
        with torch.inference_mode(False), torch.no_grad():
            rows = torch.arange(self.stop - self.start, dtype=torch.int32, device=self.bounds.device)
            of_pairs = rows.repeat_interleave(self.bounds.diff().long(), output_size=len(self.by_row))
            return torch.empty_like(of_pairs).index_copy_(0, self.by_row.long(), of_pairs)


class KernelMap:
    """Input row of every output row under every offset, as a table or as lists of pairs; either is made from the other.

    Attributes:
        in_count, out_count: rows of the input and of the output.
        offsets: K, offsets of the kernel.
        symmetric: whether offsets k and K - 1 - k mirror each other, as in a submanifold convolution: the transposed
            map is then the same one with the offsets in reverse.
        identity: whether its only offset leads every row to itself, as in a 1^3 convolution.
        kept: what back ends keep beside the map, by a key of their own.
    """

    def __init__(
        self,
        in_count: int,
        out_count: int,
        *,
        table: torch.Tensor | None = None,
        lists: PairLists | None = None,
        symmetric: bool = False,
        monotone: bool = False,
        identity: bool = False,
    ):
        """One of `table` and `lists` must be given. `monotone`: in every list, input rows ascend like output rows."""
        self.in_count = in_count
        self.out_count = out_count
        self.symmetric = symmetric
        self.identity = identity
        self.kept: dict[Hashable, Any] = {}
        self._monotone = monotone
        self._reversed: KernelMap | None = None
        self._origin: weakref.ref[KernelMap] | None = None
        if table is not None:
            self.table = table
        if lists is not None:
            self.lists = lists
        self.offsets = len(self.table) if lists is None else len(lists)

    @cached_property
    def table(self) -> torch.Tensor:
        """(K, out_count) int32 input row, -1 where there is no voxel. Within an offset no input row occurs twice."""
        with torch.inference_mode(False), torch.no_grad():
            return self.lists.table(self.out_count)

    @cached_property
    def lists(self) -> PairLists:
        """Pairs of each offset."""
        with torch.inference_mode(False), torch.no_grad():
            return PairLists.of_table(self.table)

    @cached_property
    def pairs(self) -> int:
        """Pairs of all offsets: rows that are multiplied by a (Cin, Cout) matrix."""
        if "lists" in self.__dict__:
            return int(self.lists.counts.sum())
        return int(torch.count_nonzero(self.table >= 0))

    @property
    def reversed(self) -> KernelMap:
        """The map of the transposed convolution: inputs and outputs change places, offset by offset.

        Made once; its own is this map, as long as somebody else keeps that: a cycle would hold a scan's memory until
        Python looks for cycles.
        """
        origin = None if self._origin is None else self._origin()
        if origin is not None:
            return origin
        if self._reversed is None:
            self._reversed = self._reverse()
            self._reversed._origin = weakref.ref(self)
        return self._reversed

    def _reverse(self) -> KernelMap:
        if self._monotone:
            lists = self.lists.swapped()
            return KernelMap(self.out_count, self.in_count, lists=lists, symmetric=self.symmetric, monotone=True)
        if self.symmetric:
            return KernelMap(self.in_count, self.out_count, table=self.table.flip(0), symmetric=True)
        rows = torch.arange(self.out_count, dtype=torch.int32, device=self.table.device)
        # One column more takes the misses; a GPU is not asked how many there are.
        room = self.table.new_full((self.offsets, self.in_count + 1), -1)
        places = torch.where(self.table >= 0, self.table, self.in_count).to(torch.int64)
        room.scatter_(1, places, rows.expand_as(self.table))
        return KernelMap(self.out_count, self.in_count, table=room[:, : self.in_count].contiguous())

    def blocks(self, rows: int) -> tuple[Block, ...]:
        """The map in blocks of about `rows` output rows; kept for the next call.

        A block's pairs fit a cache where the whole map's do not. No blocks where the output has no rows.
        """
        count = -(-self.out_count // max(rows, 1))
        key = ("blocks", count)
        if key not in self.kept:
            with torch.inference_mode(False), torch.no_grad():
                self.kept[key] = tuple(self._build_blocks(count)) if count else ()
        blocks: tuple[Block, ...] = self.kept[key]
        return blocks

    def _build_blocks(self, count: int) -> list[Block]:
        offsets = self.offsets
        rows = -(-self.out_count // count)
        missing = count * rows - self.out_count
        table = torch.nn.functional.pad(self.table, (0, missing), value=-1) if missing else self.table
        table = table.view(offsets, count, rows).transpose(0, 1).contiguous()
        hit = table >= 0
        # Number of each pair in the order (block, offset, row), and the same numbers in the order (block, row, offset).
        number = hit.view(-1).cumsum(0, dtype=torch.int32).view(table.shape) - 1
        in_rows = table.view(-1).index_select(0, flat_nonzero(hit))
        by_row = number.transpose(1, 2).contiguous().view(-1).index_select(0, flat_nonzero(hit.transpose(1, 2)))
        ends = number[:, :, -1].reshape(-1) + 1
        sizes = ends.diff(prepend=ends.new_zeros(1)).view(count, offsets).tolist()
        bounds = torch.zeros((count, rows + 1), dtype=torch.int32, device=table.device)
        torch.cumsum(hit.sum(dim=1, dtype=torch.int32), dim=1, out=bounds[:, 1:])
        result: list[Block] = []
        first = 0
        for index in range(count):
            start, stop = index * rows, min((index + 1) * rows, self.out_count)
            pairs = slice(first, first + sum(sizes[index]))
            bound = bounds[index, : stop - start + 1]
            result.append(Block(start, stop, in_rows[pairs], sizes[index], by_row[pairs] - first, bound))
            first = pairs.stop
        return result
