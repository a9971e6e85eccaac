"""The report page: one HTML file with clouds in 3D, their images and the table; of frames in memory or of a path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mdkt_ros.errors import CloudError, DriveError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.render.page_data import PageFrame, PageStatistics
from mdkt_ros.render.page_source import Source, open_source
from mdkt_ros.render.page_writer import POINT_LIMIT, write_page

if TYPE_CHECKING:
    from mdkt_ros.segment_summary import SegmentSummary

__all__ = ["POINT_LIMIT", "PageFrame", "PageStatistics", "page_for_path", "write_page"]


def page_for_path(
    path: str | Path,
    out: str | Path,
    *,
    predictions: str | Path | None = None,
    labels: LabelSpace | None = None,
    topic: str | None = None,
    image_size: tuple[int, int] | None = None,
    summary: SegmentSummary | None = None,
    title: str | None = None,
    facts: Sequence[tuple[str, str]] = (),
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
        labels: label space, with `predictions` that of the predictions; by default what the bag or the data set says.
        topic: cloud topic of a bag with several.
        image_size: width and height that a KITTI calibration belongs to; see `open_drive`.
        summary: what `segment_path` returned, for the table and the timings of the whole drive instead of those of the
            scans on the page.
        title: heading; the drive's name by default.
        facts: (term, text) to show under the heading, before those of the drive.
        limit: scans at most, spread evenly over the drive.
        point_limit: points drawn a scan; figures are of all points.
        force: replace an existing `out`.
        progress: called with (done, total).

    Raises:
        MdktError: the drive, its labels or the output; see `open_drive` and `write_page`.
    """
    beside = None if predictions is None else Path(predictions)
    with open_source(Path(path), beside, labels, topic, image_size) as source:
        count = len(source.drive)
        # Where the drive was labelled in part, that part is what one wants to see.
        scans = np.array(source.labelled or range(count))
        chosen = scans[spread(len(scans), limit)].tolist()
        shown = f"{len(chosen)} of {count}" if len(chosen) < count else f"{count}"
        remarks: list[str] = []
        whole = summary is not None and summary.confusion is not None
        return write_page(
            out,
            _readable(source, chosen, remarks),
            title=title or source.drive.name,
            labels=source.labels,
            axes=source.drive.axes,
            facts=[*facts, *source.facts, ("Scans shown", shown)],
            confusion=summary.confusion if summary is not None else None,
            timings=None if summary is None else {stage: [ms] for stage, ms in summary.timings.items()},
            note=f"Counted over every point of the drive's {count} scans that has a truth." if whole else None,
            remarks=remarks,
            point_limit=point_limit,
            force=force,
            progress=None if progress is None else lambda done, _: progress(done, len(chosen)),
        )


def spread(count: int, limit: int) -> list[int]:
    """`limit` of `count` positions at most, spread evenly; the first and the last among them."""
    at: list[int] = np.unique(np.linspace(0, count - 1, min(max(limit, 1), count)).round().astype(int)).tolist()
    return at


def _readable(source: Source, chosen: Sequence[int], remarks: list[str]) -> Iterator[PageFrame]:
    """The frames, without those whose cloud is damaged: as `mdkt segment` does, and the page says so."""
    shown = 0
    for index in chosen:
        try:
            frame = source.frame(index, remarks)
        except (CloudError, DriveError) as error:
            remarks.append(f"Scan {index} is not shown: {error}.")
            continue
        shown += 1
        yield frame
    if not shown:
        raise DriveError(f"{source.drive.name}: there is no scan to show. {' '.join(remarks[:3])}")
