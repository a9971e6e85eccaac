"""A node of a test and the `ros2` programs that it starts, in a ROS domain of this process's own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

HUMBLE = os.environ.get("ROS_DISTRO") == "humble"
"""Whether the ROS 2 here is the oldest that is supported, whose tools do less."""
DEADLINE = 60.0
"""Seconds after which something that did not come is missing; a run needs a fraction of one, a first start 16."""


def _claim_domain():
    """A domain of 10 to 99 that no other test process of this machine has, and the lock that this one has it by."""
    for number in range(10, 100):
        path = Path(tempfile.gettempdir()) / f"mdkt_ros_test_domain_{number}"
        try:
            file = path.open("a")
        except OSError:  # another user's
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # taken
            file.close()
            continue
        return number, file
    raise RuntimeError("90 test processes have each taken a ROS domain")


DOMAIN, _claim = _claim_domain()


class Graph:
    """A node of its own, alone with the `ros2` programs that it starts: in a domain that other workers are not in."""

    def __init__(self, rclpy):
        self._rclpy = rclpy
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = rclpy.create_node("test", context=self.context, start_parameter_services=False)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        self._rclpy.shutdown(context=self.context)

    def until(self, condition, what):
        """Spin until it holds."""
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, f"no {what} within {DEADLINE:g} s"
            self.executor.spin_once(timeout_sec=0.05)

    def call(self, service, name):
        client = self.node.create_client(service, name)
        self.until(client.service_is_ready, name)
        future = client.call_async(service.Request())
        self.until(future.done, f"answer of {name}")
        self.node.destroy_client(client)
        return future.result()

    def subscribe(self, topic, msgtype, got, *, latched=False):
        from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
        from rosidl_runtime_py.utilities import get_message

        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE, durability=durability
        )
        return self.node.create_subscription(get_message(msgtype), topic, got.append, profile)

    @contextlib.contextmanager
    def program(self, *command):
        """A `ros2` program for as long as the block runs; it ends by itself or by Ctrl-C."""
        environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        process = subprocess.Popen(
            ["ros2", *map(str, command)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise


def plain(value):
    """A message of any ROS 2 client as dicts, lists, arrays and numbers, so that two clients' compare."""
    fields = getattr(value, "get_fields_and_field_types", None)
    names = list(fields()) if fields else list(getattr(value, "__dataclass_fields__", ()))
    names = [name for name in names if name == name.lower() and name != "__msgtype__"]  # constants are upper case
    if names:
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, (str, bool, int, float)):
        return value
    values = list(value) if not hasattr(value, "tobytes") else np.asarray(value)
    return values.tolist() if isinstance(values, np.ndarray) else [plain(item) for item in values]
