"""Where the training finds the image-text model; it lies with the package, which asks points by name."""

from mdkt_ros.image_text_model import ImageTextModel, load_image_text, weights_fingerprint

__all__ = ["ImageTextModel", "load_image_text", "weights_fingerprint"]
