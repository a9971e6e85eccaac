"""Importing timm and open_clip where torchvision's compiled operators do not load.

Both import torchvision. A torchvision whose binary part does not fit the PyTorch beside it (its plain wheel beside the
CPU build of PyTorch, say) stops in the middle of its import, although neither library calls a compiled operator here.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType

import torch

from mdkt_ros.errors import ConfigError

EXTRAS = {"timm": "train", "open_clip": "text"}
MISSING = "operator torchvision::nms does not exist"
SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # a declaration lives as long as its object


def import_timm() -> ModuleType:
    """The module `timm`. Raises ConfigError when it, or something that it needs, is not installed."""
    return _import("timm")


def import_open_clip() -> ModuleType:
    """The module `open_clip`. Raises ConfigError when it, or something that it needs, is not installed."""
    return _import("open_clip")


def _import(name: str) -> ModuleType:
    with warnings.catch_warnings():
        # What these libraries still use of others is theirs to mend; our own use of them is not covered by this.
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        try:
            try:
                return importlib.import_module(name)
            except RuntimeError as error:
                if str(error) != MISSING:
                    raise
            _forget("torchvision", "timm", "open_clip")
            _declare()
            return importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(f"{name} cannot be imported ({error}): pip install mdkt_ros[{EXTRAS[name]}]") from error


def _forget(*packages: str) -> None:
    """Drop modules that were imported by halves, so that the next import runs them from their beginning."""
    for module in [module for module in sys.modules if module.split(".")[0] in packages]:
        del sys.modules[module]


def _declare() -> None:
    """Declare the operators that torchvision expects of its binary part: their signatures, without anything to run."""
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, schema in SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)
