"""Whether labels come in time: OK, WARN, ERROR."""

from __future__ import annotations

import pytest

from mdkt_ros.live.health import Health, Level, Limits


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
