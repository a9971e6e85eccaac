"""What the commands of `mdkt` share in a terminal: results to stdout, errors and progress to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text


def to_nowhere() -> None:
    """Throw away what is still written to stdout, whose reader has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """`mdkt ... | head` has read enough; that is no failure of the work."""
        self.quiet = True
        to_nowhere()


console = _Console()
errors = Console(stderr=True)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left, for as long as the context lasts; yields what takes (done, total)."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_written(out: Path, more: str = "") -> None:
    """Say where the result is, whole and as it is: one copies it from here."""
    console.print(Text.assemble("Written: ", (str(out), "bold"), more), soft_wrap=True)
