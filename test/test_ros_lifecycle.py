"""Parameters and lifecycle of the node `segment` on a real graph."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from running_node import SECOND, Sensors

pytestmark = [pytest.mark.ros, pytest.mark.slow]


WRONG = {
    "checkpoint": ("/nowhere.safetensors", "parameter checkpoint: there is no file /nowhere.safetensors"),
    "device": ("tpu", "device: 'tpu' is not one of"),
    "axes": ("up", "parameter axes: 'up' is not one of '', 'x_forward', 'y_forward'"),
    "input_reliability": ("best", "parameter input_reliability: 'best' is not one of"),
    "intensity_scale": (float("nan"), "intensity_scale"),
    "max_camera_lidar_delay": (float("nan"), "max_camera_lidar_delay"),
}


@pytest.fixture
def log(monkeypatch):
    """What nodes say at level error."""
    from rclpy.impl.rcutils_logger import RcutilsLogger

    said = []
    error = RcutilsLogger.error
    monkeypatch.setattr(
        RcutilsLogger, "error", lambda self, text, **more: said.append(text) or error(self, text, **more)
    )
    return said


def test_wrong_parameters_leave_the_node_unconfigured_and_are_named(run, log, checkpoint):
    from rclpy.lifecycle import TransitionCallbackReturn

    running = run()
    for name, (value, message) in WRONG.items():
        before = running.node.get_parameter(name).value
        answer = running.set(**{name: value})
        if not answer.successful:  # a range says so at once
            assert name in answer.reason
            continue
        assert running.node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert running.state == "unconfigured"
        assert message in log[-1], name
        running.set(**{name: before})
    running.up()
    refused = running.set(device="cuda")
    assert not refused.successful
    assert "device takes effect at configure" in refused.reason


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("input_timeout", 2, "parameter input_timeout: 2 is not a number with a decimal point, like 1.0, 0 to 3600"),
        ("cameras", 17, "parameter cameras: 17 is not a whole number, 0 to 16"),
        ("checkpoint", True, "parameter checkpoint: True is not text"),
        ("max_points", 0, "parameter max_points: 0 is not a whole number, 1 to 1e+07"),
    ],
)
def test_overrides_that_cannot_be_do_not_end_the_node_but_are_named(run, log, name, value, message):
    from rclpy.lifecycle import TransitionCallbackReturn

    running = run(**{name: value})
    assert running.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert message in log[-1]


def test_each_parameter_is_described_and_documented_with_its_default(run):
    import yaml

    from mdkt_ros.ros.parameters import _ENTRIES

    shipped = yaml.safe_load((Path(__file__).parents[1] / "config" / "segment.yaml").read_text())["/**"][
        "ros__parameters"
    ]
    diagnostics = shipped.pop("diagnostics")
    shipped |= {f"diagnostics.{name}": value for name, value in diagnostics.items()}
    assert shipped == {entry.name: entry.default for entry in _ENTRIES}
    running = run()
    for name in shipped:
        assert len(running.node.describe_parameter(name).description) > 20


def test_a_damaged_checkpoint_is_an_error_in_configure(run, log, tmp_path):
    from rclpy.lifecycle import TransitionCallbackReturn

    (tmp_path / "broken.safetensors").write_bytes(b"rubbish")
    running = run(checkpoint=str(tmp_path / "broken.safetensors"))
    assert running.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert running.state == "unconfigured"
    assert "broken.safetensors" in log[-1]


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def test_the_lifecycle_turns_twenty_times_and_works_without_growing(run, graph):
    running = run()
    got = running.listen("segmentation")
    sensors = Sensors(graph)
    sizes = []
    for turn in range(20):
        running.up()
        sensors.ready()
        running.settle()
        sensors.scan((turn + 1) * SECOND)
        graph.until(lambda turn=turn: len(got) == turn + 1, "the scan")
        running.node.trigger_deactivate()
        running.node.trigger_cleanup()
        assert running.state == "unconfigured"
        graph.until(lambda: not sensors.lidar.get_subscription_count(), "the end of the subscription")
        sizes.append(resident())
    assert sizes[-1] - sizes[4] < 40
    running.node.trigger_shutdown()
    assert running.state == "finalized"


def test_a_transition_that_the_state_does_not_have_is_refused_and_the_next_one_works(run, graph, log):
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    running = run()
    client = graph.node.create_client(ChangeState, "/segment/change_state")
    graph.until(client.service_is_ready, "the service")

    def ask(transition):
        request = ChangeState.Request()
        request.transition.id = transition
        future = client.call_async(request)
        graph.until(future.done, "an answer")
        return future.result().success

    for transition in (Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_CLEANUP, 77):
        assert not ask(transition)
        assert log[-1].startswith("transition refused: ")
        assert running.state == "unconfigured"
    assert ask(Transition.TRANSITION_CONFIGURE)
    assert not ask(Transition.TRANSITION_CONFIGURE)
    assert ask(Transition.TRANSITION_ACTIVATE)
    assert running.state == "active"
    graph.node.destroy_client(client)


def test_an_inactive_node_receives_nothing(run, graph):
    running = run().up()
    sensors, got = running.connect()
    running.node.trigger_deactivate()
    assert running.diagnosis()[:2] == (0, "inactive")
    sensors.scan(SECOND)
    running.diagnosis()
    assert got == []
    assert running.statistics().received == 0


def test_silence_is_an_error(run, graph):
    running = run(input_timeout=0.3).up()
    time.sleep(0.35)
    level, message, _ = running.diagnosis()
    assert level == 2
    assert message.startswith("no scan for 0.")
