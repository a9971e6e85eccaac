"""What became of every scan and image, and how long it took. Counted by several threads, read by one."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

KEPT = 100
"""Scans whose times are kept: ten seconds of most sensors."""


@dataclass
class CameraCounts:
    """One camera: images that came, what was wrong with some of them, and how far the last one drawn was off.

    Attributes:
        received: images that came.
        drawn: overlays made.
        skipped: reason -> number of overlays that were wanted, but not made.
        delay_ms: stamp of the last image drawn minus its scan's.
    """

    received: int = 0
    drawn: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    delay_ms: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """The counts at one moment.

    Every scan received is in exactly one of the others, or waits, or is being worked on.

    Attributes:
        received: scans that came.
        processed: labelled and published.
        dropped: replaced by a newer one before their turn.
        unwanted: came while no output had a subscriber.
        skipped: reason -> scans that could not be labelled.
        missing: never came, by the gaps between stamps; not among those received.
        time_jumps: how often time ran backward.
        without_stamp: scans with a zero stamp, labelled all the same.
        cameras: index -> counts.
        times: stage -> (median, maximum) milliseconds of the last `KEPT` scans.
    """

    received: int
    processed: int
    dropped: int
    unwanted: int
    skipped: dict[str, int]
    missing: int
    time_jumps: int
    without_stamp: int
    cameras: dict[int, CameraCounts]
    times: dict[str, tuple[float, float]]


class Statistics:
    """Counters behind a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._cameras: dict[int, CameraCounts] = {}
        self._times: dict[str, deque[float]] = {}

    def count(self, what: str, number: int = 1) -> None:
        """Add to `received`, `processed`, `dropped`, `unwanted`, `missing`, `time_jumps` or `without_stamp`."""
        with self._lock:
            self._counts[what] += number

    def skip(self, reason: str) -> None:
        """A scan that could not be labelled; `reason` is one of few, not a message with numbers in it."""
        with self._lock:
            self._skipped[reason] += 1

    def image(self, camera: int) -> None:
        """An image came."""
        with self._lock:
            self._cameras.setdefault(camera, CameraCounts()).received += 1

    def drawn(self, camera: int, delay_ms: float) -> None:
        """An overlay was made."""
        with self._lock:
            counts = self._cameras.setdefault(camera, CameraCounts())
            counts.drawn += 1
            counts.delay_ms = delay_ms

    def skip_image(self, camera: int, reason: str) -> None:
        """An overlay was wanted, but could not be made."""
        with self._lock:
            self._cameras.setdefault(camera, CameraCounts()).skipped[reason] += 1

    def time(self, milliseconds: Mapping[str, float]) -> None:
        """Times of one scan by stage."""
        with self._lock:
            for stage, value in milliseconds.items():
                self._times.setdefault(stage, deque(maxlen=KEPT)).append(value)

    def snapshot(self) -> Snapshot:
        """All counts at one moment."""
        with self._lock:
            cameras = {
                index: CameraCounts(c.received, c.drawn, Counter(c.skipped), c.delay_ms)
                for index, c in sorted(self._cameras.items())
            }
            return Snapshot(
                **{name: self._counts[name] for name in ("received", "processed", "dropped", "unwanted")},
                skipped=dict(self._skipped),
                missing=self._counts["missing"],
                time_jumps=self._counts["time_jumps"],
                without_stamp=self._counts["without_stamp"],
                cameras=cameras,
                times={stage: (float(np.median(kept)), max(kept)) for stage, kept in self._times.items()},
            )
