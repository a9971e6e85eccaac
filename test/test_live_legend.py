"""The names of the classes in a 3D view."""

from __future__ import annotations

import numpy as np

from mdkt_ros.live.legend import legend_places


def test_the_names_stand_to_the_left_of_the_vehicle_whatever_the_axes():
    places = legend_places(3, "x_forward")
    assert (places[:, 1] > 20).all()
    assert np.array_equal(np.diff(places[:, 0]), [-2, -2])
    # y forward, x right: what is to the left has a negative x.
    turned = legend_places(3, "y_forward")
    assert np.array_equal(turned, places[:, [1, 0, 2]] * [-1, 1, 1])
