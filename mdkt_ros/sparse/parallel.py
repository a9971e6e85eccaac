"""Blocks of a convolution on several CPU threads, each block on one.

PyTorch's own parallelism splits every small product and waits for all threads after it: tens of thousands of waits a
scan, which cost little on an idle machine and many times the work itself on a busy one. Here threads meet once a layer.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar

import torch

from mdkt_ros.sparse.kernel_map import Block

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


def share_blocks(blocks: Sequence[Block], function: Callable[[Sequence[Block]], _T], on_cpu: bool) -> list[_T]:
    """Call `function` with consecutive blocks, a share for each of PyTorch's threads, side by side; results in order.

    The shares depend on the blocks and the number of threads alone. On a GPU there is one share.
    """
    threads = getattr(_local, "threads", None) or torch.get_num_threads()
    if not on_cpu or threads == 1 or len(blocks) < 2:
        return [function(blocks)]
    inference = torch.is_inference_mode_enabled()

    def work(share: Sequence[Block]) -> _T:
        # These modes belong to a thread, and leaving inference mode would turn gradients on.
        with torch.inference_mode(inference), torch.no_grad():
            return function(share)

    return list(_pool(os.getpid(), threads).map(work, _shares(blocks, threads)))


def _shares(blocks: Sequence[Block], threads: int) -> list[list[Block]]:
    """Consecutive blocks with about the same number of pairs each."""
    total = max(sum(len(block.in_rows) for block in blocks), 1)
    shares: list[list[Block]] = [[] for _ in range(threads)]
    before = 0
    for block in blocks:
        middle = before + len(block.in_rows) / 2
        shares[min(int(middle * threads / total), threads - 1)].append(block)
        before += len(block.in_rows)
    return [share for share in shares if share]


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
