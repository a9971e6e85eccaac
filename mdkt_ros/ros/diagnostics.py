"""The node's state on /diagnostics."""

from __future__ import annotations

from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from mdkt_ros.live.health import Judgement, Level


class Diagnostics:
    """Publishes a status every `period` seconds, by a clock that runs when the simulated one stands still.

    Args:
        node: publishes.
        period: seconds.
        describe: the state and its details.
    """

    def __init__(self, node: Node, period: float, describe: Callable[[], tuple[Judgement, dict[str, str]]]) -> None:
        self._node, self._describe = node, describe
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._last = Judgement(Level.OK, "")
        node.create_timer(period, self.publish, clock=self._clock)

    def publish(self) -> None:
        """Publish now; the log hears of it where the level has changed."""
        judgement, values = self._describe()
        name = self._node.get_fully_qualified_name().lstrip("/")
        status = DiagnosticStatus(
            level=bytes([judgement.level]),
            name=f"{name}: labels",
            message=judgement.message,
            # The same in every state and on every machine: displays choose by it (`config/foxglove.json`).
            hardware_id=name,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)
        self._log(judgement)

    def _log(self, judgement: Judgement) -> None:
        if judgement.level != self._last.level:
            log = self._node.get_logger()
            if judgement.level == Level.OK:
                log.info(f"well again: {judgement.message}")
            elif judgement.level == Level.WARN:
                log.warning(judgement.message)
            else:
                log.error(judgement.message)
        self._last = judgement
