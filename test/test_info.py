"""`describe`: what things are, as JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bags import cloud_message, make_bag
from fake_drive import FakeDrive

from mdkt_ros.checkpoint import CheckpointMeta, save_checkpoint
from mdkt_ros.drive.convert import convert
from mdkt_ros.drive.rosmsg import Messages, typestore
from mdkt_ros.errors import CheckpointError, CloudError, DriveError
from mdkt_ros.info import describe
from mdkt_ros.labels import LabelSpace
from mdkt_ros.network import build_network
from mdkt_ros.voxel_grid import VoxelGrid


def described(path):
    """Through strict JSON, as `mdkt info --json` hands it on."""
    return json.loads(json.dumps(describe(path), allow_nan=False))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag(tmp_path, storage):
    convert(FakeDrive(5), tmp_path / "bag", storage=storage)
    info = described(tmp_path / "bag")
    assert (info["kind"], info["storage"], info["compression"], info["name"]) == ("bag", storage, "none", "bag")
    assert (info["scans"], info["duration"], info["start"]) == (5, pytest.approx(0.43), 1.5e9)
    assert info["messages"] == sum(topic["messages"] for topic in info["topics"]) == 47
    topics = {topic["name"]: topic for topic in info["topics"]}
    assert topics["/lidar/points"] == {
        "name": "/lidar/points",
        "type": "sensor_msgs/msg/PointCloud2",
        "messages": 5,
        "latched": False,
    }
    assert topics["/tf_static"]["latched"]
    assert (info["cloud_topic"], info["axes"], info["poses"]) == ("/lidar/points", "x_forward", True)
    assert info["intensity_scale"] == pytest.approx(1 / 255)
    assert info["labels"]["name"] == "semantickitti"
    assert info["prediction"] is None
    assert {camera["name"]: camera["distortion"] for camera in info["cameras"]} == {
        "image_2": "none",
        "CAM_LEFT": "plumb_bob",
    }
    scan = info["first_scan"]
    frame = FakeDrive()[0]
    seen = np.any([v.camera.project(frame.points).in_view for v in frame.views], axis=0)
    assert scan["percent_in_view"] == pytest.approx(100 * seen.mean(), abs=0.1)
    assert 0 < scan["percent_visible"] <= scan["percent_in_view"] < 100
    assert (scan["points"], scan["finite_points"]) == (50, 49)
    assert np.allclose(scan["maximum"], np.nanmax(frame.points, axis=0))
    assert scan["classes"]["car"] == (frame.labels == 0).sum()
    assert scan["unlabelled"] == (frame.labels == 255).sum()


def test_a_bag_without_a_cloud_or_with_several_is_still_described(tmp_path):
    messages = Messages(typestore())
    make_bag(tmp_path / "bag", [(topic, 1, cloud_message(messages, 1)) for topic in ("/a", "/b")])
    info = described(tmp_path / "bag")
    assert [topic["name"] for topic in info["topics"]] == ["/a", "/b"]
    assert info["cloud_topic"] is None
    assert "several cloud topics: /a (1), /b (1)" in info["note"]


def test_a_folder_and_a_scan(tmp_path):
    values = np.random.default_rng(0).uniform(0, 1, (40, 4)).astype("<f4")
    folder = tmp_path / "sequences" / "08"
    for name in ("velodyne", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(3):
        (folder / "velodyne" / f"{i:06d}.bin").write_bytes(values.tobytes())
        (folder / "labels" / f"{i:06d}.label").write_bytes(np.full(40, 10, "<u4").tobytes())
    info = described(tmp_path)
    assert (info["kind"], info["scans"], info["sequences"]) == ("semantickitti", 3, {"08": 3})
    assert info["first_scan"]["classes"] == {"car": 40}
    assert info["first_scan"]["percent_in_view"] is None
    assert (info["cameras"], info["poses"], info["duration"]) == ([], False, pytest.approx(0.2))
    scan = described(folder / "velodyne" / "000000.bin")
    assert (scan["kind"], scan["format"], scan["points"], scan["bytes"]) == ("scan", "bin", 40, 640)
    assert [field["name"] for field in scan["fields"]] == ["x", "y", "z", "intensity"]
    assert scan["intensity"]["maximum"] == pytest.approx(values[:, 3].max())


def test_an_empty_scan(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"")
    info = described(tmp_path / "a.bin")
    assert (info["points"], info["minimum"], info["intensity"]) == (0, None, None)


def test_a_checkpoint(tmp_path):
    network = build_network("minkunet14s", in_channels=4, classes=19, width=0.25)
    grid = VoxelGrid(0.1, (-50.0, -50.0, -4.0), (50.0, 50.0, 2.0))
    meta = CheckpointMeta("minkunet14s", 0.25, grid, LabelSpace.load("semantickitti"), training={"minutes": 3})
    save_checkpoint(tmp_path / "model.safetensors", network, meta)
    info = described(tmp_path / "model.safetensors")
    assert (info["kind"], info["network"]) == ("checkpoint", {"preset": "minkunet14s", "width": 0.25})
    assert info["parameters"] == sum(p.numel() for p in network.parameters())
    assert info["grid"]["voxel_size"] == 0.1
    assert info["labels"]["classes"][0] == "car"
    assert (info["training"], info["text_embeddings"]) == ({"minutes": 3}, None)


def test_what_cannot_be_described(tmp_path):
    with pytest.raises(DriveError, match="missing: does not exist"):
        describe(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DriveError, match=r"notes\.txt: is not a recorded drive that is recognised"):
        describe(tmp_path / "notes.txt")
    (tmp_path / "a.bin").write_bytes(b"12345")
    with pytest.raises(CloudError, match=r"a\.bin: 5 bytes"):
        describe(tmp_path / "a.bin")
    (tmp_path / "a.safetensors").write_bytes(b"12345")
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        describe(tmp_path / "a.safetensors")
