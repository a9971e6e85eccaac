"""`mdkt bench --node`: that each stage is measured, by the clocks that it names, and that it is the node's own path."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from small_models import random_meta, random_network
from typer.testing import CliRunner

from mdkt_ros.benchmark.node import NETWORK, SIZES, STAGES, made_up_scan, measure_node, measure_stages, scan_message
from mdkt_ros.checkpoint import read_meta
from mdkt_ros.cli import app
from mdkt_ros.cloud import parse_pointcloud2
from mdkt_ros.errors import ConfigError
from mdkt_ros.segmenter import Segmenter

WITHOUT_ROS = tuple(stage for stage in STAGES if stage not in ("receive", "publish"))
POINTS = np.random.default_rng(0).normal(0, [8, 8, 0.5], (300, 3)).astype(np.float32)
CLOUD = scan_message(POINTS, np.linspace(0, 1, 300, dtype=np.float32))


class Wire:
    """A link that remembers what came and what went."""

    def __init__(self):
        self.received, self.published = 0, []

    def receive(self, cloud):
        self.received += 1
        return cloud

    def serialise(self, cloud):
        return cloud

    def publish(self, message):
        self.published.append(message)


@pytest.fixture
def segmenter():
    return Segmenter(random_network(), random_meta(), device="cpu")


def test_every_stage_is_measured_on_one_thread(segmenter):
    threads = torch.get_num_threads()
    wire = Wire()
    row = measure_stages(CLOUD, segmenter, wire, repeats=2)
    assert tuple(row.cpu_ms) == tuple(row.wall_ms) == STAGES
    assert row.points == 300
    assert row.overhead_ms == pytest.approx(sum(v for k, v in row.cpu_ms.items() if k != NETWORK))
    assert row.cpu_ms[NETWORK] > 0
    assert row.latency_ms is None
    assert torch.get_num_threads() == threads
    assert wire.received == len(wire.published) == 3 + 2 + 2
    labels = parse_pointcloud2(wire.published[-1]).columns["class_id"]
    assert np.array_equal(labels, segmenter.segment(POINTS, np.linspace(0, 1, 300, dtype=np.float32)).class_id)


def test_without_ros_there_is_neither_receiving_nor_publishing(checkpoint):
    calls = []
    rows = measure_node([CLOUD, CLOUD], checkpoint, repeats=1, progress=lambda done, total: calls.append((done, total)))
    assert [tuple(row.cpu_ms) for row in rows] == [WITHOUT_ROS] * 2
    assert calls == [(1, 2), (2, 2)]


def test_the_made_up_scans_have_the_points_of_the_table():
    for size, points in zip(SIZES, (35_000, 120_000), strict=True):
        cloud = made_up_scan(*size)
        assert cloud.width == pytest.approx(points, rel=0.01)
        assert [f.name for f in cloud.fields] == ["x", "y", "z", "intensity"]


def test_the_network_is_measured_in_the_precision_that_was_asked_for(checkpoint):
    with pytest.raises(ConfigError, match="precision: 'half' is unknown"):
        measure_node([CLOUD], checkpoint, "half", repeats=1)


def test_the_command(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("mdkt_ros.benchmark.command.find_spec", lambda name: None)
    np.hstack([POINTS, np.ones((300, 1), np.float32)]).tofile(tmp_path / "scan.bin")
    arguments = ["bench", str(tmp_path / "scan.bin"), "--node", "--repeats", "1", "--json", str(tmp_path / "row.json")]
    done = CliRunner().invoke(app, [*arguments, "--checkpoint", str(checkpoint), "--precision", "bf16"])
    assert done.exit_code == 0, done.output
    assert "all but the network" in done.output
    assert "latency not measured" in done.output
    (row,) = json.loads((tmp_path / "row.json").read_text())
    assert (row["points"], tuple(row["cpu_ms"]), row["latency_ms"]) == (300, WITHOUT_ROS, None)


def test_a_network_that_has_learnt_nothing_is_measured_without_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("mdkt_ros.benchmark.command.find_spec", lambda name: None)
    np.hstack([POINTS, np.ones((300, 1), np.float32)]).tofile(tmp_path / "scan.bin")
    seen = []
    monkeypatch.setattr(
        "mdkt_ros.benchmark.command.measure_node",
        lambda clouds, path, precision, **more: seen.append(read_meta(path)) or measure_node(clouds, path, **more),
    )
    arguments = ["bench", str(tmp_path / "scan.bin"), "--node", "--repeats", "1", "--voxel-size", "0.3"]
    done = CliRunner().invoke(app, [*arguments, "--preset", "minkunet18:0.125"])
    assert done.exit_code == 0, done.output
    assert [(meta.preset, meta.width, meta.grid.voxel_size) for meta in seen] == [("minkunet18", 0.125, 0.3)]


def test_one_network_at_a_time(checkpoint):
    for more in (["--checkpoint", str(checkpoint), "--preset", "minkunet18"], ["--preset", "a", "--preset", "b"]):
        done = CliRunner().invoke(app, ["bench", "--node", *more])
        assert isinstance(done.exception, ConfigError)
        assert "one --preset, or --checkpoint" in str(done.exception)


@pytest.mark.ros
@pytest.mark.slow
def test_with_rclpy_labels_come_back_from_the_node(rclpy, checkpoint, monkeypatch):
    from ros_graph import DOMAIN

    from mdkt_ros.ros.bench import measure

    # As the other tests on the graph: a process cannot be in a domain with different ways of discovery.
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    (row,) = measure([CLOUD], checkpoint, repeats=2)
    assert tuple(row.cpu_ms) == STAGES
    assert row.latency_scans == 2
    assert row.latency_ms["max"] >= row.latency_ms["median"] > 0
