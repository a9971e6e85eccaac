"""Clouds of more points than the network should get."""

from __future__ import annotations

import torch

from mdkt_ros.nearest import nearest_voxel
from mdkt_ros.voxels import TensorVoxels


class PointLimitWarning(UserWarning):
    """A cloud has more points than `max_points`, so that some get the label of their nearest neighbours."""


def limit_points(voxels: TensorVoxels, max_points: int) -> tuple[TensorVoxels, torch.Tensor]:
    """The voxels of `max_points` points, evenly chosen of those in range, of which there are more.

    Returns:
        Those voxels; (N,) int64 the row among them of the voxel that each point is in or, where that was left out, of
        the nearest one (-1: out of range).
    """
    rows = voxels.point_to_voxel
    in_range = (rows >= 0).nonzero().squeeze(1)
    chosen = torch.arange(max_points, device=rows.device) * len(in_range) // max_points
    kept = torch.zeros(len(voxels), dtype=torch.bool, device=rows.device)
    kept[rows[in_range[chosen]]] = True
    # One row more, because point rows of -1 index the last.
    row_of_voxel = torch.full((len(voxels) + 1,), -1, dtype=torch.int64, device=rows.device)
    row_of_voxel[:-1][kept] = torch.arange(int(kept.sum()), device=rows.device)
    row_of_voxel[:-1][~kept] = nearest_voxel(voxels.coordinates[~kept], voxels.coordinates[kept])
    return TensorVoxels(voxels.coordinates[kept], voxels.features[kept], rows), row_of_voxel[rows]
