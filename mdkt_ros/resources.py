"""Where the files that ship with the package are: beside the code in a wheel, one folder up in a checkout."""

from __future__ import annotations

import os
from pathlib import Path

SHIPPED = "mdkt_synthetic_kitti"
"""The checkpoint that is taken where none is named."""

_PACKAGE = Path(__file__).resolve().parent
_SUFFIX = ".safetensors"


def config_dir() -> Path:
    """Folder of label spaces, node parameters and training recipes (`config/` of the repository)."""
    installed = _PACKAGE / "config"
    return installed if installed.is_dir() else _PACKAGE.parent / "config"


def weights_dir() -> Path:
    """Folder of the checkpoints that ship with the package."""
    return _PACKAGE / "weights"


def shipped_checkpoints() -> list[str]:
    """Names of the checkpoints that ship with the package, as `checkpoint_path` takes them."""
    return sorted(path.stem for path in weights_dir().glob(f"*{_SUFFIX}"))


def checkpoint_path(checkpoint: str | os.PathLike[str] | None = None) -> Path:
    """The file that is meant by a path, by the name of a checkpoint that ships with the package, or by None: `SHIPPED`.

    What exists under that path comes first. Whether it is a checkpoint, its reader says.
    """
    shipped = weights_dir() / f"{SHIPPED if checkpoint is None else os.fspath(checkpoint)}{_SUFFIX}"
    if checkpoint is None:
        return shipped
    path = Path(checkpoint).expanduser()
    return shipped if len(path.parts) == 1 and not path.exists() and shipped.is_file() else path
