"""Independent jobs on several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

_T = TypeVar("_T")


def run_all(job: Callable[[_T], None], items: Sequence[_T], workers: int) -> Iterator[None]:
    """Do `job` for every item and yield whenever one is done, in any order.

    An error of one, or an interruption, ends it: what has not begun is left out. With one worker all happens here.
    """
    if workers == 1:
        for item in items:
            job(item)
            yield
        return
    # Fresh processes: torch's threads do not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(job, item) for item in items]
        try:
            for done in as_completed(jobs):
                done.result()
                yield
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
