"""Results appear whole or not at all: written under a temporary name beside the target, then renamed."""

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
    if path.exists() and not force:
        raise OutputError(f"{path}: exists already; give another name, or --force to replace it")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_output(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    The block creates a file or a folder at the path that it is given. An error in the block, Ctrl-C included, leaves
    neither the temporary nor a half-written `path`; with `force`, the old result stays until the new one is whole.

    Raises:
        OutputError: `path` exists and `force` is false, its folder is missing, or the disk is full.
    """
    target = Path(path)
    refuse_existing(target, force)
    # The same suffix, because writers choose their format by it.
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}.part{target.suffix}")
    try:
        yield temporary
        if target.exists():
            old = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}.old{target.suffix}")
            os.replace(target, old)
            os.replace(temporary, target)
            _remove(old)
        else:
            os.replace(temporary, target)
    except OSError as error:
        _remove(temporary)
        if error.errno is not None and error.filename in (None, str(temporary), str(target)):
            raise OutputError(f"{target}: {os.strerror(error.errno)}; nothing was written") from error
        raise
    except BaseException:
        _remove(temporary)
        raise
