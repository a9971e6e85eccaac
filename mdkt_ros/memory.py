"""Memory between two scans, which is kept, and after the last one, which is given back."""

from __future__ import annotations

import ctypes
import gc
import sys

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of malloc.h
_KEPT = 512 << 20
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc refuses more


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, up to 512 MiB, for the next scan; the process stays as large as its peak.

    A scan of 120 thousand points takes and frees about 20 MB, which otherwise goes back to the system and is faulted in
    again, page by page: 1 to 2 ms a scan on a virtual machine. All threads that start later share one heap: what the
    thread of the network has freed serves the middleware's, whose first scan would else be 4 ms late.

    Returns:
        Whether the C library does so: glibc does.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has no such function
        return False
    return all(
        set_option(option, size) == 1
        for option, size in (
            (_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD),
            (_TRIM_THRESHOLD, _KEPT),
            (_ARENA_MAX, 1),
        )
    )


def give_memory_back() -> None:
    """Give back what nothing holds any more: to the system what `keep_freed_memory` has kept, and the GPU's memory.

    What stays of the GPU's is CUDA's own: its context and the kernels that it has loaded, until the process ends.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)
    if not torch.cuda.is_available():
        return
    # 32 MiB on a Hopper for every stream that has multiplied matrices, which PyTorch keeps for the next ones.
    clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
    if clear is not None:
        clear()
    torch.cuda.empty_cache()
