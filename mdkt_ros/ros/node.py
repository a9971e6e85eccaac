"""The lifecycle node `segment`: configure loads the network, activate subscribes, cleanup gives the memory back.

The executor's thread only receives; one worker thread labels and publishes. The scan is the trigger: it takes each
camera's nearest image, and waits for none.
"""

from __future__ import annotations

import functools
import gc
import time
from typing import Any

import torch
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from mdkt_ros.errors import MdktError
from mdkt_ros.live.health import Health, Judgement, Level
from mdkt_ros.live.images import ImageStore
from mdkt_ros.live.labeller import FAILED, Labeller, Scan, check_groups
from mdkt_ros.live.newest import NewestWorker
from mdkt_ros.live.report import values
from mdkt_ros.live.statistics import Statistics
from mdkt_ros.live.warmup import warm_up
from mdkt_ros.ros.diagnostics import Diagnostics
from mdkt_ros.ros.images import choose_decoder
from mdkt_ros.ros.messages import stamp_of
from mdkt_ros.ros.outputs import RosOutputs
from mdkt_ros.ros.parameters import Parameters, Settings
from mdkt_ros.ros.transforms import Transforms
from mdkt_ros.segmenter import SHIPPED, Segmenter

FOLLOW = 0.5
"""Seconds between two looks at who listens to the overlays."""
DRAIN = 10.0
"""Seconds for which deactivate waits for the scan in work."""
SENSOR_DATA = ReliabilityPolicy.BEST_EFFORT


class SegmentNode(LifecycleNode):  # type: ignore[misc]
    """Labels every point of `~/input/pointcloud`; see DESIGN for the topics and `parameters` for the parameters."""

    def __init__(self, **options: Any) -> None:
        super().__init__("segment", **options)
        self._declared = Parameters(self)
        for problem in self._declared.unknown():
            self.get_logger().warning(problem)
        self._work: _Work | None = None
        self._active = False
        self.unfinished = False
        """Whether a network is still being loaded that nobody waits for any more."""
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics = Diagnostics(self, self.get_parameter("diagnostics.period").value, self._describe)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the parameters, load the network and warm it up."""
        try:
            settings = self._declared.read()
            self._work = _Work(self, settings)
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

    def end(self, timeout: float) -> bool:
        """Stop for good; whether the worker ended in time, so that the process can end in an orderly way."""
        self._active = False
        return not self.unfinished and (self._work is None or self._work.close(timeout))

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
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _describe(self) -> tuple[Judgement, dict[str, str]]:
        if self._work is None:
            return Judgement(Level.OK, "unconfigured"), {}
        judgement = self._work.health.judge() if self._active else Judgement(Level.OK, "inactive")
        return judgement, self._work.report()


class _Work:
    """What exists while the node is configured. Raises MdktError."""

    def __init__(self, node: SegmentNode, settings: Settings) -> None:
        self._node, self._settings = node, settings
        self.statistics, self.health = Statistics(), Health(settings.limits)
        self._images = ImageStore(settings.max_delay)
        self._subscriptions: list[Subscription] = []
        self._filming: dict[int, list[Subscription]] = {}
        self._transforms: Transforms | None = None
        self._outputs: RosOutputs | None = None
        self._timer: Any = None
        self._worker: NewestWorker[Scan] = NewestWorker(self._process, self._failed)
        try:
            self._segmenter = self._worker.run(functools.partial(_load, node, settings), lambda: not node.context.ok())
            check_groups(self._segmenter.labels, settings.cameras)
        except BaseException:
            node.unfinished = not self._worker.close(0)
            raise
        decoder, called = choose_decoder()
        if settings.cameras:
            self._transforms = Transforms(node, settings.fixed_frame)
            node.get_logger().info(f"{settings.cameras} cameras; images are decoded by {called}")
        self._outputs = RosOutputs(node, self._segmenter.labels, settings.cameras)
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
        self._outputs.announce()
        reliability = ReliabilityPolicy.RELIABLE if settings.input_reliability == "reliable" else SENSOR_DATA
        profile = QoSProfile(depth=settings.input_depth, reliability=reliability)
        self._subscriptions = [node.create_subscription(PointCloud2, "~/input/pointcloud", self._cloud, profile)]
        if settings.cameras:
            self._timer = node.create_timer(FOLLOW, self._follow, clock=node._steady)
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
        return values(self.statistics.snapshot(), self._segmenter.device)

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
        images = self._images.nearest(stamp) if stamp and self._filming else {}
        if self._worker.put(Scan(message, stamp, str(message.header.frame_id), received, images)) is not None:
            self.statistics.count("dropped")

    def _jumped(self) -> None:
        self.statistics.count("time_jumps")
        self._node.get_logger().info("time ran backward (a bag loops?): images of the past are forgotten")

    def _process(self, scan: Scan) -> None:
        self._labeller.process(scan)

    def _failed(self, error: BaseException) -> None:
        """An exception that nothing foresaw, such as a full GPU: the scan is lost, the next one gets its chance."""
        self._labeller.skip(FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}")


def _nowhere(*_where: Any) -> Any:
    raise AssertionError("no cameras")


def _load(node: SegmentNode, settings: Settings) -> Segmenter:
    """Load and warm up, in the worker's thread: its number of threads and their pool are the thread's own."""
    log = node.get_logger()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    segmenter = Segmenter.load(
        settings.checkpoint,
        settings.device,
        intensity_scale=settings.intensity_scale,
        axes=settings.axes,
        max_points=settings.max_points,
    )
    labels = segmenter.labels
    shown = settings.checkpoint or f"{SHIPPED} (shipped)"
    log.info(f"checkpoint {shown} on {segmenter.device}, {torch.get_num_threads()} threads")
    log.info(f"{len(labels)} classes: {', '.join(f'{i} {name}' for i, name in enumerate(labels.names))}")
    log.info(f"groups: {', '.join(labels.groups) or 'none'}")
    if settings.checkpoint is None:
        log.warning("the shipped checkpoint was trained on synthetic towns; for real streets set `checkpoint`")
    if settings.warmup_points:
        # At most as many as a scan may have, or the warning about it would be spent.
        points = min(settings.warmup_points, settings.max_points)
        log.info(f"warm: {warm_up(segmenter, points):.0f} ms for {points} points")
    return segmenter
