"""mdkt_ros: semantic labels for every LiDAR point on a vehicle, and the weakly supervised training behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["LabelSpace", "MdktError", "Segmentation", "Segmenter", "__version__"]

if TYPE_CHECKING:
    from mdkt_ros.errors import MdktError
    from mdkt_ros.labels import LabelSpace
    from mdkt_ros.segmentation import Segmentation
    from mdkt_ros.segmenter import Segmenter

_HOMES = {"LabelSpace": "labels", "MdktError": "errors", "Segmentation": "segmentation", "Segmenter": "segmenter"}


def __getattr__(name: str) -> Any:
    # Late, because `mdkt --help` and the label tools should not wait for torch.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"mdkt_ros.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
