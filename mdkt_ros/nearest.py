"""The nearest of some voxels, for voxels that were left out: how a subsampled scan's labels reach all of its points."""

from __future__ import annotations

import itertools

import torch

# The cell itself, then faces, edges, corners: nearest first.
_NEIGHBOURS = sorted(itertools.product((-1, 0, 1), repeat=3), key=lambda step: sum(v * v for v in step))


def nearest_voxel(query: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Row (Q,) int64 of the voxel of `target` (T, 3) that is nearest to each voxel of `query` (Q, 3); T >= 1.

    Coordinates are non-negative integers below 2**20. Exact where a target is among the 27 neighbours; beyond, the grid
    is coarsened by two until one is, and the first target of the nearest coarse cell is taken. Runs on any device.
    """
    result = torch.zeros(len(query), dtype=torch.int64, device=query.device)
    pending = torch.arange(len(query), device=query.device)
    query, target = query.long(), target.long()
    while len(pending):
        # One cell of margin on each side, so that no neighbour wraps around to another row of the grid.
        spans = (torch.maximum(query.amax(dim=0), target.amax(dim=0)) + 3).tolist()
        keys, rows = torch.sort(_key(target + 1, spans), stable=True)
        own = _key(query + 1, spans)
        for dx, dy, dz in _NEIGHBOURS:
            wanted = own + (dx * spans[1] + dy) * spans[2] + dz
            position = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
            hit = keys[position] == wanted
            result[pending[hit]] = rows[position[hit]]
            pending, own, query = pending[~hit], own[~hit], query[~hit]
        query, target = query >> 1, target >> 1
    return result


def _key(cells: torch.Tensor, spans: list[int]) -> torch.Tensor:
    return (cells[:, 0] * spans[1] + cells[:, 1]) * spans[2] + cells[:, 2]
