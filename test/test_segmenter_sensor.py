"""A segmenter on another sensor: intensity of another scale or none, axes turned another way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from segmenter_inputs import META, caught, network, scan

from mdkt_ros import Segmenter
from mdkt_ros.intensity import IntensityWarning
from mdkt_ros.network import build_network

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("scale", "factor", "words"),
    [
        (1.0, 255.0, ["1 % of the values are above", "reach 255", "set intensity_scale to about 0.00392"]),
        (1.0, 40000.0, ["set intensity_scale to about 1.53e-05"]),
        (1 / 255, 1.0, ["all values are below 0.01", "set intensity_scale to about 1"]),
        (1.0, 1 / 256, ["all values are below 0.01", "set intensity_scale to about 256"]),
        (1.0, 0.0, ["no value is above 0"]),
    ],
)
def test_intensity_that_contradicts_the_checkpoint_is_said_once(scale: float, factor: float, words: list[str]) -> None:
    segmenter = Segmenter(network(), replace(META, intensity_scale=scale))
    points, intensity = scan(2000)
    intensity[0] = 1.0
    messages = caught(lambda: segmenter.segment(points, intensity * factor))
    assert [message.category for message in messages] == [IntensityWarning]
    assert messages[0].filename == __file__
    for word in words:
        assert word in str(messages[0].message)
    assert caught(lambda: segmenter.segment(points, intensity * factor)) == []


def test_a_cloud_without_intensity_is_said_once_and_counts_as_zero() -> None:
    segmenter = Segmenter(network(), META)
    points, _ = scan(50)
    with pytest.warns(IntensityWarning, match="the cloud has none"):
        without = segmenter.segment(points)
    zero = segmenter.segment(points, np.zeros(50))
    np.testing.assert_array_equal(without.class_id, zero.class_id)


def test_plausible_intensity_and_few_points_are_not_doubted() -> None:
    for values in (scan()[1], scan()[1] * 0.02, np.where(scan()[1] > 0.995, 9, 0.2)):
        assert caught(lambda values=values: Segmenter(network(), META).segment(scan()[0], values)) == []
    assert caught(lambda: Segmenter(network(), META).segment(np.zeros((9, 3)), np.full(9, 255))) == []


def test_a_network_without_intensity_does_not_ask_for_it() -> None:
    net = build_network("minkunet14s", in_channels=3, classes=19, width=0.25)
    segmenter = Segmenter(net, replace(META, features=("x", "y", "z")))
    points, intensity = scan(300)
    np.testing.assert_array_equal(
        segmenter.segment(points).class_id, segmenter.segment(points, intensity * 255).class_id
    )


def test_intensity_scale_of_the_sensor_replaces_that_of_the_checkpoint() -> None:
    segmenter = Segmenter(network(), META)
    points, intensity = scan()
    other = Segmenter(network(), replace(META, intensity_scale=100.0), intensity_scale=1 / 256)
    one = segmenter.segment(points, intensity)
    np.testing.assert_array_equal(other.segment(points, intensity * 256).class_id, one.class_id)
    dark = Segmenter(network(), META, intensity_scale=0.05).segment(points, intensity)
    assert (dark.class_id != one.class_id).any()


def test_a_cloud_with_other_axes_is_turned_for_the_network() -> None:
    segmenter = Segmenter(network(), META)
    points, intensity = scan()
    expected = segmenter.segment(points, intensity)
    # What lies ahead of a KITTI sensor at x is ahead of a nuScenes sensor at y; its left, +y, is there at -x.
    turned = np.stack([-points[:, 1], points[:, 0], points[:, 2]], axis=1)
    result = segmenter.for_sensor(axes="y_forward").segment(turned, intensity)
    np.testing.assert_array_equal(result.class_id, expected.class_id)
    assert (segmenter.segment(turned, intensity).class_id != expected.class_id).any()
    nuscenes = Segmenter(network(), replace(META, axes="y_forward"), axes="x_forward")
    expected = nuscenes.for_sensor(axes="y_forward").segment(turned, intensity)
    np.testing.assert_array_equal(nuscenes.segment(points, intensity).class_id, expected.class_id)


def test_another_sensor_shares_the_network_and_keeps_what_is_not_named() -> None:
    segmenter = Segmenter(network(), META)
    first = segmenter.for_sensor(intensity_scale=0.5, axes="y_forward")
    second = first.for_sensor()
    assert second.network is segmenter.network
    assert (second.intensity_scale, second.axes, second.max_points) == (0.5, "y_forward", segmenter.max_points)
    assert (segmenter.intensity_scale, segmenter.axes) == (1.0, "x_forward")
