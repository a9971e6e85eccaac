"""The pairs of a kernel map as lists, one for each offset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch


@dataclass(frozen=True, eq=False)
class PairLists:
    """Rows that meet, offset after offset; output rows ascend within a list.

    Lists share one buffer, in which the mirror image of an offset needs no list of its own: it reads the same two
    columns the other way round.

    Attributes:
        columns: (R, capacity) int32, lists of rows.
        in_column, out_column: (K,) int64, which of them are the input and output rows of each offset.
        counts: (K,) int64 pairs of each offset; what lies behind them in a column means nothing.
    """

    columns: torch.Tensor
    in_column: npt.NDArray[np.int64]
    out_column: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    @classmethod
    def of_table(cls, table: torch.Tensor) -> PairLists:
        """Lists of a (K, out_count) table, see `KernelMap.table`."""
        there = [flat_nonzero(row >= 0) for row in table]
        counts = np.array([len(rows) for rows in there], dtype=np.int64)
        offsets = len(table)
        columns = table.new_empty((2 * offsets, int(counts.max(initial=0))))
        for offset, rows in enumerate(there):
            columns[offset, : len(rows)] = table[offset].index_select(0, rows)
            columns[offsets + offset, : len(rows)] = rows
        return cls(columns, np.arange(offsets), offsets + np.arange(offsets), counts)

    def table(self, out_count: int) -> torch.Tensor:
        """(K, out_count) int32 input rows, -1 where an output row has no pair."""
        table = self.columns.new_full((len(self), out_count), -1)
        for offset, row in enumerate(table):
            in_rows, out_rows = self[offset]
            row[out_rows.long()] = in_rows
        return table

    def swapped(self) -> PairLists:
        """Inputs and outputs change places, offset by offset; for lists whose input rows ascend, too."""
        return PairLists(self.columns, self.out_column, self.in_column, self.counts)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, offset: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(P,) int32 input rows and output rows of an offset."""
        count = int(self.counts[offset])
        return self.columns[self.in_column[offset], :count], self.columns[self.out_column[offset], :count]


def flat_nonzero(mask: torch.Tensor) -> torch.Tensor:
    """(P,) int64 places of the true values in the row-major order of `mask`."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))  # several times as fast as torch's own
    return mask.reshape(-1).nonzero().view(-1)
