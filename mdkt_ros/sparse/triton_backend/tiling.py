"""Output rows in an order in which tiles of them miss the same offsets, so that a tile skips what it misses.

As in spconv 2 and TorchSparse++ (Tang et al., MICRO 2023): each row's neighbours are bits of a number, and rows are
sorted by it; here by its place in the sequence of Gray codes, so that patterns that follow each other differ in few
bits. For a made-up scan of 64 beams (`bench.spinning_scan`) in voxels of 5 cm, a submanifold convolution in tiles of 64
rows makes 1.4 products for every pair that there is: 1.5 if sorted by the number itself, 3.5 if rows are left in the
order of their coordinates, 6.2 if nothing is skipped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from mdkt_ros.sparse.kernel_map import KernelMap

ROW_MULTIPLE = 128
"""Tiles have a number of rows that divides this."""
MAX_OFFSETS = 31
"""As many as an int32 has bits besides its sign."""
_PER_WORD, _WORDS = 12, 3
"""Numbers of 5 bits in an int64, and words for 31 of them and a last that is 0."""


@dataclass(frozen=True, eq=False)
class TileOffsets:
    """The offsets under which at least one row of a tile has a neighbour.

    Attributes:
        packed: (tiles, 3) int64, numbers of 5 bits, 12 in a word from the lowest bits on: a tile's offsets, ascending,
            then zeros. A program keeps them in registers.
        counts: (tiles,) int32 offsets of each tile.
    """

    packed: torch.Tensor
    counts: torch.Tensor


@dataclass(frozen=True, eq=False)
class Tiling:
    """A kernel map in the order of its tiles.

    Attributes:
        rows: (slots,) int32 output row of each slot, -1 in the last ones, which fill up the last tile.
        table: (K, slots) int32 input row of each slot under each offset, -1 where there is none.
    """

    rows: torch.Tensor
    table: torch.Tensor
    _offsets: dict[int, TileOffsets] = field(default_factory=dict)

    @classmethod
    def of(cls, kernel_map: KernelMap) -> Tiling:
        """Sorts on the map's device and never waits for it: every shape follows from the map's."""
        table = kernel_map.table
        bits = torch.arange(len(table), dtype=torch.int32, device=table.device)
        pattern = ((table >= 0).to(torch.int32) << bits[:, None]).sum(dim=0, dtype=torch.int32)
        for shift in (1, 2, 4, 8, 16):
            pattern ^= pattern >> shift  # from a Gray code to its place in the sequence
        order = torch.sort(pattern, stable=True).indices
        missing = -kernel_map.out_count % ROW_MULTIPLE
        rows = torch.nn.functional.pad(order.to(torch.int32), (0, missing), value=-1)
        return cls(rows, torch.nn.functional.pad(table.index_select(1, order), (0, missing), value=-1))

    def offsets(self, tile_rows: int) -> TileOffsets:
        """The offsets of tiles of so many rows; kept for the next call."""
        if tile_rows not in self._offsets:
            with torch.inference_mode(False), torch.no_grad():
                hit = (self.table >= 0).view(len(self.table), -1, tile_rows).any(dim=2).t().contiguous()
                counts = hit.sum(dim=1, dtype=torch.int32)
                # A stable sort by "misses" brings the hits to the front, in their order.
                offsets = torch.sort((~hit).to(torch.uint8), dim=1, stable=True).indices
                places = torch.arange(len(self.table), device=offsets.device)
                offsets = torch.where(places < counts[:, None], offsets, 0)
                offsets = torch.nn.functional.pad(offsets, (0, _PER_WORD * _WORDS - len(self.table)))
                shifts = 5 * torch.arange(_PER_WORD, device=offsets.device)
                packed = (offsets.view(-1, _WORDS, _PER_WORD) << shifts).sum(dim=2)
                self._offsets[tile_rows] = TileOffsets(packed, counts)
        return self._offsets[tile_rows]
