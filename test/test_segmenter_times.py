"""What the times of a segmenter are taken by, and which threads it uses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import random_meta, random_network

import mdkt_ros.segmenter as module
from mdkt_ros.segmenter import Segmenter

POINTS = np.random.default_rng(0).normal(0, [8, 8, 0.5], (400, 3)).astype(np.float32)


@pytest.fixture
def segmenter():
    return Segmenter(random_network(), random_meta(), device="cpu")


def test_small_operations_are_not_split_over_threads_that_a_busy_machine_does_not_run(segmenter, monkeypatch):
    seen, tables, threads = [], module.label_tables, torch.get_num_threads()
    monkeypatch.setattr(module, "label_tables", lambda logits: seen.append(torch.get_num_threads()) or tables(logits))
    torch.set_num_threads(2)
    try:
        segmenter.segment(POINTS, np.ones(400, np.float32))
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(threads)


def test_times_are_taken_by_the_clock(segmenter):
    ticks = iter(range(100))
    segmenter.clock = lambda: float(next(ticks))
    times = segmenter.segment(POINTS, np.ones(400, np.float32)).timings
    assert times == {"preprocess": 1000.0, "inference": 1000.0, "postprocess": 1000.0, "total": 3000.0}
