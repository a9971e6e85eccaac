"""Which image belongs to which scan: each camera's nearest in time, and never a wait for a camera that is silent.

`message_filters.ApproximateTimeSynchronizer` fires only when every input arrives, so that one dead camera silences the
LiDAR; and after a bag loops it goes on matching against the stamps of the past. Here the scan is the trigger.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

ImageT = TypeVar("ImageT")
CameraT = TypeVar("CameraT", bound=Hashable)

DEFAULT_MAX_DELAY = 100_000_000
"""Nanoseconds. A vehicle at 15 m/s moves 1.5 m in it."""
_STRAGGLERS = 1_000_000_000
"""Nanoseconds of the new run in which messages of the old one's last second may still arrive."""


@dataclass(frozen=True)
class Paired(Generic[ImageT]):
    """An image and its stamp in nanoseconds."""

    stamp: int
    image: ImageT


class ImagePairing(Generic[CameraT, ImageT]):
    """Keeps each camera's newest images and hands out the nearest one to a scan.

    Time runs backward when a bag loops or a simulation restarts. The first message of any stream that is more than
    `max_delay` older than that stream's newest makes the pairing forget everything; without that, images of the past
    run would be matched, or crowd out those of the new one. Messages slightly out of order are no jump. Streams have no
    order among them: the last messages of the old run that come after the first ones of the new are left out.

    Args:
        max_delay: nanoseconds between a scan and its image at most, in either direction.
        keep: images kept for each camera.
    """

    def __init__(self, max_delay: int = DEFAULT_MAX_DELAY, keep: int = 16) -> None:
        if max_delay < 0 or keep < 1:
            raise ValueError(f"max_delay must be at least 0 and keep at least 1, got {max_delay} and {keep}")
        self.max_delay = max_delay
        self._keep = keep
        self._images: dict[CameraT, deque[Paired[ImageT]]] = {}
        self._newest: dict[CameraT | None, int] = {}
        # After a jump, while stragglers may come: from when to when they are, and how much of time counts as the end.
        self._jump: tuple[int, int, int] | None = None

    def add(self, camera: CameraT, stamp: int, image: ImageT) -> bool:
        """Remember an image of `camera`, taken at `stamp` nanoseconds; whether time ran backward with it."""
        if self._straggles(stamp):
            return False
        jumped = self._advance(camera, stamp)
        self._images.setdefault(camera, deque(maxlen=self._keep)).append(Paired(stamp, image))
        return jumped

    def match(self, stamp: int) -> dict[CameraT, Paired[ImageT]]:
        """Each camera's image nearest to a scan at `stamp`; cameras without one within `max_delay` are left out."""
        self.advance(stamp)
        return self.nearest(stamp)

    def advance(self, stamp: int) -> bool:
        """A scan at `stamp` came; whether time ran backward with it."""
        return not self._straggles(stamp) and self._advance(None, stamp)

    def nearest(self, stamp: int) -> dict[CameraT, Paired[ImageT]]:
        """As `match`, for a scan that came before, perhaps before time ran backward."""
        found = {}
        for camera, images in self._images.items():
            nearest = min(images, key=lambda paired: abs(paired.stamp - stamp))
            if abs(nearest.stamp - stamp) <= self.max_delay:
                found[camera] = nearest
        return found

    def reset(self) -> None:
        """Forget every image and every stamp."""
        self._images.clear()
        self._newest.clear()
        self._jump = None

    def forget(self, camera: CameraT) -> None:
        """Forget a camera's images."""
        self._images.pop(camera, None)

    def _advance(self, stream: CameraT | None, stamp: int) -> bool:
        newest = self._newest.get(stream)
        jumped = newest is not None and stamp < newest - self.max_delay
        if jumped:
            last = max(self._newest.values())
            window = min(_STRAGGLERS, (last - stamp) // 3)
            self._jump = last - window, last + self.max_delay, window
            self._images.clear()
            # Every stream goes back with the first that does: the others' jumps must not wipe what arrives after it.
            self._newest = {other: min(last, stamp) for other, last in self._newest.items()}
        self._newest[stream] = max(stamp, self._newest.get(stream, stamp))
        return jumped

    def _straggles(self, stamp: int) -> bool:
        """Whether a message is one of the old run, after time ran backward."""
        if self._jump is None:
            return False
        old, last, window = self._jump
        newest = max(self._newest.values())
        # Beyond what the old run had: time itself goes on there, and what jumped was a single wrong stamp.
        if newest >= old - window or stamp > last:
            self._jump = None
            return False
        return stamp >= old and stamp - newest > window // 2
