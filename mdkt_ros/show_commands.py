"""`mdkt view`, `mdkt picture` and `mdkt info`: what is in a drive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from mdkt_ros.command_options import Force, ImageSize, image_size_of, name_of
from mdkt_ros.errors import OutputError
from mdkt_ros.terminal import console, print_written, progress_bar


def view(
    source: Annotated[Path, typer.Argument(help="What `mdkt segment` left, or any drive or scan.")],
    out: Annotated[Path, typer.Argument(help="The .html page to write; it works from a file, offline.")],
    predictions: Annotated[
        Path | None, typer.Option(help="Folder or file of the predictions, where they are not with the scans.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Their label space, where it is not the scans' own: semantickitti, nuscenes, or a .yaml file of one."
        ),
    ] = None,
    topic: Annotated[str | None, typer.Option(help="Cloud topic, where a bag has several.")] = None,
    image_size: ImageSize = None,
    limit: Annotated[int, typer.Option(help="Frames at most, spread evenly over the drive.", min=1)] = 10,
    force: Force = False,
) -> None:
    """Write a page that shows a drive: the cloud in 3D by class, images with labels on them, a table by class."""
    from mdkt_ros.labels import LabelSpace
    from mdkt_ros.output import refuse_existing
    from mdkt_ros.render.page import page_for_path

    if out.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"{out}: the page is written as .html")
    refuse_existing(out, force)
    with progress_bar(f"Drawing {name_of(source)}") as progress:
        page_for_path(
            source,
            out,
            predictions=predictions,
            labels=None if labels is None else LabelSpace.load(labels),
            topic=topic,
            image_size=image_size_of(image_size),
            limit=limit,
            force=force,
            progress=progress,
        )
    print_written(out, f" ({out.stat().st_size / 1e6:.1f} MB)")


def picture(
    source: Annotated[Path, typer.Argument(help="What `mdkt segment` left, or any labelled drive or scan.")],
    out: Annotated[Path, typer.Argument(help="The .png or .jpg to write.")],
    kind: Annotated[
        Literal["birdseye", "overlay", "perspective"],
        typer.Option(help="From above (with truth and error where there is truth), on a camera's image, or in 3D."),
    ] = "birdseye",
    scan: Annotated[int, typer.Option(help="Position in the drive.", min=0)] = 0,
    camera: Annotated[str | None, typer.Option(help="Camera of an overlay; the first without it.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Folder or file of the predictions, where they are not with the scans.")
    ] = None,
    topic: Annotated[str | None, typer.Option(help="Cloud topic, where a bag has several.")] = None,
    image_size: ImageSize = None,
    force: Force = False,
) -> None:
    """Draw one scan, coloured by class."""
    from mdkt_ros.render.picture import picture_for_path

    picture_for_path(
        source,
        out,
        kind,
        scan=scan,
        camera=camera,
        predictions=predictions,
        topic=topic,
        image_size=image_size_of(image_size),
        force=force,
    )
    print_written(out)


def info(
    path: Annotated[Path, typer.Argument(help="A bag, data set folder, scan or checkpoint, a shipped one by name.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a file or folder is and what is in it."""
    from mdkt_ros.info import describe
    from mdkt_ros.report import print_description

    description = describe(path)
    if as_json:
        console.out(json.dumps(description, indent=2), highlight=False)
    else:
        print_description(console, description)
