"""The node's outputs as `ros2 topic` sees them, without options for the quality of service and with those of `hz`."""

from __future__ import annotations

import pytest
from running_node import OUT, SECOND, Sensors

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.fixture
def echo(graph):
    """What `ros2 topic echo` prints of the first message, which `send` brings about."""

    def once(topic, *options, send=lambda: None):
        with graph.program("topic", "echo", "--once", *options, topic) as program:

            def ended():
                send()
                return program.poll() is not None

            graph.until(ended, topic)
            return program.communicate()[0]

    return once


def test_echo_sees_every_kind_of_output(run, graph, echo):
    run().up()
    sensors = Sensors(graph)
    sensors.ready()
    number = iter(range(1, 10_000))

    def send():
        sensors.scan(next(number) * SECOND)

    said = echo(f"{OUT}/segmentation", "--no-arr", send=send)
    assert "point_step: 24" in said
    assert "frame_id: lidar" in said
    # What `ros2 topic hz` and `bw` subscribe with.
    assert "point_step: 24" in echo(f"{OUT}/segmentation", "--no-arr", "--qos-profile", "sensor_data", send=send)
    assert "name: rgb" in echo(f"{OUT}/visualization", "--truncate-length", "2000", send=send)
    assert "data: " in echo("/segment/debug/total_ms", send=send)
    # Latched: published before the listener came.
    assert "class_name: car" in echo(f"{OUT}/label_info")
    assert "text: car" in echo(f"{OUT}/legend")
    assert "scans dropped for newer ones" in echo("/diagnostics")
