"""Triton, when it is asked for and not before: the package runs where there is none."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

from mdkt_ros.sparse.backend import EngineUnavailable

MODULES = tuple(f"mdkt_ros.sparse.triton_backend.{name}" for name in ("kernels", "tile_kernels", "scan_kernels"))

Kernels = SimpleNamespace
"""All kernels by name, and INTERPRETED."""


def load() -> Kernels:
    """The kernels; Triton is imported with them.

    TRITON_INTERPRET=1 must be set before the first call: the kernels are made then, compiled or interpreted.

    Raises:
        EngineUnavailable: Triton is missing or does not work here.
    """
    found: dict[str, object] = {}
    try:
        for module in MODULES:
            found.update(vars(importlib.import_module(module)))
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineUnavailable(f"triton cannot be imported: {error}; PyTorch for CUDA on Linux has it") from error
    return Kernels(**{name: value for name, value in found.items() if not name.startswith("_")})
