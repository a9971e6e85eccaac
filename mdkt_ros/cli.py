"""`mdkt ...`: one command a job. Exit code 0 / 1 (the work failed) / 2 (wrong use); errors on one line.

Imports are late so that `mdkt --help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from mdkt_ros.bench_command import bench
from mdkt_ros.command_options import CheckpointOption, Device, Force
from mdkt_ros.drive_commands import convert, synthesize
from mdkt_ros.errors import MdktError
from mdkt_ros.import_command import import_weights
from mdkt_ros.segment_command import segment
from mdkt_ros.show_commands import info, picture, view
from mdkt_ros.terminal import console, errors, progress_bar, to_nowhere

app = typer.Typer(
    name="mdkt",
    help="Semantic labels for every LiDAR point of a recorded drive. --debug, anywhere, shows an error's traceback.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _command in (segment, convert, synthesize, view, picture, info, bench):
    app.command()(_command)
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
