"""Image files as views: opened when they are needed, checked against the camera that they belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mdkt_ros.camera import Camera
from mdkt_ros.drive.frame import View
from mdkt_ros.errors import DriveError


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels from the file's header. Raises DriveError."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DriveError(f"{path}: cannot be read as an image: {_reason(error)}") from error


def load_image(path: Path, camera: Camera) -> npt.NDArray[np.uint8]:
    """Decode to (H, W, 3) uint8 RGB. Raises DriveError: missing, damaged, or of another size than `camera`."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DriveError(f"{path}: cannot be read as an image: {_reason(error)}") from error
    height, width = pixels.shape[:2]
    if (width, height) != (camera.width, camera.height):
        raise DriveError(f"{path}: is {width}x{height}, camera {camera.name} is {camera.width}x{camera.height}")
    return pixels


def read_bytes(path: Path) -> bytes:
    """The file as it is. Raises DriveError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DriveError(f"{path}: {_reason(error)}") from error


def image_view(path: Path, camera: Camera, stamp: int) -> View:
    """View of an image file that need not exist until it is loaded. `stamp` in nanoseconds."""
    return View(camera, stamp, load=lambda: load_image(path, camera), encoded=lambda: read_bytes(path))


def _reason(error: Exception) -> str:
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or " ".join(str(error).split())
