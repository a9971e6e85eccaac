"""Threads that share out a layer: every piece once, whatever their number, and none left behind."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

pytest.importorskip("numba", reason="the engine `native` needs numba")

from mdkt_ros.sparse.native.program import compile_text
from mdkt_ros.sparse.native.team import _AWAKE, Shares, Team, _compiled, team
from mdkt_ros.sparse.parallel import cut

COUNT = """
define void @count(ptr %arguments, i64 %first, i64 %last) {
entry:
  %counts = load ptr, ptr %arguments
  br label %head
head:
  %i = phi i64 [ %first, %entry ], [ %next, %body ]
  %more = icmp slt i64 %i, %last
  br i1 %more, label %body, label %end
body:
  %place = getelementptr i64, ptr %counts, i64 %i
  %old = atomicrmw add ptr %place, i64 1 monotonic, align 8
  %next = add i64 %i, 1
  br label %head
end:
  ret void
}
"""


@pytest.fixture(scope="module")
def counting():
    return compile_text(COUNT)("count")


@pytest.mark.parametrize("members", [1, 2, 5])
def test_every_part_is_done_once(members: int, counting: int) -> None:
    """Thousands of jobs in a row, of few and many pieces, with pauses in which members fall asleep."""
    mine = Team(members, _compiled())
    counts = np.zeros(300, dtype=np.int64)
    arguments = np.array([counts.ctypes.data], dtype=np.int64)
    jobs = 0
    for parts in (1, 2, 7, 300):
        shares = Shares(np.ones(parts, dtype=np.int64), 2)
        for number in range(700):
            counts[:] = 0
            assert mine.run(counting, arguments.ctypes.data, shares)
            assert (counts[:parts] == 1).all()
            assert (counts[parts:] == 0).all()
            jobs += 1
            if number % 350 == 0:
                time.sleep(0.01)
    mine.close()
    assert jobs == 2800


def test_members_go_to_sleep(counting: int) -> None:
    mine = Team(2, _compiled())
    counts = np.zeros(8, dtype=np.int64)
    arguments = np.array([counts.ctypes.data], dtype=np.int64)
    mine.run(counting, arguments.ctypes.data, Shares(np.ones(8, dtype=np.int64), 2))
    deadline = time.monotonic() + 20
    while mine._board[_AWAKE] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert mine._board[_AWAKE] == 0
    mine.close()
    assert not any(member.is_alive() for member in mine._members)


def test_who_comes_while_the_team_is_busy_is_told(counting: int) -> None:
    mine = Team(1, _compiled())
    with mine._busy:
        assert not mine.run(counting, 0, Shares(np.ones(8, dtype=np.int64), 2))
    mine.close()


def test_several_threads_compute_at_once() -> None:
    """Each with a network's convolution of its own: one has the team, the others do their own work."""
    import torch

    from mdkt_ros.sparse import SparseTensor, sparse_convolution, use_engine

    coordinates = torch.unique(torch.randint(0, 30, (4000, 4)), dim=0).int()
    kernel = torch.rand((27, 16, 16))
    results: list[torch.Tensor] = []

    def work() -> None:
        torch.set_num_threads(2)
        with use_engine("native"), torch.no_grad():
            x = SparseTensor(torch.ones((len(coordinates), 16)), coordinates)
            for _ in range(20):
                results.append(sparse_convolution(x.features, kernel, x.maps.submanifold(1)))

    before = torch.get_num_threads()
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.set_num_threads(before)
    assert len(results) == 60
    assert all(torch.equal(results[0], other) for other in results)


def test_a_process_ends_and_a_fork_computes() -> None:
    """Members are in compiled code when the interpreter goes; a forked child has none of them."""
    program = """
import os, sys, torch
from mdkt_ros.sparse import SparseTensor, sparse_convolution, use_engine
torch.set_num_threads(2)
coordinates = torch.unique(torch.randint(0, 30, (3000, 4)), dim=0).int()
def compute():
    with use_engine("native"), torch.no_grad():
        x = SparseTensor(torch.ones((len(coordinates), 8)), coordinates)
        return sparse_convolution(x.features, torch.ones((27, 8, 8)), x.maps.submanifold(1)).sum().item()
first = compute()
child = os.fork()
if not child:
    os._exit(0 if compute() == first else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_one_team_for_a_number_of_members() -> None:
    assert team(1) is team(1)
    assert team(1) is not team(2)


@pytest.mark.parametrize("costs", [[], [5], [0, 0, 0], [1] * 7, [100, 1, 1, 1], [1, 1, 1, 100], list(range(50))])
@pytest.mark.parametrize("pieces", [1, 2, 8])
def test_ranges_cover_all_parts_in_order(costs: list[int], pieces: int) -> None:
    ranges = cut(np.array(costs, dtype=np.int64), pieces).tolist()
    assert [part for first, last in ranges for part in range(first, last)] == list(range(len(costs)))
    assert all(first < last for first, last in ranges)
    assert len(ranges) <= pieces
    if len(costs) == 50 and pieces == 8:
        totals = [sum(costs[first:last]) for first, last in ranges]
        assert max(totals) < 1.5 * sum(costs) / pieces


def test_a_call_from_python_is_the_program() -> None:
    from mdkt_ros.sparse.native.program import convolution_program, this_machine

    program = convolution_program(this_machine(), 3, torch.float32, torch.float32)
    assert ctypes.cast(program.call, ctypes.c_void_p).value == program.address  # type: ignore[arg-type]
