"""How many pairs and output channels a micro-kernel takes at once, and the weights laid out for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mdkt_ros.sparse.native.ir import Machine

_POINTERS = 12
"""Rows of a tile at most: each needs an address register, and x86 has sixteen."""


@dataclass(frozen=True)
class Tile:
    """Columns of the output that are computed side by side.

    Attributes:
        first: first column.
        columns: columns that there are.
        vectors: registers that hold them.
        rows: pairs at a time; their sums fit the registers, with the weights of a step and one value beside them.
    """

    first: int
    columns: int
    vectors: int
    rows: int


def tiles(machine: Machine, columns: int) -> tuple[Tile, ...]:
    """`columns` output channels in tiles of nearly equal width."""
    vectors = -(-columns // machine.lanes)
    count = -(-vectors // (4 if machine.registers >= 32 else 2))
    result, first = [], 0
    for index in range(count):
        wide = vectors // count + (index < vectors % count)
        rows = min((machine.registers - wide - 1) // wide, _POINTERS)
        there = min(wide * machine.lanes, columns - first)
        result.append(Tile(first, there, wide, rows))
        first += there
    return tuple(result)


def packed_size(machine: Machine, inputs: int, outputs: int) -> int:
    """Weights of one offset, in float32 values, as `pack` lays them out."""
    return inputs * sum(tile.vectors * machine.lanes for tile in tiles(machine, outputs))


def pack(machine: Machine, kernel: torch.Tensor) -> torch.Tensor:
    """A (K, Cin, Cout) kernel tile after tile, each (K, Cin, vectors * lanes) with zeros behind its last column.

    A tile's weights of one offset then lie side by side and stay in the first cache; in the kernel's own layout rows of
    128 channels would push one another out.
    """
    volume, inputs, outputs = kernel.shape
    result = kernel.new_empty(volume * packed_size(machine, inputs, outputs))
    begin = 0
    for tile in tiles(machine, outputs):
        wide = tile.vectors * machine.lanes
        panel = result[begin : begin + volume * inputs * wide].view(volume, inputs, wide)
        panel[:, :, : tile.columns] = kernel[:, :, tile.first : tile.first + tile.columns]
        panel[:, :, tile.columns :] = 0
        begin += panel.numel()
    return result
