"""How the Triton back end lays out maps and chooses launches; none of it needs Triton."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from device_waits import forbid_waits
from sparse_inputs import INPUTS

from mdkt_ros.sparse.triton_backend.pairs import Pairs
from mdkt_ros.sparse.triton_backend.tiling import ROW_MULTIPLE
from mdkt_ros.sparse.triton_backend.tuning import (
    Launch,
    Shape,
    Tuner,
    forward_launches,
    gradient_launches,
    shape_class,
    shared_memory,
)


@pytest.mark.parametrize("name", INPUTS)
def test_pairs_are_those_of_the_table(name: str) -> None:
    kernel_map = INPUTS[name](1).maps.strided(1, 3)
    with forbid_waits():
        pairs = Pairs.of(kernel_map)
    for k, rows in enumerate(kernel_map.table):
        number = int(pairs.counts[k])
        there = (rows >= 0).nonzero().view(-1)
        assert pairs.out_rows[k, :number].tolist() == there.tolist()
        assert pairs.in_rows[k, :number].tolist() == rows[there].tolist()


def test_the_guard_against_waits_finds_them() -> None:
    x = INPUTS["dense corner"](1)
    with pytest.raises(AssertionError, match="waits for the device"), forbid_waits():
        x.maps.submanifold(1)
    mask = x.coordinates[:, 1] > 0
    for wait in (mask.nonzero, lambda: x.coordinates[mask], lambda: bool(mask.any()), lambda: x.coordinates.unique()):
        with pytest.raises(AssertionError, match="waits for the device"), forbid_waits():
            wait()


@pytest.mark.parametrize("candidates", [forward_launches, gradient_launches])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("rows", [1 << 10, 1 << 16])
def test_candidates_can_be_launched(
    candidates: Callable[[Shape], tuple[Launch, ...]], dtype: torch.dtype, rows: int
) -> None:
    for in_channels in (1, 3, 16, 17, 24, 96, 512):
        for out_channels in (1, 19, 32, 100, 256):
            launches = candidates(Shape(in_channels, out_channels, 27, rows, dtype, 99 << 10))
            assert launches
            assert len(set(launches)) == len(launches)
            for launch in launches:
                assert ROW_MULTIPLE % launch.rows == 0
                for block in (launch.in_channels, launch.out_channels):
                    assert block >= 16
                    assert block & (block - 1) == 0
                assert launch.in_channels < 2 * max(in_channels, 16)
                assert launch.out_channels < 2 * max(out_channels, 16)


def test_launches_follow_the_shape() -> None:
    def first(channels: int, rows: int = 1 << 16, *, offsets: int = 27, shared: int = 200 << 10) -> Launch:
        return forward_launches(Shape(channels, channels, offsets, rows, torch.float16, shared))[0]

    assert first(256, 1 << 12).splits == 2
    assert first(256).splits == first(256, 1 << 12, offsets=8).splits == first(64, 1 << 12).splits == 1
    assert (first(32).rows, first(32, offsets=8).rows, first(128).rows) == (128, 64, 64)
    # A deep pipeline of wide blocks, where there is memory for it.
    assert (first(256).in_channels, first(256, shared=99 << 10).in_channels) == (128, 64)
    assert shared_memory(torch.device("cpu")) == 99 << 10


class TooLarge(Exception):
    pass


def test_the_tuner_measures_a_class_once() -> None:
    slow, fast, large = Launch(32, 16, 16), Launch(64, 16, 16), Launch(128, 16, 16)
    ran: list[Launch] = []

    def run(launch: Launch) -> None:
        ran.append(launch)
        if launch == large:
            raise TooLarge

    def measure(call: Callable[[], object]) -> float:
        call()
        return {slow: 2.0, fast: 1.0}[ran[-1]]

    tuner = Tuner(measure, (TooLarge,))
    assert tuner.choose("a", 5, (slow, fast), run) == slow
    tuner.active = True
    assert tuner.choose("a", 5, (slow, large, fast), run) == fast
    assert ran == [slow, large, fast]
    assert tuner.choose("a", 5, (slow, fast), run) == fast
    assert len(ran) == 3
    assert tuner.choose("b", 5, (slow,), run) == slow
    assert tuner.choose("a", 9, (slow,), run) == slow
    assert len(ran) == 5
    tuner.active = False
    assert [tuner.choose("a", rows, (large,), run) for rows in (1, 6, 8)] == [fast, fast, slow]
    assert tuner.choose("c", 5, (large, slow), run) == large
    assert len(ran) == 5


def test_nothing_is_measured_while_a_graph_is_recorded(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    first, second = Launch(32, 16, 16), Launch(64, 16, 16)
    tuner = Tuner(lambda call: pytest.fail("measured"))
    tuner.active = True
    assert tuner.choose("a", 5, (first, second), lambda launch: None) == first


def test_shape_classes_are_octaves() -> None:
    assert shape_class(0) == shape_class(1)
    assert shape_class(1 << 16) == shape_class((1 << 17) - 1) != shape_class(1 << 17)
