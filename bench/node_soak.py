"""The node, launched as a user launches it, under a sensor for minutes: latency, memory, and where every scan went.

    python bench/node_soak.py --minutes 30                     # after `source install/setup.bash`
    python bench/node_soak.py --beams 64 --azimuths 1892 --checkpoint model.safetensors --device cuda --cycles 5

A made-up street is published at --rate, best effort, each scan with a stamp of its own; this process also listens to
the labels and to /diagnostics, and asks the kernel for the node's resident memory. Every scan that was published must
be labelled, dropped for a newer one, skipped, or missing by the gaps between the stamps that came, as the node itself
counts them: what is left is unreported. --cycles takes the node down to `unconfigured` and up again so many times
afterwards, and looks at what it holds then, of the card by nvidia-smi: other processes there would count, too.
Prints the figures, and writes them as JSON to --json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from mdkt_ros.benchmark.node import made_up_scan
from mdkt_ros.ros.messages import cloud_message

NAMESPACE = f"soak_{os.getpid()}"
OUTPUT = f"/{NAMESPACE}/segment/output/segmentation"
INPUT = f"/{NAMESPACE}/points"
SETTLE = 60.0
"""Seconds after which memory counts: buffers have their sizes then."""
STARTUP = 120.0
SECOND = 1_000_000_000


@dataclass
class Soak:
    """What was seen.

    Attributes:
        sent: stamp of a scan -> when it was published; nanoseconds of the monotonic clock.
        latency: milliseconds between publishing a scan and having its labels.
        memory: (seconds since the start, MiB resident) of the node.
        card: MiB of the GPU that are in use, at the same times; empty without one.
        cleaned: (MiB resident, of the GPU) after each cleanup.
        counts: what the node said last about itself.
    """

    sent: dict[int, int] = field(default_factory=dict)
    latency: list[float] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    card: list[float] = field(default_factory=list)
    cleaned: list[tuple[float, float]] = field(default_factory=list)
    counts: dict[str, str] = field(default_factory=dict)


class Sensor(Node):  # type: ignore[misc]
    """Publishes the scan at a rate, and takes what comes back."""

    def __init__(self, beams: int, azimuths: int, soak: Soak) -> None:
        super().__init__("sensor", namespace=f"/{NAMESPACE}", start_parameter_services=False)
        self._soak = soak
        self._message = cloud_message(made_up_scan(beams, azimuths), Header(frame_id="lidar"))
        self.points = self._message.width
        self._publisher = self.create_publisher(PointCloud2, INPUT, qos_profile_sensor_data)
        self.create_subscription(PointCloud2, OUTPUT, self._labelled, QoSProfile(depth=10))
        self.create_subscription(DiagnosticArray, "/diagnostics", self._diagnosed, 10)

    @property
    def connected(self) -> bool:
        """Whether the node is active."""
        return bool(self._publisher.get_subscription_count() and self.count_publishers(OUTPUT))

    def send(self, due: float) -> None:
        """Publish the scan of that time; its stamps are as even as a LiDAR's, however late this process is."""
        stamp = round(due * SECOND)
        self._message.header.stamp.sec, self._message.header.stamp.nanosec = divmod(stamp, SECOND)
        self._soak.sent[stamp] = time.monotonic_ns()
        self._publisher.publish(self._message)

    def drive(self, transition: int) -> None:
        """Change the node's state."""
        client = self.create_client(ChangeState, f"/{NAMESPACE}/segment/change_state")
        answer = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        rclpy.spin_until_future_complete(self, answer, timeout_sec=STARTUP)
        if answer.result() is None or not answer.result().success:
            sys.exit(f"the node did not follow transition {transition}")

    def _labelled(self, message: PointCloud2) -> None:
        stamp = message.header.stamp
        self._soak.latency.append(1e-6 * (time.monotonic_ns() - self._soak.sent[stamp.sec * SECOND + stamp.nanosec]))

    def _diagnosed(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith(NAMESPACE):
                self._soak.counts = {value.key: value.value for value in status.values}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=10.0, help="scans a second")
    parser.add_argument("--beams", type=int, default=16)
    parser.add_argument("--azimuths", type=int, default=900)
    parser.add_argument("--checkpoint", default="", help="without it the shipped one")
    parser.add_argument("--params-file", default="", help="parameters of the node; without it the shipped ones")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cycles", type=int, default=0, help="cleanups and configurations at the end")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    # In the background of a shell Ctrl-C is ignored, and `ros2 launch` would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rclpy.init()
    soak = Soak()
    before = on_card() if given.device != "cpu" else 0.0
    sensor = Sensor(given.beams, given.azimuths, soak)
    command = ["ros2", "launch", "mdkt_ros", "segment.launch.py", f"namespace:={NAMESPACE}", f"pointcloud:={INPUT}"]
    command += [f"device:={given.device}", "intensity_scale:=1.0"]
    if given.checkpoint:
        command.append(f"checkpoint:={given.checkpoint}")
    if given.params_file:
        command.append(f"params_file:={given.params_file}")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as launch:
        try:
            node = wait_for_node(sensor, launch)
            play(sensor, soak, node, given.rate, 60 * given.minutes, look=given.device != "cpu")
            found = figures(soak, sensor.points, given.rate)  # by the node's counts, which a cleanup forgets
            for _ in range(given.cycles):
                for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
                    sensor.drive(transition)
                soak.cleaned.append((resident(node), on_card() if soak.card else 0.0))
                sensor.drive(Transition.TRANSITION_CONFIGURE)
                wait_for_node(sensor, launch)  # the launch activates it
        finally:
            before_end = time.monotonic()
            launch.send_signal(signal.SIGINT)
            launch.wait(STARTUP)
            ended = time.monotonic() - before_end
    found["ended_after_s"] = round(ended, 2)  # of Ctrl-C: the launch and the node
    if soak.card:
        found["card_mib"] = {"before": before, "start": soak.card[0], "end": soak.card[-1], "max": max(soak.card)}
    if soak.cleaned:
        found["after_cleanup_mib"] = [{"resident": size, "card": card} for size, card in soak.cleaned]
    print(json.dumps(found, indent=1))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sensor.destroy_node()
    rclpy.shutdown()
    sys.exit(bool(found["scans"]["unreported"]))


def wait_for_node(sensor: Sensor, launch: subprocess.Popen[bytes]) -> int:
    """The node's process, once it is active."""
    end = time.monotonic() + STARTUP
    while not sensor.connected:
        if time.monotonic() > end or launch.poll() is not None:
            sys.exit("the node did not come up: is the package installed and its setup.bash sourced?")
        rclpy.spin_once(sensor, timeout_sec=0.1)
    pause(sensor, 2.0)  # the node must see this listener, too
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if f"__ns:=/{NAMESPACE}" in words:
            return int(process.name)
    sys.exit("the node's process is not among those of this machine")


def play(sensor: Sensor, soak: Soak, node: int, rate: float, seconds: float, *, look: bool) -> None:
    """Publish at the rate, and look at the memory every five seconds; `look`: at the GPU's, too."""
    start = time.monotonic()
    looked = -np.inf
    for number in range(round(seconds * rate)):
        due = start + number / rate
        pause(sensor, due - time.monotonic())
        sensor.send(due)
        if time.monotonic() - looked >= 5:
            looked = time.monotonic()
            soak.memory.append((looked - start, resident(node)))
            if look:
                soak.card.append(on_card())
    pause(sensor, 5.0)  # the last labels, and a diagnosis after them


def pause(sensor: Sensor, seconds: float) -> None:
    """Listen for so long."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        rclpy.spin_once(sensor, timeout_sec=left)


def resident(process: int) -> float:
    """MiB of memory that a process has."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def on_card() -> float:
    """MiB of the first GPU that are in use."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def figures(soak: Soak, points: int, rate: float) -> dict[str, Any]:
    """The result; `unreported` are the scans of whose fate the node said nothing."""
    said = {key: int(value) for key, value in soak.counts.items() if key.startswith("scans ")}
    labelled, dropped = said["scans labelled"], said["scans dropped for newer ones"]
    skipped, missing = said["scans skipped"], said["scans missing by their stamps"]
    unwanted = said["scans that nobody listened to"]
    after = [(at, size) for at, size in soak.memory if at >= min(SETTLE, soak.memory[-1][0] / 2)]
    seconds, sizes = np.array(after).T
    slope = float(np.polyfit(seconds, sizes, 1)[0]) if len(after) > 2 else 0.0
    return {
        "minutes": round((max(soak.sent) - min(soak.sent)) / SECOND / 60, 2),
        "points": points,
        "rate": rate,
        "middleware": rclpy.get_rmw_implementation_identifier(),
        "latency_ms": {
            "first": soak.latency[0],
            "median": statistics.median(soak.latency),
            **{f"p{share:g}": float(np.percentile(soak.latency, share)) for share in (90, 99, 99.9)},
            "max": max(soak.latency),
        },
        "scans": {
            "published": len(soak.sent),
            "received": said["scans received"],
            "labelled": labelled,
            "dropped": dropped,
            "skipped": skipped,
            "unwanted": unwanted,
            "missing": missing,
            "labels_received": len(soak.latency),
            "unreported": len(soak.sent) - labelled - dropped - skipped - unwanted - missing,
        },
        "memory_mib": {
            "start": after[0][1],
            "end": after[-1][1],
            "max": max(size for _, size in after),
            "slope_per_hour": 3600 * slope,
        },
        "gpu_memory": {key: value for key, value in soak.counts.items() if key.startswith("GPU")},
    }


if __name__ == "__main__":
    main()
