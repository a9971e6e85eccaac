"""What `mdkt segment` leaves of the scores of prompts: fields of clouds, files of folders, topics of bags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_drive import FakeDrive
from named_models import asked_by_name, projection, scan
from rosbags.highlevel import AnyReader
from small_models import random_network

from mdkt_ros.checkpoint import save_checkpoint
from mdkt_ros.cloud import parse_pointcloud2
from mdkt_ros.drive import open_drive
from mdkt_ros.drive.bag_file import BagFile
from mdkt_ros.drive.convert import convert
from mdkt_ros.errors import OutputError
from mdkt_ros.scan import read_scan
from mdkt_ros.segment_drive import segment_path
from mdkt_ros.segmenter import Segmenter


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("named") / "model.safetensors"
    save_checkpoint(path, random_network(), asked_by_name(), head=projection())
    return path


@pytest.fixture(scope="module")
def asking(named: Path) -> Segmenter:
    return Segmenter.load(named, device="cpu", prompts=["car", "traffic sign"])


FIELDS = ["prompt_car", "prompt_traffic_sign"]


def write_bin(path: Path) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    points, intensity = scan(200)
    values = np.column_stack([points, intensity]).astype("<f4")
    path.write_bytes(values.tobytes())
    return values


def test_a_scan(asking: Segmenter, tmp_path: Path):
    values = write_bin(tmp_path / "a.bin")
    summary = segment_path(tmp_path / "a.bin", tmp_path / "a.pcd", asking)
    result = asking.segment(values[:, :3], values[:, 3])
    columns = read_scan(tmp_path / "a.pcd").columns
    assert list(columns)[-3:] == ["rgb", *FIELDS]
    for i, field in enumerate(FIELDS):
        assert columns[field].dtype == np.float32
        assert np.array_equal(columns[field], result.prompt_score[:, i])
    assert result.prompts is not None
    expected = dict(zip(("car", "traffic sign"), result.prompts.nearest.sum(0).tolist(), strict=True))
    assert summary.prompts == expected
    with pytest.raises(OutputError, match=r"a\.label: a \.label file has no room for the scores of prompts"):
        segment_path(tmp_path / "a.bin", tmp_path / "a.label", asking)
    assert not (tmp_path / "a.label").exists()


def test_a_folder(asking: Segmenter, tmp_path: Path):
    source = tmp_path / "scans"
    values = [write_bin(source / f"{i}.bin") for i in range(2)]
    segment_path(source, tmp_path / "out", asking)
    described = json.loads((tmp_path / "out" / "prompts" / "prompts.json").read_text())
    assert described["fields"] == {"prompt_car": "car", "prompt_traffic_sign": "traffic sign"}
    for i, cloud in enumerate(values):
        score = np.load(tmp_path / "out" / "prompts" / f"{i}.bin.npy")
        assert np.array_equal(score, asking.segment(cloud[:, :3], cloud[:, 3]).prompt_score)
    assert len(open_drive(tmp_path / "out")) == 2
    # A labelled folder is labelled again, and its own files stay as they are.
    before = (tmp_path / "out" / "prompts" / "0.bin.npy").read_bytes()
    again = asking.for_sensor(axes="y_forward")
    segment_path(tmp_path / "out", tmp_path / "out2", again)
    assert (tmp_path / "out" / "prompts" / "0.bin.npy").read_bytes() == before
    assert (tmp_path / "out2" / "prompts" / "0.bin.npy").read_bytes() != before


def test_a_data_set(asking: Segmenter, tmp_path: Path):
    for i in range(2):
        write_bin(tmp_path / "kitti" / "sequences" / "08" / "velodyne" / f"00000{i}.bin")
    segment_path(tmp_path / "kitti", tmp_path / "out", asking)
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.npy"))
    assert found == [f"prompts/sequences/08/velodyne/00000{i}.bin.npy" for i in range(2)]
    assert len(list((tmp_path / "out").rglob("predictions/*.label"))) == 2
    assert len(open_drive(tmp_path / "out")) == 2


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag(asking: Segmenter, tmp_path: Path, storage: Any):
    convert(FakeDrive(), tmp_path / "bag", storage=storage)
    summary = segment_path(tmp_path / "bag", tmp_path / "out", asking)
    with AnyReader([tmp_path / "out"]) as reader:
        connections = [c for c in reader.connections if c.topic == "/segment/output/segmentation"]
        messages = [reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages(connections)]
    assert len(messages) == summary.frames
    for message in messages:
        cloud = parse_pointcloud2(message)
        assert list(cloud.columns) == ["x", "y", "z", "class_id", "probability", "entropy", *FIELDS]
        assert [field.offset for field in message.fields] == [0, 4, 8, 12, 16, 20, 24, 28]
        for field in FIELDS:
            assert np.isfinite(cloud.columns[field]).all()
            assert (cloud.columns[field] >= 0).all()
            assert (cloud.columns[field] <= 1).all()
    with BagFile(tmp_path / "out") as bag:
        custom = bag.custom
    assert json.loads(custom["mdkt_ros.prompts"])["fields"] == dict(zip(FIELDS, ("car", "traffic sign"), strict=True))


def test_without_prompts_nothing_is_added(named: Path, tmp_path: Path):
    write_bin(tmp_path / "scans" / "a.bin")
    segmenter = Segmenter.load(named, device="cpu")
    assert segment_path(tmp_path / "scans", tmp_path / "out", segmenter).prompts == {}
    assert not (tmp_path / "out" / "prompts").exists()
    segment_path(tmp_path / "scans" / "a.bin", tmp_path / "a.pcd", segmenter)
    assert not any(name.startswith("prompt") for name in read_scan(tmp_path / "a.pcd").columns)
