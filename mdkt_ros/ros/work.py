"""What the node `segment` has while it is configured.

The executor's thread only receives; one worker thread labels and publishes. The scan is the trigger: it takes each
camera's nearest image, and waits for none.
"""

from __future__ import annotations

import functools
import threading
import time
from typing import Any

import torch
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from mdkt_ros.live.gaps import Gaps
from mdkt_ros.live.health import Health
from mdkt_ros.live.images import ImageStore
from mdkt_ros.live.interruption import make_interruptible
from mdkt_ros.live.labeller import FAILED, Labeller, Scan, check_groups
from mdkt_ros.live.newest import NewestWorker
from mdkt_ros.live.report import values
from mdkt_ros.live.statistics import Statistics
from mdkt_ros.live.warmup import warm_up
from mdkt_ros.resources import weights_dir
from mdkt_ros.ros.images import choose_decoder
from mdkt_ros.ros.messages import stamp_of
from mdkt_ros.ros.outputs import RosOutputs
from mdkt_ros.ros.parameters import Settings
from mdkt_ros.ros.transforms import Transforms
from mdkt_ros.segmenter import Segmenter

FOLLOW = 0.5
"""Seconds between two looks at who listens to the overlays."""
DRAIN = 10.0
"""Seconds for which deactivate waits for the scan in work."""
GRACE = 0.5
"""Seconds for which the end of the process waits for the layer in work."""
SENSOR_DATA = ReliabilityPolicy.BEST_EFFORT


class Work:
    """The network, its worker, the outputs and, while the node is active, the subscriptions. Raises MdktError."""

    def __init__(self, node: LifecycleNode, settings: Settings) -> None:
        self._node, self._settings = node, settings
        self._stop = threading.Event()
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._gaps = Gaps()
        self.statistics, self.health = Statistics(), Health(settings.limits)
        self._images = ImageStore(settings.max_delay)
        self._subscriptions: list[Subscription] = []
        self._filming: dict[int, list[Subscription]] = {}
        self._transforms: Transforms | None = None
        self._outputs: RosOutputs | None = None
        self._timer: Any = None
        self._worker: NewestWorker[Scan] = NewestWorker(self._process, self._failed)
        try:
            self._segmenter = self._worker.run(
                functools.partial(_load, node, settings, self._stop), lambda: not node.context.ok()
            )
            check_groups(self._segmenter.labels, settings.cameras)
        except BaseException:
            self._stop.set()
            node.unfinished = not self._worker.close(GRACE)
            raise
        decoder, called = choose_decoder()
        if settings.cameras:
            self._transforms = Transforms(node, settings.fixed_frame)
            node.get_logger().info(f"cameras: {settings.cameras}; images are decoded by {called}")
        self._outputs = RosOutputs(node, self._segmenter.labels, self._segmenter.axes, settings.cameras)
        self._labeller = Labeller(
            self._segmenter,
            self._outputs,
            self.statistics,
            self.health,
            self._images,
            # Without cameras nobody asks.
            self._transforms.camera_from_lidar if self._transforms is not None else _nowhere,
            keep_input_fields=settings.keep_input_fields,
            rectified=settings.rectified,
            decoder=decoder,
        )

    def start(self) -> None:
        """Subscribe."""
        settings, node = self._settings, self._node
        assert self._outputs is not None
        self.health.start()
        self._gaps = Gaps()
        self._outputs.announce()
        reliability = ReliabilityPolicy.RELIABLE if settings.input_reliability == "reliable" else SENSOR_DATA
        profile = QoSProfile(depth=settings.input_depth, reliability=reliability)
        self._subscriptions = [node.create_subscription(PointCloud2, "~/input/pointcloud", self._cloud, profile)]
        if settings.cameras:
            self._timer = node.create_timer(FOLLOW, self._follow, clock=self._steady)
            self._follow()

    def stop(self) -> None:
        """Unsubscribe and wait for the scan in work."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
        for camera in list(self._filming):
            self._unfilm(camera)
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())
        self.statistics.count("dropped", self._worker.discard())
        if not self._worker.wait(DRAIN):
            self._node.get_logger().error(f"the scan in work did not end within {DRAIN:g} s")

    def end(self) -> bool:
        """Give up the scan in work and close; whether the worker ended in time."""
        self._stop.set()
        return self.close(GRACE)

    def close(self, timeout: float) -> bool:
        """Take the topics away and end the worker; whether it ended in time."""
        ended = self._worker.close(timeout)
        if ended:
            if self._transforms is not None:
                self._transforms.close()
            if self._outputs is not None:
                self._outputs.close()
        return ended

    def report(self) -> dict[str, str]:
        """Details for /diagnostics."""
        return values(
            self.statistics.snapshot(),
            self._segmenter.device,
            f"{self._segmenter.engine} in {self._segmenter.precision.name}",
        )

    def _follow(self) -> None:
        """Receive the images of those cameras alone whose overlay somebody watches."""
        assert self._outputs is not None
        for camera in range(self._settings.cameras):
            watched = self._outputs.watched(camera)
            if watched and camera not in self._filming:
                self._film(camera)
            elif not watched and camera in self._filming:
                self._unfilm(camera)

    def _film(self, camera: int) -> None:
        kind = CompressedImage if self._settings.compressed else Image
        sensor = QoSProfile(depth=5, reliability=SENSOR_DATA)
        info, image = functools.partial(self._info, camera), functools.partial(self._image, camera)
        self._filming[camera] = [
            self._node.create_subscription(CameraInfo, f"~/input/camera_info{camera}", info, sensor),
            self._node.create_subscription(kind, f"~/input/image{camera}", image, sensor),
        ]

    def _unfilm(self, camera: int) -> None:
        for subscription in self._filming.pop(camera):
            self._node.destroy_subscription(subscription)
        self._images.forget(camera)

    def _info(self, camera: int, message: CameraInfo) -> None:
        self._images.set_info(camera, stamp_of(message.header), message)

    def _image(self, camera: int, message: Any) -> None:
        self.statistics.image(camera)
        stamp = stamp_of(message.header)
        if stamp and self._images.add(camera, stamp, message):
            self._jumped()

    def _cloud(self, message: PointCloud2) -> None:
        received = time.perf_counter()
        self.statistics.count("received")
        self.health.received()
        stamp = stamp_of(message.header)
        if not stamp:
            self.statistics.count("without_stamp")
        elif self._images.advance(stamp):
            self._jumped()
        if stamp:
            self.statistics.count("missing", self._gaps.add(stamp))
        images = self._images.nearest(stamp) if stamp and self._filming else {}
        if self._worker.put(Scan(message, stamp, str(message.header.frame_id), received, images)) is not None:
            self.statistics.count("dropped")

    def _jumped(self) -> None:
        self.statistics.count("time_jumps")
        self._node.get_logger().info(
            "time ran backward (a bag loops?): images of the past are forgotten", throttle_duration_sec=5.0
        )

    def _process(self, scan: Scan) -> None:
        self._labeller.process(scan)

    def _failed(self, error: BaseException) -> None:
        """An exception that nothing foresaw, such as a full GPU: the scan is lost, the next one gets its chance."""
        if self._stop.is_set():
            return
        self._labeller.skip(FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}")


def _nowhere(*_where: Any) -> Any:
    raise AssertionError("no cameras")


def _load(node: LifecycleNode, settings: Settings, stop: threading.Event) -> Segmenter:
    """Load and warm up, in the worker's thread: its number of threads and their pool are the thread's own."""
    log = node.get_logger()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    segmenter = Segmenter.load(
        settings.checkpoint,
        settings.device,
        engine=settings.engine,
        precision=settings.precision,
        intensity_scale=settings.intensity_scale,
        axes=settings.axes,
        max_points=settings.max_points,
    )
    make_interruptible(segmenter.network, stop.is_set)
    labels = segmenter.labels
    log.info(f"checkpoint {settings.checkpoint} on {segmenter.device}")
    reason = f" ({segmenter.engine_reason})" if segmenter.engine_reason else ""
    log.info(f"engine {segmenter.engine}{reason} in {segmenter.precision}, {torch.get_num_threads()} threads")
    log.info(f"{len(labels)} classes: {', '.join(f'{i} {name}' for i, name in enumerate(labels.names))}")
    log.info(f"groups: {', '.join(labels.groups) or 'none'}")
    if settings.checkpoint.parent == weights_dir():
        log.warning("the shipped checkpoint was trained on synthetic towns; for real streets set `checkpoint`")
    if settings.warmup_points:
        # At most as many as a scan may have, or the warning about it would be spent.
        points = min(settings.warmup_points, settings.max_points)
        log.info(f"warm: {warm_up(segmenter, points):.0f} ms for {points} points")
    return segmenter
