"""More points than a segmenter's limit: some are labelled by the network, the others by their nearest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from segmenter_inputs import META, caught, network, scan

from mdkt_ros import Segmenter
from mdkt_ros.segmenter import PointLimitWarning
from mdkt_ros.voxels import collate, voxelize

pytestmark = pytest.mark.usefixtures("one_thread")


def test_too_many_points_are_subsampled_and_all_get_the_nearest_label() -> None:
    points, intensity = scan(6000)
    points[::100] = np.nan
    segmenter = Segmenter(network(), META, max_points=700)
    with pytest.warns(PointLimitWarning, match="5940 points in range are more than max_points = 700"):
        result = segmenter.segment(points, intensity)
    assert caught(lambda: segmenter.segment(points, intensity)) == []
    labelled = np.isfinite(points).all(axis=1)
    np.testing.assert_array_equal(result.class_id == 255, ~labelled)

    voxels = voxelize(points, intensity, META.grid)
    chosen = np.flatnonzero(labelled)[np.arange(700) * 5940 // 700]
    kept = np.unique(voxels.point_to_voxel[chosen])
    assert len(kept) < len(voxels)
    subset = replace(
        voxels,
        coordinates=voxels.coordinates[kept],
        features=voxels.features[kept],
        point_to_voxel=np.arange(len(kept)),
    )
    with torch.no_grad():
        label_of_kept = network()(collate([subset])[0]).logits.argmax(dim=1).numpy()
    steps = voxels.coordinates[:, None, :] - voxels.coordinates[None, kept, :]
    squares = (steps.astype(np.int64) ** 2).sum(axis=2)
    for voxel in range(len(voxels)):
        got = np.unique(result.class_id[voxels.point_to_voxel == voxel])
        assert len(got) == 1
        # Exact among the 27 neighbours; further away any of about as near will do.
        best = squares[voxel].min()
        near = squares[voxel] == best if best <= 3 else squares[voxel] <= 49 * best
        assert got[0] in label_of_kept[near]


def test_two_million_points() -> None:
    segmenter = Segmenter(network(), META, max_points=20_000)
    rng = np.random.default_rng(4)
    points = rng.uniform(-45, 45, (2_000_000, 3)).astype(np.float32) * np.float32([1, 1, 0.05])
    with pytest.warns(PointLimitWarning):
        result = segmenter.segment(points, np.full(len(points), 0.5, np.float32))
    inside = (np.abs(points[:, :2]) < 40).all(axis=1)
    assert inside.sum() > 1_500_000
    np.testing.assert_array_equal(result.class_id != 255, inside)
