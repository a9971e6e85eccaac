"""Which device a name means on this machine."""

from __future__ import annotations

import platform

import torch

from mdkt_ros.errors import ConfigError


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` means on this machine. Raises ConfigError."""
    name = str(device)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in {"cpu", "cuda"} or (index and not index.isdecimal()) or (kind == "cpu" and index not in {"", "0"}):
        raise ConfigError(f"device: {name!r} is not one of auto, cpu, cuda, cuda:N")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            raise ConfigError(f"device: {name!r} is not there; PyTorch sees {count} CUDA devices. Use cpu or auto")
    return torch.device(name)


def machine_name(device: torch.device, threads: int) -> str:
    """What figures were made on: the card, or the kind of CPU and how many threads of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}, {threads} thread{'s' if threads > 1 else ''}"


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """What dense networks are quickest in on a device: a half precision that its hardware computes in, or None."""
    if device.type == "cuda":
        return torch.float16
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return None
