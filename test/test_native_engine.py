"""The engine `native` against the definition and against PyTorch's: values, gradients, maps, threads, its absence."""

from __future__ import annotations

import builtins
import logging
import re
import sys
from collections.abc import Callable
from concurrent.futures import Future
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch
from sparse_inputs import INPUTS, by_definition, maps_of, random_voxels, street

from mdkt_ros.errors import ConfigError
from mdkt_ros.network import build_network
from mdkt_ros.sparse import (
    KernelMap,
    SparseTensor,
    current_engine,
    fuse,
    register_engine,
    sparse_convolution,
    use_engine,
)
from mdkt_ros.sparse import engines as engine_names

pytest.importorskip("numba", reason="the engine `native` needs numba")

from mdkt_ros.sparse.native import loops
from mdkt_ros.sparse.native.backend import NativeBackend
from mdkt_ros.sparse.native.ir import Machine
from mdkt_ros.sparse.native.program import this_machine
from mdkt_ros.sparse.native.tiles import tiles

CPU = torch.device("cpu")
MACHINES = {"AVX-512": Machine(16, 32), "AVX2": Machine(8, 16), "NEON": Machine(4, 32)}
CHANNELS = [(1, 1), (3, 5), (4, 16), (16, 24), (19, 33), (24, 40), (64, 64), (72, 130), (130, 7)]


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize(("inputs", "outputs"), CHANNELS)
def test_values_and_gradients_equal_the_definition(machine: Machine, inputs: int, outputs: int, own_engines) -> None:
    """Every kind of map, channels that fill no vector, kernels for three kinds of CPU (which this one can all run)."""
    register_engine("native", lambda _device: NativeBackend(machine))
    with use_engine("native"):
        x = street(inputs)
        for name, kernel_map in maps_of(x).items():
            rows = kernel_map.in_count
            features = torch.randn((rows, inputs), requires_grad=True)
            kernel = (torch.randn((kernel_map.offsets, inputs, outputs)) / inputs**0.5).requires_grad_()
            bias = None if name == "transposed" else torch.randn(outputs, requires_grad=True)
            wanted = [tensor for tensor in (features, kernel, bias) if tensor is not None]
            out = sparse_convolution(features, kernel, kernel_map, bias)
            expected = by_definition(features, kernel, kernel_map, bias)
            torch.testing.assert_close(out.double(), expected, rtol=2e-5, atol=2e-5)
            weights = torch.randn_like(out)
            for mine, theirs in zip(
                torch.autograd.grad((out * weights).sum(), wanted),
                torch.autograd.grad((expected * weights).sum(), wanted),
                strict=True,
            ):
                torch.testing.assert_close(mine, theirs, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", INPUTS)
def test_maps_are_those_of_torch_pair_for_pair(name: str) -> None:
    tables = {}
    for engine in ("torch", "native"):
        with use_engine(engine):
            x = INPUTS[name](2)
            tables[engine] = {kind: (m.table, m.reversed.table, m.pairs) for kind, m in maps_of(x).items()}
            tables[engine]["levels"] = (x.maps.coordinates(2), x.maps.coordinates(4), x.maps.parents(1, 4))
    for kind, expected in tables["torch"].items():
        for mine, theirs in zip(tables["native"][kind], expected, strict=True):
            assert torch.equal(torch.as_tensor(mine), torch.as_tensor(theirs)), kind


def test_lists_and_tables_are_made_from_each_other() -> None:
    with use_engine("native"):
        made = maps_of(street(1))
    for kind, kernel_map in made.items():
        again = KernelMap(kernel_map.in_count, kernel_map.out_count, table=kernel_map.table)
        assert again.pairs == kernel_map.pairs, kind
        for offset in range(kernel_map.offsets):
            for mine, theirs in zip(kernel_map.lists[offset], again.lists[offset], strict=True):
                assert torch.equal(mine, theirs), (kind, offset)


@pytest.mark.parametrize("begun", [0, 1, 3])
def test_maps_that_no_thread_has_begun_with_are_made_by_the_caller(begun: int, monkeypatch) -> None:
    """A helper that is busy with the first `begun` of them until the end."""
    left: list[tuple[Future, Callable[[], KernelMap]]] = []

    def beside(make: Callable[[], KernelMap]) -> Future:
        future: Future = Future()
        if len(left) < begun:
            future.set_running_or_notify_cancel()
            future.set_result(make())
        left.append((future, make))
        return future

    monkeypatch.setattr("mdkt_ros.sparse.maps.run_beside", beside)
    x = street(1)
    with use_engine("native"):
        maps = SparseTensor(x.features, x.coordinates).maps
        maps.prepare([1, 2, 4])
        assert [future.cancelled() for future, _ in left] == [number >= begun for number in range(3)]
        builds = maps.builds
        tables = [maps.submanifold(stride).table for stride in (1, 2, 4)]
        assert maps.builds == builds
        alone = SparseTensor(x.features, x.coordinates).maps
        assert all(torch.equal(t, alone.submanifold(s).table) for t, s in zip(tables, (1, 2, 4), strict=True))


def test_threads_and_blocks_change_no_bit() -> None:
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with use_engine("native"):
                x = street(24)
                features = x.features.requires_grad_()
                kernel = torch.linspace(-1, 1, 27 * 24 * 40).view(27, 24, 40).requires_grad_()
                out = sparse_convolution(features, kernel, x.maps.submanifold(1))
                results.append((out, *torch.autograd.grad(out.square().sum(), (features, kernel))))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("preset", ["minkunet14s", "minkunet34_multiscale"])
def test_a_fused_network_gives_the_logits_of_the_plain_one(preset: str) -> None:
    """Sums, rectifiers and joined channels on the way, against batch norms and PyTorch's engine in double precision."""
    torch.manual_seed(0)
    network = build_network(preset, in_channels=4, classes=19, width=0.5).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    x = street(4)
    with torch.inference_mode(), use_engine("torch"):
        double = SparseTensor(x.features.double(), x.coordinates)
        expected = network.double()(double).logits
        network.float()
    with torch.inference_mode(), use_engine("native"):
        fused = fuse(network)
        again = SparseTensor(x.features, x.coordinates)
        first, second = fused(again).logits, fused(again).logits
    assert torch.equal(first, second)
    torch.testing.assert_close(first.double(), expected, rtol=1e-4, atol=1e-4)


def test_a_fused_network_still_has_gradients_of_its_input() -> None:
    torch.manual_seed(0)
    network = build_network("minkunet14s", in_channels=4, classes=3, width=0.25).eval()
    gradients = []
    for engine, module in (("torch", network), ("native", fuse(network))):
        with use_engine(engine):
            x = street(4)
            features = x.features.requires_grad_()
            logits = module(SparseTensor(features, x.coordinates)).logits
            gradients.append(torch.autograd.grad(logits.square().sum(), features)[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)


def test_what_comes_after_a_convolution() -> None:
    x = street(8)
    kernel, bias = torch.randn((27, 8, 12)) / 5, torch.randn(12)
    with torch.no_grad():
        for relu in (False, True):
            for engine in ("torch", "native"):
                with use_engine(engine):
                    fresh = SparseTensor(x.features, x.coordinates)
                    kernel_map = fresh.maps.submanifold(1)
                    add = torch.randn((len(x), 20), generator=torch.Generator().manual_seed(1))[:, 3:15]  # not dense
                    expected = by_definition(x.features, kernel, kernel_map, bias) + add
                    expected = expected.relu() if relu else expected
                    wide = torch.full((len(x), 30), 7.0)
                    out = sparse_convolution(
                        x.features, kernel, kernel_map, bias, add=add, relu=relu, out=wide[:, 9:21]
                    )
                    assert out.data_ptr() == wide[:, 9:21].data_ptr()
                    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
                    assert (wide[:, :9] == 7).all()
                    assert (wide[:, 21:] == 7).all()
                    own = add.contiguous()
                    sparse_convolution(x.features, kernel, kernel_map, bias, add=own, relu=relu, out=own)
                    torch.testing.assert_close(own.double(), expected, rtol=1e-5, atol=1e-5)


def test_memory_is_not_given_where_a_gradient_is_wanted() -> None:
    x = street(2)
    kernel = torch.zeros((27, 2, 2), requires_grad=True)
    with pytest.raises(ValueError, match="gradient is wanted"):
        sparse_convolution(x.features, kernel, x.maps.submanifold(1), out=torch.zeros((len(x), 2)))


def test_rectifying_keeps_nan() -> None:
    """Points of infinite intensity must come out as not labelled, not as zeros."""
    with use_engine("native"), torch.no_grad():
        x = street(1)
        features = x.features.clone()
        features[5] = float("nan")
        kernel = torch.ones((1, 1, 3))
        out = sparse_convolution(features, kernel, x.maps.identity(1), relu=True)
    assert out[5].isnan().all()
    assert out.isnan().sum() == 3


def test_features_whose_rows_lie_apart() -> None:
    with use_engine("native"), torch.no_grad():
        x = street(9)
        kernel = torch.randn((27, 4, 4))
        out = sparse_convolution(x.features[:, 2:6], kernel, x.maps.submanifold(1))
        assert torch.equal(out, sparse_convolution(x.features[:, 2:6].clone(), kernel, x.maps.submanifold(1)))


def test_a_kernel_that_changes_is_packed_again() -> None:
    with use_engine("native"), torch.no_grad():
        x = street(4)
        kernel = torch.nn.Parameter(torch.randn((27, 4, 4)), requires_grad=False)
        first = sparse_convolution(x.features, kernel, x.maps.submanifold(1))
        kernel.mul_(2)
        second = sparse_convolution(x.features, kernel, x.maps.submanifold(1))
        kernel.data = kernel.data * 2
        third = sparse_convolution(x.features, kernel, x.maps.submanifold(1))
    torch.testing.assert_close(second, 2 * first, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(third, 4 * first, rtol=1e-5, atol=1e-5)


def test_other_dtypes_go_to_torch() -> None:
    x = random_voxels("negative, odd extents", 3)
    kernel = torch.randn((27, 3, 4), dtype=torch.float64)
    with torch.no_grad():
        with use_engine("torch"):
            expected = sparse_convolution(x.features, kernel, x.maps.submanifold(1), relu=True)
        with use_engine("native"):
            assert torch.equal(sparse_convolution(x.features, kernel, x.maps.submanifold(1), relu=True), expected)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_tiles_cover_all_channels_within_the_registers(machine: Machine) -> None:
    for channels in range(1, 300):
        made = tiles(machine, channels)
        assert [tile.first for tile in made] == np.cumsum([0, *(tile.columns for tile in made[:-1])]).tolist()
        assert sum(tile.columns for tile in made) == channels
        for tile in made:
            assert (tile.vectors - 1) * machine.lanes < tile.columns <= tile.vectors * machine.lanes
            assert tile.rows * tile.vectors + tile.vectors + 1 <= machine.registers
            assert tile.rows >= 2


def test_this_machine_has_vectors() -> None:
    machine = this_machine()
    assert (machine.lanes, machine.registers) in [(known.lanes, known.registers) for known in MACHINES.values()]
    assert not machine.pairs or machine.lanes == 16


def test_auto_takes_it_on_the_cpu_and_says_so_once(own_engines, caplog) -> None:
    with caplog.at_level(logging.INFO, "mdkt_ros.sparse.backend"):
        assert current_engine(CPU).name == "native"
        assert current_engine(CPU).reason == ""
    assert [record.getMessage() for record in caplog.records] == ["engine on cpu: native"]


def no_numba(_name: str) -> str:
    raise PackageNotFoundError("numba")


def unimportable(name, *arguments, _real=builtins.__import__, **options):
    if name.split(".")[0] == "numba":
        raise ImportError("Numba needs NumPy 2.5 or less")
    return _real(name, *arguments, **options)


@pytest.mark.parametrize(
    ("target", "stand_in", "reason"),
    [
        ("mdkt_ros.sparse.loaders.version", no_numba, "numba is not installed; `pip install numba`"),
        ("mdkt_ros.sparse.loaders.version", lambda _name: "0.56.4", "numba 0.56.4 is too old, 0.62 would do"),
        ("builtins.__import__", unimportable, "numba cannot be imported: Numba needs NumPy 2.5 or less"),
    ],
)
def test_without_numba_auto_takes_torch_and_says_why(
    own_engines, monkeypatch, caplog, target, stand_in, reason
) -> None:
    for name in [name for name in sys.modules if name.startswith("mdkt_ros.sparse.native")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(target, stand_in)
    with caplog.at_level(logging.INFO, "mdkt_ros.sparse.backend"):
        assert current_engine(CPU).name == "torch"
    assert f"engine on cpu: torch (native: {reason}" in caplog.text
    with use_engine("native"), pytest.raises(ConfigError, match=f"native cannot run on cpu: {re.escape(reason)}"):
        current_engine(CPU)


def test_engine_names() -> None:
    assert set(engine_names()) >= {"auto", "torch", "native"}


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
@pytest.mark.parametrize("bits", [0, 1, 7, 11, 12, 22, 23, 46])
def test_packed_numbers_are_sorted_by_their_upper_bits(count: int, bits: int) -> None:
    """Few keys, so that many are equal; what is below them keeps its order, and the input its values."""
    generator = np.random.default_rng(bits)
    keys = generator.integers(0, 2**bits, count) & generator.integers(0, 2**bits, count)
    packed = (keys << 16) | generator.permutation(count)
    given = packed.copy()
    found = loops.sort_above(packed, 16, 16 + bits)
    assert np.array_equal(packed, given)
    assert np.array_equal(found, packed[np.argsort(keys, kind="stable")])
