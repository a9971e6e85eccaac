"""What rclpy adds to a scan: its messages in and out, and the way from a sensor's process through the node and back.

`python -m mdkt_ros.ros.bench` is the other process: the sensor that publishes clouds, and who listens to the labels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.logging import LoggingSeverity
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from mdkt_ros.benchmark.node import NodeMeasurement, measure_stages, scan_message
from mdkt_ros.cloud import CloudMessage, parse_pointcloud2
from mdkt_ros.errors import MdktError
from mdkt_ros.ros.messages import cloud_message
from mdkt_ros.ros.node import SegmentNode
from mdkt_ros.segmenter import Segmenter

NAME = f"mdkt_bench_{os.getpid()}"
LABELLED, READY = "labelled", "ready"
PERIOD = 0.1
"""Seconds between two scans of a sensor."""
DEADLINE = 60.0
"""Seconds for the other process to start, or for one scan to be labelled."""


class RosLink:
    """Messages as rclpy makes them, published to a subscriber in another process."""

    def __init__(self, node: Node, topic: str) -> None:
        self._publisher = node.create_publisher(PointCloud2, topic, QoSProfile(depth=1))
        self._cloud: CloudMessage | None = None
        self._raw = b""

    @property
    def connected(self) -> bool:
        """Whether somebody listens."""
        return bool(self._publisher.get_subscription_count())

    def receive(self, cloud: CloudMessage) -> PointCloud2:
        """From the bytes on the wire to the message that a callback gets."""
        if cloud is not self._cloud:
            self._cloud, self._raw = cloud, serialize_message(cloud_message(cloud, Header(frame_id="lidar")))
        return deserialize_message(self._raw, PointCloud2)

    def serialise(self, cloud: CloudMessage) -> PointCloud2:
        """The message that rclpy publishes."""
        return cloud_message(cloud, Header(frame_id="lidar"))

    def publish(self, message: PointCloud2) -> None:
        """Reliable, depth 1, as the node does."""
        self._publisher.publish(message)


def measure(
    clouds: Sequence[CloudMessage],
    checkpoint: Path | None,
    precision: str = "fp32",
    *,
    device: str = "cpu",
    repeats: int = 20,
    progress: Callable[[int, int], None] | None = None,
) -> list[NodeMeasurement]:
    """The stages of each cloud with rclpy's share, and the latency from process to process.

    Raises:
        MdktError: the checkpoint cannot be used, or the other process does not answer.
    """
    segmenter = Segmenter.load(checkpoint, device, precision=precision)
    found = []
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = rclpy.create_node(NAME, context=context, start_parameter_services=False)
        link = RosLink(node, f"/{NAME}/{LABELLED}")
        with _other_process("listen", NAME, LABELLED) as listener:
            _until(lambda: link.connected, listener)
            for done, cloud in enumerate(clouds):
                found.append(measure_stages(cloud, segmenter, link, repeats=repeats))
                if progress is not None:
                    progress(done + 1, 2 * len(clouds))
        node.destroy_node()
        for index, cloud in enumerate(clouds):
            with _sensor(cloud, repeats) as sensor, _running(context, checkpoint, device, precision) as executor:
                first, *times = _latencies(executor, sensor, repeats)
            latency = {"first": first, "median": np.median(times), "p99": np.quantile(times, 0.99), "max": max(times)}
            latency_ms = {name: float(value) for name, value in latency.items()}
            found[index] = dataclasses.replace(found[index], latency_ms=latency_ms, latency_scans=len(times))
            if progress is not None:
                progress(len(clouds) + index + 1, 2 * len(clouds))
    finally:
        rclpy.shutdown(context=context)
    return found


@contextlib.contextmanager
def _running(
    context: rclpy.Context, checkpoint: Path | None, device: str, precision: str
) -> Iterator[SingleThreadedExecutor]:
    """The node, active, in an executor of this process; the diagnostics of a bench are nobody's business."""
    values: dict[str, Any] = {"device": device, "checkpoint": str(checkpoint or ""), "precision": precision}
    values |= {"input_reliability": "reliable", "diagnostics.period": 60.0, "input_timeout": 3600.0}
    node = SegmentNode(
        context=context,
        namespace=f"/{NAME}",
        parameter_overrides=[Parameter(name, value=value) for name, value in values.items()],
        cli_args=["--ros-args", "-r", f"/diagnostics:=/{NAME}/diagnostics"],
    )
    node.get_logger().set_level(LoggingSeverity.ERROR)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        for change in (node.trigger_configure, node.trigger_activate):
            if change() != TransitionCallbackReturn.SUCCESS:
                raise MdktError("the node could not be started: see its log above")
        yield executor
    finally:
        node.end()
        executor.shutdown()
        node.destroy_node()


@contextlib.contextmanager
def _sensor(cloud: CloudMessage, repeats: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that sends the cloud as soon as a node takes it, up and running as a vehicle's driver is by then."""
    parsed = parse_pointcloud2(cloud)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/points.npy", parsed.xyz())
        intensity = parsed.intensity()
        np.save(f"{folder}/intensity.npy", np.zeros(0, np.float32) if intensity is None else intensity)
        ready = Path(folder, READY)
        with _other_process("sense", NAME, folder, str(repeats)) as process:
            _until(ready.exists, process)
            yield process


def _latencies(executor: SingleThreadedExecutor, sensor: subprocess.Popen[bytes], repeats: int) -> list[float]:
    """Milliseconds of the first scan that the node gets and of `repeats` more, as the sensor's process has them."""
    _until(lambda: sensor.poll() is not None, sensor, executor, DEADLINE * (repeats + 1))
    said = sensor.communicate()[0].decode()
    if sensor.returncode:
        raise MdktError("no labels came back: see the log above")
    times: list[float] = json.loads(said)
    return times


@contextlib.contextmanager
def _other_process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "mdkt_ros.ros.bench", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def _until(
    condition: Callable[[], bool],
    process: subprocess.Popen[bytes],
    executor: SingleThreadedExecutor | None = None,
    seconds: float = DEADLINE,
) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end or process.poll():
            raise MdktError("the process that plays the sensor does not answer: see the log above")
        if executor is None:
            time.sleep(0.01)
        else:
            executor.spin_once(timeout_sec=0.1)


# --------------------------------------------------------------------------------------------------- the other process


def _listen(namespace: str, topic: str) -> None:
    """Subscribe until killed."""
    node = rclpy.create_node("listener", namespace=f"/{namespace}", start_parameter_services=False)
    node.create_subscription(PointCloud2, topic, lambda _message: None, QoSProfile(depth=1))
    rclpy.spin(node)


def _sense(namespace: str, folder: str, repeats: str) -> None:
    """Publish ten scans a second, or when the labels of the one before have come; print the milliseconds of each."""
    points, intensity = (np.load(f"{folder}/{name}.npy", allow_pickle=False) for name in ("points", "intensity"))
    node = rclpy.create_node("sensor", namespace=f"/{namespace}", start_parameter_services=False)
    got: list[Any] = []
    output = f"/{namespace}/segment/output/segmentation"
    node.create_subscription(PointCloud2, output, got.append, QoSProfile(depth=1))
    publisher = node.create_publisher(PointCloud2, f"/{namespace}/segment/input/pointcloud", QoSProfile(depth=1))
    cloud = scan_message(points, intensity if len(intensity) else None)
    _send_to_itself(node, cloud)
    Path(folder, READY).touch()
    while not (publisher.get_subscription_count() and node.count_publishers(output)):
        rclpy.spin_once(node, timeout_sec=0.05)
    time.sleep(PERIOD)  # the node must have seen this listener, too; no sensor makes it wait longer for its first scan
    times = []
    for number in range(int(repeats) + 1):
        header = Header(frame_id="lidar")
        header.stamp.sec = number + 1
        message = cloud_message(cloud, header)
        got.clear()
        start = time.perf_counter()
        publisher.publish(message)
        while not got:
            rclpy.spin_once(node, timeout_sec=DEADLINE)
            if time.perf_counter() - start > DEADLINE:
                sys.exit(f"no labels of {len(points)} points within {DEADLINE:g} s")
        times.append(1e3 * (time.perf_counter() - start))
        time.sleep(max(PERIOD - (time.perf_counter() - start), 0.0))  # caches get cold between two scans of a sensor
    sys.stdout.write(json.dumps(times))


def _send_to_itself(node: Node, cloud: CloudMessage) -> None:
    """What a process pays for its own first cloud, sent and received, is no cost of the node that is measured."""
    got: list[Any] = []
    publisher = node.create_publisher(PointCloud2, "warm", QoSProfile(depth=1))
    node.create_subscription(PointCloud2, "warm", got.append, QoSProfile(depth=1))
    end = time.monotonic() + DEADLINE
    while len(got) < 3 and time.monotonic() < end:
        publisher.publish(cloud_message(cloud, Header(frame_id="lidar")))
        rclpy.spin_once(node, timeout_sec=0.5)


if __name__ == "__main__":
    rclpy.init()
    if sys.argv[1] == "listen":
        _listen(*sys.argv[2:])
    else:
        _sense(*sys.argv[2:])
