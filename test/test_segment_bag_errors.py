"""Bags with bad clouds or damage, full disks, outputs that cannot be: told, and nothing half-written is left."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bags import rewrite
from echo_segmenter import ERRORS, Echo, Failing
from fake_drive import FakeDrive
from labelled_bags import OUT, raw_messages

from mdkt_ros.drive.convert import convert
from mdkt_ros.errors import DriveError, OutputError
from mdkt_ros.segment_drive import segment_path


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
