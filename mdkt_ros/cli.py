"""`mdkt ...`: one command a job. Exit code 0 / 1 (the work failed) / 2 (wrong use); errors on one line.

Imports are late so that `mdkt --help` answers at once.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mdkt_ros.bench_command import bench
from mdkt_ros.errors import MdktError, OutputError
from mdkt_ros.import_command import import_weights
from mdkt_ros.terminal import console, errors, print_written, progress_bar, to_nowhere

app = typer.Typer(
    name="mdkt",
    help="Semantic labels for every LiDAR point of a recorded drive. --debug, anywhere, shows an error's traceback.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Force = Annotated[bool, typer.Option("--force", help="Replace an existing result.")]
Engine = Annotated[
    str, typer.Option(help="Of the convolutions: auto, torch, native (CPU), triton or torchsparse (CUDA).")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", help="A .safetensors checkpoint; without it the shipped one, trained on synthetic towns."
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        metavar="WxH",
        help="Image size that the calibration belongs to, where images were scaled since; KITTI's own is known.",
    ),
]


app.command()(bench)
app.command("import")(import_weights)


def _print_version(wanted: bool) -> None:
    if wanted:
        from mdkt_ros import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Options of `mdkt` itself."""


def _name(path: Path) -> str:
    """The path's last part, of `.` and `..` too."""
    return os.path.basename(os.path.abspath(path)) or str(path)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise typer.BadParameter(f"{text!r} is not like 1226x370", param_hint="--image-size")
    return int(width), int(height)


@app.command()
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
    with progress_bar(f"Labelling {_name(source)}") as progress:
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


@app.command()
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
    size = _size(image_size)
    drive = open_drive(root, kind=None if kind == "auto" else kind, sequence=sequence, image_size=size)
    with progress_bar(f"Converting {_name(root)}") as progress:
        convert_drive(drive, out, storage=storage, distro=distro, force=force, progress=progress)
    print_written(out, f" ({counted(len(drive), 'scan')}; play it with `ros2 bag play {shlex.quote(str(out))}`)")


@app.command()
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


@app.command()
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
    with progress_bar(f"Drawing {_name(source)}") as progress:
        page_for_path(
            source,
            out,
            predictions=predictions,
            labels=None if labels is None else LabelSpace.load(labels),
            topic=topic,
            image_size=_size(image_size),
            limit=limit,
            force=force,
            progress=progress,
        )
    print_written(out, f" ({out.stat().st_size / 1e6:.1f} MB)")


@app.command()
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
        image_size=_size(image_size),
        force=force,
    )
    print_written(out)


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="A bag, data set folder, scan or checkpoint.")],
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


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Folder to leave the drive, the table and the pictures in.")] = Path(
        "mdkt_demo"
    ),
    seed: Annotated[int, typer.Option(help="The test town.", min=2000, max=2999)] = 2000,
    scans: Annotated[int, typer.Option(help="Length of the drive.", min=1)] = 160,
    checkpoint: CheckpointOption = None,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """The whole path: a drive that the network has never seen, as a rosbag2, labelled, scored and drawn."""
    from mdkt_ros.demo import run_demo

    run_demo(
        out,
        seed=seed,
        scans=scans,
        checkpoint=checkpoint,
        device=device,
        force=force,
        console=console,
        progress=progress_bar,
    )


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    errors.out(f"mdkt: warning: {message}", style="yellow", highlight=False)


def _end_of(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Entry point of `mdkt`."""
    # As Ctrl-C does, so that what is half-written goes; `nohup` ignores SIGHUP, and so it stays.
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end_of)
    # Anywhere on the line: one adds it to a command that has just failed.
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            app(args=arguments, prog_name="mdkt")
    except BrokenPipeError:
        to_nowhere()
        sys.exit(0)
    except (MdktError, OSError) as error:
        if debug:
            raise
        _show_error(_text(error))
        sys.exit(1)
    except SystemExit as error:
        if isinstance(error.code, int) and error.code > 128:
            _show_error("interrupted")
        raise


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return " ".join(str(error).split())


def _show_error(text: str) -> None:
    errors.out(f"mdkt: {text}", style="red", highlight=False)


if __name__ == "__main__":
    main()
