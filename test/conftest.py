"""Fixtures that several subjects share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real scans (`MDKT_REAL_DATA`); skips where it is missing: their licence forbids shipping them."""
    folder = Path(os.environ.get("MDKT_REAL_DATA", ROOT.parent / "shared" / "real"))
    if not folder.is_dir():
        pytest.skip(f"real scans are not at {folder} (set MDKT_REAL_DATA)")
    return folder
