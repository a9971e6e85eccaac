"""The node `segment` on a real graph, in the test's own process: bags, bad input, parameters, lifecycle, cameras."""

from __future__ import annotations

import copy
import dataclasses
import time
from array import array

import numpy as np
import pytest
from fake_drive import FakeDrive
from ros_graph import DEADLINE
from running_node import OUT, SECOND, Sensors, stamp_of
from small_drives import write_kitti, write_nuscenes_set

from mdkt_ros.checkpoint import load_checkpoint, save_checkpoint
from mdkt_ros.cloud import parse_pointcloud2
from mdkt_ros.drive import open_drive
from mdkt_ros.drive.bag import BagDrive
from mdkt_ros.drive.convert import convert
from mdkt_ros.labels import LabelSpace
from mdkt_ros.segment_drive import segment_path
from mdkt_ros.segmenter import Segmenter

pytestmark = [pytest.mark.ros, pytest.mark.slow]


# ------------------------------------------------------------------------------------------------------------- bags


def kitti(tmp_path):
    return write_kitti(tmp_path / "set", count=5).parents[1]


def nuscenes(tmp_path):
    write_nuscenes_set(tmp_path / "set", count=5)
    return tmp_path / "set"


@pytest.mark.parametrize(("make", "storage"), [(kitti, "mcap"), (nuscenes, "mcap"), (nuscenes, "sqlite3")])
def test_every_scan_of_a_played_bag_gets_the_labels_of_mdkt_segment(run, graph, checkpoint, tmp_path, make, storage):
    from rosbag2_interfaces.srv import IsPaused, Resume
    from rosbags.highlevel import AnyReader

    drive = open_drive(make(tmp_path))
    convert(drive, tmp_path / "drive", storage=storage)
    segment_path(tmp_path / "drive", tmp_path / "labelled", Segmenter.load(checkpoint, "cpu"))
    expected = {}
    with AnyReader([tmp_path / "labelled"]) as reader:
        for connection, _, raw in reader.messages([c for c in reader.connections if c.topic == f"{OUT}/segmentation"]):
            message = reader.deserialize(raw, connection.msgtype)
            expected[stamp_of(message)] = message
    with BagDrive(tmp_path / "drive") as bag:
        sensor = {"intensity_scale": bag.intensity_scale, "axes": bag.axes}
    running = run(input_depth=100, **sensor).up()
    got = running.listen("segmentation")
    running.settle()
    with graph.program("bag", "play", tmp_path / "drive", "--rate", "0.3", "--start-paused"):
        assert graph.call(IsPaused, "/rosbag2_player/is_paused").paused
        graph.until(lambda: graph.node.count_publishers("/lidar/points"), "the player")
        graph.call(Resume, "/rosbag2_player/resume")
        graph.until(lambda: len(got) == len(expected), f"{len(expected)} scans")
    assert [stamp_of(message) for message in got] == sorted(expected)
    for message in got:
        twin = expected[stamp_of(message)]
        assert (message.header.frame_id, message.width, message.point_step) == ("lidar", twin.width, 24)
        assert bytes(message.data) == bytes(twin.data)
    counts = running.statistics()
    assert (counts.received, counts.processed, counts.dropped) == (5, 5, 0)


def test_a_bag_that_loops_is_labelled_and_paired_the_second_time_too(run, graph, tmp_path):
    convert(FakeDrive(frames=12, points=400), tmp_path / "drive")
    topics = {}
    for index, name in enumerate(("image_2", "CAM_LEFT")):
        topics[f"image{index}"] = f"/camera/{name}/image_raw/compressed"
        topics[f"camera_info{index}"] = f"/camera/{name}/camera_info"
    running = run(topics=topics, cameras=2, image_transport="compressed", input_depth=100).up()
    got = running.listen("segmentation")
    for index in range(2):
        running.listen(f"overlay{index}", "sensor_msgs/msg/Image")
    running.settle()
    graph.until(lambda: len(running.node._work._filming) == 2, "the subscriptions to images")
    with graph.program("bag", "play", tmp_path / "drive", "--rate", "0.4", "--loop"):
        graph.until(lambda: running.statistics().time_jumps == 2, "the third run")
    graph.until(lambda: running.node._work._worker.wait(0), "the end of the work")
    counts = running.statistics()
    assert counts.received == counts.processed + counts.dropped
    assert counts.received >= 24
    stamps = [stamp_of(message) for message in got]
    assert max(stamps.count(stamp) for stamp in stamps) >= 2
    for index in range(2):
        camera = counts.cameras[index]
        # The first scan of a run comes before its image, and a scan waits for none.
        assert camera.skipped["no image near the scan"] <= 3
        assert set(camera.skipped) <= {"no image near the scan"}
        assert camera.drawn >= counts.processed - 3
        assert len(running.got[f"overlay{index}"]) == camera.drawn


# ---------------------------------------------------------------------------------------------------- bad messages


def spoil_fields(message):
    return {"fields": [f for f in message.fields if f.name != "y"]}


BAD = {
    "truncated": ("unreadable", lambda m: {"data": m.data[:-1]}),
    "no y": ("unreadable", spoil_fields),
    "absurd point_step": ("unreadable", lambda m: {"point_step": 2**31}),
    "absurd width": ("unreadable", lambda m: {"width": 2**32 - 1}),
    "empty": ("empty", lambda m: {"width": 0, "row_step": 0, "data": m.data[:0]}),
    "all NaN": ("no finite point", lambda m: {"data": array("B", np.full(len(m.data) // 4, np.nan, "<f4").tobytes())}),
}


def test_bad_scans_are_counted_and_told_and_the_next_good_one_is_labelled(run, graph):
    running = run(input_timeout=20.0).up()
    sensors, got = running.connect()
    good = sensors.scan(SECOND)
    graph.until(lambda: len(got) == 1, "the first scan")
    for number, (reason, spoil) in enumerate(BAD.values(), 2):
        sensors.scan(number * SECOND, **spoil(copy.deepcopy(good)))
        graph.until(lambda number=number: sum(running.statistics().skipped.values()) == number - 1, reason)
        assert reason in running.statistics().skipped
    level, message, values = running.diagnosis()
    assert values["scans skipped: unreadable"] == "4"
    assert (values["scans skipped"], values["scans labelled"]) == ("6", "1")
    sensors.scan(100 * SECOND)
    graph.until(lambda: len(got) == 2, "the good scan after the bad ones")
    assert bytes(got[0].data) == bytes(got[1].data)
    level, message, values = running.diagnosis()
    assert (level, message) == (0, "labelling")


def test_scans_without_stamp_are_labelled(run, graph):
    running = run().up()
    sensors, got = running.connect()
    for number, stamp in enumerate((0, 5 * SECOND, 0), 1):
        sensors.scan(stamp)
        graph.until(lambda number=number: len(got) == number, "the scan")
    assert [stamp_of(message) for message in got] == [0, 5 * SECOND, 0]
    assert (running.statistics().without_stamp, running.statistics().time_jumps) == (2, 0)


# ------------------------------------------------------------------------------------------- outputs and freshness


def test_only_what_somebody_listens_to_is_computed(run, graph, monkeypatch):
    running = run().up()
    sensors = Sensors(graph)
    sensors.ready()
    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "segment", lambda *_: pytest.fail("labelled for nobody"))
        sensors.scan(SECOND)
        graph.until(lambda: running.statistics().unwanted == 1, "the scan")
    for output in ("segmentation", "obstacle", "visualization"):
        running.listen(output)
    running.listen("/segment/debug/total_ms", "std_msgs/msg/Float64")
    running.settle()
    sent = sensors.scan(2 * SECOND)
    graph.until(lambda: all(running.got.values()), "what is listened to")
    (labelled,), (obstacle,), (painted,) = (running.got[name] for name in ("segmentation", "obstacle", "visualization"))
    for message in (labelled, obstacle, painted):
        assert message.header == sent.header
    class_id = parse_pointcloud2(labelled).columns["class_id"]
    mask = LabelSpace.load("semantickitti").in_group(class_id, "obstacle")
    assert (obstacle.fields, obstacle.point_step) == (sent.fields, sent.point_step)
    rows = np.frombuffer(sent.data, np.uint8).reshape(-1, sent.point_step)
    assert bytes(obstacle.data) == rows[mask].tobytes()
    assert [(f.name, f.offset, f.datatype) for f in painted.fields][-1] == ("rgb", 12, 7)
    assert running.got["/segment/debug/total_ms"][0].data > 0


def test_class_ids_and_groups_are_the_checkpoints(run, graph, tmp_path, checkpoint):
    network, meta = load_checkpoint(checkpoint)
    told = meta.labels.to_dict()
    told["classes"] = [told["classes"][i] for i in np.random.default_rng(0).permutation(len(told["classes"]))]
    shuffled = LabelSpace.from_dict(told)
    save_checkpoint(tmp_path / "shuffled.safetensors", network, dataclasses.replace(meta, labels=shuffled))
    running = run(checkpoint=str(tmp_path / "shuffled.safetensors")).up()
    info = running.listen("label_info", "vision_msgs/msg/LabelInfo", latched=True)
    legend = running.listen("legend", "visualization_msgs/msg/MarkerArray", latched=True)
    labelled, drivable = running.listen("segmentation"), running.listen("drivable")
    sensors = Sensors(graph)
    sensors.ready()
    running.settle()
    sensors.scan(SECOND)
    graph.until(lambda: info and labelled and drivable and legend, "class names, labels, a group")
    assert [(m.text, m.header.frame_id) for m in legend[0].markers] == [(name, "lidar") for name in shuffled.names]
    assert [(c.class_id, c.class_name) for c in info[0].class_map] == list(enumerate(shuffled.names))
    assert shuffled.names != LabelSpace.load("semantickitti").names
    class_id = parse_pointcloud2(labelled[0]).columns["class_id"]
    assert drivable[0].width == np.isin(class_id, [shuffled.index("road"), shuffled.index("parking")]).sum()


def test_the_legend_comes_again_for_whoever_has_forgotten_it(run, graph, monkeypatch):
    from mdkt_ros.ros import outputs

    monkeypatch.setattr(outputs, "LEGEND_PERIOD", 0.0)
    running = run().up()
    legend = running.listen("legend", "visualization_msgs/msg/MarkerArray", latched=True)
    sensors, labelled = running.connect()
    for number in (1, 2, 3):
        sensors.scan(number * SECOND)
        graph.until(lambda number=number: len(labelled) == number and len(legend) == number, "labels and legend")
    monkeypatch.setattr(outputs, "LEGEND_PERIOD", 60.0)
    sensors.scan(4 * SECOND)
    graph.until(lambda: len(labelled) == 4, "labels")
    assert len(legend) == 3


def test_fifty_scans_a_second_into_a_slow_network_come_fresh_or_not_at_all(run, graph, monkeypatch):
    segment, slow = Segmenter.segment, 0.15

    def slowly(self, points, intensity=None):
        time.sleep(slow)
        return segment(self, points, intensity)

    running = run().up()
    monkeypatch.setattr(Segmenter, "segment", slowly)
    sensors, got = running.connect()
    start = time.monotonic()
    ages, seen = [], 0
    while time.monotonic() < start + 2.5:
        sensors.scan(SECOND + int(1e9 * (time.monotonic() - start)))
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            graph.executor.spin_once(timeout_sec=0.002)
            while seen < len(got):
                ages.append(time.monotonic() - start - (stamp_of(got[seen]) - SECOND) / 1e9)
                seen += 1
    graph.until(lambda: running.node._work._worker.wait(0), "the end of the work")
    counts = running.statistics()
    assert counts.received == counts.processed + counts.dropped
    assert counts.dropped > counts.processed > 3
    # A queue would have made the last ones seconds old.
    assert np.median(ages[-3:]) < 4 * slow
    assert int(running.diagnosis()[2]["scans dropped for newer ones"]) == counts.dropped


# ---------------------------------------------------------------------------------------------------------- cameras


def test_a_camera_that_dies_and_returns_never_holds_a_cloud_up(run, graph):
    running = run(cameras=1, image_transport="compressed").up()
    clouds, overlays = running.listen("segmentation"), running.listen("overlay0", "sensor_msgs/msg/Image")
    sensors = Sensors(graph)
    sensors.mount()
    running.settle()
    sensors.ready(film=True)
    graph.until(lambda: running.node._work._transforms._buffer.all_frames_as_yaml() != "{}", "tf")

    def received():
        cameras = running.statistics().cameras
        return cameras[0].received if cameras else 0

    def scan(number, **image):
        if image:
            count = received()
            sensors.image(number * SECOND + 20_000_000, image["data"])
            graph.until(lambda: received() == count + 1, "the image")
        sensors.scan(number * SECOND)
        graph.until(lambda: len(clouds) == number, f"cloud {number}")
        running.node._work._worker.wait(DEADLINE)

    scan(1, data=None)
    graph.until(lambda: len(overlays) == 1, "the overlay")
    assert stamp_of(overlays[0]) == SECOND + 20_000_000
    assert (overlays[0].height, overlays[0].width, overlays[0].encoding) == (48, 64, "rgb8")
    scan(2)
    scan(3, data=b"\xff\xd8rubbish")
    scan(4, data=None)
    graph.until(lambda: len(overlays) == 2, "the overlay after the camera has returned")
    camera = running.statistics().cameras[0]
    assert (camera.drawn, camera.skipped, camera.delay_ms) == (2, {"no image near the scan": 1, "not usable": 1}, 20.0)


def test_images_are_received_only_while_somebody_watches(run, graph):
    run(cameras=1, image_transport="compressed").up()
    sensors = Sensors(graph)
    sensors.ready()
    assert not sensors.camera.get_subscription_count()
    overlays = []
    subscription = graph.subscribe(f"{OUT}/overlay0", "sensor_msgs/msg/Image", overlays)
    sensors.ready(film=True)
    graph.node.destroy_subscription(subscription)
    graph.until(lambda: not sensors.camera.get_subscription_count(), "the end of the image subscription")
