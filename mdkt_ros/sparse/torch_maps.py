"""Levels and kernel maps in plain PyTorch, on any device, by sorting and binary search. What others must equal."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mdkt_ros.sparse.kernel_map import KernelMap
from mdkt_ros.sparse.level import KeyFrame, Level


def offset_index(dx: int, dy: int, dz: int) -> int:
    """Index of an offset of the 3^3 kernel."""
    return (dx + 1) + 3 * (dy + 1) + 9 * (dz + 1)


class TorchMaps:
    """The `MapBuilder` that runs everywhere."""

    def level(self, coordinates: torch.Tensor) -> Level:
        return Level(coordinates, KeyFrame.around(coordinates))

    def coarser(self, level: Level) -> tuple[Level, torch.Tensor]:
        halved = level.coordinates.clone()
        halved[:, 1:] >>= 1  # an arithmetic shift rounds down, negative coordinates too
        frame = KeyFrame.around(halved)
        keys, parents = torch.unique(frame.keys(halved), return_inverse=True)
        coarse = halved.new_empty((len(keys), 4))
        coarse[parents] = halved  # several children write the same row, with the same values
        return Level(coarse, frame, keys, ascending=True), parents

    def submanifold(self, level: Level) -> KernelMap:
        """Only half of the offsets are searched: where i finds j under an offset, j finds i under its mirror image."""
        count, positions = len(level), level.positions()
        table = torch.empty((27, count), dtype=torch.int32, device=level.keys.device)
        table[offset_index(0, 0, 0)] = positions
        found = {offset_index(0, 0, 1): level.find_next()}
        for dx, dy in ((1, 0), (-1, 1), (0, 1), (1, 1)):
            columns = level.find_columns(level.keys + level.frame.offset(dx, dy, -1))
            found.update({offset_index(dx, dy, dz): columns[dz + 1] for dz in (-1, 0, 1)})
        for offset, position in found.items():
            table[offset] = position
            mirrored = torch.full((count + 1,), -1, dtype=torch.int32, device=table.device)
            mirrored.scatter_(0, torch.where(position >= 0, position, count).to(torch.int64), positions)  # misses last
            table[26 - offset] = mirrored[:count]
        table = _to_rows(table, level)
        if level.order is not None:
            table = torch.empty_like(table).index_copy_(1, level.order, table)
        return KernelMap(count, count, table=table, symmetric=True)

    def strided(self, level: Level, coarse: Level) -> KernelMap:
        centre = coarse.coordinates.to(torch.int64)
        centre[:, 1:] *= 2
        keys = level.frame.keys(centre)
        table = torch.empty((27, len(coarse)), dtype=torch.int32, device=level.keys.device)
        for dx in (-1, 0, 1):
            for dy in (-1, 0, 1):
                columns = level.find_columns(keys + level.frame.offset(dx, dy, -1))
                for dz in (-1, 0, 1):
                    table[offset_index(dx, dy, dz)] = columns[dz + 1]
        return KernelMap(len(level), len(coarse), table=_to_rows(table, level))

    def transposed(self, level: Level, coarse: Level, parents: torch.Tensor) -> KernelMap:
        coordinates = level.coordinates
        odd = (coordinates[:, 1:] & 1).to(torch.int64)
        offset = 4 * odd[:, 0] + 2 * odd[:, 1] + odd[:, 2]
        table = torch.full((8, len(coordinates)), -1, dtype=torch.int32, device=coordinates.device)
        table.scatter_(0, offset[None], parents[None].to(torch.int32))
        return KernelMap(len(coarse), len(coordinates), table=table)

    def arrange(self, maps: Sequence[KernelMap]) -> None:
        """Nothing: blocks depend on the channels, too."""


def _to_rows(table: torch.Tensor, level: Level) -> torch.Tensor:
    """From positions in a level's sorted table to rows in the caller's order."""
    if level.order is None:
        return table
    guarded = torch.cat([level.order.to(torch.int32), level.order.new_full((1,), -1, dtype=torch.int32)])
    return guarded[table.long()]  # -1 takes the last
