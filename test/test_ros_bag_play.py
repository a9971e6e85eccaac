"""Bags of this package played by ROS 2's own player to ROS 2's own subscriber, and its recorder's bags read here."""

from __future__ import annotations

import time

import numpy as np
import pytest
from fake_drive import FakeDrive
from ros_graph import DEADLINE, HUMBLE, plain
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability
from small_drives import write_nuscenes_set

from mdkt_ros.drive import open_drive
from mdkt_ros.drive.bag import BagDrive
from mdkt_ros.drive.convert import convert, optical_frame
from mdkt_ros.drive.pose import pose_from_quaternion
from mdkt_ros.drive.rosmsg import TF, typestore
from mdkt_ros.info import describe
from mdkt_ros.segment_drive import segment_path

pytestmark = pytest.mark.ros
LATCHED = {"/tf_static", "/ground_truth/label_info", "/segment/output/label_info"}


def written(path):
    """Every message of a bag by topic, in order, as `rosbags` reads it; and the topics' types and their hashes."""
    found = {}
    with AnyReader([path], default_typestore=typestore("humble") if HUMBLE else None) as reader:
        for connection, _, raw in reader.messages():
            found.setdefault(connection.topic, []).append(plain(reader.deserialize(raw, connection.msgtype)))
        for connection in reader.connections:
            durability = connection.ext.offered_qos_profiles[0].durability
            assert (durability == QosDurability.TRANSIENT_LOCAL) == (connection.topic in LATCHED)
        return found, {c.topic: c.msgtype for c in reader.connections}, {c.topic: c.digest for c in reader.connections}


def check_played(graph, path, *, latched_first=True):
    """`ros2 bag play` hands every message of the bag to a subscriber, and what is latched to one who comes later.

    `latched_first`: whether the bag begins with what is latched, as `convert` writes it; who comes later is tried then.
    """
    from rosbag2_interfaces.srv import IsPaused, PlayNext, Resume

    expected, types, _ = written(path)
    got = {topic: [] for topic in types}
    for topic, msgtype in types.items():
        graph.subscribe(topic, msgtype, got[topic])
    with graph.program("bag", "play", path, "--start-paused", "--wait-for-all-acked", "20000") as player:
        # The player answers when it knows this client, and so the subscriptions that were there before it.
        assert graph.call(IsPaused, "/rosbag2_player/is_paused").paused
        first = ("/tf_static", "/ground_truth/label_info") if latched_first else ()
        for topic in first:
            assert graph.call(PlayNext, "/rosbag2_player/play_next").success
            graph.until(lambda topic=topic: len(got[topic]) == 1, topic)
        late = {topic: [] for topic in first}
        for topic in first:
            graph.subscribe(topic, types[topic], late[topic], latched=True)
            graph.until(lambda topic=topic: late[topic], f"{topic} for a late subscriber")
        graph.call(Resume, "/rosbag2_player/resume")
        for topic, messages in expected.items():
            graph.until(lambda: len(got[topic]) >= len(messages), f"{len(messages)} of {topic}")  # noqa: B023
        output, _ = player.communicate(timeout=DEADLINE)
    assert player.returncode == 0, output
    assert "WARN" not in output, output
    assert "ERROR" not in output, output
    for topic in types:
        assert [plain(message) for message in got[topic]] == expected[topic], topic
    for topic in first:
        assert plain(late[topic][0]) == expected[topic][0]
    return got


@pytest.mark.parametrize(
    ("storage", "distro"), [("mcap", "jazzy"), ("sqlite3", "jazzy"), ("mcap", "humble"), ("sqlite3", "humble")]
)
def test_a_converted_drive_plays(graph, tmp_path, storage, distro):
    if HUMBLE and distro != "humble":
        pytest.skip("Humble's player cannot read the metadata of bags of its successors")
    drive = FakeDrive()
    convert(drive, tmp_path / "drive", storage=storage, distro=distro)
    got = check_played(graph, tmp_path / "drive")
    for index, message in enumerate(got["/lidar/points"]):
        rows = np.frombuffer(message.data, np.uint8).reshape(-1, message.point_step)
        assert rows[:, :12].tobytes() == drive[index].points.tobytes()
    assert [c.class_name for c in got["/ground_truth/label_info"][0].class_map] == list(drive.labels.names)


def test_tf2_finds_the_cameras_where_the_drive_has_them(rclpy, tmp_path):
    from rclpy.serialization import deserialize_message
    from rclpy.time import Time
    from tf2_msgs.msg import TFMessage

    tf2 = pytest.importorskip("tf2_ros", reason="tf2_ros of ROS 2 is not here")
    drive = FakeDrive()
    convert(drive, tmp_path / "drive")
    buffer = tf2.BufferCore()
    with AnyReader([tmp_path / "drive"]) as reader:
        for connection, _, raw in reader.messages([c for c in reader.connections if c.msgtype == TF]):
            for transform in deserialize_message(bytes(raw), TFMessage).transforms:
                add = buffer.set_transform_static if connection.topic == "/tf_static" else buffer.set_transform
                add(transform, "bag")

    def matrix(stamped):
        q, t = stamped.transform.rotation, stamped.transform.translation
        return pose_from_quaternion((q.w, q.x, q.y, q.z), (t.x, t.y, t.z))

    for index in range(len(drive)):
        frame = drive[index]
        scan = Time(nanoseconds=frame.stamp)
        assert np.allclose(matrix(buffer.lookup_transform_core("odom", "lidar", scan)), frame.world_from_lidar)
        for view in frame.views:
            camera, at = optical_frame(view.camera.name), Time(nanoseconds=view.stamp)
            found = buffer.lookup_transform_full_core(camera, at, "lidar", scan, "odom")
            assert np.allclose(matrix(found), view.camera.camera_from_lidar, atol=1e-6)


def test_a_segmented_drive_plays(graph, tmp_path, segmenter):
    write_nuscenes_set(tmp_path / "nuscenes")
    convert(open_drive(tmp_path / "nuscenes"), tmp_path / "drive")
    segment_path(tmp_path / "drive", tmp_path / "labelled", segmenter)
    got = check_played(graph, tmp_path / "labelled")
    for cloud, labels in zip(got["/lidar/points"], got["/segment/output/segmentation"], strict=True):
        assert (labels.header, labels.width) == (cloud.header, cloud.width)
    assert len(got["/segment/output/label_info"][0].class_map) == 19


ZSTD = "--compression-format zstd --compression-queue-size 0"
RECORDERS = {
    "sqlite3": "-s sqlite3",
    "mcap-chunks": "-s mcap --storage-preset-profile zstd_fast",
    "mcap-messages": f"-s mcap --compression-mode message {ZSTD}",
    "sqlite3-file": f"-s sqlite3 --compression-mode file {ZSTD}",
}


@pytest.mark.parametrize("options", RECORDERS.values(), ids=list(RECORDERS))
def test_a_recorded_bag_is_read_and_segmented(graph, tmp_path, options, segmenter):
    if HUMBLE and options == RECORDERS["mcap-messages"]:
        pytest.skip("Humble's recorder does not compress messages in MCAP")
    from rclpy.duration import Duration
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from rosbag2_interfaces.srv import IsPaused
    from rosidl_runtime_py.utilities import get_message

    convert(FakeDrive(), tmp_path / "drive")
    expected, types, hashes = written(tmp_path / "drive")
    publishers = {}
    for topic, msgtype in types.items():
        durability = DurabilityPolicy.TRANSIENT_LOCAL if topic in LATCHED else DurabilityPolicy.VOLATILE
        profile = QoSProfile(depth=10, durability=durability)
        publishers[topic] = graph.node.create_publisher(get_message(msgtype), topic, profile)
    out = tmp_path / "recorded"
    with graph.program("bag", "record", "-o", out, *options.split(), *([] if HUMBLE else ["--topics"]), *types):
        for topic, publisher in publishers.items():
            graph.until(publisher.get_subscription_count, f"recorder of {topic}")
        with AnyReader([tmp_path / "drive"]) as reader:
            for connection, _, raw in reader.messages():
                publishers[connection.topic].publish(bytes(raw))
        assert all(publisher.wait_for_all_acked(Duration(seconds=DEADLINE)) for publisher in publishers.values())
        # Arrived is not yet taken: between two answers the recorder takes a message of every topic that has one.
        for _ in range(max(map(len, expected.values())) + 1):
            if HUMBLE:  # whose recorder cannot be asked
                time.sleep(0.2)
            else:
                graph.call(IsPaused, "/rosbag2_recorder/is_paused")
    assert {t["name"]: t["messages"] for t in describe(out)["topics"]} == {k: len(v) for k, v in expected.items()}
    recorded, _, recorded_hashes = written(out)
    assert recorded == expected
    if not HUMBLE:  # which records none
        assert recorded_hashes == hashes
    summary = segment_path(out, tmp_path / "labelled", segmenter)
    assert summary.frames == 4
    with BagDrive(tmp_path / "labelled") as labelled:
        assert len(labelled) == 4
        assert labelled[3].labels is not None
        assert {view.camera.name for view in labelled[3].views} == {"image_2", "CAM_LEFT"}
    assert {k: v for k, v in written(tmp_path / "labelled")[0].items() if k in expected} == expected
    for publisher in publishers.values():
        graph.node.destroy_publisher(publisher)
    check_played(graph, tmp_path / "labelled", latched_first=False)
