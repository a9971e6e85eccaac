"""Blocks of a convolution on several CPU threads, each block on one.

PyTorch's own parallelism splits every small product and waits for all threads after it: tens of thousands of waits a
scan, which cost little on an idle machine and many times the work itself on a busy one. Here threads meet once a layer.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

_T = TypeVar("_T")
_local = threading.local()


@contextmanager
def block_threads() -> Iterator[None]:
    """Within the block, PyTorch's threads work on convolutions alone; other operations stay on the calling thread.

    PyTorch's idle threads spin for a while after every operation and would take the cores from the blocks. A training
    step goes inside as a whole, backward pass included; the network's forward pass does so by itself.
    """
    threads = torch.get_num_threads()
    if threads == 1:  # nothing to share, or inside such a block already
        yield
        return
    _local.threads = threads
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _local.threads = None


def share(costs: Sequence[int], function: Callable[[int, int], _T], on_cpu: bool = True) -> list[_T]:
    """Call `function(first, last)` with consecutive ranges of the parts of a work that `costs` has, side by side.

    There is a range of about the same cost for each of PyTorch's threads, the calling one among them. The ranges depend
    on the costs and the number of threads alone. On a GPU there is one. Results in order.
    """
    threads = cpu_threads()
    if not on_cpu or threads == 1 or len(costs) < 2:
        return [function(0, len(costs))]
    inference = torch.is_inference_mode_enabled()
    ranges = cut(np.array(costs, dtype=np.int64), threads).tolist()
    waiting = deque(range(len(ranges)))
    results: dict[int, _T] = {}

    def work() -> None:
        # These modes belong to a thread, and leaving inference mode would turn gradients on.
        with torch.inference_mode(inference), torch.no_grad():
            while waiting:
                try:
                    index = waiting.popleft()
                except IndexError:
                    return
                results[index] = function(*ranges[index])

    helpers = [_pool(os.getpid(), threads - 1).submit(work) for _ in range(min(threads, len(ranges)) - 1)]
    try:
        with _on_one_thread():
            work()
    finally:
        waiting.clear()
        failures = [helper.exception() for helper in helpers]
    for failure in failures:
        if failure is not None:
            raise failure
    return [results[index] for index in range(len(ranges))]


@contextmanager
def _on_one_thread() -> Iterator[None]:
    """PyTorch's operations in the calling thread stay on it."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_beside(function: Callable[[], _T]) -> Future[_T]:
    """Start `function` on another of PyTorch's threads, if there are any, else run it at once."""
    threads = cpu_threads()
    if threads > 1:
        return _pool(os.getpid(), threads - 1).submit(function)
    done: Future[_T] = Future()
    done.set_result(function())
    return done


def cpu_threads() -> int:
    """Threads that `share` uses: PyTorch's own number, also within `block_threads`."""
    return getattr(_local, "threads", None) or torch.get_num_threads()


def cut(costs: npt.NDArray[np.int64], pieces: int) -> npt.NDArray[np.int64]:
    """(P, 2) int64 consecutive ranges of parts with these costs: at most `pieces`, about equally costly, none empty."""
    if len(costs) == 0:
        return np.zeros((0, 2), dtype=np.int64)
    ends = costs.cumsum()
    # A part goes to the piece that its middle lies in.
    firsts = (ends - costs / 2).searchsorted(np.arange(pieces) * (ends[-1] / pieces))
    edges = sorted({*firsts.tolist(), len(costs)})
    ranges = np.empty((len(edges) - 1, 2), dtype=np.int64)
    ranges[:, 0], ranges[:, 1] = edges[:-1], edges[1:]
    return ranges


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads that compute alone. A forked process (`process`) has none of its parent's and needs its own."""
    pool = ThreadPoolExecutor(threads, "mdkt-sparse")
    started = threading.Barrier(threads)
    before = torch.get_num_threads()

    def start() -> None:
        torch.set_num_threads(1)
        started.wait()

    for future in [pool.submit(start) for _ in range(threads)]:
        future.result()
    torch.set_num_threads(before)  # threads that are born later take over what was set last, anywhere
    return pool
