"""A synthetic drive whose scans are made ahead of their use, by processes of their own."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Collection
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from types import TracebackType
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.frame import Axes, Frame, View
from mdkt_ros.drive.synthetic.drive import SyntheticDrive
from mdkt_ros.errors import DriveError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.workers import worker_pool

_KILLED = "a process that makes the scans was killed: out of memory?"
Made = TypeVar("Made")
_AHEAD = 3
"""Scans that each process may be ahead of who takes them; a scan is some megabytes."""


class AheadDrive:
    """The frames of a `SyntheticDrive`, bit for bit, made by `workers` processes. Use it in `with`, or close it.

    The town is built when this is made, by each process for itself. Frames come soonest in order, each taken once.

    Args:
        seed, scans, rate_hz: as of `SyntheticDrive`, with KITTI's sensors.
        pictured: positions of the frames that have their image, which is most of the work; all of them by default.

    Raises:
        ConfigError: an argument out of range.
        DriveError: a process was killed; also when a frame is taken.
    """

    def __init__(
        self, seed: int, *, scans: int, rate_hz: float, workers: int, pictured: Collection[int] | None = None
    ) -> None:
        self._maker = _Maker(seed, scans, rate_hz, None if pictured is None else frozenset(pictured))
        self._scans, self._waiting = scans, dict[int, Future[Frame]]()
        self._ahead = _AHEAD * workers
        self._pool = worker_pool(workers, _end_quietly)
        try:
            built = [self._submit(self._maker.facts) for _ in range(workers)]
            facts = [_result(future) for future in built]
        except BaseException:
            self.close()
            raise
        self.name, self.axes, self.intensity_scale, self.labels = facts[0]

    def __enter__(self) -> AheadDrive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, whatever they still do."""
        self._pool.shutdown(cancel_futures=True)

    def __len__(self) -> int:
        return self._scans

    def __getitem__(self, index: int) -> Frame:
        if not 0 <= index < self._scans:
            raise IndexError(f"frame {index} of {self._scans}")
        for wanted in range(index, min(index + self._ahead, self._scans)):
            if wanted not in self._waiting:
                self._waiting[wanted] = self._submit(self._maker.frame, wanted)
        return _result(self._waiting.pop(index))

    def _submit(self, work: Callable[..., Made], *arguments: int) -> Future[Made]:
        try:
            return self._pool.submit(work, *arguments)
        except BrokenProcessPool as error:
            raise DriveError(_KILLED) from error


class _Maker:
    """What a process is asked for; it builds the drive once."""

    def __init__(self, seed: int, scans: int, rate_hz: float, pictured: frozenset[int] | None) -> None:
        self.seed, self.scans, self.rate_hz, self.pictured = seed, scans, rate_hz, pictured

    def facts(self) -> tuple[str, Axes, float, LabelSpace]:
        """Builds the town; name, axes, intensity scale and labels of the drive."""
        drive = _drive(self.seed, self.scans, self.rate_hz)
        return drive.name, drive.axes, drive.intensity_scale, drive.labels

    def frame(self, index: int) -> Frame:
        """A frame with its images rendered."""
        frame = _drive(self.seed, self.scans, self.rate_hz)[index]
        views: tuple[View, ...] = ()
        if self.pictured is None or index in self.pictured:
            views = tuple(replace(view, load=functools.partial(_as_it_is, view.load())) for view in frame.views)
        return replace(frame, views=views)


@functools.lru_cache(maxsize=1)
def _drive(seed: int, scans: int, rate_hz: float) -> SyntheticDrive:
    return SyntheticDrive(seed, scans=scans, rate_hz=rate_hz)


def _as_it_is(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return pixels


def _end_quietly() -> None:
    # Ctrl-C reaches every process of the terminal: the parent says what is to be said.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _result(future: Future[Made]) -> Made:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise DriveError(_KILLED) from error
