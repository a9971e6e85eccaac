"""Labels on the images of a live sensor: which image, and what a camera that cannot be used costs."""

from __future__ import annotations

import numpy as np
import pytest
from live_setting import MS, cloud_message, image, info

from mdkt_ros.pairing import Paired


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
