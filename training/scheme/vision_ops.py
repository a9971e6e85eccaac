"""Where the training finds timm and open_clip; what imports them lies with the package, which asks points by name."""

from mdkt_ros.vision_ops import import_open_clip, import_timm

__all__ = ["import_open_clip", "import_timm"]
