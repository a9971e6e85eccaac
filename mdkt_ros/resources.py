"""Where the files that ship with the package are: beside the code in a wheel, one folder up in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def config_dir() -> Path:
    """Folder of label spaces, node parameters and training recipes (`config/` of the repository)."""
    installed = _PACKAGE / "config"
    return installed if installed.is_dir() else _PACKAGE.parent / "config"


def weights_dir() -> Path:
    """Folder of the checkpoints that ship with the package."""
    return _PACKAGE / "weights"
