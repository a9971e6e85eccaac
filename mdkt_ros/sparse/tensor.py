"""A sparse tensor: features on the occupied voxels of a batch of scans."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from mdkt_ros.errors import SparseError
from mdkt_ros.sparse.maps import KernelMaps


@dataclass(frozen=True, eq=False)
class SparseTensor:
    """Features on voxels.

    Attributes:
        features: (V, C) floating point.
        coordinates: (V, 4) int32 `[batch, x, y, z]` of any sign, in voxels of this level (a voxel of stride s is s
            times as wide as one of stride 1, and its coordinates are the finer ones divided by s and rounded down). No
            two rows are the same; the order is free.
        stride: 1, 2, 4, ...: level of the tensor.
        maps: coordinates of all levels and the kernel maps between them, shared by every tensor made from this one.

    Raises:
        SparseError: shapes or dtypes are not these.
    """

    features: torch.Tensor
    coordinates: torch.Tensor
    stride: int = 1
    maps: KernelMaps = field(default=None, repr=False)  # type: ignore[assignment]  # filled below; never None outside

    def __post_init__(self) -> None:
        coordinates, features = self.coordinates, self.features
        if coordinates.dtype != torch.int32 or coordinates.ndim != 2 or coordinates.shape[1] != 4:
            raise SparseError(
                "coordinates: expected (V, 4) int32 [batch, x, y, z], "
                f"got {tuple(coordinates.shape)} {coordinates.dtype}"
            )
        if features.ndim != 2 or len(features) != len(coordinates) or not features.is_floating_point():
            raise SparseError(
                f"features: expected ({len(coordinates)}, C) floating point, a row for each coordinate, "
                f"got {tuple(features.shape)} {features.dtype}"
            )
        if self.maps is None:
            object.__setattr__(self, "maps", KernelMaps(coordinates, self.stride))

    def __len__(self) -> int:
        return len(self.features)

    def with_features(self, features: torch.Tensor) -> SparseTensor:
        """The same voxels with other features, (V, any) in the same order."""
        return SparseTensor(features, self.coordinates, self.stride, self.maps)

    def at_stride(self, features: torch.Tensor, stride: int) -> SparseTensor:
        """Tensor of `features` on the voxels of another level, in the order of `maps.coordinates(stride)`."""
        return SparseTensor(features, self.maps.coordinates(stride), stride, self.maps)

    def to(self, device: torch.device | str) -> SparseTensor:
        """The tensor on another device, with a cache of its own (moving maps costs more than making them there)."""
        return SparseTensor(self.features.to(device), self.coordinates.to(device), self.stride)


def cat(tensors: list[SparseTensor]) -> SparseTensor:
    """Join the features of tensors on the same voxels, channel after channel."""
    return tensors[0].with_features(torch.cat([tensor.features for tensor in tensors], dim=1))
