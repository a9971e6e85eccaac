"""The one operator that sparse convolutions stand on, and the registry of its implementations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from mdkt_ros.errors import ConfigError
from mdkt_ros.sparse.kernel_map import KernelMap


class Backend(Protocol):
    """What a back end computes. It is handed plain tensors of one dtype and device, and never sees autograd."""

    def gather_gemm_scatter(
        self, features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """(out_count, Cout): `out[o] = bias + sum over pairs (i, o) of offset k of features[i] @ kernel[k]`.

        Args:
            features: (in_count, Cin).
            kernel: (K, Cin, Cout), of any strides.
            kernel_map: pairs of the K offsets.
            bias: (Cout,) or None.
        """
        ...

    def kernel_gradient(
        self, features: torch.Tensor, out_gradient: torch.Tensor, kernel_map: KernelMap
    ) -> torch.Tensor:
        """(K, Cin, Cout): `sum over pairs (i, o) of offset k of outer(features[i], out_gradient[o])`."""
        ...


_BACKENDS: dict[str, Backend] = {}
_selected = "torch"


def register_backend(name: str, backend: Backend) -> None:
    """Offer an implementation under a name; the name's earlier one is replaced."""
    _BACKENDS[name] = backend


def backends() -> tuple[str, ...]:
    """Names of the registered back ends."""
    return tuple(_BACKENDS)


def current_backend() -> Backend:
    """The back end that convolutions use."""
    return _BACKENDS[_selected]


@contextmanager
def use_backend(name: str) -> Iterator[Backend]:
    """Compute convolutions within the block by the back end `name`, in every thread.

    Raises:
        ConfigError: no back end has this name.
    """
    global _selected
    if name not in _BACKENDS:
        raise ConfigError(f"back end: {name!r} is unknown; there are {', '.join(sorted(_BACKENDS))}")
    before, _selected = _selected, name
    try:
        yield _BACKENDS[name]
    finally:
        _selected = before
