"""Image files as views: opened when they are needed, checked against the camera that they belong to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

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


def first_readable(paths: Iterable[Path]) -> tuple[Path, tuple[int, int]] | None:
    """The first image whose header can be read, and its (width, height); None of no paths.

    Raises:
        DriveError: not one of them can be read.
    """
    damage: DriveError | None = None
    for path in paths:
        try:
            return path, image_size(path)
        except DriveError as error:
            damage = damage or error
    if damage is not None:
        raise damage
    return None


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
    if isinstance(error, UnidentifiedImageError):
        return "no known format"  # its own text repeats the path
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or " ".join(str(error).split())
