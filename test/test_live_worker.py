"""The worker of a live sensor: the newest item or none."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from mdkt_ros.live.newest import NewestWorker


class Gate:
    """Work that waits to be let through, one item at a time."""

    def __init__(self):
        self.done, self.started = [], threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)

    def __call__(self, item):
        self.started.release()
        assert self.allowed.acquire(timeout=5)
        self.done.append(item)
        if item == "bad":
            raise TypeError("bad")


def test_newer_items_replace_each_other_while_one_is_worked_on():
    gate, failures = Gate(), []
    worker = NewestWorker(gate, failures.append)
    assert worker.put(1) is None
    assert gate.started.acquire(timeout=5)
    assert [worker.put(item) for item in (2, 3, 4)] == [None, 2, 3]
    for _ in range(2):
        gate.allowed.release()
    assert worker.wait(5)
    assert (gate.done, failures) == ([1, 4], [])
    assert worker.close(5)


def test_work_that_fails_is_told_and_the_next_item_is_worked_on():
    gate, failures = Gate(), []
    worker = NewestWorker(gate, failures.append)
    for item in ("bad", "good"):
        worker.put(item)
        gate.allowed.release()
    assert worker.wait(5)
    assert gate.done == ["bad", "good"]
    assert [str(failure) for failure in failures] == ["bad"]
    assert worker.close(5)


def test_closing_waits_for_the_item_in_work_but_not_for_ever_and_takes_no_more():
    gate = Gate()
    worker = NewestWorker(gate, pytest.fail)
    worker.put(1)
    assert gate.started.acquire(timeout=5)
    worker.put(2)
    assert not worker.close(0.01)
    assert worker.put(3) == 3
    gate.allowed.release()
    assert worker.wait(5)
    assert gate.done == [1]


def test_what_waits_can_be_discarded_and_other_work_runs_in_the_same_thread():
    gate = Gate()
    worker = NewestWorker(gate, pytest.fail)
    assert worker.discard() == 0
    worker.put(1)
    assert gate.started.acquire(timeout=5)
    worker.put(2)
    assert worker.discard() == 1
    gate.allowed.release()
    assert worker.wait(5)
    assert worker.run(lambda: threading.current_thread().name).startswith("segment")
    with pytest.raises(KeyError):
        worker.run(lambda: {}["x"])
    assert worker.close(5)


def test_latency_is_bounded_however_fast_items_come():
    ages = []

    def work(born):
        time.sleep(0.02)
        ages.append(time.monotonic() - born)

    worker = NewestWorker(work, pytest.fail)
    dropped = 0
    for _ in range(150):
        dropped += worker.put(time.monotonic()) is not None
        time.sleep(0.002)
    assert worker.wait(5)
    assert worker.close(5)
    assert len(ages) + dropped == 150
    assert dropped > 50
    # Never a queue: the last results are no older than the first ones.
    assert np.median(ages[-5:]) < 4 * 0.02


def test_other_work_is_waited_for_until_told_to_stop():
    gate = threading.Event()
    worker = NewestWorker(pytest.fail, pytest.fail)
    with pytest.raises(InterruptedError):
        worker.run(lambda: gate.wait(5), stop=lambda: True)
    assert not worker.close(0.01)
    gate.set()
    assert worker.wait(5)
