"""What networks compute in: float32, or a half precision that is quicker where the hardware multiplies it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from mdkt_ros.errors import ConfigError
from mdkt_ros.sparse.convolution import SparseConvolution

_Module = TypeVar("_Module", bound=nn.Module)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = (*_DTYPES, "auto")
"""Names that `resolve_precision` takes."""


@dataclass(frozen=True)
class Precision:
    """A precision that was chosen.

    Attributes:
        name: `fp32`, `bf16` or `fp16`.
        reason: what speaks against it or for it; empty where there is nothing to say.
    """

    name: str
    reason: str = ""

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.name]

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


def resolve_precision(name: str, device: torch.device, engine: str) -> Precision:
    """What a name of `PRECISIONS` means for an engine on a device.

    `auto` is bf16 where the hardware multiplies it and the engine makes use of that, else fp32.

    Raises:
        ConfigError: no precision has this name, or the device does not compute in it.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"precision: {name!r} is unknown; there are {', '.join(PRECISIONS)}")
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("precision: fp16 is for CUDA; on a CPU use fp32, bf16 or auto")
    against = _against_bf16(device, engine)
    if name == "auto":
        return Precision("fp32", against) if against else Precision("bf16")
    return Precision(name, f"slower than fp32: {against}" if name == "bf16" and against else "")


def _against_bf16(device: torch.device, engine: str) -> str:
    """Why bf16 is not quicker, empty where it is."""
    if device.type == "cuda":
        return "" if torch.cuda.is_bf16_supported() else "this GPU does not multiply bfloat16"
    if not torch.cpu._is_avx512_bf16_supported():
        return "this CPU does not multiply bfloat16 (AVX512-BF16)"
    return "" if engine == "native" else f"the engine {engine} has no kernels for it on a CPU"


def in_precision(network: _Module, dtype: torch.dtype) -> _Module:
    """A network for inference whose convolutions multiply in `dtype`: the same one where they do, else a copy.

    Only kernels are rounded; biases stay, and engines sum in float32. Features between layers are of `dtype`.
    """
    found = {module.kernel.dtype for module in network.modules() if isinstance(module, SparseConvolution)}
    if found <= {dtype}:
        return network
    rounded = copy.deepcopy(network)
    for module in rounded.modules():
        if isinstance(module, SparseConvolution):
            module.kernel = nn.Parameter(module.kernel.detach().to(dtype), requires_grad=False)
    return rounded
