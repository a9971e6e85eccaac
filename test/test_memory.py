"""What is freed stays with the process."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest
import torch

from mdkt_ros import memory

PROGRAM = """
import resource
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from mdkt_ros.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        kept = [np.ones(size << 18, np.float32) for size in (3, 5, 7, 9)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert keep_freed_memory()
faults()
print(faults())
with ThreadPoolExecutor(1) as other:
    print(other.submit(faults).result())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_is_faulted_in_once() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    # 24 MiB are 6144 pages, twenty times over. What one thread has freed serves another.
    assert all(int(faults) < 2000 for faults in done.stdout.split())
    assert len(done.stdout.split()) == 2


def test_other_c_libraries_do_without(monkeypatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert not memory.keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not memory.keep_freed_memory()


def test_a_gpu_gets_back_what_nothing_holds(monkeypatch) -> None:
    memory.give_memory_back()  # without a GPU there is nothing to do
    called: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append("cache"))
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: called.append("workspaces"), raising=False)
    memory.give_memory_back()
    assert called == ["workspaces", "cache"]
    monkeypatch.delattr(torch._C, "_cuda_clearCublasWorkspaces")
    memory.give_memory_back()
    assert called == ["workspaces", "cache", "cache"]


GIVEN_BACK = """
import os
import numpy as np
from mdkt_ros.memory import give_memory_back, keep_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

assert keep_freed_memory()
kept = [np.ones(1 << 20) for _ in range(20)]  # 160 MiB
del kept
before = resident()
give_memory_back()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_was_kept_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 120
