"""Options that several commands of `mdkt` have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Force = Annotated[bool, typer.Option("--force", help="Replace an existing result.")]
Engine = Annotated[
    str, typer.Option(help="Of the convolutions: auto, torch, native (CPU), triton or torchsparse (CUDA).")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        help="A .safetensors checkpoint, or one that ships with the package by name (mdkt_synthetic_kitti, "
        "the default, or mdkt_synthetic_kitti_10hz; both from synthetic towns).",
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        metavar="WxH",
        help="Image size that the calibration belongs to, where images were scaled since; KITTI's own is known.",
    ),
]


def name_of(path: Path) -> str:
    """The path's last part, of `.` and `..` too."""
    return os.path.basename(os.path.abspath(path)) or str(path)


def image_size_of(text: str | None) -> tuple[int, int] | None:
    """Width and height of `WxH`, None of None. Raises typer.BadParameter."""
    if text is None:
        return None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise typer.BadParameter(f"{text!r} is not like 1226x370", param_hint="--image-size")
    return int(width), int(height)
