"""The lifecycle node `segment`: configure loads the network, activate subscribes, cleanup gives the memory back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from mdkt_ros.errors import MdktError
from mdkt_ros.live.health import Judgement, Level
from mdkt_ros.memory import give_memory_back
from mdkt_ros.ros.diagnostics import Diagnostics
from mdkt_ros.ros.parameters import Parameters
from mdkt_ros.ros.work import DRAIN, Work


class SegmentNode(LifecycleNode):  # type: ignore[misc]
    """Labels every point of `~/input/pointcloud`; see DESIGN for the topics and `parameters` for the parameters."""

    def __init__(self, **options: Any) -> None:
        super().__init__("segment", **options)
        self._declared = Parameters(self)
        for problem in self._declared.unknown():
            self.get_logger().warning(problem)
        self._work: Work | None = None
        self._active = False
        self.unfinished = False
        """Whether a network is still being loaded that nobody waits for any more."""
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = functools.partial(self._answer, service.callback)
        self._diagnostics = Diagnostics(self, self.get_parameter("diagnostics.period").value, self._describe)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the parameters, load the network and warm it up."""
        try:
            settings = self._declared.read()
            self._work = Work(self, settings)
        # RuntimeError is what PyTorch raises, as when the GPU's memory is full.
        except (MdktError, RuntimeError, OSError) as error:
            self.get_logger().error(f"cannot be configured: {' '.join(str(error).split())}")
            self._free()
            return TransitionCallbackReturn.FAILURE
        self._declared.frozen = True
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe."""
        done = super().on_activate(state)
        if done == TransitionCallbackReturn.SUCCESS and self._work is not None:
            self._work.start()
            self._active = True
        return done

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; the scan in work is still published."""
        self._pause()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give everything back."""
        self._free()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give everything back, from any state."""
        self._free()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After an exception in a transition: back to unconfigured."""
        self.get_logger().error(f"a transition from {state.label} failed")
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def _answer(self, change: Callable[..., Any], request: Any, response: Any) -> Any:
        """Change the state on request; where the state has no such transition, rclpy raises and answers nobody."""
        try:
            return change(request, response)
        except RuntimeError as error:
            self.get_logger().error(f"transition refused: {' '.join(str(error).split())}")
            response.success = False
            return response

    def end(self) -> bool:
        """Stop for good; whether the worker ended in time, so that the process can end in an orderly way."""
        self._active = False
        return not self.unfinished and (self._work is None or self._work.end())

    def _pause(self) -> None:
        if self._work is not None and self._active:
            self._work.stop()
        self._active = False

    def _free(self) -> None:
        self._pause()
        if self._work is not None:
            self._work.close(DRAIN)
            self._work = None
        self._declared.frozen = False
        give_memory_back()

    def _describe(self) -> tuple[Judgement, dict[str, str]]:
        if self._work is None:
            return Judgement(Level.OK, "unconfigured"), {}
        judgement = self._work.health.judge() if self._active else Judgement(Level.OK, "inactive")
        return judgement, self._work.report()
