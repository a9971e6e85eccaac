"""An end to a forward pass before it is over, so that a program can end while a network is at work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def make_interruptible(network: nn.Module, stop: Callable[[], bool]) -> None:
    """From now on a forward pass raises InterruptedError before its next layer once `stop` says so."""

    def look(_module: nn.Module, _inputs: Any) -> None:
        if stop():
            raise InterruptedError("the forward pass was interrupted")

    for module in network.modules():
        module.register_forward_pre_hook(look)
