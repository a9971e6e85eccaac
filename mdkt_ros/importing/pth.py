"""Reading what `torch.save` wrote, as tensors and plain values only: nothing that can run code is unpickled.

Training leaves more than tensors in its files. MMDetection3D publishes them with the losses' history (mmengine's
`HistoryBuffer`) and tables of the data set (NumPy arrays); for these, and these alone, an empty placeholder is made.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from mdkt_ros.checkpoint_meta import one_line
from mdkt_ros.errors import CheckpointError

# mmengine, torchpack, OpenPCSeg; without any of them the file is the state itself.
_STATES = ("state_dict", "model", "model_state")
_LEFT_OUT = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
)
_BROKEN = (RuntimeError, EOFError, ValueError, KeyError, TypeError, IndexError, AttributeError, AssertionError)


class _Placeholder:
    """Stands for an object that is not wanted; takes whatever it is given, and keeps nothing."""

    def __new__(cls, *_arguments: object) -> _Placeholder:
        return object.__new__(cls)

    def __init__(self, *_arguments: object):
        pass

    def __setstate__(self, _state: object) -> None:
        pass


def _placeholder(name: str) -> type[_Placeholder]:
    module, _, short = name.rpartition(".")
    return type(short, (_Placeholder,), {"__module__": module})


_PLACEHOLDERS = [_placeholder(name) for name in _LEFT_OUT]


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a network's state by name, without the `module.` of data parallel training.

    Raises:
        CheckpointError: no such file, not a file of `torch.save`, one that holds Python objects, or no state in it.
    """
    document = _load(path)
    if not isinstance(document, Mapping):
        raise CheckpointError(f"{path}: holds {_kind(document)}, not a network's state")
    state = next((document[key] for key in _STATES if isinstance(document.get(key), Mapping)), document)
    if not state or not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()):
        keys = ", ".join(sorted(one_line(key) for key in document)[:5]) or "none"
        raise CheckpointError(f"{path}: no tensors of a network; looked under {', '.join(_STATES)}; its keys: {keys}")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    for name, value in state.items():
        if value.layout != torch.strided or value.is_quantized or value.is_complex():
            raise CheckpointError(f"{path}: tensor {one_line(repr(name))} is not an ordinary tensor of real numbers")
    return dict(state)


def _load(path: Path) -> Any:
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder; the file that training saved is needed (.pth, .pt)")
    try:
        with path.open("rb") as stream:
            head = stream.read(24)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    if head[8:9] == b"{":
        raise CheckpointError(f"{path}: a safetensors file; only files of torch.save (.pth, .pt) are imported")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull`")
    try:
        # PyTorch 2.4 has no such context: there, files that hold more are refused.
        allowed = getattr(torch.serialization, "safe_globals", lambda _classes: nullcontext())
        with warnings.catch_warnings(), allowed(_PLACEHOLDERS):
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)  # what follows says it all
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        if "Weights only load failed" not in text or "invalid load key" in text or "Unsupported operand" in text:
            raise CheckpointError(f"{path}: not a file of torch.save (.pth, .pt), or damaged") from error
        found = re.search(r"GLOBAL ([\w.]+)", text)
        what = f"{found[1]} objects" if found else "more than tensors and plain values"
        raise CheckpointError(
            f"{path}: holds {what}; unpickling those can run code, and is not done here. Where you trust the file, "
            "save its tensors alone, with the project that made it: state = torch.load(FILE, weights_only=False); "
            "torch.save(state['state_dict'], NEW)"
        ) from error
    except _BROKEN as error:
        raise CheckpointError(f"{path}: not a file of torch.save (.pth, .pt), or damaged: {one_line(error)}") from error


def _kind(value: object) -> str:
    return "one tensor" if isinstance(value, torch.Tensor) else f"a Python {type(value).__name__}"
