"""A rosbag2 in, the same rosbag2 with labels out: every other message copied byte for byte, clouds one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Writer

from mdkt_ros.cloud import build_segmentation, parse_pointcloud2
from mdkt_ros.drive.bag import BagDrive
from mdkt_ros.drive.bag_file import BagFile, copy_connection, write_bag
from mdkt_ros.drive.bag_topics import OUTPUT_INFO_TOPIC, OUTPUT_TOPIC, TRUTH_TOPIC, class_ids
from mdkt_ros.drive.rosmsg import LABEL_INFO, POINT_CLOUD, Messages, nanoseconds, qos, typestore
from mdkt_ros.errors import CloudError, DriveError, LabelError
from mdkt_ros.segment_prompts import CUSTOM_KEY, describe
from mdkt_ros.segment_summary import PointLabeller, SegmentSummary, Tally, for_drive

_PENDING = 16
"""Scans and truths that wait for their other half; a converted drive needs one."""


def segment_bag(
    source: Path,
    out: Path,
    segmenter: PointLabeller,
    *,
    topic: str | None = None,
    intensity_scale: float | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    limit: int | None = None,
) -> SegmentSummary:
    """Copy a bag and add `/segment/output/segmentation` and latched `/segment/output/label_info`.

    Storage, compression, and all other topics with their definitions and quality of service stay as they are; the
    labels of a cloud are recorded at the cloud's own time. A cloud that cannot be read is counted and left without
    labels. The scores of prompts are fields `prompt_...` of the labelled cloud, from byte 24 on; which is which is
    noted in the bag's custom_data. See `segment_path` for the parameters; with `limit`, the copy ends after so many
    clouds.

    Raises:
        DriveError: no rosbag2, damaged, no cloud topic or several, not one readable cloud, or labelled already.
        OutputError: `out` exists and `force` is false, or cannot be written.
    """
    with BagDrive(source, topic=topic) as drive:
        segmenter = for_drive(segmenter, drive.axes, drive.stated_intensity_scale, intensity_scale)
        tally = Tally(segmenter.labels, drive.labels)
        total = len(drive) if limit is None else min(limit, len(drive))
    with BagFile(source) as bag:
        for present in bag.topics:
            if present.name in (OUTPUT_TOPIC, OUTPUT_INFO_TOPIC):
                raise DriveError(f"{source}: holds {present.name} already; segment the bag that it was made from")
        with write_bag(
            out, storage=bag.storage, version=bag.version, compression=bag.compression, force=force
        ) as writer:
            work = _Work(bag, writer, segmenter, tally, drive.topic)
            for done in work.clouds(total):
                if progress is not None:
                    progress(done, total)
            if not tally.frames:
                reasons = tally.reasons or "they are announced, but not there"
                raise DriveError(f"{source}: topic {drive.topic}: not one of {total} clouds can be read: {reasons}")
        if limit is None and work.copied < (announced := sum(topic.messages for topic in bag.topics)):
            tally.note(f"{source.name} is damaged: {work.copied} of {announced} messages could be read")
    return tally.summary(source, out, drive.topic)


class _Work:
    def __init__(self, bag: BagFile, writer: Writer, segmenter: PointLabeller, tally: Tally, topic: str) -> None:
        self._bag, self._writer = bag, writer
        self._segmenter, self._tally = segmenter, tally
        self._topic = topic
        self._messages = Messages(typestore())
        self._predictions: dict[int, npt.NDArray[np.uint8]] = {}
        self._truths: dict[int, npt.NDArray[np.uint8]] = {}
        for key, value in bag.custom.items():
            writer.set_custom_data(key, value)
        self.copied = 0
        self._copies = {c.id: copy_connection(writer, c, bag.store) for c in bag.connections}
        self._out = self._add(OUTPUT_TOPIC, POINT_CLOUD)
        self._out_info = self._add(OUTPUT_INFO_TOPIC, LABEL_INFO, latched=True)

    def _add(self, topic: str, msgtype: str, *, latched: bool = False) -> Connection:
        return self._writer.add_connection(
            topic, msgtype, typestore=self._messages.store, offered_qos_profiles=qos(latched=latched)
        )

    def clouds(self, total: int) -> Iterator[int]:
        """Copy message by message, label each cloud; yields the number of clouds met so far."""
        done = 0
        for connection, log_time, raw in self._bag.messages():
            if connection.topic == self._topic and done == total:
                break
            self._writer.write(self._copies[connection.id], log_time, raw)
            self.copied += 1
            if connection.topic == self._topic:
                self._cloud(connection, log_time, raw)
                done += 1
                yield done
            elif connection.topic == TRUTH_TOPIC:
                self._truth(connection, raw)

    def _cloud(self, connection: Connection, log_time: int, raw: bytes) -> None:
        start = time.perf_counter()
        try:
            message = self._bag.deserialize(raw, connection)
            cloud = parse_pointcloud2(message)
            points, intensity = cloud.xyz(), cloud.intensity()
        except (CloudError, DriveError) as error:
            self._tally.skip(str(error))
            return
        read = time.perf_counter()
        result = self._segmenter.segment(points, intensity)
        segmented = time.perf_counter()
        stamp, frame_id = nanoseconds(message.header.stamp), str(message.header.frame_id)
        if not self._tally.frames:
            info = self._messages.label_info(stamp, frame_id, self._segmenter.labels)
            self._writer.write(self._out_info, log_time, self._messages.serialize(info))
            if result.prompts is not None:
                self._writer.set_custom_data(CUSTOM_KEY, describe(result.prompts.prompts))
        more = None if result.prompts is None else result.prompts.columns
        built = build_segmentation(cloud, result.class_id, result.probability, result.entropy, more=more)
        labelled = self._messages.point_cloud(self._messages.header(stamp, frame_id), built)
        self._writer.write(self._out, log_time, self._messages.serialize(labelled))
        written = time.perf_counter()
        self._tally.add(result, 1e3 * (read - start), 1e3 * (written - segmented))
        self._match(stamp, self._predictions, result.class_id)

    def _truth(self, connection: Connection, raw: bytes) -> None:
        try:
            message = self._bag.deserialize(raw, connection)
            cloud = parse_pointcloud2(message)
            truth = class_ids(cloud, len(cloud), f"topic {TRUTH_TOPIC}")
        except (CloudError, DriveError, LabelError) as error:
            self._tally.unscored(str(error))
            return
        self._match(nanoseconds(message.header.stamp), self._truths, truth)

    def _match(self, stamp: int, side: dict[int, npt.NDArray[np.uint8]], values: Any) -> None:
        """Score a scan when both its prediction and its truth are here; they come in any order."""
        side[stamp] = values
        if stamp in self._truths and stamp in self._predictions:
            self._tally.score(self._truths.pop(stamp), self._predictions.pop(stamp))
        while len(side) > _PENDING:
            side.pop(next(iter(side)))
