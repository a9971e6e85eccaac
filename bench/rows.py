"""Rows of results in a JSON file that several runs add to."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mdkt_ros.errors import OutputError
from mdkt_ros.output import atomic_output

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, none where it does not exist. Raises OutputError when it holds something else."""
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path}: not a file of results ({error!r}); move it away") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise OutputError(f"{path}: not a file of results; move it away")
    return rows


def put_row(path: Path, row: Row, same: Callable[[Row], bool], order: Callable[[Row], Any]) -> None:
    """Add a row in its place, instead of the rows that `same` names; the file is whole at every moment.

    Processes that add rows at the same time take turns.
    """
    with _alone(path.parent):
        rows = sorted([*(old for old in read_rows(path) if not same(old)), row], key=order)
        write_json(path, {"rows": rows})


def write_json(path: Path, data: Any) -> None:
    """Replace a JSON file as a whole. Raises OutputError."""
    with atomic_output(path, force=True) as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which needs no file of its own."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
