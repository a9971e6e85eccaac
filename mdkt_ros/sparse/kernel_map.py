"""A kernel map: which input row meets which output row under every offset of a convolution kernel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch


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
    """Input row of every output row under every offset.

    Attributes:
        table: (K, out_count) int32 input row, -1 where there is no voxel. Within an offset no input row occurs twice.
        in_count: rows of the input.
        symmetric: whether offsets k and K - 1 - k mirror each other, as in a submanifold convolution: the transposed
            map is then the same one with the offsets in reverse.
    """

    def __init__(self, table: torch.Tensor, in_count: int, *, symmetric: bool = False):
        self.table = table
        self.in_count = in_count
        self.symmetric = symmetric
        self._blocks: dict[int, tuple[Block, ...]] = {}

    @property
    def out_count(self) -> int:
        """Rows of the output."""
        return self.table.shape[1]

    @cached_property
    def pairs(self) -> int:
        """Pairs of all offsets: rows that are multiplied by a (Cin, Cout) matrix."""
        return int(torch.count_nonzero(self.table >= 0))

    @cached_property
    def reversed(self) -> KernelMap:
        """The map of the transposed convolution: inputs and outputs change places, offset by offset."""
        if self.symmetric:
            return KernelMap(self.table.flip(0), self.in_count, symmetric=True)
        hit = flat_nonzero(self.table >= 0)
        offset = torch.div(hit, max(self.out_count, 1), rounding_mode="floor")
        rows = self.table.view(-1).index_select(0, hit)
        table = self.table.new_full((len(self.table), self.in_count), -1)
        table.view(-1)[offset * self.in_count + rows] = (hit - offset * self.out_count).to(table.dtype)
        return KernelMap(table, self.out_count)

    def blocks(self, rows: int) -> tuple[Block, ...]:
        """The map in blocks of about `rows` output rows; kept for the next call.

        A block's pairs fit a cache where the whole map's do not. No blocks where the output has no rows.
        """
        count = -(-self.out_count // max(rows, 1))
        if count not in self._blocks:
            with torch.inference_mode(False), torch.no_grad():
                self._blocks[count] = tuple(self._build_blocks(count)) if count else ()
        return self._blocks[count]

    def _build_blocks(self, count: int) -> list[Block]:
        offsets = len(self.table)
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


def flat_nonzero(mask: torch.Tensor) -> torch.Tensor:
    """(P,) int64 places of the true values in the row-major order of `mask`."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))  # several times as fast as torch's own
    return mask.reshape(-1).nonzero().view(-1)
