"""The images around a scan and the calibration of their cameras, from two threads."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from mdkt_ros.pairing import ImagePairing, Paired

KEPT = 8
"""Images of a camera that are remembered: a quarter of a second at 30 Hz, while a scan is on its way."""


class ImageStore:
    """Remembers what cameras sent, as messages that nothing has decoded yet.

    Args:
        max_delay: nanoseconds between a scan and its image at most.
    """

    def __init__(self, max_delay: int) -> None:
        self._lock = threading.Lock()
        self._pairing: ImagePairing[int, Any] = ImagePairing(max_delay, keep=KEPT)
        self._infos: dict[int, deque[tuple[int, Any]]] = {}

    def add(self, camera: int, stamp: int, message: Any) -> bool:
        """Remember an image; whether its stamp shows that time ran backward, so that everything older was forgotten."""
        with self._lock:
            return self._pairing.add(camera, stamp, message)

    def set_info(self, camera: int, stamp: int, message: Any) -> None:
        """Remember a camera's calibration."""
        with self._lock:
            self._infos.setdefault(camera, deque(maxlen=KEPT)).append((stamp, message))

    def info(self, camera: int, stamp: int) -> Any | None:
        """The calibration that came with the image of that stamp, else the newest one; None before the first."""
        with self._lock:
            infos = self._infos.get(camera)
            if not infos:
                return None
            return next((message for at, message in reversed(infos) if at == stamp), infos[-1][1])

    def advance(self, stamp: int) -> bool:
        """A scan came; whether its stamp shows that time ran backward."""
        with self._lock:
            return self._pairing.advance(stamp)

    def nearest(self, stamp: int) -> dict[int, Paired[Any]]:
        """Each camera's image nearest to a scan."""
        with self._lock:
            return self._pairing.nearest(stamp)

    def forget(self, camera: int) -> None:
        """Forget a camera's images, not its calibration."""
        with self._lock:
            self._pairing.forget(camera)
