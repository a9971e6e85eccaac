"""A live scan from the message to the outputs that somebody listens to, the labelled cloud first."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mdkt_ros.cloud import (
    Cloud,
    CloudMessage,
    build_segmentation,
    build_subset,
    build_visualization,
    parse_pointcloud2,
)
from mdkt_ros.drive.bag_images import camera_from_info, decode_compressed, decode_raw
from mdkt_ros.errors import CameraError, CloudError, ConfigError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.live.health import Health
from mdkt_ros.live.images import ImageStore
from mdkt_ros.live.statistics import Statistics
from mdkt_ros.pairing import Paired
from mdkt_ros.render.overlay import overlay
from mdkt_ros.render.style import display_palette
from mdkt_ros.segment_summary import PointLabeller
from mdkt_ros.segmentation import Segmentation

SEGMENTATION, VISUALIZATION, OVERLAY = "segmentation", "visualization", "overlay"
LABEL_INFO, LEGEND = "label_info", "legend"
UNREADABLE, EMPTY, NOT_FINITE, FAILED = "unreadable", "empty", "no finite point", "network failed"
"""Why a scan is skipped."""

Pose = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scan:
    """A scan as it came.

    Attributes:
        message: a PointCloud2; left unchanged.
        stamp: nanoseconds; 0 where the sensor states none.
        frame_id: the LiDAR's frame.
        received: `time.perf_counter()` when it came.
        images: those nearest to it when it came; nearer ones may come while it waits.
    """

    message: Any
    stamp: int
    frame_id: str
    received: float
    images: Mapping[int, Paired[Any]] = field(default_factory=dict)


class Outputs(Protocol):
    """Where results go. An output is `segmentation`, `visualization`, a group's name, or `overlay0`, `overlay1`, ..."""

    def wanted(self) -> frozenset[str]:
        """The outputs that somebody listens to; `times` for the milliseconds by stage."""

    def cloud(self, output: str, cloud: CloudMessage, scan: Scan) -> None:
        """Publish a cloud with the scan's stamp and frame."""

    def image(self, output: str, pixels: npt.NDArray[np.uint8], image: Any) -> None:
        """Publish (H, W, 3) uint8 RGB with the stamp and frame of the message `image`."""

    def times(self, milliseconds: Mapping[str, float], scan: Scan) -> None:
        """Publish what a scan took, by stage."""

    def complain(self, what: str, message: str) -> None:
        """Tell the user that something was skipped; `what` is one of few, for throttling."""


Extrinsics = Callable[[str, int, str, int], Pose]
"""(camera frame, image stamp, LiDAR frame, scan stamp) -> camera_from_lidar (4, 4). Raises CameraError."""
Decoder = Callable[[str, Any], npt.NDArray[np.uint8]]
"""(camera's name, Image or CompressedImage) -> (H, W, 3) uint8 RGB. Raises CameraError."""


def check_groups(labels: LabelSpace, cameras: int) -> None:
    """Whether each group of the label space can be a topic beside the other outputs. Raises ConfigError."""
    taken = {SEGMENTATION, VISUALIZATION, LABEL_INFO, LEGEND, *(f"{OVERLAY}{i}" for i in range(cameras))}
    for group in labels.groups:
        if group in taken or not group.isidentifier() or not group.isascii():
            raise ConfigError(f"checkpoint: its group {group!r} cannot be the name of an output topic")


def decode(name: str, message: Any) -> npt.NDArray[np.uint8]:
    """Image or CompressedImage to (H, W, 3) uint8 RGB, with NumPy and Pillow alone. Raises CameraError."""
    return decode_compressed(name, message.data) if hasattr(message, "format") else decode_raw(name, message)


class Labeller:
    """Labels scans one at a time, in whatever thread calls it.

    Args:
        segmenter: what labels the points.
        outputs: where the results go.
        statistics, health: told what became of each scan.
        images: images and calibrations of the cameras.
        extrinsics: where a camera sat when its image was taken, seen from the LiDAR at the scan's time.
        keep_input_fields: append the input's own fields to the labelled cloud.
        rectified: the images are rectified, so that P of the CameraInfo is all of the lens.
        decoder: how an image message becomes pixels.
        clock: seconds, for the times of the stages; the latency is always real time.
    """

    def __init__(
        self,
        segmenter: PointLabeller,
        outputs: Outputs,
        statistics: Statistics,
        health: Health,
        images: ImageStore,
        extrinsics: Extrinsics,
        *,
        keep_input_fields: bool = False,
        rectified: bool = False,
        decoder: Decoder = decode,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._segmenter, self._outputs = segmenter, outputs
        self._statistics, self._health = statistics, health
        self._images, self._extrinsics = images, extrinsics
        self._keep_input_fields, self._rectified = keep_input_fields, rectified
        self._decoder, self._clock = decoder, clock
        self._palette = display_palette(segmenter.labels)

    def process(self, scan: Scan) -> None:
        """Label a scan and publish what is wanted of it; one that cannot be labelled is counted and reported."""
        wanted = self._outputs.wanted()
        if not wanted:
            self._statistics.count("unwanted")
            self._health.unwanted()
            return
        start = self._clock()
        try:
            cloud = parse_pointcloud2(scan.message)
            points, intensity = cloud.xyz(), cloud.intensity()
        except CloudError as error:
            self.skip(UNREADABLE, str(error))
            return
        if not len(points):
            self.skip(EMPTY, "the cloud has no points")
            return
        if not _any_finite(points):
            self.skip(NOT_FINITE, f"not one of {len(points)} points is finite")
            return
        parsed = self._clock()
        result = self._segmenter.segment(points, intensity)
        labelled = self._clock()
        build_ms = self._clouds(scan, cloud, result, wanted)
        end = self._clock()
        stages = {
            "parse": 1e3 * (parsed - start),
            "voxelize": result.timings["preprocess"],
            "inference": result.timings["inference"],
            "gather": result.timings["postprocess"],
            "build": build_ms,
            "publish": 1e3 * (end - labelled) - build_ms,
            "total": 1e3 * (end - start),
            "latency": 1e3 * (time.perf_counter() - scan.received),
        }
        self._statistics.count("processed")
        self._statistics.time(stages)
        self._health.processed(stages["total"])
        self._outputs.times(stages, scan)
        # Pictures come last: no camera delays a cloud.
        self._overlays(scan, points, result, wanted)

    def skip(self, reason: str, message: str) -> None:
        """Count and report a scan that could not be labelled."""
        self._statistics.skip(reason)
        self._health.skipped(message)
        self._outputs.complain(reason, f"scan skipped: {message}")

    def _clouds(self, scan: Scan, cloud: Cloud, result: Segmentation, wanted: frozenset[str]) -> float:
        """Build and publish one cloud after the other; the milliseconds that building took."""
        labels = self._segmenter.labels
        makers: dict[str, Callable[[], CloudMessage]] = {
            SEGMENTATION: lambda: build_segmentation(
                cloud,
                result.class_id,
                result.probability,
                result.entropy,
                keep_input_fields=self._keep_input_fields,
                records=result.records,
            ),
            VISUALIZATION: lambda: build_visualization(cloud, self._palette[result.class_id]),
            **{
                group: lambda group=group: build_subset(cloud, labels.in_group(result.class_id, group))  # type: ignore[misc]
                for group in labels.groups
            },
        }
        spent = 0.0
        for output, make in makers.items():
            if output in wanted:
                start = self._clock()
                message = make()
                spent += self._clock() - start
                self._outputs.cloud(output, message, scan)
        return 1e3 * spent

    def _overlays(
        self, scan: Scan, points: npt.NDArray[np.float32], result: Segmentation, wanted: frozenset[str]
    ) -> None:
        cameras = [int(o.removeprefix(OVERLAY)) for o in sorted(wanted) if o.removeprefix(OVERLAY).isdecimal()]
        if not cameras:
            return
        now = self._images.nearest(scan.stamp)
        for camera in cameras:
            found = [side[camera] for side in (scan.images, now) if camera in side]
            if not scan.stamp or not found:
                self._statistics.skip_image(camera, "no image near the scan")
                continue
            paired = min(found, key=lambda paired: abs(paired.stamp - scan.stamp))
            name, start = f"{camera}", self._clock()
            try:
                pixels = self._draw(name, camera, paired, scan, points, result)
            except CameraError as error:
                self._statistics.skip_image(camera, "not usable")
                self._outputs.complain(f"camera {camera}", str(error))
                continue
            self._outputs.image(f"{OVERLAY}{camera}", pixels, paired.image)
            self._statistics.drawn(camera, (paired.stamp - scan.stamp) / 1e6)
            self._statistics.time({f"{OVERLAY}{camera}": 1e3 * (self._clock() - start)})

    def _draw(
        self,
        name: str,
        camera: int,
        paired: Paired[Any],
        scan: Scan,
        points: npt.NDArray[np.float32],
        result: Segmentation,
    ) -> npt.NDArray[np.uint8]:
        info = self._images.info(camera, paired.stamp)
        if info is None:
            raise CameraError(f"camera {name}: no CameraInfo came yet")
        optical = str(paired.image.header.frame_id)
        pose = self._extrinsics(optical, paired.stamp, scan.frame_id, scan.stamp)
        lens = camera_from_info(name, info, pose, rectified=self._rectified)
        pixels = self._decoder(name, paired.image)
        return np.asarray(overlay(pixels, lens, points, result.class_id, self._segmenter.labels))


def _any_finite(points: npt.NDArray[np.float32]) -> bool:
    # A few settle it for all but strange scans; asking every point takes a millisecond.
    few = points[:: max(len(points) // 64, 1)]
    return any(bool(np.isfinite(some).all(axis=1).any()) for some in (few, points))
