"""Whether the labels come in time: OK, WARN when a scan took too long, ERROR when that persists or nothing comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Level(IntEnum):
    """Levels of `diagnostic_msgs/DiagnosticStatus`."""

    OK = 0
    WARN = 1
    ERROR = 2


class Judgement(NamedTuple):
    """A level and the reason for it, in words."""

    level: Level
    message: str


@dataclass(frozen=True)
class Limits:
    """What is still well.

    Attributes:
        time_ms: milliseconds that a scan may take.
        persistence_ms: milliseconds for which scans may take longer than that, before it is an error.
        input_timeout: seconds without a scan, or without one that can be labelled, before it is an error.
    """

    time_ms: float = 100.0
    persistence_ms: float = 1000.0
    input_timeout: float = 1.0


class Health:
    """Judges by a clock that never jumps, so that simulated time and bags change nothing.

    Args:
        limits: what is still well.
        clock: seconds.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self.start()

    def start(self) -> None:
        """Forget the past: from now on scans are expected."""
        with self._lock:
            self._received = self._good = self._clock()
            self._over_since: float | None = None
            self._last_ms = 0.0
            self._trouble = ""
            self._skipped = 0

    def received(self) -> None:
        """A scan came."""
        with self._lock:
            self._received = self._clock()

    def processed(self, milliseconds: float) -> None:
        """A scan was labelled, which took so long."""
        with self._lock:
            self._good = self._clock()
            self._last_ms = milliseconds
            if milliseconds <= self._limits.time_ms:
                self._over_since = None
            elif self._over_since is None:
                self._over_since = self._good

    def unwanted(self) -> None:
        """A scan was not labelled because nobody listens, which is no trouble."""
        with self._lock:
            self._good = self._clock()
            self._over_since = None

    def skipped(self, reason: str) -> None:
        """A scan could not be labelled."""
        with self._lock:
            self._skipped += 1
            self._trouble = reason

    def judge(self) -> Judgement:
        """The state now. Skipped scans are a warning once, in the first judgement after them."""
        limits = self._limits
        with self._lock:
            now, skipped, self._skipped = self._clock(), self._skipped, 0
            silent, useless = now - self._received, now - self._good
            if silent > limits.input_timeout:
                return Judgement(Level.ERROR, f"no scan for {silent:.1f} s")
            # A scan that is being worked on is not yet good, hence the time that the last one took.
            if useless > limits.input_timeout + 2e-3 * self._last_ms and self._trouble:
                return Judgement(Level.ERROR, f"no scan could be labelled for {useless:.1f} s: {self._trouble}")
            if self._over_since is not None:
                late = f"{self._last_ms:.0f} ms for a scan, {limits.time_ms:g} ms are allowed"
                if 1e3 * (now - self._over_since) > limits.persistence_ms:
                    return Judgement(Level.ERROR, f"{late}; for {now - self._over_since:.1f} s now")
                return Judgement(Level.WARN, late)
            if skipped:
                return Judgement(Level.WARN, f"{skipped} scans skipped: {self._trouble}")
            return Judgement(Level.OK, "labelling")
