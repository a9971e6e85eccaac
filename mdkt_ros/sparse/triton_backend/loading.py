"""Triton, when it is asked for and not before: the package runs where there is none."""

from __future__ import annotations

import importlib
from types import ModuleType

from mdkt_ros.sparse.backend import EngineUnavailable


def load() -> ModuleType:
    """The module `kernels`; Triton is imported with it.

    TRITON_INTERPRET=1 must be set before the first call: the kernels are made then, compiled or interpreted.

    Raises:
        EngineUnavailable: Triton is missing or does not work here.
    """
    try:
        return importlib.import_module("mdkt_ros.sparse.triton_backend.kernels")
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineUnavailable(f"triton cannot be imported: {error}; PyTorch for CUDA on Linux has it") from error
