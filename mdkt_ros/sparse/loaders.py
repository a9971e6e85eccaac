"""The engines that there are, each imported when it is first asked for."""

from __future__ import annotations

import importlib
import logging
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import torch

from mdkt_ros.sparse.backend import Backend, EngineUnavailable, register_engine
from mdkt_ros.sparse.torch_backend import TorchBackend

_LOG = logging.getLogger(__name__)
_NUMBA = (0, 62)
"""The first numba whose LLVM knows pointers without types."""


def _torch(_device: torch.device) -> Backend:
    return TorchBackend()


def check_numba() -> None:
    """Whether the numba that is installed can be used, without importing it. Raises EngineUnavailable."""
    try:
        found = version("numba")
    except PackageNotFoundError:
        raise EngineUnavailable("numba is not installed; `pip install numba`") from None
    if tuple(int(part) for part in found.split(".")[:2]) < _NUMBA:
        raise EngineUnavailable(f"numba {found} is too old, {_NUMBA[0]}.{_NUMBA[1]} would do; `pip install -U numba`")


@cache
def compiled_loops(module: str) -> ModuleType | None:
    """The module of that name, whose loops numba compiles; None where numba is missing, too old or refuses NumPy."""
    try:
        check_numba()
        return importlib.import_module(module)
    except (EngineUnavailable, ImportError):
        return None


def _native(device: torch.device) -> Backend:
    if device.type != "cpu":
        raise EngineUnavailable("it computes on the CPU alone")
    check_numba()
    try:
        from mdkt_ros.sparse.native.backend import NativeBackend
    except ImportError as error:  # numba refuses a NumPy that is newer than itself
        raise EngineUnavailable(f"numba cannot be imported: {error}") from error
    return NativeBackend()


def _triton(device: torch.device) -> Backend:
    from mdkt_ros.sparse.triton_backend import TritonBackend, available

    if reason := available(device):
        raise EngineUnavailable(reason)
    backend = TritonBackend()
    _trust(backend, device)
    return backend


def _torchsparse(device: torch.device) -> Backend:
    from mdkt_ros.sparse.torchsparse_backend import TorchsparseBackend, available

    if reason := available(device):
        raise EngineUnavailable(reason)
    backend = TorchsparseBackend()
    _trust(backend, device)
    return backend


def _trust(backend: Backend, device: torch.device) -> None:
    """Compute something small before anything large. Raises EngineUnavailable where the values are wrong."""
    from mdkt_ros.sparse.self_test import agrees

    if reason := agrees(backend, device, torch.float32):
        _LOG.warning("%s fails its self-test on %s and is not used: %s", type(backend).__name__, device, reason)
        raise EngineUnavailable(f"its self-test failed: {reason}")


register_engine("torch", _torch)
register_engine("native", _native)
register_engine("triton", _triton)
register_engine("torchsparse", _torchsparse)
