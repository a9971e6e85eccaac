"""Results appear whole or not at all: written in a hidden folder beside the target, then renamed."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mdkt_ros.errors import OutputError


def refuse_existing(path: Path, force: bool) -> None:
    """Raise OutputError when `path` exists and `force` is false, or when its parent folder does not exist."""
    try:
        if path.exists() and not force:
            raise OutputError(f"{path}: exists already; give another name, or --force to replace it")
        if not path.parent.is_dir():
            if path.parent.exists():
                raise OutputError(f"{path}: {path.parent} is a file, not a folder")
            raise OutputError(f"{path}: the folder {path.parent} does not exist")
        # What --force would sweep away here is never a result.
        if path.name in ("", "..") or path.is_dir():
            real = Path(os.path.realpath(path))
            if path.name in ("", "..") or Path.cwd().is_relative_to(real):
                raise OutputError(f"{path}: is the current folder or holds it, and is not replaced; give another name")
            if Path(os.path.realpath(os.path.expanduser("~"))).is_relative_to(real):
                raise OutputError(f"{path}: is your home folder or holds it, and is not replaced; give another name")
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}") from error


def refuse_input(path: Path, source: Path) -> None:
    """Raise OutputError when a result at `path` would replace its input `source`, or a folder that holds it."""
    # Not Path.resolve(), which raises RuntimeError where links go round in a circle.
    target, read = Path(os.path.realpath(path)), Path(os.path.realpath(source))
    if target == read:
        raise OutputError(f"{path}: is the input; give another place")
    if target in read.parents and path.exists():
        raise OutputError(f"{path}: holds the input {source}, and is not replaced; give another place")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        # Asked first: a read-only disk refuses even to remove what is not there.
        path.unlink(missing_ok=True)


def _put(result: Path, target: Path, old: Path) -> None:
    """Rename `result` to `target`, by way of `old` where a folder is replaced, which no single rename can do."""
    if os.path.lexists(target) and (result.is_dir() or target.is_dir()):
        os.replace(target, old)
        try:
            os.replace(result, target)
        except BaseException:
            os.replace(old, target)
            raise
        _remove(old)
    else:
        os.replace(result, target)


@contextmanager
def atomic_output(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path; rename it to `path` when the block ends well, remove it otherwise.

    The block creates a file or a folder at the path that it is given, which has the name of `path` (writers choose
    their format by it, and some write it into the file) in a hidden folder of the same disk. An error in the block,
    Ctrl-C included, leaves neither the temporary nor a half-written `path`; with `force`, the old result stays until
    the new one is whole.

    Raises:
        OutputError: `path` exists and `force` is false, its folder is missing, the disk is full, or the block wrote
            nothing.
    """
    target = Path(path)
    refuse_existing(target, force)
    mark = uuid.uuid4().hex[:12]
    staging = target.with_name(f".mdkt-{mark}.part")
    result = staging / target.name
    try:
        staging.mkdir()
        yield result
        if not os.path.lexists(result):
            raise OutputError(f"{target}: nothing was written")
        _put(result, target, target.with_name(f".mdkt-{mark}.old"))
    except OSError as error:
        # Of a copy, the second name is where it went.
        named = [os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None]
        ours = not named or any(Path(name).is_relative_to(staging) for name in named)
        if error.errno is not None and (ours or str(target) in named):
            raise OutputError(f"{target}: {os.strerror(error.errno)}; nothing was written") from error
        raise
    finally:
        _remove(staging)
