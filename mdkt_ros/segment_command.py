"""`mdkt segment`: labels for every point of a recorded drive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mdkt_ros.command_options import CheckpointOption, Device, Engine, Force, name_of
from mdkt_ros.terminal import console, print_written, progress_bar


def segment(
    source: Annotated[Path, typer.Argument(help="rosbag2 (mcap or sqlite3), .bin or .pcd scan, or data set folder.")],
    out: Annotated[Path, typer.Argument(help="The same with labels added; of a scan, a .pcd or .label file.")],
    checkpoint: CheckpointOption = None,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Annotated[
        str, typer.Option(help="Of the convolutions: fp32, bf16, fp16, or auto (bf16 where it is quicker).")
    ] = "fp32",
    topic: Annotated[str | None, typer.Option(help="Cloud topic, where a bag has several.")] = None,
    intensity_scale: Annotated[
        float | None,
        typer.Option(help="Factor that brings the sensor's intensity to 0..1; without it, what the drive states."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Stop after so many scans.", min=1)] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="What to look for, e.g. 'traffic cone': a score a point; again for more.")
    ] = None,
    text_model: Annotated[
        str, typer.Option(help="For prompts that name no class: local-dir:FOLDER or an open_clip model.")
    ] = "",
    text_weights: Annotated[str, typer.Option(help="Weights file of an open_clip model, or a tag to download.")] = "",
    force: Force = False,
) -> None:
    """Label every point of a recorded drive."""
    from mdkt_ros.segment_request import check_request

    # First, so that a slip of the pen is answered at once.
    check_request(source, out, topic=topic, intensity_scale=intensity_scale, force=force, limit=limit)
    from mdkt_ros.report import print_summary
    from mdkt_ros.segment_drive import segment_path
    from mdkt_ros.segmenter import Segmenter

    segmenter = Segmenter.load(
        checkpoint,
        device=device,
        engine=engine,
        precision=precision,
        prompts=prompt or (),
        text_model=text_model,
        text_weights=text_weights,
    )
    if segmenter.engine_reason and engine == "auto":
        console.print(f"Engine {segmenter.engine}: {segmenter.engine_reason}", markup=False, style="dim")
    if segmenter.precision.reason:
        console.print(f"Precision {segmenter.precision}", markup=False, style="dim")
    with progress_bar(f"Labelling {name_of(source)}") as progress:
        summary = segment_path(
            source,
            out,
            segmenter,
            topic=topic,
            intensity_scale=intensity_scale,
            force=force,
            limit=limit,
            progress=progress,
        )
    print_summary(console, summary)
    print_written(out)
