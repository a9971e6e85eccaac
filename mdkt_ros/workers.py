"""Processes that share the cores, with one thread each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait

CLEANUP = 2.0
"""Seconds that a worker has to remove what it has half written when its parent is killed."""


def worker_pool(workers: int, initializer: Callable[[], object] | None = None) -> ProcessPoolExecutor:
    """A pool of `workers` fresh processes, started at once, with one thread each; torch's do not survive a fork.

    With as many threads each as there are cores they would wait for each other: a third of the time is lost. They end
    with this process, however it ends.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(initializer,))
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        # The processes start with the first tasks and take the environment of that moment.
        for _ in range(workers):
            pool.submit(_nothing)
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    return pool


def _begin(initializer: Callable[[], object] | None) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer()


def _end_with_parent() -> None:
    """A parent that was killed tells nobody: its workers would wait for tasks until the machine is switched off."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    time.sleep(CLEANUP)
    os._exit(1)


def _nothing() -> None:
    pass
