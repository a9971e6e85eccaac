"""How a command line ends: errors as one line, Ctrl-C as a shell expects it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from mdkt_ros.errors import MdktError

INTERRUPTED = 130
"""What a shell takes as ended by Ctrl-C."""


class Interrupted(MdktError):
    """A run that was stopped before its end; its state is saved."""


def exit_code(work: Callable[[], object], *, out: Path | str | None = None, interrupted: str = "interrupted") -> int:
    """Do `work`. Returns 0, 1 with the error on one line, or 130 when interrupted.

    Args:
        out: what is written, named where the system does not say which file it could not write.
        interrupted: what to say after Ctrl-C: what is kept, and how to go on.
    """
    try:
        work()
    except MdktError as error:
        # A worker's error comes with its class and the worker's traceback before it.
        print(re.sub(r"^[\w.]+Error: ", "", str(error).strip().splitlines()[-1]), file=sys.stderr)
        return INTERRUPTED if isinstance(error, Interrupted) else 1
    except OSError as error:
        # A full disk, a folder that may not be written.
        print(f"{error.filename or out}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED
    return 0
