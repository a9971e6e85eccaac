"""Triton's kernels on the CPU: interpreted, whether or not something else has imported Triton before."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator

import pytest

KERNELS = "mdkt_ros.sparse.triton_backend.kernels"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.fixture(scope="module")
def interpreter() -> Iterator[None]:
    """Within it `load` gives interpreted kernels; tests of the module run in it, others do not see it."""
    before = sys.modules.pop(KERNELS, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        yield
    sys.modules.pop(KERNELS, None)
    if before is not None:
        sys.modules[KERNELS] = before
