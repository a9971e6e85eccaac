"""One worker thread that always works on the newest item: while it is busy, newer ones replace each other.

A queue in front of work that is too slow only makes every result late. With one place to wait in, an item is at most
two turns of work old when its result comes, at any input rate.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
STOP_PERIOD = 0.1
"""Seconds between two looks at whether other work is to be waited for no longer."""


class NewestWorker(Generic[ItemT]):
    """Calls `process` with one item after the other, in a thread of its own.

    Args:
        process: the work.
        failed: called, in the thread, with an exception that escaped from `process`; the next item is worked on.
    """

    def __init__(self, process: Callable[[ItemT], None], failed: Callable[[BaseException], None]) -> None:
        self._process = process
        self._failed = failed
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="segment")
        self._changed = threading.Condition()
        self._waiting: list[ItemT] = []
        self._busy = False
        self._closed = False

    def run(self, job: Callable[[], ResultT], stop: Callable[[], bool] = lambda: False) -> ResultT:
        """Do other work in the thread and wait for it. What it warms up there (thread pools, handles) stays warm.

        Raises:
            InterruptedError: `stop`, asked now and then, said so; the work goes on without anybody waiting.
        """
        with self._changed:
            self._busy = True
        future = self._pool.submit(job)
        future.add_done_callback(self._free)
        while not wait([future], STOP_PERIOD).done:
            if stop():
                raise InterruptedError("interrupted")
        return future.result()

    def _free(self, _future: Future[ResultT]) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()

    def put(self, item: ItemT) -> ItemT | None:
        """Hand over an item without waiting; returns the one that it replaced, if one waited. After `close`: itself."""
        with self._changed:
            if self._closed:
                return item
            if self._busy:
                replaced = self._waiting[0] if self._waiting else None
                self._waiting = [item]
                return replaced
            self._start(item)
            return None

    def _start(self, item: ItemT) -> None:
        self._busy = True
        self._pool.submit(self._process, item).add_done_callback(self._ended)

    def _ended(self, future: Future[None]) -> None:
        error = future.exception()
        if error is not None:
            self._failed(error)
        with self._changed:
            if self._waiting and not self._closed:
                self._start(self._waiting.pop())
            else:
                self._busy = False
                self._changed.notify_all()

    def discard(self) -> int:
        """Forget the item that waits; returns how many did (0 or 1)."""
        with self._changed:
            count = len(self._waiting)
            self._waiting.clear()
            return count

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is worked on, at most `timeout` seconds; whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Take no more items and end the thread after the one it works on, which is waited for as `wait` does."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
        self._pool.shutdown(wait=False)
        return self.wait(timeout)
