"""One scan file and its label file as a Frame: what every folder form of a drive shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.frame import Frame, View
from mdkt_ros.labels import LabelSpace
from mdkt_ros.scan import read_labels, read_scan


def read_frame(
    scan: Path,
    label_file: Path | None,
    space: LabelSpace | None,
    *,
    columns: int | None,
    name: str,
    stamp: int,
    world_from_lidar: npt.NDArray[np.float64] | None = None,
    views: tuple[View, ...] = (),
) -> Frame:
    """Read a scan, and its labels where it has a label file.

    Args:
        scan: `.bin` or `.pcd`.
        label_file: `.label` (uint32: class in the low, instance in the high 16 bits) or `.bin` (uint8 class), or None.
        space: maps the label file's raw ids to class ids.
        columns: values a point of a `.bin`.
        name, stamp, world_from_lidar, views: as in Frame.

    Raises:
        CloudError: the scan is missing or cannot be read.
        LabelError: the labels cannot be read, are not as many as the points, or hold an id that `space` does not know.
    """
    cloud = read_scan(scan, columns=columns)
    raw = instance = labels = None
    if label_file is not None and space is not None:
        if label_file.suffix == ".label":
            packed = read_labels(label_file, len(cloud), np.uint32)
            raw, instance = packed & np.uint32(0xFFFF), packed >> np.uint32(16)
        else:
            raw = read_labels(label_file, len(cloud), np.uint8).astype(np.uint32)
        labels = space.from_raw(raw, str(label_file))
    return Frame(
        name=name,
        stamp=stamp,
        points=cloud.xyz(),
        intensity=cloud.intensity(),
        ring=cloud.ring(),
        labels=labels,
        instance=instance,
        raw_labels=raw,
        world_from_lidar=world_from_lidar,
        views=views,
    )
