"""Voxels of one stride, searchable: a sorted table of keys in which three neighbours along z cost one binary search."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from mdkt_ros.errors import SparseError

_KEY_LIMIT = 2**62
"""Keys stay below this, so that a key plus any kernel offset fits int64."""


def _search(keys: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """(Q,) int32: number of keys below each wanted one."""
    if keys.device.type == "cpu":  # NumPy goes on from the last place found: twice as fast where the wanted ascend too
        return torch.from_numpy(np.searchsorted(keys.numpy(), wanted.numpy()).astype(np.int32))
    return torch.searchsorted(keys, wanted, out_int32=True)


class KeyFrame:
    """Packs coordinates into int64 keys: a box around all voxels with a margin, so that no neighbour wraps around.

    Keys order voxels by batch, x, y, z.

    Raises:
        SparseError: the box is too large for 64 bits.
    """

    def __init__(self, low: Sequence[int], high: Sequence[int]):
        """The box from `low` to `high`, both [batch, x, y, z] and within."""
        (b0, x0, y0, z0), (b1, x1, y1, z1) = low, high
        # A strided 3^3 kernel asks for voxels up to two below the lowest and one above the highest.
        self._box = (low, high)
        self.low = (b0, x0 - 2, y0 - 2, z0 - 2)
        self.spans: tuple[int, int, int] = (x1 - x0 + 5, y1 - y0 + 5, z1 - z0 + 5)
        scans = b1 - b0 + 1
        self.size = scans * self.spans[0] * self.spans[1] * self.spans[2]
        """Keys are below this."""
        if self.size > _KEY_LIMIT:
            raise SparseError(
                f"coordinates: {scans} scans spread over {x1 - x0 + 1} x {y1 - y0 + 1} x {z1 - z0 + 1} voxels, too far "
                "for 64-bit keys; crop the scan or take larger voxels"
            )

    @classmethod
    def around(cls, coordinates: torch.Tensor) -> KeyFrame:
        """The frame of (V, 4) coordinates."""
        if len(coordinates) == 0:
            return cls((0, 0, 0, 0), (0, 0, 0, 0))
        low, high = torch.stack(torch.aminmax(coordinates, dim=0)).tolist()
        return cls(low, high)

    def halved(self) -> KeyFrame:
        """The frame of the next level."""
        low, high = ([batch, *(value >> 1 for value in axes)] for batch, *axes in self._box)
        return KeyFrame(low, high)

    def offset(self, dx: int, dy: int, dz: int) -> int:
        """What a step of (dx, dy, dz) voxels adds to a key."""
        step: int = (dx * self.spans[1] + dy) * self.spans[2] + dz
        return step

    def keys(self, coordinates: torch.Tensor) -> torch.Tensor:
        """(V,) int64 keys of (V, 4) coordinates."""
        key: torch.Tensor = coordinates[:, 0].to(torch.int64) - self.low[0]
        for axis in range(3):
            key = key * self.spans[axis] + (coordinates[:, axis + 1].to(torch.int64) - self.low[axis + 1])
        return key


class Level:
    """A sorted table of the voxels of one stride.

    Attributes:
        coordinates: (V, 4) int32, in the caller's order.
        frame: what makes the keys.
        keys: (V,) int64, ascending.
        order: (V,) int64 row of each key in the caller's order; None where that is the order of the keys.

    Raises:
        SparseError: a voxel occurs twice.
    """

    def __init__(
        self, coordinates: torch.Tensor, frame: KeyFrame, keys: torch.Tensor | None = None, *, ascending: bool = False
    ):
        """`keys`: those of the coordinates, where they are known; `ascending`: that they ascend is known, too."""
        self.coordinates = coordinates
        self.frame = frame
        self.keys = frame.keys(coordinates) if keys is None else keys
        self.order: torch.Tensor | None = None
        if not ascending and not bool((self.keys[1:] > self.keys[:-1]).all()):
            self.keys, self.order = torch.sort(self.keys)
            repeated = int((self.keys[1:] == self.keys[:-1]).sum())
            if repeated:
                raise SparseError(f"coordinates: {repeated} of {len(self.keys)} rows repeat another; voxels are unique")

    @cached_property
    def _guarded(self) -> torch.Tensor:
        return torch.cat([self.keys, self.keys.new_full((3,), torch.iinfo(torch.int64).max)])

    def __len__(self) -> int:
        return len(self.keys)

    def positions(self) -> torch.Tensor:
        """(V,) int32: 0, 1, 2, ..."""
        return torch.arange(len(self), dtype=torch.int32, device=self.keys.device)

    def find_columns(self, first: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where keys first, first + 1 and first + 2 are in the table: (Q,) int32 positions each, -1 where none is.

        Keys that differ by one are neighbours in the table too, so a search for the first leads to all three.
        """
        position = _search(self.keys, first)
        hit0 = self._guarded.index_select(0, position) == first
        next_position = position + hit0
        hit1 = self._guarded.index_select(0, next_position) == first + 1
        last_position = next_position + hit1
        hit2 = self._guarded.index_select(0, last_position) == first + 2
        return (
            torch.where(hit0, position, -1),
            torch.where(hit1, next_position, -1),
            torch.where(hit2, last_position, -1),
        )

    def find_next(self) -> torch.Tensor:
        """Position of each voxel's upper neighbour along z: (V,) int32, -1 where there is none."""
        hit = self._guarded[1 : len(self) + 1] == self.keys + 1
        return torch.where(hit, self.positions() + 1, -1)
