"""Features of a coarse level at the voxels of a fine one, interpolated trilinearly."""

from __future__ import annotations

import torch

from mdkt_ros.sparse.tensor import SparseTensor

_TINY = 1e-8  # torchsparse's own, so that its networks give the same values here


def interpolate(coarse: SparseTensor, fine: SparseTensor) -> torch.Tensor:
    """(V, C) features of `coarse` at the V voxels of `fine`, a tensor made from the same one.

    A value of `coarse` lies at the lower corner of its voxel, as in SPVNAS (`voxel_to_point`, `core/models/utils.py`).
    Of the eight around a voxel of `fine`, those that are empty do not count; the voxel's own parent always does.
    """
    ratio = coarse.stride // fine.stride
    parents = fine.maps.parents(fine.stride, coarse.stride)
    neighbours = coarse.maps.submanifold(coarse.stride).table
    upper = (fine.coordinates[:, 1:] & (ratio - 1)).to(coarse.features.dtype) / ratio  # two's complement: rounds down
    total = upper.new_full((len(fine),), _TINY)
    result = coarse.features.new_zeros((len(fine), coarse.features.shape[1]))
    for corner in range(8):
        steps = (corner >> 2, corner >> 1 & 1, corner & 1)
        weight = torch.ones_like(total)
        for axis, step in enumerate(steps):
            weight = weight * (upper[:, axis] if step else 1 - upper[:, axis])
        offset = sum((step + 1) * 3**axis for axis, step in enumerate(steps))  # x fastest, see `maps`
        rows = neighbours[offset].index_select(0, parents)
        weight = torch.where(rows >= 0, weight, 0)
        total = total + weight
        result = torch.addcmul(result, coarse.features.index_select(0, rows.clamp(min=0)), weight[:, None])
    return result / total[:, None]
