"""Triton's kernels on the CPU: interpreted, whether or not something else has imported Triton before."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator

import pytest

from mdkt_ros.sparse.triton_backend.loading import MODULES

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.fixture(scope="module")
def interpreter() -> Iterator[None]:
    """Within it `load` gives interpreted kernels; tests of the module run in it, others do not see it."""
    before = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        yield
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.modules.update(before)
