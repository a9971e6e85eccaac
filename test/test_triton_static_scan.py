"""Kernel maps in the order of tiles, and scans in memory of a fixed size, under Triton's interpreter."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from interpreted_triton import interpreter, needs_triton
from sparse_inputs import INPUTS, random_voxels

from mdkt_ros import static_scan
from mdkt_ros.benchmark.scans import spinning_scan
from mdkt_ros.cloud import build_segmentation, cloud_from_columns
from mdkt_ros.network import build_network
from mdkt_ros.scan_graph import STRIDES, ScanGraph
from mdkt_ros.sparse import KernelMap, fuse, use_engine
from mdkt_ros.sparse.triton_backend import load
from mdkt_ros.sparse.triton_backend.tiling import ROW_MULTIPLE, Tiling
from mdkt_ros.static_scan import StaticScan
from mdkt_ros.voxel_grid import VoxelGrid
from mdkt_ros.voxels import DEFAULT_FEATURES, FEATURES, collate, voxelize

pytestmark = [needs_triton, pytest.mark.usefixtures("interpreter")]
__all__ = ["interpreter"]


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("make", [lambda maps: maps.submanifold(1), lambda maps: maps.strided(1, 2)])
def test_tiling_holds_every_row_once(name: str, make) -> None:
    kernel_map = make(INPUTS[name](1).maps)
    tiling = Tiling.of(kernel_map, load())
    tiles = tiling.offsets(32)
    count = kernel_map.out_count
    assert len(tiling.rows) % ROW_MULTIPLE == 0
    assert sorted(tiling.rows[:count].tolist()) == list(range(count))
    assert (tiling.rows[count:] == -1).all()
    assert (tiling.table[:, count:] == -1).all()
    assert torch.equal(tiling.table[:, :count], kernel_map.table[:, tiling.rows[:count].long()])
    for tile, words in enumerate(tiles.packed.tolist()):
        offsets = [words[place // 12] >> 5 * (place % 12) & 31 for place in range(36)]
        hit = (tiling.table[:, tile * 32 : (tile + 1) * 32] >= 0).any(dim=1).nonzero().view(-1).tolist()
        assert tiles.counts[tile] == len(hit)
        assert offsets == hit + [0] * (36 - len(hit))
    assert tiling.offsets(32).packed.data_ptr() == tiles.packed.data_ptr()
    assert tiling.offsets(128).counts.shape == (len(tiling.rows) // 128,)
    assert all(tensor.is_contiguous() for tensor in (tiling.rows, tiling.table, tiles.packed, tiles.counts))


def test_sorted_rows_leave_more_offsets_out() -> None:
    table = random_voxels("negative, odd extents", 1).maps.strided(1, 2).table.repeat(1, 8)
    tiling = Tiling.of(KernelMap(int(table.max()) + 1, table.shape[1], table=table), load())
    in_order = (table.view(8, -1, 8) >= 0).any(dim=2).sum()
    assert tiling.offsets(8).counts.sum() < 0.7 * in_order


GRID = VoxelGrid(0.5, (-20.0, -20.0, -4.0), (20.0, 20.0, 4.0))
FINE_GRID = VoxelGrid(0.01, (-40.0, -40.0, -10.0), (40.0, 40.0, 10.0))  # keys of 64 bits


@pytest.fixture(autouse=True)
def few_programs(monkeypatch) -> None:
    """What the interpreter takes grows with the number of programs."""
    monkeypatch.setattr(static_scan, "ROOM_MULTIPLE", 256)


def scan(azimuths: int) -> tuple[np.ndarray, np.ndarray]:
    points = spinning_scan(16, azimuths)
    points[::50] = np.nan
    intensity = np.linspace(0, 1, len(points), dtype=np.float32)
    intensity[::70] = np.inf
    return points, intensity


def filled(static: StaticScan, points: np.ndarray, intensity: np.ndarray) -> StaticScan:
    static.cloud.fill_(torch.nan)
    static.points[: len(points)] = torch.from_numpy(points)
    static.intensity[: len(points)] = torch.from_numpy(intensity)
    static.count.fill_(len(points))
    static.enqueue()
    return static


@pytest.mark.parametrize(("grid", "levels"), [(GRID, 5), (FINE_GRID, 2)], ids=["32 bits", "64 bits"])
def test_a_static_scan_has_the_voxels_and_maps_of_any_other(grid: VoxelGrid, levels: int) -> None:
    points, intensity = scan(26)
    expected = voxelize(points, intensity, grid, FEATURES)
    static = StaticScan(load(), torch.device("cpu"), grid, FEATURES, 500, (500,) * levels)
    for cloud in ((points[:50], intensity[:50]), (points, intensity)):  # nothing stays of the scan before
        filled(static, *cloud)
    count = len(points)
    np.testing.assert_array_equal(static.voxel_of_point[:count], expected.point_to_voxel)
    assert (static.voxel_of_point[count : len(static.points)] == -1).all()
    np.testing.assert_allclose(static.tensor.features[: len(expected)], expected.features, rtol=0, atol=1e-6)
    assert not static.tensor.features[len(expected) :].any()
    with use_engine("torch"):
        maps = collate([expected])[0].maps
    sizes = [len(maps.coordinates(1 << level)) for level in range(levels)]
    assert static.starts.tolist() == np.concatenate([[0], np.cumsum(sizes)]).tolist()
    for level, size in enumerate(sizes):
        stride = 1 << level
        pairs = {"submanifold": (size, maps.submanifold(stride))}
        if level < levels - 1:
            pairs |= {
                "strided": (sizes[level + 1], maps.strided(stride, 2)),
                "transposed": (size, maps.transposed(stride)),
            }
        for name, (rows, kernel_map) in pairs.items():
            found = static.tensor.maps._maps[name, stride]
            assert torch.equal(found.table[:, :rows], kernel_map.table), (name, stride)
            tiling = found.kept["triton tiling"]
            assert sorted(tiling.rows.tolist()) == [-1] * (len(tiling.rows) - rows) + list(range(rows))
            assert torch.equal(tiling.table[:, :rows], found.table[:, tiling.rows[:rows].long()])
            assert int(tiling.offsets(32).counts.sum()) == int(
                (tiling.table.view(found.offsets, -1, 32) >= 0).any(dim=2).sum()
            )


def test_no_point_and_too_many_voxels_harm_nothing() -> None:
    points, intensity = scan(60)
    expected = voxelize(points, intensity, FINE_GRID)
    static = StaticScan(load(), torch.device("cpu"), FINE_GRID, ("x", "intensity"), 1000, (1000, 500))
    filled(static, points[:0], intensity[:0])
    assert not static.starts.any()
    assert (static.voxel_of_point == -1).all()
    filled(static, points, intensity)
    assert np.diff(static.starts)[1] > static.rooms[1]
    np.testing.assert_array_equal(static.voxel_of_point[: len(points)], expected.point_to_voxel)


def test_a_graph_labels_what_has_room_and_grows() -> None:
    points, intensity = scan(10)
    torch.manual_seed(1)
    network = fuse(build_network("minkunet14s", in_channels=4, classes=5, width=0.1))
    voxels = voxelize(points, intensity, GRID)
    with torch.inference_mode(), use_engine("torch"):
        tensor = collate([voxels])[0]
        expected = network(tensor).logits
    sizes = [len(tensor.maps.coordinates(stride)) for stride in STRIDES]
    graph = ScanGraph(network, GRID, DEFAULT_FEATURES, torch.device("cpu"))
    assert graph.label(points, intensity, time.perf_counter) is None
    graph.make_room(points, intensity, sizes)
    many = np.tile(points, (4, 1)), np.tile(intensity, 4)
    assert graph.label(*many, time.perf_counter) is None, "more points than it has room for"
    labels = graph.label(points, intensity, time.perf_counter)
    assert labels is not None
    probability = expected.softmax(dim=1)
    entropy = -(probability * probability.log()).sum(dim=1)
    inside = voxels.point_to_voxel >= 0
    rows = voxels.point_to_voxel[inside]
    np.testing.assert_array_equal(labels.class_id[inside], expected.argmax(dim=1)[rows])
    np.testing.assert_allclose(labels.probability[inside], probability.max(dim=1).values[rows], rtol=1e-3)
    np.testing.assert_allclose(labels.entropy[inside], entropy[rows], atol=1e-3)
    assert (labels.class_id[~inside] == 255).all()
    assert not labels.probability[~inside].any()
    assert set(labels.timings) == {"preprocess", "inference", "postprocess", "total"}
    # The GPU lays out what is published, NaN and all, as the CPU does.
    cloud = cloud_from_columns(dict(zip("xyz", points.T, strict=True)))
    built = build_segmentation(cloud, labels.class_id, labels.probability, labels.entropy)
    assert labels.records is not None
    assert built.data.tobytes() == labels.records.tobytes()
    taken = build_segmentation(cloud, labels.class_id, labels.probability, labels.entropy, records=labels.records)
    assert (taken.fields, taken.point_step, taken.row_step) == (built.fields, built.point_step, built.row_step)
    assert np.shares_memory(taken.data_array(), labels.records)
