"""Levels and kernel maps on the CPU, by merging sorted lists instead of searching them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mdkt_ros.sparse.kernel_map import KernelMap
from mdkt_ros.sparse.level import KeyFrame, Level
from mdkt_ros.sparse.native import loops
from mdkt_ros.sparse.pair_lists import PairLists
from mdkt_ros.sparse.torch_maps import TorchMaps, offset_index

_UP = (-1, 0, 1)
_HALF = ((1, 0), (-1, 1), (0, 1), (1, 1))
"""Steps (dx, dy) to the neighbours that are looked for; their mirror images are found with them."""
_WHOLE = tuple((dx, dy) for dx in _UP for dy in _UP)

_FOUND = np.array([offset_index(dx, dy, dz) for dx, dy in _HALF for dz in _UP] + [offset_index(0, 0, 1)])
_ALL = np.array([offset_index(dx, dy, dz) for dx, dy in _WHOLE for dz in _UP])


class NativeMaps:
    """The `MapBuilder` of the engine `native`. A level that is not sorted goes to PyTorch's builder."""

    def __init__(self) -> None:
        self._torch = TorchMaps()

    def level(self, coordinates: torch.Tensor) -> Level:
        if len(coordinates) == 0:
            return self._torch.level(coordinates)
        extent = loops.extent(coordinates.numpy()).tolist()
        frame = KeyFrame(extent[:4], extent[4:])
        keys, ascending = _keys(coordinates, 0, frame)
        return Level(coordinates, frame, keys, ascending=ascending)

    def coarser(self, level: Level) -> tuple[Level, torch.Tensor]:
        coordinates = level.coordinates
        count = len(level)
        bits = count.bit_length()
        if count == 0 or level.frame.size.bit_length() + bits > 63:
            return self._torch.coarser(level)
        frame = level.frame.halved()
        keys = _keys(coordinates, 1, frame)[0].numpy()
        # The row rides in the low bits.
        ordered = loops.sort_above((keys << bits) | np.arange(count), bits, bits + frame.size.bit_length())
        coarse, parents = torch.empty_like(coordinates), torch.empty(count, dtype=torch.int64)
        found = loops.number_runs(ordered, bits, coordinates.numpy(), parents.numpy(), keys, coarse.numpy())
        return Level(coarse[:found], frame, torch.from_numpy(keys[:found]), ascending=True), parents

    def submanifold(self, level: Level) -> KernelMap:
        if level.order is not None:
            return self._torch.submanifold(level)
        count = len(level)
        steps = np.array([level.frame.offset(dx, dy, -1) for dx, dy in _HALF], dtype=np.int64)
        columns = torch.empty((27, count), dtype=torch.int32)
        written = columns.numpy()
        written[26] = np.arange(count)
        found = np.empty(13, dtype=np.int64)
        keys = level.keys.numpy()
        loops.merge_columns(keys, keys, steps, written[13:25], written[:12], found[:12])
        found[12] = loops.find_above(keys, written[25], written[12])
        in_column, out_column, counts = np.full(27, 26), np.full(27, 26), np.full(27, count)
        in_column[_FOUND], out_column[_FOUND], counts[_FOUND] = np.arange(13, 26), np.arange(13), found
        in_column[26 - _FOUND], out_column[26 - _FOUND], counts[26 - _FOUND] = np.arange(13), np.arange(13, 26), found
        lists = PairLists(columns, in_column, out_column, counts)
        return KernelMap(count, count, lists=lists, symmetric=True, monotone=True)

    def strided(self, level: Level, coarse: Level) -> KernelMap:
        if level.order is not None:
            return self._torch.strided(level, coarse)
        wanted = coarse.coordinates.clone()
        wanted[:, 1:] *= 2
        steps = np.array([level.frame.offset(dx, dy, -1) for dx, dy in _WHOLE], dtype=np.int64)
        columns = torch.empty((54, len(coarse)), dtype=torch.int32)
        written, found = columns.numpy(), np.empty(27, dtype=np.int64)
        keys = _keys(wanted, 0, level.frame)[0].numpy()
        loops.merge_columns(level.keys.numpy(), keys, steps, written[:27], written[27:], found)
        in_column, counts = np.empty((2, 27), dtype=np.int64)
        in_column[_ALL], counts[_ALL] = np.arange(27), found
        lists = PairLists(columns, in_column, in_column + 27, counts)
        return KernelMap(len(level), len(coarse), lists=lists, monotone=True)

    def transposed(self, level: Level, coarse: Level, parents: torch.Tensor) -> KernelMap:
        if level.order is not None:
            return self._torch.transposed(level, coarse, parents)
        columns = torch.empty((16, len(level)), dtype=torch.int32)
        written, counts = columns.numpy(), np.empty(8, dtype=np.int64)
        loops.split_by_place(level.coordinates.numpy(), parents.numpy(), written[:8], written[8:], counts)
        lists = PairLists(columns, np.arange(8), np.arange(8, 16), counts)
        return KernelMap(len(coarse), len(level), lists=lists, monotone=True)

    def arrange(self, maps: Sequence[KernelMap]) -> None:
        """Nothing: pieces depend on the channels, too."""


def _keys(coordinates: torch.Tensor, shift: int, frame: KeyFrame) -> tuple[torch.Tensor, bool]:
    """Keys (V,) of the coordinates shifted right, and whether they ascend."""
    keys = torch.empty(len(coordinates), dtype=torch.int64)
    low, spans = np.array(frame.low, dtype=np.int64), np.array(frame.spans, dtype=np.int64)
    return keys, loops.pack_keys(coordinates.numpy(), shift, low, spans, keys.numpy())
