"""`mdkt demo`: a town that no training has seen, driven through, recorded as a rosbag2, labelled, scored and drawn."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console

from mdkt_ros.output import atomic_output
from mdkt_ros.segmenter import SHIPPED, Segmenter

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
) -> None:
    """Leave in `out`: `town/` (the drive as a data set), `drive/` (rosbag2), `labelled/` (rosbag2 with the labels),
    `table.json`, `report.html`, `birdseye.png`, `overlay.png`, `perspective.png`.

    Raises:
        OutputError: `out` exists and `force` is false.
        CheckpointError: the checkpoint cannot be used.
    """
    from mdkt_ros.drive import open_drive
    from mdkt_ros.drive.convert import convert
    from mdkt_ros.drive.synthetic import synthesize
    from mdkt_ros.render.page import page_for_path
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

        with progress(f"Driving through town {seed}") as done:
            synthesize(folder / "town", seed=seed, scans=scans, rate_hz=2.0, progress=done)
        lap("synthesize")
        with progress("Recording a rosbag2") as done:
            convert(open_drive(folder / "town"), folder / "drive", progress=done)
        lap("convert")
        with progress("Labelling the bag") as done:
            summary = segment_path(folder / "drive", folder / "labelled", segmenter, progress=done)
        lap("segment")
        with progress("Drawing") as done:
            page_for_path(
                folder / "labelled",
                folder / "report.html",
                summary=summary,
                title=f"A drive through town {seed}",
                facts=[("Checkpoint", checkpoint.name if checkpoint else SHIPPED)],
                progress=done,
            )
            for kind in PICTURES:
                picture_for_path(folder / "labelled", folder / f"{kind}.png", kind, scan=3 * summary.frames // 4)
        lap("draw")
        document = {"seed": seed, **summary_json(summary), "seconds": seconds}
        (folder / "table.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print_summary(console, summary)
    console.print("seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    console.out(f"Labelled drive: {out / 'labelled'}   Page: {out / 'report.html'}", highlight=False)
