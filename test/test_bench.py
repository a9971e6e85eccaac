"""`mdkt bench`: the figures that do not depend on the machine, and that the others are measured at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdkt_ros.bench import PRESETS, measure, parse_preset, spinning_scan
from mdkt_ros.errors import ConfigError
from mdkt_ros.network import build_network, parameter_count

POINTS = np.random.default_rng(0).uniform(-4, 4, (300, 3)).astype(np.float32)
SMALL = [("minkunet14s", 0.25), ("minkunet18", 0.25)]


def test_measure():
    calls: list[tuple[int, int]] = []
    threads = torch.get_num_threads()
    results = measure(
        POINTS, voxel_size=0.5, presets=SMALL, repeats=1, progress=lambda done, total: calls.append((done, total))
    )
    assert [(row.preset, row.width) for row in results] == SMALL
    assert calls == [(1, 2), (2, 2)]
    for row in results:
        network = build_network(row.preset, in_channels=4, classes=19, width=row.width)
        assert row.parameters == parameter_count(network)
        assert (row.points, row.voxels) == (300, len(np.unique(np.floor(POINTS / 0.5), axis=0)))
        assert row.single_ms > row.maps_ms >= 0
        assert row.wall_ms > 0
        assert row.threads == torch.get_num_threads() == threads
    # Every convolution of the bigger network has more channels than its kin in the smaller one.
    assert results[1].gflop > results[0].gflop > 0
    assert measure(POINTS, voxel_size=0.5, presets=SMALL[:1], repeats=1)[0].gflop == results[0].gflop


def test_operations_of_one_voxel_by_hand():
    (row,) = measure(POINTS[:1], presets=[("minkunet14s", 0.25)], repeats=1)
    # With a single voxel each trained weight matrix meets one row at most: two operations a weight.
    assert 0 < row.gflop * 1e9 <= 2 * row.parameters


def test_presets_are_named_with_a_width():
    assert parse_preset("minkunet18") == ("minkunet18", 1.0)
    assert parse_preset("minkunet18:0.5") == ("minkunet18", 0.5)
    for text in ("minkunet18:wide", "minkunet18:0.5:2"):
        with pytest.raises(ConfigError, match=f"preset: '{text}' is not NAME or NAME:WIDTH, such as minkunet18:0.5"):
            parse_preset(text)
    for name, width in PRESETS:
        assert parse_preset(f"{name}:{width}") == (name, width)


@pytest.mark.parametrize("text", ["resnet50", "minkunet18:0", "minkunet18:nan", "minkunet18:-1"])
def test_presets_that_do_not_exist(text):
    with pytest.raises(ConfigError, match=r"preset|width"):
        measure(POINTS, presets=[parse_preset(text)], repeats=1)


def test_the_made_up_scan():
    points = spinning_scan()
    assert (points.dtype, points.shape[1]) == (np.float32, 3)
    assert 100_000 < len(points) < 122_000
    assert np.isfinite(points).all()
    assert np.linalg.norm(points[:, :2], axis=1).max() < 81
    assert np.array_equal(points, spinning_scan())
    assert not np.array_equal(points[:100], spinning_scan(seed=1)[:100])
    assert len(spinning_scan(beams=16, azimuths=400)) < 6400
