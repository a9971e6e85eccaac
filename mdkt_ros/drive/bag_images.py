"""Cameras and images of a bag's messages."""

from __future__ import annotations

import io
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from mdkt_ros.camera import Camera, Distortion
from mdkt_ros.drive.bayer import PATTERNS, demosaic
from mdkt_ros.errors import CameraError

_MODELS: dict[str, tuple[Distortion, int]] = {
    "plumb_bob": ("plumb_bob", 5),
    "rational_polynomial": ("rational_polynomial", 8),
    "equidistant": ("equidistant", 4),
    "fisheye": ("equidistant", 4),
}
_CHANNELS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0), "mono8": (0, 0, 0)}
_SIZES = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, **dict.fromkeys(PATTERNS, 1)}


def camera_from_info(
    name: str, info: Any, camera_from_lidar: npt.NDArray[np.float64], *, rectified: bool = False
) -> Camera:
    """Camera of a CameraInfo message. A rectified image is seen through P alone.

    Raises:
        CameraError: not calibrated, or a distortion model that is not known.
    """
    d = np.asarray(info.d, dtype=np.float64)
    p = np.asarray(info.p, dtype=np.float64).reshape(3, 4)
    matrix = p[:, :3] if rectified else np.asarray(info.k, dtype=np.float64).reshape(3, 3)
    if matrix[0, 0] <= 0:
        raise CameraError(f"camera {name}: not calibrated, fx of its camera_info is {matrix[0, 0]:g}")
    distortion: Distortion = "none"
    coefficients: tuple[float, ...] = ()
    if d.any() and not rectified:
        if info.distortion_model not in _MODELS:
            known = ", ".join(_MODELS)
            raise CameraError(f"camera {name}: distortion model {info.distortion_model!r} is not one of {known}")
        distortion, count = _MODELS[info.distortion_model]
        if d[count:].any():
            raise CameraError(f"camera {name}: {info.distortion_model} with {len(d)} coefficients, {count} are known")
        padded = np.zeros(count)
        padded[: min(len(d), count)] = d[:count]
        coefficients = tuple(padded.tolist())
    size = int(info.width), int(info.height)
    offset = p[:, 3].copy()
    return Camera(name, *size, matrix.copy(), camera_from_lidar, distortion, coefficients, offset)


def decode_compressed(name: str, data: bytes) -> npt.NDArray[np.uint8]:
    """JPEG or PNG bytes to (H, W, 3) uint8 RGB. Raises CameraError."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CameraError(f"camera {name}: image cannot be decoded: {' '.join(str(error).split())}") from error


def decode_raw(name: str, message: Any) -> npt.NDArray[np.uint8]:
    """sensor_msgs/Image of 8 bits a channel to (H, W, 3) uint8 RGB. Raises CameraError that names the encoding."""
    channels = _SIZES.get(message.encoding)
    if channels is None:
        raise CameraError(f"camera {name}: image encoding {message.encoding!r} is not one of {', '.join(_SIZES)}")
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.asarray(message.data, dtype=np.uint8)
    if step < width * channels or len(data) < height * step:
        raise CameraError(
            f"camera {name}: {width}x{height} {message.encoding} with step {step} does not fit {len(data)} bytes"
        )
    rows = data[: height * step].reshape(height, step)[:, : width * channels].reshape(height, width, channels)
    if message.encoding in PATTERNS:
        return demosaic(rows[..., 0], message.encoding)
    return cast("npt.NDArray[np.uint8]", np.ascontiguousarray(rows[..., list(_CHANNELS[message.encoding])]))
