"""Image messages to pixels: through cv_bridge where it works, else with NumPy and Pillow.

pip's NumPy 2 breaks the cv_bridge that apt installs on Humble and Jazzy, and it does so only when it is used. So it is
tried once, and where it fails the node does without.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CompressedImage, Image

from mdkt_ros.errors import CameraError
from mdkt_ros.live.labeller import Decoder, decode


def choose_decoder() -> tuple[Decoder, str]:
    """What turns image messages into pixels on this machine, and what to call it in the log."""
    try:
        decoder = _cv_bridge_decoder()
        probe = Image(height=1, width=2, encoding="bgr8", step=6, data=bytes(range(6)))
        if np.array_equal(decoder("probe", probe), [[[2, 1, 0], [5, 4, 3]]]):
            return decoder, "cv_bridge"
        reason = "it swaps colours"
    except (ImportError, AttributeError, SystemError, CameraError) as error:
        reason = " ".join(str(error).split())
    return decode, f"NumPy and Pillow (cv_bridge does not work here: {reason})"


def _cv_bridge_decoder() -> Decoder:
    import cv2
    from cv_bridge import CvBridge, CvBridgeError

    bridge = CvBridge()

    def through_cv_bridge(name: str, message: Any) -> npt.NDArray[np.uint8]:
        try:
            if isinstance(message, CompressedImage):
                found = bridge.compressed_imgmsg_to_cv2(message, "bgr8")[..., ::-1]
            else:
                found = bridge.imgmsg_to_cv2(message, "rgb8")
        except (CvBridgeError, cv2.error, TypeError, ValueError, KeyError) as error:
            raise CameraError(f"camera {name}: image cannot be decoded: {' '.join(str(error).split())}") from error
        return np.ascontiguousarray(found)

    return through_cv_bridge
