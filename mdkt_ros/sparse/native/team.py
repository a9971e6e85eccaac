"""Threads that share out a layer without Python in between, and wait for the next one awake.

Waking a sleeping thread takes 0.1 to 0.3 ms on a virtual machine, as long as a thin layer; and a Python thread would
wait for the interpreter's lock besides. So the members of a team stay in compiled code from layer to layer: they watch
a word of memory for work, and only after about a millisecond without any do they go to sleep.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mdkt_ros.sparse.parallel import cut

PIECES = 4
"""Ranges of parts for a thread."""
_CLAIM, _DONE, _WORK, _AWAKE = 0, 8, 16, 24
"""Places in a team's board, a cache line each: whose turn it is and the next piece; pieces done; program, arguments,
ranges and number of pieces; members that watch."""
_CLOSED = 0xFFFFFFFF
"""The next piece of a job that is done."""
_SPINS = 8_192
"""Looks at the board before a member goes to sleep: some tenths of a millisecond, by the CPU."""
_PATIENCE = 32
"""Looks before who waits offers the core to others: on a busy machine they are what it waits for."""

# A job has a number. The claim word holds it in its upper half and the next piece in its lower; a piece is taken by a
# compare-and-swap of the whole word, so that nobody who was late takes a piece of a job whose work it has not read. A
# job that is done is closed, with a next piece that no job has, before the board says anything of another one.
TEXT = f"""
declare i32 @sched_yield()
{{pause_declaration}}

define void @work(ptr %board, i64 %job) {{{{
entry:
  %work = getelementptr i64, ptr %board, i64 {_WORK}
  %program = load ptr, ptr %work
  %p1 = getelementptr i64, ptr %work, i64 1
  %arguments = load ptr, ptr %p1
  %p2 = getelementptr i64, ptr %work, i64 2
  %ranges = load ptr, ptr %p2
  %p3 = getelementptr i64, ptr %work, i64 3
  %pieces = load i64, ptr %p3
  %done = getelementptr i64, ptr %board, i64 {_DONE}
  br label %look
look:
  %claim = load atomic i64, ptr %board acquire, align 8
  %now = lshr i64 %claim, 32
  %piece = and i64 %claim, 4294967295
  %mine = icmp eq i64 %now, %job
  %left = icmp ult i64 %piece, %pieces
  %go = and i1 %mine, %left
  br i1 %go, label %take, label %end
take:
  %next = add i64 %claim, 1
  %swap = cmpxchg ptr %board, i64 %claim, i64 %next acq_rel acquire, align 8
  %taken = extractvalue {{{{ i64, i1 }}}} %swap, 1
  br i1 %taken, label %compute, label %look
compute:
  %twice = shl i64 %piece, 1
  %range = getelementptr i64, ptr %ranges, i64 %twice
  %first = load i64, ptr %range
  %behind = getelementptr i64, ptr %range, i64 1
  %last = load i64, ptr %behind
  call void %program(ptr %arguments, i64 %first, i64 %last)
  %before = atomicrmw add ptr %done, i64 1 release, align 8
  br label %look
end:
  ret void
}}}}

define void @run(ptr %board) {{{{
entry:
  %done = getelementptr i64, ptr %board, i64 {_DONE}
  store atomic i64 0, ptr %done release, align 8
  %p3 = getelementptr i64, ptr %board, i64 {_WORK + 3}
  %pieces = load i64, ptr %p3
  %old = load atomic i64, ptr %board acquire, align 8
  %number = lshr i64 %old, 32
  %more = add i64 %number, 1
  %job = and i64 %more, 2147483647
  %claim = shl i64 %job, 32
  store atomic i64 %claim, ptr %board release, align 8
  call void @work(ptr %board, i64 %job)
  br label %wait
wait:
  %turn = phi i64 [ 0, %entry ], [ %turns, %again ]
  %finished = load atomic i64, ptr %done acquire, align 8
  %all = icmp eq i64 %finished, %pieces
  br i1 %all, label %end, label %idle
idle:
  {{pause}}
  %turns = add i64 %turn, 1
  %some = and i64 %turns, {_PATIENCE - 1}
  %long = icmp eq i64 %some, 0
  br i1 %long, label %yield, label %again
yield:
  %ignored = call i32 @sched_yield()
  br label %again
again:
  br label %wait
end:
  %closed = or i64 %claim, {_CLOSED}
  store atomic i64 %closed, ptr %board release, align 8
  ret void
}}}}

define void @serve(ptr %board) {{{{
entry:
  %awake = getelementptr i64, ptr %board, i64 {_AWAKE}
  %in = atomicrmw add ptr %awake, i64 1 acq_rel, align 8
  br label %look
look:
  %last = phi i64 [ -1, %entry ], [ %job, %busy ], [ %last, %again ]
  %turn = phi i64 [ 0, %entry ], [ 0, %busy ], [ %turns, %again ]
  %claim = load atomic i64, ptr %board acquire, align 8
  %job = lshr i64 %claim, 32
  %new = icmp ne i64 %job, %last
  br i1 %new, label %busy, label %rest
busy:
  call void @work(ptr %board, i64 %job)
  br label %look
rest:
  %turns = add i64 %turn, 1
  %tired = icmp ugt i64 %turns, {_SPINS}
  br i1 %tired, label %end, label %idle
idle:
  {{pause}}
  %some = and i64 %turns, {_PATIENCE - 1}
  %long = icmp eq i64 %some, 0
  br i1 %long, label %yield, label %again
yield:
  %ignored = call i32 @sched_yield()
  br label %again
again:
  br label %look
end:
  %out = atomicrmw sub ptr %awake, i64 1 acq_rel, align 8
  ret void
}}}}
"""

_PAUSES = {
    "x86": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "arm": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}


class Shares:
    """Parts of a work in ranges for some threads, a few for each, so that they finish together.

    Attributes:
        parts: how many there are.
        ranges: (P, 2) int64 first part and the one behind the last. address: where they lie.
    """

    def __init__(self, costs: npt.NDArray[np.int64], threads: int):
        """`costs`: (parts,) int64, of each."""
        self.parts, self.threads = len(costs), threads
        self.ranges = cut(costs, PIECES * threads)
        self.address: int = self.ranges.ctypes.data


class Team:
    """`members` threads that help the one that calls `run`."""

    def __init__(self, members: int, functions: Callable[[str], int]):
        """`functions`: addresses of the compiled functions of `TEXT` by name."""
        self._board = (ctypes.c_int64 * 40)()
        self._address = ctypes.addressof(self._board)
        self._board[_CLAIM] = _CLOSED
        self._run: Any = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(functions("run"))
        self._serve: Any = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(functions("serve"))
        self._wake = threading.Semaphore(0)
        self._busy = threading.Lock()
        self._closed = False
        self._members = [threading.Thread(target=self._member, name="mdkt-sparse", daemon=True) for _ in range(members)]
        for member in self._members:
            member.start()

    def run(self, program: int, arguments: int, shares: Shares) -> bool:
        """Call `program(arguments, first, last)` for all ranges of `shares`, in any order and by any thread.

        `program`, `arguments`: their addresses.

        Returns:
            False, and nothing is done, where another thread uses the team.
        """
        if not self._busy.acquire(blocking=False):
            return False
        try:
            board = self._board
            board[_WORK], board[_WORK + 1] = program, arguments
            board[_WORK + 2], board[_WORK + 3] = shares.address, len(shares.ranges)
            asleep = len(self._members) - board[_AWAKE]
            if asleep > 0:
                self._wake.release(asleep)
            self._run(self._address)
        finally:
            self._busy.release()
        return True

    def close(self) -> None:
        """End the threads."""
        self._closed = True
        self._wake.release(len(self._members))
        for member in self._members:
            member.join()

    def _member(self) -> None:
        while True:
            self._wake.acquire()
            if self._closed:
                return
            self._serve(self._address)


def team(members: int) -> Team:
    """The process's team of so many helpers; made when it is first asked for. A forked process makes its own."""
    return _team(os.getpid(), members)


@lru_cache(maxsize=4)
def _team(_process: int, members: int) -> Team:
    made = Team(members, _compiled())
    atexit.register(made.close)  # before the compiled code goes
    return made


@cache
def _compiled() -> Callable[[str], int]:
    from mdkt_ros.sparse.native.program import compile_text, is_arm

    declaration, pause = _PAUSES["arm" if is_arm() else "x86"]
    return compile_text(TEXT.format(pause_declaration=declaration, pause=pause))
