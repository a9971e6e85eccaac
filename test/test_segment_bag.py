"""A bag in, the same bag with labels out: the labels are the segmenter's, and nothing else changes."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from bags import cloud_message, make_bag, rewrite
from echo_segmenter import GRID, LABELS, Echo
from fake_drive import START, FakeDrive
from labelled_bags import OUT, OUT_INFO, fields, labelled, raw_messages
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import CompressionMode, Reader
from segmenter_inputs import network

from mdkt_ros.checkpoint import CheckpointMeta
from mdkt_ros.drive.bag import BagDrive
from mdkt_ros.drive.convert import convert
from mdkt_ros.drive.rosmsg import Messages, typestore
from mdkt_ros.errors import ConfigError
from mdkt_ros.metrics import confusion_matrix
from mdkt_ros.segment_drive import segment_path
from mdkt_ros.segmenter import Segmenter

MESSAGES = Messages(typestore())
OTHER = {"x_forward": "y_forward", "y_forward": "x_forward"}


@pytest.fixture(scope="module")
def segmenter(one_thread):
    return Segmenter(network(), CheckpointMeta("minkunet14s", 0.25, GRID, LABELS))


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
