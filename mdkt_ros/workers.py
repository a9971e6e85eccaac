"""Processes that share the cores, with one thread each."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor


def worker_pool(workers: int, initializer: Callable[[], object] | None = None) -> ProcessPoolExecutor:
    """A pool of `workers` fresh processes, started at once, with one thread each; torch's do not survive a fork.

    With as many threads each as there are cores they would wait for each other: a third of the time is lost.
    """
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=initializer)
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


def _nothing() -> None:
    pass
