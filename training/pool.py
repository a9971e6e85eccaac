"""Independent jobs on several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from typing import TypeVar

from mdkt_ros.workers import worker_pool

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
    with worker_pool(workers) as pool:
        jobs = [pool.submit(job, item) for item in items]
        try:
            for done in as_completed(jobs):
                done.result()
                yield
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
