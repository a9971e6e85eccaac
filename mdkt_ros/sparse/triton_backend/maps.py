"""Tables of kernel maps made on the GPU without waiting for it: a sort, then one kernel that searches.

`KernelMaps` asks the device for the box around the voxels and for what repeats, and waits for both answers. Here the
box stays on the device, and so does the answer whether the voxels are sound. The numbering of offsets is that of
`mdkt_ros.sparse.maps`. What the voxels of the next level are still has to be asked for (`KernelMaps.coordinates`): how
many there are decides the shape of everything that follows.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch

from mdkt_ros.sparse.triton_backend.loading import load

_BLOCK = 256
_KEY_LIMIT = 2.0**62


@dataclass(frozen=True, eq=False)
class VoxelTable:
    """Voxels in the order of their keys.

    Attributes:
        keys: (V,) int64, ascending.
        order: (V,) int32 row of each key in the caller's order.
        low: (4,) int64 the corner of the box that keys are counted from, two below the lowest voxel.
        steps: (4,) int64 what a step along batch, x, y, z adds to a key.
        sound: () bool, on the device: whether no voxel occurs twice and the box fits the keys. Tables mean nothing
            otherwise; reading it waits for the device.
    """

    keys: torch.Tensor
    order: torch.Tensor
    low: torch.Tensor
    steps: torch.Tensor
    sound: torch.Tensor

    @classmethod
    def of(cls, coordinates: torch.Tensor) -> VoxelTable:
        """Of (V, 4) int32 `[batch, x, y, z]` of any sign and order."""
        wide = coordinates.to(torch.int64)
        bounds = wide if len(wide) else wide.new_zeros((1, 4))
        low, high = torch.aminmax(bounds, dim=0)
        margin = torch.arange(4, device=wide.device).clamp(max=1) * 2  # (0, 2, 2, 2), without a copy from the host
        low = low - margin
        spans = high - low + 1 + margin
        steps = torch.ones_like(spans)
        steps[:3] = spans.flip(0).cumprod(0).flip(0)[1:]
        keys, order = torch.sort(((wide - low) * steps).sum(dim=1))
        sound = (keys[1:] > keys[:-1]).all() & (spans.to(torch.float64).prod() <= _KEY_LIMIT)
        return cls(keys, order.to(torch.int32), low, steps, sound)

    def table(self, centres: torch.Tensor, kernel_size: int) -> torch.Tensor:
        """(kernel_size^3, Q) int32 rows of the voxels that a kernel at each of (Q, 4) int64 `centres` meets, or -1.

        Raises:
            ConfigError: Triton is missing.
        """
        table = torch.empty((kernel_size**3, len(centres)), dtype=torch.int32, device=centres.device)
        if table.numel() == 0:
            return table
        keys = ((centres - self.low) * self.steps).sum(dim=1)
        grid = (-(-len(centres) // _BLOCK), kernel_size**2)
        with torch.cuda.device(table.device) if table.is_cuda else nullcontext():
            load().find_neighbours[grid](
                self.keys,
                self.order,
                keys,
                self.steps,
                table,
                len(self.keys),
                len(centres),
                len(self.keys).bit_length(),
                SIZE=kernel_size,
                BLOCK=_BLOCK,
            )
        return table


def submanifold_table(coordinates: torch.Tensor) -> torch.Tensor:
    """(27, V) int32 table of the submanifold 3^3 convolution on (V, 4) int32 voxels, all of them distinct."""
    return VoxelTable.of(coordinates).table(coordinates.to(torch.int64), 3)


def strided_table(coordinates: torch.Tensor, coarse: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """(kernel_size^3, W) int32 table of the convolution of stride 2 from (V, 4) voxels to the (W, 4) `coarse` ones.

    Args:
        coordinates, coarse: int32, all rows of each distinct; a voxel of `coarse` holds at least one of `coordinates`.
        kernel_size: 2 or 3.
    """
    centres = coarse.to(torch.int64)
    centres[:, 1:] *= 2
    return VoxelTable.of(coordinates).table(centres, kernel_size)


def transposed_table(strided: torch.Tensor, fine_count: int) -> torch.Tensor:
    """(8, V) int32 table of the transposed 2^3 convolution, from the (8, W) one of the 2^3 convolution of stride 2."""
    rows = torch.arange(strided.shape[1], dtype=torch.int32, device=strided.device).expand_as(strided)
    table = torch.full((len(strided), fine_count + 1), -1, dtype=torch.int32, device=strided.device)
    table.scatter_(1, torch.where(strided >= 0, strided, fine_count).to(torch.int64), rows)  # misses go last
    return table[:, :fine_count].contiguous()
