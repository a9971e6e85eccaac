"""The pairs of every offset without gaps, for the gradient of the kernel: it sums over pairs, not over rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mdkt_ros.sparse.kernel_map import KernelMap


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of each of the K offsets, output rows ascending.

    Their numbers stay on the device: asking for them would stop the host until it has caught up. So every offset has
    room for as many pairs as there can be.

    Attributes:
        in_rows, out_rows: (K, capacity) int32, an offset's pairs first; what follows them is not to be read.
        counts: (K,) int32 pairs of each offset.
    """

    in_rows: torch.Tensor
    out_rows: torch.Tensor
    counts: torch.Tensor

    @classmethod
    def of(cls, kernel_map: KernelMap) -> Pairs:
        table = kernel_map.table
        hit = table >= 0
        number = hit.cumsum(dim=1, dtype=torch.int32)
        # Misses all go to the place after the last, which belongs to no pair.
        place = torch.where(hit, number - 1, kernel_map.out_count).to(torch.int64)
        rows = torch.arange(kernel_map.out_count, dtype=torch.int32, device=table.device).expand_as(table)
        room = table.new_zeros((2, len(table), kernel_map.out_count + 1))
        room[0].scatter_(1, place, table)
        room[1].scatter_(1, place, rows)
        return cls(room[0], room[1], hit.sum(dim=1, dtype=torch.int32))
