"""A recorded drive in, the same drive with labels out: bag to bag, folder to folder, scan to scan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mdkt_ros.segment_bag import segment_bag
from mdkt_ros.segment_folder import segment_file, segment_folder
from mdkt_ros.segment_request import check_request
from mdkt_ros.segment_summary import PointLabeller, SegmentSummary

__all__ = ["SegmentSummary", "segment_path"]


def segment_path(
    source: Path | str,
    out: Path | str,
    segmenter: PointLabeller,
    *,
    topic: str | None = None,
    intensity_scale: float | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    limit: int | None = None,
) -> SegmentSummary:
    """Label every point of a recorded drive.

    - A rosbag2 becomes a rosbag2 (a folder, or one file where `out` ends in .mcap or .db3) with two topics more.
    - A data set folder becomes a folder of the same layout with predictions in the benchmark's format.
    - A scan (.bin, .pcd.bin, .pcd) becomes a .pcd with the labels as fields, or a .label file.

    Points are turned to the axes that the checkpoint was trained on: from the drive's, unless the user gave others to
    the segmenter. Scans that cannot be read are counted, not fatal.

    Args:
        source: what to label.
        out: where; it appears when all is done, and not at all otherwise.
        segmenter: a `Segmenter`.
        topic: cloud topic, where a bag has several.
        intensity_scale: factor that brings the sensor's intensity to 0..1. Without it the factor that the user gave to
            the segmenter counts, then the one that the drive states (data sets, converted bags), then the checkpoint's.
        force: replace `out` where it exists.
        progress: called with (scans done, scans).
        limit: stop after so many scans; a bag's copy ends there, too.

    Raises:
        DriveError: not a recorded drive, damaged, or without one readable scan. LabelError, CloudError: a file of it.
        OutputError: `out` exists and `force` is false, is, lies in or holds the input, or cannot be written.
    """
    source, out = Path(source), Path(out)
    kind = check_request(source, out, topic=topic, intensity_scale=intensity_scale, force=force, limit=limit)
    if kind == "bag":
        return segment_bag(
            source,
            out,
            segmenter,
            topic=topic,
            intensity_scale=intensity_scale,
            force=force,
            progress=progress,
            limit=limit,
        )
    if source.is_file():
        summary = segment_file(source, out, segmenter, intensity_scale=intensity_scale, force=force)
        if progress is not None:
            progress(1, 1)
        return summary
    return segment_folder(
        source, out, segmenter, intensity_scale=intensity_scale, force=force, progress=progress, limit=limit
    )
