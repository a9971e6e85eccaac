"""`mdkt convert` and `mdkt synthesize`: where drives come from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mdkt_ros.command_options import Force, ImageSize, image_size_of, name_of
from mdkt_ros.terminal import print_written, progress_bar


def convert(
    kind: Annotated[Literal["semantickitti", "nuscenes", "auto"], typer.Argument(help="Form of the data set.")],
    root: Annotated[Path, typer.Argument(help="Its folder, or one sequence's.")],
    out: Annotated[Path, typer.Argument(help="The rosbag2 to write.")],
    storage: Annotated[Literal["mcap", "sqlite3"], typer.Option(help="Storage plugin of the bag.")] = "mcap",
    distro: Annotated[
        Literal["humble", "jazzy", "lyrical"] | None,
        typer.Option(help="ROS 2 distribution that will play it; without it, the one sourced here, else jazzy."),
    ] = None,
    sequence: Annotated[
        str | None,
        typer.Option(help="SemanticKITTI sequence (08) or nuScenes scene (scene-0103); without it, all of them."),
    ] = None,
    image_size: ImageSize = None,
    force: Force = False,
) -> None:
    """Write a data set as a rosbag2 that `ros2 bag play` replays: clouds, images, camera_info, tf, odometry."""
    from mdkt_ros.drive import open_drive
    from mdkt_ros.drive.convert import convert as convert_drive
    from mdkt_ros.output import refuse_existing, refuse_input
    from mdkt_ros.segment_summary import counted

    refuse_input(out, root)
    refuse_existing(out, force)
    size = image_size_of(image_size)
    drive = open_drive(root, kind=None if kind == "auto" else kind, sequence=sequence, image_size=size)
    with progress_bar(f"Converting {name_of(root)}") as progress:
        convert_drive(drive, out, storage=storage, distro=distro, force=force, progress=progress)
    print_written(out, f" ({counted(len(drive), 'scan')}; play it with `ros2 bag play {shlex.quote(str(out))}`)")


def synthesize(
    out: Annotated[Path, typer.Argument(help="Folder of the data set to write.")],
    format: Annotated[
        Literal["semantickitti", "nuscenes"], typer.Option(help="Which data set's form.")
    ] = "semantickitti",
    seed: Annotated[
        int, typer.Option(help="The town. Training 0-999, validation 1000-1999, test 2000-2999.", min=0)
    ] = 0,
    scans: Annotated[int, typer.Option(help="Number of scans.", min=1)] = 20,
    rate: Annotated[float | None, typer.Option(help="Scans a second along the drive; lower is more varied.")] = None,
    images: Annotated[bool, typer.Option(help="Render the cameras' images.")] = True,
    beams: Annotated[int | None, typer.Option(help="Beams of the LiDAR; the real one's without it, 64 or 32.")] = None,
    motion_distortion: Annotated[bool, typer.Option(help="Leave the sensor's own motion in the cloud.")] = False,
    force: Force = False,
) -> None:
    """Make a labelled drive through a procedural town, in a real data set's form."""
    from mdkt_ros.drive.synthetic import synthesize as synthesize_drive

    options: dict[str, Any] = {} if rate is None else {"rate_hz": rate}
    with progress_bar(f"Driving through town {seed}") as progress:
        synthesize_drive(
            out,
            format=format,
            seed=seed,
            scans=scans,
            images=images,
            beams=beams,
            motion_distortion=motion_distortion,
            force=force,
            progress=progress,
            **options,
        )
    print_written(out)
