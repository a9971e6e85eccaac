"""`mdkt bench`: the figures that do not depend on the machine, and that the others are measured at all."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from rich.console import Console

from mdkt_ros.benchmark.cases import GEMM, PRESETS, STAGES, parse_preset
from mdkt_ros.benchmark.command import bench_engines
from mdkt_ros.benchmark.engines import measure
from mdkt_ros.benchmark.layers import measure_layers
from mdkt_ros.benchmark.machine import measure_machine
from mdkt_ros.benchmark.products import Products
from mdkt_ros.benchmark.scans import scan_of, spinning_scan
from mdkt_ros.errors import ConfigError
from mdkt_ros.network import build_network, flops, parameter_count
from mdkt_ros.sparse import SparseConvolution, SparseTensor, fuse

POINTS = np.random.default_rng(0).uniform(-4, 4, (300, 3)).astype(np.float32)
SMALL = [("minkunet14s", 0.25), ("minkunet18", 0.25)]


@pytest.fixture(scope="module")
def engines():
    pytest.importorskip("numba", reason="the engine `native` needs numba")
    return ("torch", "native", GEMM)


@pytest.fixture(scope="module")
def rows(engines):
    return measure([POINTS], voxel_size=0.5, presets=SMALL, engines=engines, threads=(1, 2), repeats=2)


def test_every_case_has_a_row(rows, engines):
    cases = [(row.preset, row.threads, row.stage, row.engine) for row in rows]
    expected = [
        (preset, threads, stage, engine)
        for preset, _ in SMALL
        for threads in (1, 2)
        for stage in STAGES
        for engine in engines
        if engine != GEMM or stage == "forward"
    ]
    assert cases == expected


def test_rows_say_what_was_measured(rows):
    for row in rows:
        network = build_network(row.preset, in_channels=4, classes=19, width=row.width)
        assert row.parameters == parameter_count(network)
        assert (row.points, row.voxels, row.scans) == (300, len(np.unique(np.floor(POINTS / 0.5), axis=0)), 1)
        assert (row.voxel_size, row.device, row.dtype) == (0.5, "cpu", "float32")
        assert row.wall_ms > 0
        assert row.cpu_ms > 0
        assert row.spread >= 0
        assert row.ms == (row.cpu_ms if row.threads == 1 else row.wall_ms)
    small, large = ({row.gflop for row in rows if row.preset == preset} for preset, _ in SMALL)
    assert len(small) == len(large) == 1
    assert max(small) < max(large)  # every convolution of the bigger network has more channels than its kin


def test_values_are_compared_with_double_precision(rows):
    for row in rows:
        if row.engine == GEMM or row.stage in ("maps", "end_to_end"):
            assert row.max_rel_error is None
        else:
            assert row.max_rel_error is not None
            assert 0 < row.max_rel_error < 1e-3  # float32 is not exact


def test_a_half_precision_has_rows_of_its_own(engines):
    wanted = ["native", "native:bf16", "gemm"]
    found = measure([POINTS], voxel_size=0.5, presets=SMALL[:1], engines=wanted, repeats=1)
    forward = {row.who: row for row in found if row.stage == "forward"}
    assert list(forward) == ["native", "native bfloat16", "gemm"]
    assert [row.stage for row in found if row.dtype == "bfloat16"] == ["forward", "end_to_end"]
    exact, rounded = (forward[name].max_rel_error for name in ("native", "native bfloat16"))
    assert exact is not None
    assert rounded is not None
    assert exact < 1e-5 < rounded < 5e-2


@pytest.mark.parametrize("text", ["native:half", "native:auto", "native:bf16:bf16"])
def test_a_precision_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match=f"engine: '{text}' is not NAME, NAME:bf16 or NAME:fp16"):
        bench_engines(None, [], chosen=[text], voxel_size=1.0, repeats=1, device="cpu")


def test_a_wrong_engine_shows(own_engines):
    from mdkt_ros.sparse import register_engine
    from mdkt_ros.sparse.torch_backend import TorchBackend

    class Wrong(TorchBackend):
        def gather_gemm_scatter(self, *arguments):
            return super().gather_gemm_scatter(*arguments) * 2

    register_engine("wrong", lambda _device: Wrong())
    found = measure([POINTS], voxel_size=0.5, presets=SMALL[:1], engines=("wrong",), stages=("forward",), repeats=1)
    assert found[0].max_rel_error is not None
    assert found[0].max_rel_error > 0.01


def test_several_scans_are_one_batch():
    scans = [POINTS, POINTS[:100]]
    (row,) = measure(scans, voxel_size=0.5, presets=SMALL[:1], engines=("torch",), stages=("forward",), repeats=1)
    assert (row.scans, row.points) == (2, 400)
    assert row.voxels == sum(len(np.unique(np.floor(scan / 0.5), axis=0)) for scan in scans)


def test_operations_of_one_voxel_by_hand():
    (row,) = measure([POINTS[:1]], presets=[("minkunet14s", 0.25)], engines=("torch",), stages=("forward",), repeats=1)
    # With a single voxel each trained weight matrix meets one row at most: two operations a weight.
    assert 0 < row.gflop * 1e9 <= 2 * row.parameters


def test_progress_is_told():
    calls: list[tuple[int, int]] = []
    measure(
        [POINTS],
        voxel_size=0.5,
        presets=SMALL,
        engines=("torch",),
        stages=("maps",),
        repeats=1,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_layers_add_up_to_the_network():
    network = fuse(build_network("minkunet14s", in_channels=3, classes=5, width=0.25))
    x = SparseTensor(torch.rand((200, 3)), torch.unique(torch.randint(0, 9, (400, 4)), dim=0)[:200].int())
    layers = measure_layers(network, x, ["torch", "native"], repeats=1)
    ours = [layer for layer in layers if layer.engine == "torch"]
    assert len(ours) == sum(isinstance(module, SparseConvolution) for module in network.modules())
    assert [layer.kernel for layer in layers if layer.engine == "native"] == [layer.kernel for layer in ours]
    operations = sum(2 * layer.pairs * layer.kernel[1] * layer.kernel[2] for layer in ours)
    classifier = 2 * len(x) * network.feature_channels[1] * 5
    assert operations + classifier == flops(network, x)
    assert all(layer.intensity > 0 for layer in layers)
    assert all(layer.gflops > 0 for layer in layers)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_products_multiply_what_the_network_does(monkeypatch):
    network = fuse(build_network("minkunet14s", in_channels=3, classes=5, width=0.25))
    x = SparseTensor(torch.rand((50, 3)), torch.unique(torch.randint(0, 6, (200, 4)), dim=0)[:50].int())
    products = Products(network, x)
    operations = 0
    real = torch.mm

    def counted(a, b, **options):
        nonlocal operations
        operations += 2 * a.shape[0] * b.shape[0] * b.shape[1]
        return real(a, b, **options)

    monkeypatch.setattr(torch, "mm", counted)
    products()
    assert operations + 2 * len(x) * network.feature_channels[1] * 5 == flops(network, x)


def test_the_machine_has_rates():
    machine = measure_machine(torch.device("cpu"), repeats=1)
    assert machine.name
    assert machine.threads == torch.get_num_threads()
    assert machine.gemm_gflops > 0.1
    assert machine.copy_gbs > 0.01


def test_figures_table_and_picture(tmp_path, engines):
    pytest.importorskip("matplotlib", reason="plots need the extra `bench`")
    show = bench_engines(
        None,
        ["minkunet14s:0.1"],
        threads=(1,),
        voxel_size=2.0,
        repeats=1,
        device="cpu",
        as_json=tmp_path / "b.json",
        picture=tmp_path / "b.png",
    )
    figures = json.loads((tmp_path / "b.json").read_text())
    assert set(figures) == {"machine", "rows", "scaling", "layers"}
    assert {row["engine"] for row in figures["rows"]} >= {"torch", "native", "gemm"}
    assert figures["scaling"] == []
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    console = Console(width=140, record=True, file=open(tmp_path / "shown", "w"))  # noqa: SIM115
    show(console)
    shown = console.export_text()
    console.file.close()
    assert "minkunet14s x 0.1" in shown
    assert "end to end" in shown
    assert "SGEMM" in shown


def test_unknown_engines_are_refused():
    with pytest.raises(ConfigError, match="engine: 'fast' is unknown"):
        bench_engines(None, [], chosen=["fast"], voxel_size=1.0, repeats=1, device="cpu")


def test_presets_are_named_with_a_width():
    assert parse_preset("minkunet18") == ("minkunet18", 1.0)
    assert parse_preset("minkunet18:0.5") == ("minkunet18", 0.5)
    for text in ("minkunet18:wide", "minkunet18:0.5:2"):
        with pytest.raises(ConfigError, match=f"preset: '{text}' is not NAME or NAME:WIDTH, such as minkunet18:0.5"):
            parse_preset(text)
    for name, width in PRESETS:
        assert parse_preset(f"{name}:{width}") == (name, width)


@pytest.mark.parametrize("text", ["resnet50", "minkunet18:0", "minkunet18:nan", "minkunet18:-1"])
def test_presets_that_do_not_exist(text):
    with pytest.raises(ConfigError, match=r"preset|width"):
        measure([POINTS], presets=[parse_preset(text)], repeats=1)


def test_the_made_up_scan():
    points = spinning_scan()
    assert (points.dtype, points.shape[1]) == (np.float32, 3)
    assert 100_000 < len(points) < 122_000
    assert np.isfinite(points).all()
    assert np.linalg.norm(points[:, :2], axis=1).max() < 81
    assert np.array_equal(points, spinning_scan())
    assert not np.array_equal(points[:100], spinning_scan(seed=1)[:100])
    assert len(spinning_scan(beams=16, azimuths=400)) < 6400


@pytest.mark.parametrize("points", [3_000, 10_000, 100_000, 1_000_000])
def test_made_up_scans_of_a_size(points):
    assert 0.75 * points < len(scan_of(points)) <= 1.05 * points
