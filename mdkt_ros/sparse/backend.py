"""The one operator that sparse convolutions stand on, and the engines that compute it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeGuard

import torch

from mdkt_ros.errors import ConfigError
from mdkt_ros.sparse.kernel_map import KernelMap
from mdkt_ros.sparse.level import Level

_LOG = logging.getLogger(__name__)


class MapBuilder(Protocol):
    """What makes levels and kernel maps. All builders give the same maps, pair for pair."""

    def level(self, coordinates: torch.Tensor) -> Level:
        """The level with these (V, 4) int32 coordinates, in any order."""
        ...

    def coarser(self, level: Level) -> tuple[Level, torch.Tensor]:
        """The next level, sorted, and the row in it (V,) int64 of each voxel's parent."""
        ...

    def submanifold(self, level: Level) -> KernelMap:
        """Map of the submanifold 3^3 convolution on a level."""
        ...

    def strided(self, level: Level, coarse: Level) -> KernelMap:
        """Map of the 3^3 convolution of stride 2, `in = 2 out + off`, to the next level."""
        ...

    def transposed(self, level: Level, coarse: Level, parents: torch.Tensor) -> KernelMap:
        """Map of the transposed 2^3 convolution: every voxel meets its parent under the offset of its place in it."""
        ...

    def arrange(self, maps: Sequence[KernelMap]) -> None:
        """Keep with all of these maps at once what the engine will ask of each."""
        ...


class Backend(Protocol):
    """What a back end computes. It is handed plain tensors of one dtype and device, and never sees autograd."""

    @property
    def maps(self) -> MapBuilder:
        """What makes its kernel maps."""
        ...

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


class FusingBackend(Backend, Protocol):
    """A back end that also computes what comes right after a convolution, where no gradient is wanted."""

    def convolve(
        self,
        features: torch.Tensor,
        kernel: torch.Tensor,
        kernel_map: KernelMap,
        bias: torch.Tensor | None,
        add: torch.Tensor | None,
        relu: bool,
        out: torch.Tensor,
    ) -> bool:
        """Write `gather_gemm_scatter(...) + add`, rectified if `relu`, to `out`, whose rows may lie apart.

        `add` (out_count, Cout) may be `out` itself.

        Returns:
            False, and nothing is written, for tensors that it does not compute with.
        """
        ...


def is_fusing(backend: Any) -> TypeGuard[FusingBackend]:
    """Whether a back end is a `FusingBackend`."""
    return hasattr(backend, "convolve")


class EngineUnavailable(Exception):
    """An engine cannot run here; the message says why and what would help."""


@dataclass(frozen=True)
class Choice:
    """An engine that was chosen.

    Attributes:
        name: its name, never `auto`.
        backend: what computes.
        reason: why it is not a faster one; empty where it is the fastest that there is for the device.
    """

    name: str
    backend: Backend
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


Loader = Callable[[torch.device], Backend]
"""Gives the back end for a device; raises EngineUnavailable."""

_LOADERS: dict[str, Loader] = {}
_AUTO: dict[str, tuple[str, ...]] = {"cpu": ("native", "torch"), "cuda": ("triton", "torchsparse", "torch")}
_selected: ContextVar[str] = ContextVar("engine", default="auto")


def register_engine(name: str, loader: Loader) -> None:
    """Offer an engine under a name; the name's earlier one is replaced."""
    _LOADERS[name] = loader
    forget_engines()


def forget_engines() -> None:
    """Load engines anew when they are next used, and choose among them again."""
    _load.cache_clear()
    _resolve.cache_clear()


def engines() -> tuple[str, ...]:
    """Names that `use_engine` takes."""
    return ("auto", *sorted(_LOADERS))


def check_engine(name: str) -> str:
    """The name itself. Raises ConfigError where no engine has it."""
    if name not in engines():
        raise ConfigError(f"engine: {name!r} is unknown; there are {', '.join(engines())}")
    return name


@contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Make kernel maps and compute convolutions within the block by the engine `name`.

    `auto` takes the fastest that runs on the tensors' device. A backward pass stays with its forward pass's engine.

    Raises:
        ConfigError: no engine has this name.
    """
    token = _selected.set(check_engine(name))
    try:
        yield
    finally:
        _selected.reset(token)


def current_backend(device: torch.device) -> Backend:
    """The back end that convolutions on `device` use.

    Raises:
        ConfigError: the engine that was asked for cannot run here; the message says why.
    """
    return _resolve(_selected.get(), _with_index(device)).backend


def current_engine(device: torch.device) -> Choice:
    """Its name, and why it is that one. Raises ConfigError."""
    return _resolve(_selected.get(), _with_index(device))


def _with_index(device: torch.device) -> torch.device:
    """`cuda` as `cuda:0`, as tensors have it: an engine tests and tunes itself once for a device, not for its names."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


@cache
def _resolve(name: str, device: torch.device) -> Choice:
    if name != "auto":
        try:
            return Choice(name, _load(name, device), "as asked")
        except EngineUnavailable as error:
            raise ConfigError(f"engine: {name} cannot run on {device}: {error}") from error
    reasons = []
    for candidate in _AUTO.get(device.type, ("torch",)):
        try:
            backend = _load(candidate, device)
        except EngineUnavailable as error:
            reasons.append(f"{candidate}: {error}")
            continue
        choice = Choice(candidate, backend, "; ".join(reasons))
        _LOG.info("engine on %s: %s", device, choice)
        return choice
    raise ConfigError(f"engine: none runs on {device}: {'; '.join(reasons)}")


@cache
def _load(name: str, device: torch.device) -> Backend:
    if name not in _LOADERS:
        raise EngineUnavailable("not part of this installation")
    return _LOADERS[name](device)
