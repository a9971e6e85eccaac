"""What the vehicle pays for a scan beside the network: each stage of the live path, from message to message.

The stages run as the node runs them (`live.labeller.Labeller`), on one thread, timed by the thread's own CPU time and
by the wall clock: on a machine that others use too only the former means something. What needs ROS comes from a `Link`;
`ros/bench.py` has the real one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mdkt_ros.benchmark.scans import spinning_scan
from mdkt_ros.checkpoint import CheckpointMeta, save_checkpoint
from mdkt_ros.cloud import CloudMessage, build_pointcloud2
from mdkt_ros.errors import CameraError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.live.health import Health, Limits
from mdkt_ros.live.images import KEPT, ImageStore
from mdkt_ros.live.labeller import SEGMENTATION, Labeller, Scan
from mdkt_ros.live.statistics import Statistics
from mdkt_ros.network import build_network
from mdkt_ros.segmenter import Segmenter
from mdkt_ros.voxel_grid import VoxelGrid
from mdkt_ros.voxels import DEFAULT_FEATURES

NETWORK = "network"
STAGES = ("receive", "parse", "pair", "voxelise", NETWORK, "postprocess", "serialise", "publish")
"""In the order of a scan's way. `receive` and `publish` are known where rclpy is."""
SIZES = (32, 1105), (64, 1892)
"""Beams and azimuths of the scans that are made up: about 35 k and 120 k points."""
CAMERAS = 6
_PERIOD = 100_000_000


@dataclass(frozen=True)
class NodeMeasurement:
    """One scan through the stages; medians of the passes.

    Attributes:
        points: size of the scan.
        cpu_ms: stage -> milliseconds of CPU time of the one thread.
        wall_ms: stage -> milliseconds that passed.
        overhead_ms: CPU time of all stages but the network.
        latency_ms: publishing the cloud -> having its labels, in another process: milliseconds of the `first` scan
            that a node gets after its configuration, `median`, `p99` and `max` of those after it; None without rclpy.
        latency_scans: scans after the first.
    """

    points: int
    cpu_ms: dict[str, float]
    wall_ms: dict[str, float]
    overhead_ms: float
    latency_ms: dict[str, float] | None = None
    latency_scans: int = 0


class Link(Protocol):
    """The part of a node that needs ROS: bytes to message and message to bytes."""

    def receive(self, cloud: CloudMessage) -> Any:
        """What the middleware does to hand the cloud to a callback; returns the message."""

    def serialise(self, cloud: CloudMessage) -> Any:
        """The message that `publish` takes."""

    def publish(self, message: Any) -> None:
        """Hand it to the middleware."""


def made_up_scan(beams: int, azimuths: int) -> CloudMessage:
    """A street without data, as the message that a driver would send: x y z intensity, float32."""
    points = spinning_scan(beams, azimuths)
    intensity = np.random.default_rng(0).random(len(points), dtype=np.float32)
    return scan_message(points, intensity)


def scan_message(points: npt.NDArray[np.float32], intensity: npt.NDArray[np.float32] | None) -> CloudMessage:
    """(N, 3) metres and (N,) or None as a message of x y z intensity."""
    columns = {name: points[:, axis] for axis, name in enumerate("xyz")}
    if intensity is not None:
        columns["intensity"] = intensity
    return build_pointcloud2(columns)


def save_random(path: Path, preset: str, width: float, voxel_size: float) -> None:
    """Write a checkpoint of SemanticKITTI's classes that has learnt nothing (seed 0). Raises ConfigError."""
    labels = LabelSpace.load("semantickitti")
    torch.manual_seed(0)
    network = build_network(preset, in_channels=len(DEFAULT_FEATURES), classes=len(labels), width=width)
    grid = VoxelGrid(voxel_size, (-80.0, -80.0, -10.0), (80.0, 80.0, 10.0))
    save_checkpoint(path, network, CheckpointMeta(preset, width, grid, labels))


def measure_stages(
    cloud: CloudMessage, segmenter: Segmenter, link: Link | None = None, *, repeats: int = 20
) -> NodeMeasurement:
    """Send a cloud through the stages `repeats` times by each clock, on one thread, after three passes to get warm."""
    segmenter = segmenter.for_sensor()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _passes(cloud, segmenter, link, time.thread_time, 3)
        cpu = _passes(cloud, segmenter, link, time.thread_time, repeats)
        wall = _passes(cloud, segmenter, link, time.perf_counter, repeats)
    finally:
        torch.set_num_threads(threads)
    overhead = sum(value for stage, value in cpu.items() if stage != NETWORK)
    return NodeMeasurement(cloud.height * cloud.width, cpu, wall, overhead)


def _passes(
    cloud: CloudMessage, segmenter: Segmenter, link: Link | None, clock: Callable[[], float], repeats: int
) -> dict[str, float]:
    """Stage -> median milliseconds by `clock`."""
    segmenter.clock = clock
    sink = _Sink(link, clock)
    images = ImageStore(_PERIOD)
    labeller = Labeller(segmenter, sink, Statistics(), Health(Limits()), images, _no_extrinsics, clock=clock)
    rows: list[dict[str, float]] = []
    for number in range(repeats):
        stamp = (number + 1) * _PERIOD
        for camera in range(CAMERAS):
            for late in range(KEPT):
                images.add(camera, stamp + late, None)
        start = clock()
        message = cloud if link is None else link.receive(cloud)
        received = clock()
        images.advance(stamp)
        found = images.nearest(stamp)
        paired = clock()
        labeller.process(Scan(message, stamp, "lidar", time.perf_counter(), found))
        row = {"receive": 1e3 * (received - start), "pair": 1e3 * (paired - received), **sink.stages}
        rows.append(row if link is not None else {k: v for k, v in row.items() if k not in ("receive", "publish")})
    return {stage: median(row[stage] for row in rows) for stage in STAGES if stage in rows[0]}


def _no_extrinsics(*_where: Any) -> npt.NDArray[np.float64]:
    raise CameraError("no overlay is drawn here")


@dataclass
class _Sink:
    """Outputs of which somebody wants the labelled cloud."""

    link: Link | None
    clock: Callable[[], float]
    stages: dict[str, float] = field(default_factory=dict)
    _made: float = 0.0

    def wanted(self) -> frozenset[str]:
        return frozenset({SEGMENTATION})

    def cloud(self, output: str, cloud: CloudMessage, scan: Scan) -> None:
        start = self.clock()
        message = cloud.data_array() if self.link is None else self.link.serialise(cloud)
        self._made = 1e3 * (self.clock() - start)
        if self.link is not None:
            self.link.publish(message)

    def image(self, output: str, pixels: npt.NDArray[np.uint8], image: Any) -> None:
        raise AssertionError("nobody wants a picture")

    def times(self, milliseconds: Mapping[str, float], scan: Scan) -> None:
        self.stages = {
            "parse": milliseconds["parse"],
            "voxelise": milliseconds["voxelize"],
            NETWORK: milliseconds["inference"],
            "postprocess": milliseconds["gather"],
            "serialise": milliseconds["build"] + self._made,
            "publish": milliseconds["publish"] - self._made,
        }

    def complain(self, what: str, message: str) -> None:
        raise AssertionError(message)


def measure_node(
    clouds: Sequence[CloudMessage],
    checkpoint: Path | None = None,
    precision: str = "fp32",
    *,
    device: str = "cpu",
    repeats: int = 20,
    progress: Callable[[int, int], None] | None = None,
) -> list[NodeMeasurement]:
    """`measure_stages` of each cloud, without ROS. Raises MdktError: the checkpoint cannot be used."""
    segmenter = Segmenter.load(checkpoint, device, precision=precision)
    found = []
    for done, cloud in enumerate(clouds):
        found.append(measure_stages(cloud, segmenter, repeats=repeats))
        if progress is not None:
            progress(done + 1, len(clouds))
    return found
