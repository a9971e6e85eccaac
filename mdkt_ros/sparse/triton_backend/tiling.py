"""Output rows in an order in which tiles of them miss the same offsets, so that a tile skips what it misses.

As in spconv 2 and TorchSparse++ (Tang et al., MICRO 2023): each row's neighbours are bits of a number, and rows are
sorted by it; here by its place in the sequence of Gray codes, so that patterns that follow each other differ in few
bits. For a made-up scan of 64 beams (`bench.spinning_scan`) in voxels of 5 cm, a submanifold convolution in tiles of 64
rows makes 1.4 products for every pair that there is: 1.5 if sorted by the number itself, 3.5 if rows are left in the
order of their coordinates, 6.2 if nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from mdkt_ros.sparse.kernel_map import KernelMap
from mdkt_ros.sparse.triton_backend.loading import Kernels

ROW_MULTIPLE = 128
"""Tiles have a number of rows that divides this."""
MAX_OFFSETS = 27
"""As many as a sort key has bits beside the number of the map."""
MAX_MAPS = 16
"""Maps that are sorted together."""
TILING = "triton tiling"
"""What a kernel map keeps its `Tiling` under."""
_WORDS = 3
"""Words of 12 numbers of 5 bits, for 27 of them and one more that a loop may look at."""
_TILES = 64
"""Tiles of a program that packs offsets."""


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
    _all: _Tiles
    _first: int = 0

    @classmethod
    def of(cls, kernel_map: KernelMap, kernels: Kernels) -> Tiling:
        """Sorts on the map's device and never waits for it: every shape follows from the map's."""
        table = kernel_map.table.contiguous()
        stack = MapStack([Segment(kernel_map.out_count, len(table))], table.device, kernels)
        stack.tables = table.view(-1)
        stack.sort(torch.full((1,), kernel_map.out_count, dtype=torch.int32, device=table.device))
        return stack.tiling(0)

    def offsets(self, tile_rows: int) -> TileOffsets:
        """The offsets of tiles of so many rows; kept for the next call."""
        whole = self._all.offsets(tile_rows)
        first, count = self._first // tile_rows, len(self.rows) // tile_rows
        return TileOffsets(whole.packed[first : first + count], whole.counts[first : first + count])


@dataclass(eq=False)
class _Tiles:
    """Tiles of all maps of a stack."""

    keys: torch.Tensor
    kernels: Kernels
    found: dict[int, TileOffsets] = field(default_factory=dict)

    def offsets(self, tile_rows: int) -> TileOffsets:
        if tile_rows not in self.found:
            with torch.inference_mode(False), torch.no_grad():
                tiles = len(self.keys) // tile_rows
                packed = self.keys.new_empty((tiles, _WORDS), dtype=torch.int64)
                self.found[tile_rows] = TileOffsets(packed, self.keys.new_empty(tiles))
                self.pack(tile_rows)
        return self.found[tile_rows]

    def pack(self, tile_rows: int) -> None:
        into = self.found[tile_rows]
        tiles = len(into.counts)
        if tiles:
            with device_of(self.keys):
                self.kernels.pack_offsets[(-(-tiles // _TILES),)](
                    self.keys, into.packed, into.counts, tiles, ROWS=tile_rows, BLOCK=_TILES
                )


@dataclass(frozen=True)
class Segment:
    """A map of a stack: the output rows that it has room for and its offsets."""

    rows: int
    offsets: int

    @property
    def slots(self) -> int:
        return -(-self.rows // ROW_MULTIPLE) * ROW_MULTIPLE


class MapStack:
    """Kernel maps one after the other in the same memory, which are sorted together.

    Attributes:
        tables: int32, the (offsets, rows) tables one after the other; what fills them comes before `sort`.
    """

    def __init__(self, segments: Sequence[Segment], device: torch.device, kernels: Kernels):
        self.segments = tuple(segments)
        if len(self.segments) > MAX_MAPS:
            raise ValueError(f"{len(self.segments)} maps are more than {MAX_MAPS}")
        self._kernels = kernels
        layout, blocks = [], []
        slot = source = target = 0
        for number, segment in enumerate(self.segments):
            layout.append((slot, segment.slots, segment.offsets, source, segment.rows, target))
            blocks += [number] * (segment.slots // ROW_MULTIPLE)
            slot += segment.slots
            source += segment.offsets * segment.rows
            target += segment.offsets * segment.slots
        self._layout = torch.tensor(layout, dtype=torch.int32).to(device, non_blocking=True)
        self._blocks = torch.tensor(blocks, dtype=torch.int32).to(device, non_blocking=True)
        self._places = layout
        self._sizes = slot, source, target
        self.tables = self._layout.new_empty(0)
        self._rows = self._layout.new_empty(slot)
        self._tiled = self._layout.new_empty(target)
        self._tiles = _Tiles(self._layout.new_empty(slot), kernels)

    def allocate(self) -> None:
        """Memory for the tables, every entry -1: no neighbour."""
        self.tables = self._layout.new_full((self._sizes[1],), -1)

    def table(self, number: int) -> torch.Tensor:
        """(offsets, rows) table of a map, a part of `tables`."""
        segment, (*_, source, _, _) = self.segments[number], self._places[number]
        return self.tables[source : source + segment.offsets * segment.rows].view(segment.offsets, segment.rows)

    def place(self, number: int) -> int:
        """Where in `tables` a map's begins."""
        return self._places[number][3]

    def sort(self, valid: torch.Tensor) -> None:
        """Bring all maps into the order of tiles. `valid`: (maps,) int32 output rows that each really has."""
        blocks = len(self._blocks)
        if not blocks:
            return
        tiles = self._tiles
        with device_of(self.tables):
            args = (self.tables, self._layout, valid, self._blocks)
            keys = torch.empty_like(tiles.keys)
            self._kernels.number_patterns[(blocks,)](*args, keys)
            _, order = torch.sort(keys, stable=True, out=(tiles.keys, keys.new_empty(len(keys), dtype=torch.int64)))
            self._kernels.fill_tables[(blocks,)](*args, order, self._rows, self._tiled)
        for tile_rows in tiles.found:
            tiles.pack(tile_rows)

    def tiling(self, number: int) -> Tiling:
        """A map in the order of tiles; what the next `sort` finds is written to the same memory."""
        segment = self.segments[number]
        slot, slots, offsets, _, _, target = self._places[number]
        table = self._tiled[target : target + offsets * slots].view(offsets, slots)
        return Tiling(self._rows[slot : slot + segment.slots], table, self._tiles, slot)


def device_of(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, whatever device its arguments are on."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
