"""Which device a name means on this machine."""

from __future__ import annotations

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
