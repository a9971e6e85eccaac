"""Labelling of a live sensor without ROS: the worker, the counts, the judgement, and what comes out of a scan."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from fake_drive import jpeg
from small_models import random_meta, random_network

from mdkt_ros.cloud import build_pointcloud2, parse_pointcloud2
from mdkt_ros.errors import CameraError, ConfigError
from mdkt_ros.live.health import Health, Level, Limits
from mdkt_ros.live.images import ImageStore
from mdkt_ros.live.labeller import Labeller, Scan, check_groups
from mdkt_ros.live.newest import NewestWorker
from mdkt_ros.live.report import values
from mdkt_ros.live.statistics import Statistics
from mdkt_ros.live.warmup import street, warm_up
from mdkt_ros.pairing import Paired
from mdkt_ros.segmenter import Segmenter

MS = 1_000_000


# ----------------------------------------------------------------------------------------------------- the worker


class Gate:
    """Work that waits to be let through, one item at a time."""

    def __init__(self):
        self.done, self.started = [], threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)

    def __call__(self, item):
        self.started.release()
        assert self.allowed.acquire(timeout=5)
        self.done.append(item)
        if item == "bad":
            raise TypeError("bad")


def test_newer_items_replace_each_other_while_one_is_worked_on():
    gate, failures = Gate(), []
    worker = NewestWorker(gate, failures.append)
    assert worker.put(1) is None
    assert gate.started.acquire(timeout=5)
    assert [worker.put(item) for item in (2, 3, 4)] == [None, 2, 3]
    for _ in range(2):
        gate.allowed.release()
    assert worker.wait(5)
    assert (gate.done, failures) == ([1, 4], [])
    assert worker.close(5)


def test_work_that_fails_is_told_and_the_next_item_is_worked_on():
    gate, failures = Gate(), []
    worker = NewestWorker(gate, failures.append)
    for item in ("bad", "good"):
        worker.put(item)
        gate.allowed.release()
    assert worker.wait(5)
    assert gate.done == ["bad", "good"]
    assert [str(failure) for failure in failures] == ["bad"]
    assert worker.close(5)


def test_closing_waits_for_the_item_in_work_but_not_for_ever_and_takes_no_more():
    gate = Gate()
    worker = NewestWorker(gate, pytest.fail)
    worker.put(1)
    assert gate.started.acquire(timeout=5)
    worker.put(2)
    assert not worker.close(0.01)
    assert worker.put(3) == 3
    gate.allowed.release()
    assert worker.wait(5)
    assert gate.done == [1]


def test_what_waits_can_be_discarded_and_other_work_runs_in_the_same_thread():
    gate = Gate()
    worker = NewestWorker(gate, pytest.fail)
    assert worker.discard() == 0
    worker.put(1)
    assert gate.started.acquire(timeout=5)
    worker.put(2)
    assert worker.discard() == 1
    gate.allowed.release()
    assert worker.wait(5)
    assert worker.run(lambda: threading.current_thread().name).startswith("segment")
    with pytest.raises(KeyError):
        worker.run(lambda: {}["x"])
    assert worker.close(5)


def test_latency_is_bounded_however_fast_items_come():
    ages = []

    def work(born):
        time.sleep(0.02)
        ages.append(time.monotonic() - born)

    worker = NewestWorker(work, pytest.fail)
    dropped = 0
    for _ in range(150):
        dropped += worker.put(time.monotonic()) is not None
        time.sleep(0.002)
    assert worker.wait(5)
    assert worker.close(5)
    assert len(ages) + dropped == 150
    assert dropped > 50
    # Never a queue: the last results are no older than the first ones.
    assert np.median(ages[-5:]) < 4 * 0.02


def test_other_work_is_waited_for_until_told_to_stop():
    gate = threading.Event()
    worker = NewestWorker(pytest.fail, pytest.fail)
    with pytest.raises(InterruptedError):
        worker.run(lambda: gate.wait(5), stop=lambda: True)
    assert not worker.close(0.01)
    gate.set()
    assert worker.wait(5)


# ------------------------------------------------------------------------------------------------------ judgement


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def health(clock):
    return Health(Limits(time_ms=50, persistence_ms=500, input_timeout=2), clock)


def test_over_the_budget_is_a_warning_and_an_error_when_it_persists(health, clock):
    assert health.judge() == (Level.OK, "labelling")
    health.received()
    health.processed(80)
    assert health.judge() == (Level.WARN, "80 ms for a scan, 50 ms are allowed")
    for _ in range(6):
        clock.now += 0.1
        health.received()
        health.processed(80)
    level, message = health.judge()
    assert (level, message) == (Level.ERROR, "80 ms for a scan, 50 ms are allowed; for 0.6 s now")
    health.processed(40)
    assert health.judge().level == Level.OK


def test_no_scan_is_an_error_until_one_comes(health, clock):
    clock.now += 1.9
    assert health.judge().level == Level.OK
    clock.now += 0.5
    assert health.judge() == (Level.ERROR, "no scan for 2.4 s")
    health.received()
    health.unwanted()
    assert health.judge().level == Level.OK
    clock.now += 60
    health.start()
    assert health.judge().level == Level.OK


def test_skipped_scans_are_a_warning_and_nothing_but_those_an_error(health, clock):
    health.received()
    health.skipped("truncated")
    assert health.judge() == (Level.WARN, "1 scans skipped: truncated")
    assert health.judge().level == Level.OK
    for _ in range(25):
        clock.now += 0.1
        health.received()
        health.skipped("truncated")
    assert health.judge() == (Level.ERROR, "no scan could be labelled for 2.5 s: truncated")
    health.processed(10)
    assert health.judge().level == Level.OK


# ----------------------------------------------------------------------------------------- from a scan to outputs


@dataclass
class Listener:
    """Outputs that keep what they get."""

    listens: frozenset = frozenset({"segmentation"})
    clouds: dict = field(default_factory=dict)
    pictures: dict = field(default_factory=dict)
    milliseconds: list = field(default_factory=list)
    complaints: list = field(default_factory=list)
    order: list = field(default_factory=list)

    def wanted(self):
        return self.listens

    def cloud(self, output, cloud, scan):
        self.order.append(output)
        self.clouds[output] = cloud

    def image(self, output, pixels, image):
        self.order.append(output)
        self.pictures[output] = pixels

    def times(self, milliseconds, scan):
        self.order.append("times")
        self.milliseconds.append(milliseconds)

    def complain(self, what, message):
        self.complaints.append((what, message))


OPTICAL = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])


class Setting:
    """A labeller with everything around it."""

    def __init__(self, segmenter, **options):
        self.segmenter = segmenter
        self.listener, self.statistics, self.health = Listener(), Statistics(), Health(Limits())
        self.images = ImageStore(50 * MS)
        self.labeller = Labeller(
            segmenter, self.listener, self.statistics, self.health, self.images, self.extrinsics, **options
        )

    def extrinsics(self, camera, image_stamp, lidar, scan_stamp):
        if camera != "optical":
            raise CameraError(f"no transform from {lidar} to {camera}")
        return OPTICAL

    def process(self, message, stamp=1000 * MS, **more):
        self.statistics.count("received")
        self.labeller.process(Scan(message, stamp, "lidar", time.perf_counter(), **more))


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(random_network(), random_meta(), device="cpu")


@pytest.fixture
def setting(segmenter):
    return Setting(segmenter)


def cloud_message(count=500, **changes):
    """An organised cloud with padding-free rows, a ring and one NaN."""
    points = street(count)
    points[3:4] = np.nan
    columns = {
        "ring": np.arange(count, dtype=np.uint16),
        **{name: points[:, axis] for axis, name in enumerate("xyz")},
        "intensity": np.linspace(0, 1, count, dtype=np.float32),
    }
    message = build_pointcloud2(columns, height=2 if count % 2 == 0 else 1, is_dense=False)
    return SimpleNamespace(**{**vars(message), **changes})


def image(stamp, frame="optical", data=None):
    header = SimpleNamespace(stamp=stamp, frame_id=frame)
    return SimpleNamespace(header=header, format="jpeg", data=jpeg(0, 64, 48) if data is None else data)


def info(**changes):
    k = np.array([40.0, 0, 32, 0, 40, 24, 0, 0, 1])
    p = np.array([40.0, 0, 32, 0, 0, 40, 24, 0, 0, 0, 1, 0])
    fields = {"width": 64, "height": 48, "distortion_model": "plumb_bob", "d": np.zeros(5), "k": k, "p": p}
    return SimpleNamespace(**{**fields, **changes})


def test_the_labelled_cloud_is_what_the_segmenter_says_of_the_same_points(setting):
    message = cloud_message()
    setting.process(message)
    cloud = parse_pointcloud2(message)
    expected = setting.segmenter.segment(cloud.xyz(), cloud.intensity())
    got = parse_pointcloud2(setting.listener.clouds["segmentation"])
    assert (got.height, got.width) == (2, 250)
    assert setting.listener.clouds["segmentation"].point_step == 24
    assert list(got.columns) == ["x", "y", "z", "class_id", "probability", "entropy"]
    assert got.xyz().tobytes() == cloud.xyz().tobytes()
    for name in ("class_id", "probability", "entropy"):
        assert np.array_equal(got.columns[name], getattr(expected, name))
    assert got.columns["class_id"][3] == 255
    assert setting.statistics.snapshot().processed == 1


def test_input_fields_are_appended_on_request(segmenter):
    setting = Setting(segmenter, keep_input_fields=True)
    setting.process(cloud_message())
    got = parse_pointcloud2(setting.listener.clouds["segmentation"])
    assert list(got.columns)[6:] == ["ring", "intensity"]
    assert np.array_equal(got.columns["ring"], np.arange(500))


def test_only_what_is_wanted_is_made_and_the_labelled_cloud_comes_first(setting):
    setting.listener.listens = frozenset({"obstacle", "visualization", "segmentation", "drivable"})
    message = cloud_message()
    setting.process(message)
    order = setting.listener.order
    assert order[:2] == ["segmentation", "visualization"]
    assert sorted(order) == ["drivable", "obstacle", "segmentation", "times", "visualization"]
    class_id = parse_pointcloud2(setting.listener.clouds["segmentation"]).columns["class_id"]
    for group in ("obstacle", "drivable"):
        mask = setting.segmenter.labels.in_group(class_id, group)
        part = setting.listener.clouds[group]
        assert (part.fields, part.point_step) == (message.fields, message.point_step)
        assert part.data.tobytes() == message.data.reshape(-1, message.point_step)[mask].tobytes()
    painted = setting.listener.clouds["visualization"]
    assert [(f.name, f.offset) for f in painted.fields] == [("x", 0), ("y", 4), ("z", 8), ("rgb", 12)]


def test_without_a_listener_the_network_does_not_run(setting, monkeypatch):
    setting.listener.listens = frozenset()
    monkeypatch.setattr(setting.segmenter, "segment", pytest.fail)
    setting.process(cloud_message())
    snapshot = setting.statistics.snapshot()
    assert (snapshot.received, snapshot.unwanted, snapshot.processed) == (1, 1, 0)


BAD = {
    "truncated": ("unreadable", lambda m: setattr(m, "data", m.data[:-1])),
    "no x": ("unreadable", lambda m: setattr(m, "fields", tuple(f for f in m.fields if f.name != "x"))),
    "absurd point_step": ("unreadable", lambda m: setattr(m, "point_step", 2**31)),
    "point_step 0": ("unreadable", lambda m: setattr(m, "point_step", 0)),
    "no such size": ("unreadable", lambda m: setattr(m, "width", 2**32 - 1)),
    "empty": ("empty", lambda m: (setattr(m, "width", 0), setattr(m, "data", m.data[:0]))),
    "all NaN": ("no finite point", lambda m: m.data.view("<f4").fill(np.nan)),
}


@pytest.mark.parametrize(("reason", "spoil"), BAD.values(), ids=list(BAD))
def test_a_bad_scan_is_counted_and_told_and_the_next_one_is_labelled(setting, reason, spoil):
    message = cloud_message()
    spoil(message)
    setting.process(message)
    assert setting.listener.order == []
    ((what, text),) = setting.listener.complaints
    assert what == reason
    assert text.startswith("scan skipped: ")
    setting.process(cloud_message())
    snapshot = setting.statistics.snapshot()
    assert (snapshot.received, snapshot.processed, snapshot.skipped) == (2, 1, {reason: 1})
    assert setting.health.judge().level == Level.WARN


def test_stages_sum_up_to_the_total(setting):
    setting.process(cloud_message())
    (stages,) = setting.listener.milliseconds
    parts = ("parse", "voxelize", "inference", "gather", "build", "publish")
    assert sum(stages[part] for part in parts) == pytest.approx(stages["total"], rel=0.2, abs=1.0)
    assert stages["latency"] >= stages["total"]


# ------------------------------------------------------------------------------------------------------- cameras


@pytest.fixture
def filmed(setting):
    setting.listener.listens = frozenset({"segmentation", "overlay0"})
    setting.images.set_info(0, 0, info())
    return setting


def test_labels_are_drawn_on_the_nearest_image_after_the_cloud(filmed):
    filmed.images.add(0, 960 * MS, image(960))
    filmed.images.add(0, 990 * MS, image(990))
    filmed.process(cloud_message())
    assert filmed.listener.order == ["segmentation", "times", "overlay0"]
    assert filmed.listener.pictures["overlay0"].shape == (48, 64, 3)
    counts = filmed.statistics.snapshot().cameras[0]
    assert (counts.drawn, counts.delay_ms) == (1, -10.0)


def test_an_image_is_drawn_on_with_the_calibration_of_its_own_time(filmed):
    filmed.images.add(0, 1000 * MS, image(1000))
    filmed.images.set_info(0, 1000 * MS, info())
    filmed.images.set_info(0, 1100 * MS, info(width=640))
    filmed.process(cloud_message())
    assert filmed.statistics.snapshot().cameras[0].drawn == 1
    assert filmed.images.info(0, 999 * MS).width == 640


def test_an_image_that_was_nearest_when_the_scan_came_is_not_lost(filmed):
    kept = {0: Paired(999 * MS, image(999))}
    filmed.images.add(0, 1030 * MS, image(1030))
    filmed.process(cloud_message(), images=kept)
    assert filmed.statistics.snapshot().cameras[0].delay_ms == -1.0


def sent(stamp=1000 * MS, *, calibration=None, **of_image):
    """A camera that sends one image."""

    def send(setting):
        setting.images.add(0, stamp, image(stamp, **of_image))
        setting.images.set_info(0, stamp, info(**(calibration or {})))

    return send


SPOILED = {
    "no image": (lambda setting: None, "no image near the scan"),
    "late": (sent(2000 * MS), "no image near the scan"),
    "jpeg": (sent(data=b"\xff\xd8rubbish"), "not usable"),
    "no transform": (sent(frame="nowhere"), "not usable"),
    "info of zeros": (sent(calibration={"k": np.zeros(9), "p": np.zeros(12)}), "not usable"),
    "info of NaN": (sent(calibration={"k": np.full(9, np.nan)}), "not usable"),
    "other size": (sent(calibration={"width": 640}), "not usable"),
    "unknown lens": (sent(calibration={"distortion_model": "magic", "d": np.ones(3)}), "not usable"),
}


@pytest.mark.parametrize(("spoil", "reason"), SPOILED.values(), ids=list(SPOILED))
def test_a_camera_that_cannot_be_used_costs_its_overlay_alone(filmed, spoil, reason):
    spoil(filmed)
    filmed.process(cloud_message())
    assert filmed.listener.order == ["segmentation", "times"]
    assert filmed.statistics.snapshot().cameras[0].skipped == {reason: 1}
    assert len(filmed.listener.complaints) == (reason == "not usable")


def test_a_scan_without_stamp_is_labelled_but_gets_no_image(filmed):
    filmed.images.add(0, 10 * MS, image(0))
    filmed.process(cloud_message(), stamp=0)
    assert filmed.listener.order == ["segmentation", "times"]


def test_time_that_runs_backward_is_noticed_once_and_the_new_run_is_paired(filmed):
    store = filmed.images
    for second in (10, 11):
        assert not store.add(0, second * 1000 * MS, image(second))
        assert not store.advance(second * 1000 * MS)
    assert store.add(0, 1000 * MS, image(1))
    assert not store.advance(1000 * MS)
    assert store.nearest(1000 * MS)[0].stamp == 1000 * MS
    # A scan of the old run may still be worked on: it must not count as a jump.
    assert store.nearest(11000 * MS) == {}
    assert store.nearest(1000 * MS)[0].stamp == 1000 * MS
    store.forget(0)
    assert store.nearest(1000 * MS) == {}


# ---------------------------------------------------------------------------------------------------- and the rest


def test_the_report_names_every_scan_that_came(setting):
    setting.process(cloud_message())
    setting.process(cloud_message(count=0))
    setting.statistics.count("dropped", 3)
    setting.statistics.image(1)
    setting.statistics.skip_image(1, "not usable")
    shown = values(setting.statistics.snapshot(), setting.segmenter.device)
    assert shown["scans received"] == "2"
    assert shown["scans dropped for newer ones"] == "3"
    assert shown["scans skipped: empty"] == "1"
    assert shown["camera 1 skipped: not usable"] == "1"
    assert shown["device"] == "cpu"
    assert float(shown["total ms"].split()[0]) > 0


def test_groups_become_topics_or_the_checkpoint_is_refused(segmenter):
    check_groups(segmenter.labels, cameras=2)
    for name in ("segmentation", "overlay1", "label_info", "a b", "ü"):
        labels = SimpleNamespace(groups={name: ()})
        with pytest.raises(ConfigError, match=f"checkpoint: its group '{name}'"):
            check_groups(labels, cameras=2)


def test_the_invented_street_looks_like_a_scan(segmenter):
    points = street(1001)
    assert points.shape == (1001, 3)
    assert points.dtype == np.float32
    assert np.isfinite(points).all()
    assert np.abs(points[:, 1]).max() <= 9.01
    assert points[:, 2].min() == pytest.approx(-1.73, abs=0.01)
    assert warm_up(segmenter, 200, passes=1) > 0
