"""A synthetic drive made by several processes is the one that a single process makes."""

from __future__ import annotations

import os
import signal
from concurrent.futures import wait
from dataclasses import fields

import numpy as np
import pytest
from synthetic_frames import SEED

from mdkt_ros.drive.synthetic import SyntheticDrive
from mdkt_ros.drive.synthetic.ahead import AheadDrive
from mdkt_ros.errors import ConfigError, DriveError

SCANS = 40


@pytest.mark.slow
def test_frames_are_the_same_and_a_killed_process_is_told(town):
    alone = SyntheticDrive(SEED, scans=SCANS, rate_hz=2.0, town=town)
    with AheadDrive(SEED, scans=SCANS, rate_hz=2.0, workers=2, pictured=[1]) as ahead:
        assert (ahead.name, ahead.axes, ahead.intensity_scale) == (alone.name, alone.axes, alone.intensity_scale)
        assert ahead.labels == alone.labels
        assert len(ahead) == SCANS
        for index in (0, 1, 2):
            made, wanted = ahead[index], alone[index]
            for field in fields(wanted):
                if field.name != "views":
                    np.testing.assert_array_equal(getattr(made, field.name), getattr(wanted, field.name))
            assert len(made.views) == (index == 1)
            for view, expected in zip(made.views, wanted.views, strict=False):
                np.testing.assert_array_equal(view.load(), expected.load())
                assert (view.stamp, view.camera.name) == (expected.stamp, expected.camera.name)
                np.testing.assert_array_equal(view.camera.camera_from_lidar, expected.camera.camera_from_lidar)
        with pytest.raises(IndexError):
            ahead[SCANS]
        wait(ahead._waiting.values())
        for process in list(ahead._pool._processes):
            os.kill(process, signal.SIGKILL)
        for start in (3, 30):
            with pytest.raises(DriveError, match="a process that makes the scans was killed: out of memory"):
                [ahead[index] for index in range(start, SCANS)]


def test_what_a_process_refuses_is_told():
    with pytest.raises(ConfigError, match=r"rate_hz 1000 is not in"):
        AheadDrive(SEED, scans=4, rate_hz=1000, workers=1)
