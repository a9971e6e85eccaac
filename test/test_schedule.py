"""The schedule of the parts that need no label."""

from __future__ import annotations

import pytest

from training.scheme.config import ScheduleConfig
from training.scheme.schedule import ramp, shares


def test_nothing_then_a_line_then_all():
    values = [ramp(step, 10, 0.2, 0.3) for step in range(10)]
    assert values == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1])


def test_without_a_rise_it_is_a_step():
    assert [ramp(s, 4, 0.5, 0) for s in range(4)] == [0, 0, 1, 1]
    assert [ramp(s, 4, 0, 0) for s in range(4)] == [1, 1, 1, 1]


def test_labels_only_to_the_end():
    assert [ramp(s, 5, 1, 1) for s in range(5)] == [0] * 5


def test_opinions_need_not_wait_for_the_teacher():
    schedule = ScheduleConfig(opinions=0, labels_only=0.5, ramp=0.5)
    assert [shares(s, 4, schedule) for s in range(4)] == [(0.5, 0), (1, 0), (1, 0.5), (1, 1)]


def test_short_runs_reach_the_whole_weight():
    for steps in range(1, 30):
        values = [shares(step, steps, ScheduleConfig()).teacher for step in range(steps)]
        assert values == sorted(values)
        assert values[-1] == 1
        assert all(0 <= value <= 1 for value in values)
