"""What can be said of a request to label a drive before a network is there: PyTorch takes seconds to import."""

from __future__ import annotations

import math
import os
from pathlib import Path

from mdkt_ros.drive import drive_kind
from mdkt_ros.errors import ConfigError, OutputError
from mdkt_ros.output import refuse_existing, refuse_input


def check_request(
    source: Path,
    out: Path,
    *,
    topic: str | None = None,
    intensity_scale: float | None = None,
    force: bool = False,
    limit: int | None = None,
) -> str:
    """The kind of drive that `source` is, see `drive_kind`, where it can be labelled into `out`.

    Raises:
        DriveError: not a recorded drive. ConfigError: an option that means nothing for it.
        OutputError: `out` exists and `force` is false, or is, lies in or holds the input.
    """
    kind = drive_kind(source)
    if limit is not None and limit < 1:
        raise ConfigError(f"limit: {limit} is not at least 1")
    if intensity_scale is not None and not 0 < intensity_scale < math.inf:
        raise ConfigError(f"intensity_scale: {intensity_scale} is not a positive number")
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(source)):
        raise OutputError(f"{out}: is the input or lies in it; give another place")
    refuse_input(out, source)
    refuse_existing(out, force)
    if kind != "bag" and topic is not None:
        raise ConfigError(f"{source}: is not a bag, it has no topic {topic}")
    return kind
