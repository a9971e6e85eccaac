"""`ros2 run mdkt_ros segment`: the node; with arguments of its own it is the command `mdkt segment`."""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path


def main() -> int:
    """Run the node until Ctrl-C, SIGTERM or shutdown of the context."""
    own = sys.argv[1 : sys.argv.index("--ros-args")] if "--ros-args" in sys.argv else sys.argv[1:]
    if own:
        return command()
    try:
        return _run()
    except KeyboardInterrupt:  # while modules are still being imported
        return 0


def command() -> int:
    """The `mdkt` command of the executable's own name: `ros2 run mdkt_ros info F` is `mdkt info F`."""
    from mdkt_ros import cli

    sys.argv[1:1] = [Path(sys.argv[0]).name]
    cli.main()
    return 0


def _run() -> int:
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

    from mdkt_ros.memory import keep_freed_memory
    from mdkt_ros.ros.node import SegmentNode

    keep_freed_memory()
    rclpy.init()
    node, ended = None, True
    try:
        node = SegmentNode()
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _to_log(node.get_logger().warning)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RuntimeError:  # rclpy's, where the context goes away under it
        if rclpy.ok():
            raise
    finally:
        # `ros2 launch` passes Ctrl-C on to a process that the terminal has told already.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ended = node is None or node.end()
        if ended and node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        # The interpreter's last collections would go through all that PyTorch has made: half a second.
        gc.freeze()
    if not ended:
        # What cannot be interrupted, such as a GPU that hangs: Python would wait for its end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def _to_log(log: Callable[[str], object]) -> Callable[..., None]:
    def show(message: Warning | str, *_where: object, **_more: object) -> None:
        log(" ".join(str(message).split()))

    return show
