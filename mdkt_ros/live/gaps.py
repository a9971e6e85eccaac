"""Scans that never came: a sensor's stamps are even, so a gap between two of them says how many are missing.

A best-effort subscription loses clouds of megabytes without a word: no middleware tells the subscriber, and Cyclone
DDS numbers nothing that rclpy would show.
"""

from __future__ import annotations

from collections import deque

KEPT = 40
FEWEST = 8
"""Differences of stamps that the period is taken from, at most and at least."""
PAUSE = 20
"""A gap of more periods is a sensor that paused, not a loss."""


class Gaps:
    """Tells what is missing before each scan, from the stamps alone."""

    def __init__(self) -> None:
        self._differences: deque[int] = deque(maxlen=KEPT)
        self._last = 0

    def add(self, stamp: int) -> int:
        """A scan at `stamp` nanoseconds came, not 0; how many more are known to be missing now."""
        difference, self._last = stamp - self._last, stamp
        if difference <= 0:  # time ran backward
            self._differences.clear()
            return 0
        if difference == stamp:  # the first
            return 0
        self._differences.append(difference)
        if len(self._differences) < FEWEST:
            return 0
        # Low, to hold while most scans are lost; not the smallest, which jitter or a repeated stamp makes.
        period = sorted(self._differences)[len(self._differences) // 8]
        # The first ones are judged when the period is known.
        new = self._differences if len(self._differences) == FEWEST else (difference,)
        missing = [round(gap / period) - 1 for gap in new]
        return sum(count for count in missing if count < PAUSE)
