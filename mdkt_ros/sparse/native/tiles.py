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


def step_width(machine: Machine, outputs: int) -> int:
    """float32 values in the registers of all tiles of a row."""
    return machine.lanes * sum(tile.vectors for tile in tiles(machine, outputs))


def pack(machine: Machine, kernel: torch.Tensor, channels: int = 1) -> torch.Tensor:
    """A (K, Cin, Cout) kernel tile after tile, each (K, Cin / channels, vectors * lanes, channels) with zeros.

    A tile's weights of one offset then lie side by side and stay in the first cache; in the kernel's own layout rows of
    128 channels would push one another out.

    Args:
        channels: input channels of a step, which lie side by side.
    """
    volume, inputs, outputs = kernel.shape
    steps = -(-inputs // channels)
    result = kernel.new_zeros(volume * steps * channels * step_width(machine, outputs))
    begin = 0
    for tile in tiles(machine, outputs):
        wide = tile.vectors * machine.lanes
        panel = result[begin : begin + volume * steps * wide * channels].view(volume, steps, wide, channels)
        for channel in range(channels):
            mine = kernel[:, channel::channels, tile.first : tile.first + tile.columns]
            panel[:, : mine.shape[1], : tile.columns, channel] = mine
        begin += panel.numel()
    return result
