"""`mdkt import`: weights of public model zoos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mdkt_ros.terminal import print_written


def import_weights(
    file: Annotated[Path, typer.Argument(help="A .pth file of a MinkUNet, as its project publishes it.")],
    zoo: Annotated[
        Literal["spvnas", "mmdet3d", "openpcseg", "spconv"],
        typer.Option("--from", help="The project; spconv: another one's, on that engine."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors checkpoint to write.")],
    labels: Annotated[
        str, typer.Option(help="Its classes: semantickitti, nuscenes, or a .yaml file of a label space.")
    ] = "semantickitti",
    voxel_size: Annotated[
        float | None, typer.Option(help="Metres, where training had another than the project's usual 0.05.")
    ] = None,
    intensity_scale: Annotated[
        float | None, typer.Option(help="Factor that brings intensity to the 0..1 that training saw; 1 without it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing result.")] = False,
) -> None:
    """Turn a MinkUNet of a public model zoo into a checkpoint; nothing in the file is run."""
    from mdkt_ros.importing.convert import import_checkpoint
    from mdkt_ros.labels import LabelSpace

    meta = import_checkpoint(
        file,
        out,
        zoo=zoo,
        labels=LabelSpace.load(labels),
        voxel_size=voxel_size,
        intensity_scale=intensity_scale,
        force=force,
    )
    print_written(
        out,
        f" ({meta.preset}, width {meta.width:g}, {len(meta.labels)} classes, voxels of {meta.grid.voxel_size:g} m, "
        f"intensity times {meta.intensity_scale:g})",
    )
