"""What comes out of a live scan: the clouds that somebody wants, or the reason why none."""

from __future__ import annotations

import numpy as np
import pytest
from live_setting import Setting, cloud_message

from mdkt_ros.cloud import parse_pointcloud2
from mdkt_ros.live.health import Level


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
