"""The node and simulated time: a clock that does not run yet, runs, and begins again."""

from __future__ import annotations

import pytest
from running_node import SECOND, Sensors, stamp_of

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.fixture
def clock(graph):
    """Sets the simulated time, in seconds, and waits until the node has it."""
    from builtin_interfaces.msg import Time
    from rosgraph_msgs.msg import Clock

    publisher = graph.node.create_publisher(Clock, "/clock", 10)

    def at(running, seconds):
        graph.until(publisher.get_subscription_count, "the node's subscription to /clock")
        publisher.publish(Clock(clock=Time(sec=int(seconds), nanosec=round(seconds % 1 * SECOND))))
        now = running.node.get_clock().now
        graph.until(lambda: now().nanoseconds == round(seconds * SECOND), f"{seconds} s")

    return at


def test_before_the_first_clock_and_after_it_begins_again_scans_are_labelled(run, graph, clock):
    # Slow is no matter here, and other tests may make it so.
    running = run(use_sim_time=True, input_timeout=60.0, diagnostics__max_allowed_processing_time_ms=1e6).up()
    clouds = running.listen("segmentation")
    latency = running.listen("/segment/debug/pipeline_latency_ms", "std_msgs/msg/Float64")
    total = running.listen("/segment/debug/total_ms", "std_msgs/msg/Float64")
    sensors = Sensors(graph)
    sensors.ready()
    running.settle()
    debug = running.node._work._outputs._debug.values()
    graph.until(lambda: sum(p.get_subscription_count() for p in debug) == 2, "the listeners to times")

    def scan(seconds):
        count = len(clouds)
        sensors.scan(round(seconds * SECOND))
        graph.until(lambda: len(clouds) == len(total) == count + 1, f"the scan of {seconds} s")
        return stamp_of(clouds[-1]) / SECOND

    assert running.node.get_clock().now().nanoseconds == 0
    assert scan(99.5) == 99.5
    # The age of a scan is unknown while the clock stands at 0; the state is told all the same.
    assert latency == []
    assert running.diagnosis()[:2] == (0, "labelling")
    assert running.got["/diagnostics"][-1].header.stamp.sec == 0
    clock(running, 100.0)
    scan(99.9)
    graph.until(lambda: len(latency) == 1, "the age of the scan")
    assert latency[-1].data == pytest.approx(100.0, abs=0.001)
    graph.until(lambda: running.got["/diagnostics"][-1].header.stamp.sec == 100, "a stamp of simulated time")
    # The clock stands still, as when a bag is paused: the node goes on.
    scan(99.95)
    # And begins again.
    clock(running, 2.0)
    assert scan(1.75) == 1.75
    graph.until(lambda: len(latency) == 3, "the age of the scan")
    assert latency[-1].data == pytest.approx(250.0, abs=0.001)
    assert running.statistics().time_jumps == 1
    assert running.diagnosis()[0] == 0


def test_silence_is_noticed_while_the_clock_stands_still(run, graph):
    running = run(use_sim_time=True, input_timeout=0.3).up()
    graph.until(lambda: running.diagnosis()[0] == 2, "the error")
    assert running.diagnosis()[1].startswith("no scan for ")
    sensors = Sensors(graph)
    sensors.ready()
    running.listen("segmentation")
    running.settle()
    sensors.scan(SECOND)
    graph.until(lambda: running.got["segmentation"], "the scan")
