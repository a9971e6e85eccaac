"""Finds where code would wait for a GPU, without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

_WAITS = {"_local_scalar_dense", "item", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}


class _Guard(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in _WAITS, f"{name} waits for the device"
        if name == "index":
            masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
            assert not masks, "an index of booleans waits for the device"
        if name == "_to_copy":
            assert (kwargs or {}).get("device") is None, "a copy to another device waits for it"
        return func(*args, **(kwargs or {}))


@contextmanager
def forbid_waits() -> Iterator[None]:
    """Within the block no operation may ask the device for values, or for a size that depends on them."""

    def refuse(*_: object) -> None:
        raise AssertionError("a copy to the host waits for the device")

    with _Guard(), pytest.MonkeyPatch.context() as patch:
        for name in ("tolist", "numpy", "cpu"):  # which do not pass through the dispatcher on the CPU
            patch.setattr(torch.Tensor, name, refuse)
        yield
