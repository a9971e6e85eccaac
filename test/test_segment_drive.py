"""A drive in, the same drive with labels out: the labels are the segmenter's, and nothing else changes."""

from __future__ import annotations

import copy
import hashlib
import os
import re
import shutil
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bags import cloud_message, make_bag, rewrite
from fake_drive import START, FakeDrive
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import CompressionMode, Reader
from small_drives import write_nuscenes_set

from mdkt_ros.checkpoint import CheckpointMeta
from mdkt_ros.cloud import parse_pointcloud2
from mdkt_ros.drive import open_drive
from mdkt_ros.drive.bag import BagDrive
from mdkt_ros.drive.convert import convert
from mdkt_ros.drive.rosmsg import Messages, typestore
from mdkt_ros.errors import ConfigError, DriveError, OutputError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.metrics import confusion_matrix
from mdkt_ros.network import build_network
from mdkt_ros.scan import read_labels, read_scan
from mdkt_ros.segment_drive import segment_path
from mdkt_ros.segmenter import Segmentation, Segmenter
from mdkt_ros.voxels import VoxelGrid

MESSAGES = Messages(typestore())
OUT = "/segment/output/segmentation"
OUT_INFO = "/segment/output/label_info"
LABELS = LabelSpace.load("semantickitti")
OTHER = {"x_forward": "y_forward", "y_forward": "x_forward"}
GRID = VoxelGrid(1.0, (-40.0, -40.0, -40.0), (40.0, 40.0, 40.0))


@pytest.fixture(scope="module")
def segmenter():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network("minkunet14s", in_channels=4, classes=19, width=0.25)
        for name, value in network.state_dict().items():
            if name.startswith("classifier"):
                value.normal_()
    yield Segmenter(network, CheckpointMeta("minkunet14s", 0.25, GRID, LABELS))
    torch.set_num_threads(threads)


class Echo:
    """A segmenter that shows what it was given: class = sign of x, probability = scaled intensity, entropy = y."""

    def __init__(self, *, axes="x_forward", scale=1.0, chosen=None, labels=LABELS):
        self.labels = labels
        self.meta = replace(CheckpointMeta("minkunet14s", 1.0, GRID, labels), axes=axes, intensity_scale=scale)
        self.axes, self.intensity_scale = axes, scale if chosen is None else chosen
        self.calls = 0

    def for_sensor(self, *, intensity_scale=None, axes=None):
        other = copy.copy(self)
        other.axes, other.intensity_scale = axes or self.axes, intensity_scale or self.intensity_scale
        return other

    def segment(self, points, intensity=None):
        self.calls += 1
        with np.errstate(invalid="ignore"):
            class_id = np.where(np.isnan(points[:, 0]), 255, points[:, 0] > 0).astype(np.uint8)
        values = (
            np.zeros(len(points), np.float32) if intensity is None else intensity * np.float32(self.intensity_scale)
        )
        return Segmentation(class_id, values.astype(np.float32), points[:, 1].copy(), {"inference": 1.0, "total": 1.0})


def raw_messages(path):
    """Raw messages by topic, and each topic's type, definition hash and quality of service."""
    found, described = {}, {}
    with Reader(path) as reader:
        for connection in reader.connections:
            described[connection.topic] = (connection.msgtype, connection.digest, connection.ext)
        for connection, stamp, raw in reader.messages():
            found.setdefault(connection.topic, []).append((stamp, bytes(raw)))
    return found, described


def labelled(path):
    with AnyReader([path]) as reader:
        connections = [c for c in reader.connections if c.topic == OUT]
        return [reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages(connections)]


def fields(message):
    return parse_pointcloud2(message).columns


@pytest.mark.parametrize(
    ("storage", "distro"), [("mcap", "humble"), ("mcap", "jazzy"), ("sqlite3", "humble"), ("sqlite3", "lyrical")]
)
def test_labels_are_the_segmenters_and_all_else_is_untouched(tmp_path, segmenter, storage, distro):
    drive = FakeDrive(2, 200)
    source, out = tmp_path / "bag", tmp_path / "labelled"
    convert(drive, source, storage=storage, distro=distro)
    calls = []
    summary = segment_path(source, out, segmenter, progress=lambda *c: calls.append(c))
    assert calls == [(1, 2), (2, 2)]
    before, described_before = raw_messages(source)
    after, described = raw_messages(out)
    assert after.keys() - before.keys() == {OUT, OUT_INFO}
    for topic, messages in before.items():
        assert after[topic] == messages, topic
        assert described[topic] == described_before[topic], topic
    assert [stamp for stamp, _ in after[OUT]] == [stamp for stamp, _ in after["/lidar/points"]]
    version = (source / "metadata.yaml").read_text().splitlines()
    assert [line for line in version if "version:" in line][-1] in (out / "metadata.yaml").read_text()
    confusion = np.zeros((19, 20), np.int64)
    counts = np.zeros(256, np.int64)
    for index, message in enumerate(labelled(out)):
        frame = drive[index]
        expected = segmenter.segment(frame.points, frame.intensity * np.float32(1 / 255))
        assert [(f.name, f.offset, f.datatype, f.count) for f in message.fields] == [
            ("x", 0, 7, 1), ("y", 4, 7, 1), ("z", 8, 7, 1),
            ("class_id", 12, 2, 1), ("probability", 16, 7, 1), ("entropy", 20, 7, 1),
        ]  # fmt: skip
        assert (message.point_step, message.height, message.width) == (24, 1, len(frame.points))
        assert message.header.frame_id == "lidar"
        assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == frame.stamp
        columns = fields(message)
        assert np.array_equal(np.stack([columns[a] for a in "xyz"], 1), frame.points, equal_nan=True)
        assert np.array_equal(columns["class_id"], expected.class_id)
        assert columns["class_id"][0] == 255
        assert np.array_equal(columns["probability"], expected.probability)
        assert np.array_equal(columns["entropy"], expected.entropy)
        confusion += confusion_matrix(frame.labels, expected.class_id, 19)
        counts += np.bincount(expected.class_id, minlength=256)
    assert len(np.unique(counts.nonzero())) > 3
    assert (summary.frames, summary.points, summary.unlabelled) == (2, 401, counts[255])
    assert np.array_equal(summary.class_points, counts[:19])
    assert np.array_equal(summary.confusion, confusion)
    assert list(summary.timings) == ["read", "preprocess", "inference", "postprocess", "write", "total"]
    assert min(summary.timings.values()) > 0
    assert (summary.topic, summary.skipped, summary.notes) == ("/lidar/points", {}, ())


def test_label_info_is_latched_and_comes_first(tmp_path):
    convert(FakeDrive(2), tmp_path / "bag")
    segment_path(tmp_path / "bag", tmp_path / "out", Echo())
    with AnyReader([tmp_path / "out"]) as reader:
        topics = [c.topic for c, _, _ in reader.messages() if c.topic in (OUT, OUT_INFO)]
        (connection,) = (c for c in reader.connections if c.topic == OUT_INFO)
        assert connection.ext.offered_qos_profiles[0].durability == QosDurability.TRANSIENT_LOCAL
        message = reader.deserialize(next(iter(reader.messages([connection])))[2], connection.msgtype)
    assert topics == [OUT_INFO, OUT, OUT]
    assert [(c.class_id, c.class_name) for c in message.class_map] == list(enumerate(LABELS.names))


def test_a_labelled_bag_is_a_drive_with_predictions(tmp_path):
    convert(FakeDrive(3), tmp_path / "bag")
    segment_path(tmp_path / "bag", tmp_path / "out", Echo())
    with BagDrive(tmp_path / "bag") as read:
        assert read.prediction_labels is None
        assert read.prediction(0) is None
    with BagDrive(tmp_path / "out") as read:
        assert (read.topic, read.axes, read.stated_intensity_scale) == ("/lidar/points", "x_forward", 1 / 255)
        assert read.prediction_labels == LABELS
        for index in (2, 0):
            expected = Echo().segment(read[index].points).class_id
            assert np.array_equal(read.prediction(index), expected)


@pytest.mark.parametrize("suffix", [".mcap", ".db3"])
def test_single_files(tmp_path, suffix):
    convert(FakeDrive(2), tmp_path / "bag", storage="mcap")
    segment_path(tmp_path / "bag" / "bag.mcap", tmp_path / f"out{suffix}", Echo())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bag", f"out{suffix}"]
    before, after = raw_messages(tmp_path / "bag" / "bag.mcap")[0], raw_messages(tmp_path / f"out{suffix}")[0]
    assert {topic: after[topic] for topic in before} == before
    assert len(after[OUT]) == 2


@pytest.mark.parametrize(("storage", "mode"), [
    ("mcap", CompressionMode.MESSAGE), ("mcap", CompressionMode.STORAGE), ("sqlite3", CompressionMode.FILE),
])  # fmt: skip
def test_compression_stays(tmp_path, storage, mode):
    convert(FakeDrive(2), tmp_path / "plain")
    source = rewrite(tmp_path / "plain", tmp_path / "bag", storage=storage, compression=mode)
    segment_path(source, tmp_path / "out", Echo())
    before, after = raw_messages(source)[0], raw_messages(tmp_path / "out")[0]
    assert {topic: after[topic] for topic in before} == before
    with Reader(source) as one, Reader(tmp_path / "out") as other:
        assert (one.compression_mode, one.compression_format) == (other.compression_mode, other.compression_format)
        chunks = [{c.compression for c in getattr(r.storage.storages[0], "chunks", [])} for r in (one, other)]
        assert chunks[0] == chunks[1]


def test_types_that_nobody_knows_pass_through(tmp_path):
    convert(FakeDrive(2), tmp_path / "bag", storage="sqlite3", distro="humble")
    import sqlite3

    database = sqlite3.connect(tmp_path / "bag" / "bag.db3")
    with database:
        # As Humble writes it: no definitions at all; and a type of the vehicle's own.
        database.execute("DROP TABLE message_definitions")
        database.execute("UPDATE schema SET schema_version = 3")
        database.execute("UPDATE topics SET type = 'acme_msgs/msg/Wheel' WHERE name = '/odom'")
    database.close()
    metadata = tmp_path / "bag" / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("nav_msgs/msg/Odometry", "acme_msgs/msg/Wheel"))
    segment_path(tmp_path / "bag", tmp_path / "out", Echo())
    before, _ = raw_messages(tmp_path / "bag")
    after, described = raw_messages(tmp_path / "out")
    assert {topic: after[topic] for topic in before} == before
    assert described["/odom"][0] == "acme_msgs/msg/Wheel"


@pytest.mark.parametrize("axes", ["x_forward", "y_forward"])
@pytest.mark.parametrize("checkpoint", ["x_forward", "y_forward"])
@pytest.mark.parametrize("chosen", [None, "x_forward", "y_forward"])
def test_the_segmenter_knows_the_axes_of_the_drive(tmp_path, segmenter, axes, checkpoint, chosen):
    drive = FakeDrive(1, axes=axes, cameras=False)
    convert(drive, tmp_path / "bag")
    trained = Segmenter(segmenter.network, replace(segmenter.meta, axes=checkpoint), axes=chosen)
    segment_path(tmp_path / "bag", tmp_path / "out", trained)
    columns = fields(labelled(tmp_path / "out")[0])
    points, intensity = drive[0].points, drive[0].intensity * np.float32(1 / 255)
    assert np.array_equal(np.stack([columns[a] for a in "xyz"], 1), points, equal_nan=True)
    # What the user gave to the segmenter counts, where it differs from the checkpoint's.
    actual = axes if chosen in (None, checkpoint) else chosen
    expected = [trained.for_sensor(axes=a).segment(points, intensity).probability for a in (actual, OTHER[actual])]
    assert np.array_equal(columns["probability"], expected[0])
    assert not np.array_equal(columns["probability"], expected[1])


@pytest.mark.parametrize(("scale", "chosen", "given", "stated", "expected"), [
    (1.0, None, None, True, 1 / 255),  # a KITTI checkpoint on a drive that says 0..255
    (1 / 255, None, None, True, 1 / 255),
    (0.5, None, None, False, 0.5),  # nobody says anything: the checkpoint's
    (1.0, 0.25, None, True, 0.25),  # the user told the segmenter
    (1.0, None, 0.125, True, 0.125),  # the user told this call
])  # fmt: skip
def test_intensity_scale(tmp_path, scale, chosen, given, stated, expected):
    drive = FakeDrive(1)
    convert(drive, tmp_path / "bag")
    source = tmp_path / "bag" if stated else tmp_path / "bag" / "bag.mcap"
    segment_path(source, tmp_path / "out", Echo(scale=scale, chosen=chosen), intensity_scale=given)
    seen = fields(labelled(tmp_path / "out")[0])["probability"]
    assert np.allclose(seen, drive[0].intensity * expected, rtol=1e-6)


def test_limit(tmp_path):
    convert(FakeDrive(4), tmp_path / "bag")
    summary = segment_path(tmp_path / "bag", tmp_path / "out", Echo(), limit=2)
    after, _ = raw_messages(tmp_path / "out")
    assert (summary.frames, len(after[OUT]), len(after["/lidar/points"])) == (2, 2, 2)
    with pytest.raises(ConfigError, match="limit: 0 is not at least 1"):
        segment_path(tmp_path / "bag", tmp_path / "none", Echo(), limit=0)


def test_organised_clouds_stay_organised(tmp_path):
    message = cloud_message(MESSAGES, START, points=12)
    message.height, message.width, message.row_step = 3, 4, 4 * message.point_step
    make_bag(tmp_path / "bag", [("/points", START, message)])
    segment_path(tmp_path / "bag", tmp_path / "out", Echo())
    (out,) = labelled(tmp_path / "out")
    assert (out.height, out.width, out.row_step) == (3, 4, 96)


def test_memory_does_not_grow_with_the_bag(tmp_path):
    peaks = []
    for frames in (8, 32):
        source = tmp_path / f"bag{frames}"
        convert(FakeDrive(frames, points=8_000, cameras=False), source)
        tracemalloc.start()
        segment_path(source, tmp_path / f"out{frames}", Echo())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 24 scans more, with their labels, are 12 MB; a chunk of the bag is 1 MB, and may be full or not at the peak.
    assert peaks[1] < peaks[0] + 1_000_000


def spoil(kind):
    def change(topic, message):
        change.seen += topic == "/lidar/points"
        if topic == "/lidar/points" and (kind == "all" or change.seen == 2):
            message.fields[0].name = "q"
        return message

    change.seen = 0
    return change


def test_a_bad_cloud_in_the_middle_is_counted_and_skipped(tmp_path):
    convert(FakeDrive(4), tmp_path / "good")
    source = rewrite(tmp_path / "good", tmp_path / "bag", change=spoil("one"))
    summary = segment_path(source, tmp_path / "out", Echo())
    assert summary.frames == 3
    assert list(summary.skipped.values()) == [1]
    assert "no field 'x'; fields present: q, y, z" in next(iter(summary.skipped))
    after, _ = raw_messages(tmp_path / "out")
    assert (len(after["/lidar/points"]), len(after[OUT])) == (4, 3)
    assert summary.confusion is not None


def test_bytes_that_are_no_message_are_skipped_too(tmp_path):
    import sqlite3

    convert(FakeDrive(3), tmp_path / "bag", storage="sqlite3")
    database = sqlite3.connect(tmp_path / "bag" / "bag.db3")
    with database:
        database.execute(
            "UPDATE messages SET data = X'00010000FFFF' WHERE id = (SELECT min(m.id) FROM messages m JOIN topics t "
            "ON t.id = m.topic_id WHERE t.name = '/lidar/points')"
        )
    database.close()
    summary = segment_path(tmp_path / "bag", tmp_path / "out", Echo())
    assert (summary.frames, list(summary.skipped.values())) == (2, [1])
    assert "topic /lidar/points: not a sensor_msgs/msg/PointCloud2" in next(iter(summary.skipped))


def test_not_one_good_cloud_is_an_error(tmp_path):
    convert(FakeDrive(3), tmp_path / "good")
    source = rewrite(tmp_path / "good", tmp_path / "bag", change=spoil("all"))
    with pytest.raises(DriveError, match=r"bag: topic /lidar/points: not one of 3 clouds can be read: 3 x .*'x'"):
        segment_path(source, tmp_path / "out", Echo())
    assert not (tmp_path / "out").exists()


def test_truth_of_other_classes_or_another_length_is_not_scored(tmp_path):
    convert(FakeDrive(2, label_space="nuscenes"), tmp_path / "nu")
    summary = segment_path(tmp_path / "nu", tmp_path / "out", Echo())
    assert summary.confusion is None
    assert summary.notes == ("not scored: the truth's classes are nuscenes (16), the checkpoint's semantickitti (19)",)

    def shorten(topic, message):
        if topic == "/ground_truth/segmentation":
            message.width, message.row_step = message.width - 1, message.row_step - message.point_step
        return message

    convert(FakeDrive(2), tmp_path / "good")
    source = rewrite(tmp_path / "good", tmp_path / "short", change=shorten)
    summary = segment_path(source, tmp_path / "out2", Echo())
    assert summary.confusion is None
    assert summary.notes[0] == "not scored: 1 scan: truth of 49 labels for 50 points"


class Failing(Echo):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def segment(self, points, intensity=None):
        if self.calls == 2:
            raise self.error
        return super().segment(points, intensity)


ERRORS = [KeyboardInterrupt(), OSError(28, "No space left on device")]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_nothing_is_left_when_a_bag_fails_in_the_middle(tmp_path, storage, error):
    convert(FakeDrive(4), tmp_path / "bag", storage=storage)
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    for out in ("out", "out.mcap"):
        with pytest.raises(expected, match="No space left" if expected is OutputError else None):
            segment_path(tmp_path / "bag", tmp_path / out, Failing(error))
        assert [p.name for p in tmp_path.iterdir()] == ["bag"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_disk_that_is_really_full(tmp_path, monkeypatch):
    import rosbags.rosbag2.storage_mcap as storage

    class Full(storage.McapWriter):
        def __init__(self, path, compression):
            super().__init__(path, compression)
            self.bio.close()
            self.bio = open("/dev/full", "wb")  # noqa: SIM115

    convert(FakeDrive(4, 20_000), tmp_path / "bag")
    from rosbags.rosbag2 import StoragePlugin, Writer

    monkeypatch.setitem(Writer.STORAGE_PLUGINS, StoragePlugin.MCAP, Full)
    with pytest.raises(OutputError, match="out: No space left on device; nothing was written"):
        segment_path(tmp_path / "bag", tmp_path / "out", Echo())
    assert [p.name for p in tmp_path.iterdir()] == ["bag"]


def test_a_full_disk_as_sqlite_says_it(tmp_path, monkeypatch):
    import sqlite3

    import rosbags.rosbag2.storage_sqlite3 as storage

    def full(self, connection, timestamp, data):
        raise sqlite3.OperationalError("database or disk is full")

    convert(FakeDrive(2), tmp_path / "bag", storage="sqlite3")
    monkeypatch.setattr(storage.Sqlite3Writer, "write", full)
    with pytest.raises(OutputError, match="out: database or disk is full; nothing was written"):
        segment_path(tmp_path / "bag", tmp_path / "out", Echo())
    assert [p.name for p in tmp_path.iterdir()] == ["bag"]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_that_is_damaged_in_the_middle(tmp_path, storage):
    convert(FakeDrive(6, 5000), tmp_path / "bag", storage=storage)
    (data,) = (p for p in (tmp_path / "bag").iterdir() if p.suffix in {".mcap", ".db3"})
    content = bytearray(data.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300_000] = bytes(300_000)
    data.write_bytes(content)
    if storage == "sqlite3":
        with pytest.raises(DriveError, match=r"bag: damaged or cut off"):
            segment_path(tmp_path / "bag", tmp_path / "out", Echo())
        assert not (tmp_path / "out").exists()
    else:
        # rosbags writes no checksums: what cannot be noticed by its form is noticed by the number of messages.
        (note,) = segment_path(tmp_path / "bag", tmp_path / "out", Echo()).notes
        assert re.fullmatch(r"bag is damaged: \d+ of 56 messages could be read", note)


def test_outputs_that_cannot_be(tmp_path):
    convert(FakeDrive(1), tmp_path / "bag")
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match=r"there: exists already; .*--force"):
        segment_path(tmp_path / "bag", tmp_path / "there", Echo())
    segment_path(tmp_path / "bag", tmp_path / "there", Echo(), force=True)
    for out in ("bag", "bag/out"):
        with pytest.raises(OutputError, match="is the input or lies in it"):
            segment_path(tmp_path / "bag", tmp_path / out, Echo(), force=True)
    with pytest.raises(DriveError, match=r"there: holds /segment/output/.* already; segment the bag"):
        segment_path(tmp_path / "there", tmp_path / "again", Echo())
    with pytest.raises(OutputError, match=r"the folder .*nowhere does not exist"):
        segment_path(tmp_path / "bag", tmp_path / "nowhere" / "out", Echo())


def kitti_scan(path, count=60, seed=0):
    values = np.random.default_rng(seed).normal(0, 10, (count, 4)).astype("<f4")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(values.tobytes())
    return values


def kitti_drive(root, sequence="08", scans=3):
    for i in range(scans):
        folder = root / "sequences" / sequence
        values = kitti_scan(folder / "velodyne" / f"{i:06d}.bin", seed=i)
        (folder / "labels").mkdir(exist_ok=True)
        raw = np.where(values[:, 0] > 0, 11, 10).astype("<u4")
        (folder / "labels" / f"{i:06d}.label").write_bytes(raw.tobytes())
    return root


def digest(root):
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("part", [".", "sequences/08", "dataset"])
def test_a_semantickitti_folder(tmp_path, part):
    root = kitti_drive(tmp_path / "kitti" / ("dataset" if part == "dataset" else "."))
    source = tmp_path / "kitti" if part != "sequences/08" else root / part
    before = digest(source)
    summary = segment_path(source, tmp_path / "out", Echo())
    assert digest(source) == before
    after = digest(tmp_path / "out")
    added = after.keys() - before.keys()
    place = {".": "sequences/08/", "sequences/08": "", "dataset": "dataset/sequences/08/"}[part] + "predictions"
    assert sorted(added) == [f"{place}/00000{i}.label" for i in range(3)]
    assert {name: after[name] for name in before} == before
    scan = source / place.replace("predictions", "velodyne") / "000001.bin"
    assert os.stat(tmp_path / "out" / scan.relative_to(source)).st_ino == scan.stat().st_ino
    values = np.fromfile(scan, "<f4").reshape(-1, 4)
    raw = read_labels(tmp_path / "out" / place / "000001.label", 60, np.uint32)
    # Echo's class 1, bicycle, where x > 0: raw id 11; else car, 10.
    assert np.array_equal(raw, np.where(values[:, 0] > 0, 11, 10))
    assert summary.frames == 3
    assert np.trace(summary.confusion[:, :19]) == summary.points == 180


def test_copies_where_links_cannot_be(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    source = kitti_drive(tmp_path / "kitti")
    segment_path(source, tmp_path / "out", Echo(), limit=1)
    assert digest(source).items() <= digest(tmp_path / "out").items()
    assert len(list((tmp_path / "out").rglob("predictions/*"))) == 1


def test_a_plain_folder(tmp_path):
    nuscenes = LabelSpace.load("nuscenes")
    values = np.random.default_rng(0).normal(0, 10, (30, 5)).astype("<f4")
    values[:, 4] = np.arange(30)
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "00.pcd.bin").write_bytes(values.tobytes())
    segment_path(tmp_path / "scans", tmp_path / "out", Echo(labels=nuscenes, axes="y_forward"))
    raw = np.fromfile(tmp_path / "out" / "predictions" / "00_lidarseg.bin", np.uint8)
    assert np.array_equal(nuscenes.from_raw(raw, ""), (values[:, 0] > 0).astype(np.uint8))


def test_a_nuscenes_folder(tmp_path):
    nuscenes = LabelSpace.load("nuscenes")
    write_nuscenes_set(tmp_path / "nu")
    before = digest(tmp_path / "nu")
    summary = segment_path(tmp_path / "nu", tmp_path / "out", Echo(labels=nuscenes, axes="y_forward"))
    assert (summary.frames, summary.confusion.shape) == (3, (16, 17))
    added = digest(tmp_path / "out").items() - before.items()
    drive = open_drive(tmp_path / "nu")
    names = {f"lidarseg/val/{drive.lidar_token(i)}_lidarseg.bin" for i in range(3)}
    assert {name for name, _ in added} == {*names, "val/submission.json"}
    labels = np.fromfile(tmp_path / "out" / "lidarseg" / "val" / f"{drive.lidar_token(1)}_lidarseg.bin", np.uint8)
    assert np.array_equal(labels, np.where(drive[1].points[:, 0] > 0, 2, 1))


def test_a_kitti_object_folder(tmp_path):
    root = tmp_path / "object"
    kitti_scan(root / "training" / "velodyne" / "000000.bin")
    (root / "training" / "calib").mkdir()
    segment_path(root, tmp_path / "out", Echo())
    assert (tmp_path / "out" / "training" / "predictions" / "000000.label").stat().st_size == 240


@pytest.mark.parametrize("error", ERRORS)
def test_nothing_is_left_when_a_folder_fails_in_the_middle(tmp_path, error):
    source = kitti_drive(tmp_path / "kitti")
    before = digest(source)
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        segment_path(source, tmp_path / "out", Failing(error))
    assert [p.name for p in tmp_path.iterdir()] == ["kitti"]
    assert digest(source) == before


def test_truncated_scans_of_a_folder(tmp_path):
    source = kitti_drive(tmp_path / "kitti")
    velodyne = source / "sequences" / "08" / "velodyne"
    (velodyne / "000001.bin").write_bytes(b"12345")
    summary = segment_path(source, tmp_path / "out", Echo())
    assert (summary.frames, list(summary.skipped.values())) == (2, [1])
    for path in velodyne.iterdir():
        path.write_bytes(b"12345")
    with pytest.raises(DriveError, match="kitti: not one of 3 scans can be read: 1 x "):
        segment_path(source, tmp_path / "out2", Echo())


def test_a_scan_to_pcd_and_label(tmp_path):
    values = kitti_scan(tmp_path / "a.bin")
    echo = Echo()
    summary = segment_path(tmp_path / "a.bin", tmp_path / "a.pcd", echo)
    expected = echo.segment(values[:, :3], values[:, 3])
    cloud = read_scan(tmp_path / "a.pcd")
    assert list(cloud.columns) == ["x", "y", "z", "intensity", "class_id", "probability", "entropy", "rgb"]
    assert np.array_equal(cloud.xyz(), values[:, :3])
    assert np.array_equal(cloud.columns["class_id"], expected.class_id)
    assert np.array_equal(cloud.columns["probability"], expected.probability)
    assert (summary.frames, summary.points, summary.confusion) == (1, 60, None)
    segment_path(tmp_path / "a.pcd", tmp_path / "b.label", echo)
    raw = read_labels(tmp_path / "b.label", 60, np.uint32)
    assert np.array_equal(LABELS.from_raw(raw, ""), expected.class_id)
    # The labels beside the scan are its truth.
    (tmp_path / "a.label").write_bytes(raw.astype("<u4").tobytes())
    summary = segment_path(tmp_path / "a.bin", tmp_path / "c.pcd", echo)
    assert np.trace(summary.confusion[:, :19]) == 60


@pytest.mark.parametrize("name", ["out", "out.bin", "out.ply", "out.mcap"])
def test_other_suffixes_of_a_scans_output(tmp_path, name):
    kitti_scan(tmp_path / "a.bin")
    with pytest.raises(OutputError, match=rf"{name}: the labels of a scan are written as \.pcd or \.label"):
        segment_path(tmp_path / "a.bin", tmp_path / name, Echo())


def test_a_topic_of_something_without_topics(tmp_path):
    kitti_scan(tmp_path / "a.bin")
    with pytest.raises(ConfigError, match=r"a\.bin: is not a bag, it has no topic /points"):
        segment_path(tmp_path / "a.bin", tmp_path / "a.pcd", Echo(), topic="/points")


@pytest.mark.real
def test_real_scans(tmp_path, real_data, segmenter):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sequence = tmp_path / "07"
        shutil.copytree(real_data / "semantickitti" / "sequences" / "07", sequence)
        convert(open_drive(real_data / "kitti_object"), tmp_path / "bag")
        for source, out in (
            (sequence, "kitti"),
            (real_data / "kitti_object", "object"),
            (tmp_path / "bag", "labelled"),
        ):
            summary = segment_path(source, tmp_path / out, segmenter)
            assert summary.points > 100_000
            assert summary.unlabelled < summary.points
