"""Kernel maps on the GPU: one kernel that searches for all offsets of all voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mdkt_ros.sparse.kernel_map import KernelMap
from mdkt_ros.sparse.level import Level
from mdkt_ros.sparse.torch_maps import TorchMaps
from mdkt_ros.sparse.triton_backend.loading import Kernels
from mdkt_ros.sparse.triton_backend.tiling import MAX_MAPS, MAX_OFFSETS, TILING, MapStack, Segment, device_of

_BLOCK = 256


class TritonMaps(TorchMaps):
    """The maps of `TorchMaps`, searched for in one launch instead of dozens, and without waiting for the device.

    Levels are made as there. That has to wait: for the box around the voxels, for whether they are in order, and for
    how many the next level has. On the CPU, outside of the interpreter, all is as there.
    """

    def __init__(self, kernels: Kernels):
        self._kernels = kernels

    def submanifold(self, level: Level) -> KernelMap:
        if not self._computes(level):
            return super().submanifold(level)
        return KernelMap(len(level), len(level), table=self._search(level, level.keys, own=True), symmetric=True)

    def strided(self, level: Level, coarse: Level) -> KernelMap:
        if not self._computes(level):
            return super().strided(level, coarse)
        centres = coarse.coordinates.to(torch.int64)
        centres[:, 1:] *= 2
        return KernelMap(len(level), len(coarse), table=self._search(level, level.frame.keys(centres), own=False))

    def arrange(self, maps: Sequence[KernelMap]) -> None:
        """Bring maps into the order of tiles, all in the launches that one would take."""
        wanted = [
            kernel_map
            for kernel_map in dict.fromkeys(maps)
            if not kernel_map.identity and kernel_map.offsets <= MAX_OFFSETS and TILING not in kernel_map.kept
        ]
        for first in range(0, len(wanted), MAX_MAPS):
            self._arrange(wanted[first : first + MAX_MAPS])

    def _arrange(self, maps: Sequence[KernelMap]) -> None:
        device = maps[0].table.device
        if not (device.type == "cuda" or self._kernels.INTERPRETED):
            return
        with torch.inference_mode(False), torch.no_grad():
            stack = MapStack([Segment(each.out_count, each.offsets) for each in maps], device, self._kernels)
            stack.tables = torch.cat([each.table.reshape(-1) for each in maps])
            stack.sort(torch.tensor([each.out_count for each in maps], dtype=torch.int32).to(device, non_blocking=True))
            for number, each in enumerate(maps):
                each.kept[TILING] = stack.tiling(number)

    def _computes(self, level: Level) -> bool:
        return level.keys.is_cuda or bool(self._kernels.INTERPRETED)

    def _search(self, level: Level, centres: torch.Tensor, *, own: bool) -> torch.Tensor:
        """(27, Q) int32 rows of the voxels that a 3^3 kernel meets at each of (Q,) int64 keys."""
        table = torch.empty((27, len(centres)), dtype=torch.int32, device=centres.device)
        if len(centres) == 0:
            return table
        with device_of(table):
            self._kernels.find_neighbours[(-(-len(centres) // _BLOCK), 9)](
                level.keys,
                level.keys if level.order is None else level.order,
                centres,
                table,
                len(level),
                len(centres),
                len(level).bit_length(),
                level.frame.offset(1, 0, 0),
                level.frame.offset(0, 1, 0),
                BLOCK=_BLOCK,
                HAS_ORDER=level.order is not None,
                OWN=own,
            )
        return table
