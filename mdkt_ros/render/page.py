"""The report page: one HTML file with clouds in 3D, their images and the table; of frames in memory or of a path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mdkt_ros.labels import LabelSpace
from mdkt_ros.render.page_data import PageFrame, PageStatistics
from mdkt_ros.render.page_source import open_source
from mdkt_ros.render.page_writer import POINT_LIMIT, write_page

__all__ = ["POINT_LIMIT", "PageFrame", "PageStatistics", "page_for_path", "write_page"]


def page_for_path(
    path: str | Path,
    out: str | Path,
    *,
    predictions: str | Path | None = None,
    labels: LabelSpace | None = None,
    topic: str | None = None,
    limit: int = 10,
    point_limit: int = POINT_LIMIT,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PageStatistics:
    """Write the page of what `mdkt segment` left, or of any drive or scan, with truth or without labels at all.

    Args:
        path: a rosbag2 (with `/segment/output/segmentation` where it was labelled), a data set folder (with
            `predictions/`), or one scan (a labelled one is a `.pcd` with the field `class_id`).
        out: the HTML file.
        predictions: folder or label file with the predictions, where they are not with the scans.
        labels: label space; by default what the bag or the data set says.
        topic: cloud topic of a bag with several.
        limit: scans at most, spread evenly over the drive.
        point_limit: points drawn a scan; figures are of all points.
        force: replace an existing `out`.
        progress: called with (done, total).

    Raises:
        MdktError: the drive, its labels or the output; see `open_drive` and `write_page`.
    """
    with open_source(Path(path), None if predictions is None else Path(predictions), labels, topic) as source:
        count = len(source.drive)
        chosen = np.unique(np.linspace(0, count - 1, min(max(limit, 1), count)).round().astype(int)).tolist()
        shown = f"{len(chosen)} of {count}" if len(chosen) < count else f"{count}"
        report = None if progress is None else lambda done, _: progress(done, len(chosen))
        return write_page(
            out,
            (source.frame(index) for index in chosen),
            title=source.drive.name,
            labels=source.labels,
            axes=source.drive.axes,
            facts=[*source.facts, ("Scans", shown)],
            point_limit=point_limit,
            force=force,
            progress=report,
        )
