"""`mdkt demo`: a town that no training has seen, driven through, recorded as a rosbag2, labelled, scored and drawn."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console

from mdkt_ros.output import atomic_output
from mdkt_ros.resources import checkpoint_path
from mdkt_ros.segmenter import Segmenter

SHOWN = 10
"""Scans on the page, and with an image."""

Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


def run_demo(
    out: Path,
    *,
    seed: int,
    scans: int,
    checkpoint: Path | None,
    device: str,
    force: bool,
    console: Console,
    progress: Progress,
    workers: int | None = None,
) -> None:
    """Leave in `out`: `drive/` (rosbag2), `labelled/` (rosbag2 with the labels), `table.json`, `report.html`,
    `birdseye.png`, `overlay.png`, `perspective.png`.

    Only the scans that the page shows have an image: rendering them all would take longer than all else.

    Args:
        workers: processes that make the drive; by default as many as there are cores, at most 4.

    Raises:
        OutputError: `out` exists and `force` is false.
        CheckpointError: the checkpoint cannot be used.
    """
    from mdkt_ros.drive.convert import convert
    from mdkt_ros.drive.synthetic.ahead import AheadDrive
    from mdkt_ros.render.page import page_for_path, spread
    from mdkt_ros.render.picture import PICTURES, picture_for_path
    from mdkt_ros.report import print_summary, summary_json
    from mdkt_ros.segment_drive import segment_path

    segmenter = Segmenter.load(checkpoint, device=device)
    seconds: dict[str, float] = {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_output(out, force=force) as folder:
        folder.mkdir()
        started = time.perf_counter()

        def lap(name: str) -> None:
            nonlocal started
            seconds[name], started = time.perf_counter() - started, time.perf_counter()

        shown = spread(scans, SHOWN)
        workers = workers or min(os.cpu_count() or 1, 4)
        with progress(f"Building town {seed}"):
            town = AheadDrive(seed, scans=scans, rate_hz=2.0, workers=workers, pictured=shown)
        lap("town")
        with town, progress("Driving through it, recording a rosbag2") as done:
            convert(town, folder / "drive", progress=done)
        lap("record")
        with progress("Labelling the bag") as done:
            summary = segment_path(folder / "drive", folder / "labelled", segmenter, progress=done)
        lap("segment")
        some = shown[3 * len(shown) // 4]
        with progress("Drawing") as done:
            page_for_path(
                folder / "labelled",
                folder / "report.html",
                summary=summary,
                title=f"A drive through town {seed}",
                facts=[("Checkpoint", checkpoint_path(checkpoint).name)],
                limit=SHOWN,
                progress=done,
            )
            for kind in PICTURES:
                picture_for_path(folder / "labelled", folder / f"{kind}.png", kind, scan=some)
        lap("draw")
        document = {"seed": seed, **summary_json(summary), "seconds": seconds}
        (folder / "table.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print_summary(console, summary)
    console.print("seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    console.out(f"Labelled drive: {out / 'labelled'}   Page: {out / 'report.html'}", highlight=False)
