"""The engines that there are, each imported when it is first asked for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import torch

from mdkt_ros.sparse.backend import Backend, EngineUnavailable, register_engine
from mdkt_ros.sparse.torch_backend import TorchBackend

_NUMBA = (0, 62)
"""The first numba whose LLVM knows pointers without types."""


def _torch(_device: torch.device) -> Backend:
    return TorchBackend()


def _native(device: torch.device) -> Backend:
    if device.type != "cpu":
        raise EngineUnavailable("it computes on the CPU alone")
    try:
        found = version("numba")
    except PackageNotFoundError:
        raise EngineUnavailable("numba is not installed; `pip install numba`") from None
    if tuple(int(part) for part in found.split(".")[:2]) < _NUMBA:
        raise EngineUnavailable(f"numba {found} is too old, {_NUMBA[0]}.{_NUMBA[1]} would do; `pip install -U numba`")
    try:
        from mdkt_ros.sparse.native.backend import NativeBackend
    except ImportError as error:  # numba refuses a NumPy that is newer than itself
        raise EngineUnavailable(f"numba cannot be imported: {error}") from error
    return NativeBackend()


register_engine("torch", _torch)
register_engine("native", _native)
