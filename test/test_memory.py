"""What is freed stays with the process."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from mdkt_ros import memory

PROGRAM = """
import resource
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
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_is_faulted_in_once() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2000  # 24 MiB are 6144 pages, twenty times over


def test_other_c_libraries_do_without(monkeypatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert not memory.keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not memory.keep_freed_memory()
