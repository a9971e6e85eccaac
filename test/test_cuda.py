"""The engines on a real GPU: values, gradients, maps, graphs, and what may not wait. Skips where there is none."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sparse_inputs import INPUTS, by_definition, maps_of, street

from mdkt_ros.benchmark.scans import spinning_scan
from mdkt_ros.memory import give_memory_back
from mdkt_ros.network import build_network
from mdkt_ros.segmenter import Segmenter
from mdkt_ros.sparse import KernelMap, SparseTensor, fuse, in_precision, use_engine
from mdkt_ros.sparse.torch_backend import TorchBackend
from mdkt_ros.voxel_grid import VoxelGrid
from mdkt_ros.voxels import collate, voxelize

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

CUDA = torch.device("cuda")
TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # of the largest value


@pytest.fixture(scope="module", autouse=True)
def full_precision() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(scope="module")
def backend():
    from mdkt_ros.sparse.triton_backend import TritonBackend

    return TritonBackend()


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(CUDA)


def assert_agrees(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found.double().cpu(), expected.cpu(), rtol=0, atol=TOLERANCES[dtype] * largest)


@pytest.mark.parametrize("name", INPUTS)
def test_maps_are_those_of_pytorch(name: str) -> None:
    x = INPUTS[name](1)
    with use_engine("torch"):
        expected = maps_of(SparseTensor(x.features, x.coordinates))
    with use_engine("triton"):
        found = maps_of(SparseTensor(x.features.to(CUDA), x.coordinates.to(CUDA)))
    for kind, kernel_map in expected.items():
        assert torch.equal(found[kind].table.cpu(), kernel_map.table), kind


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("channels", [(4, 32), (3, 19), (40, 24), (64, 128)])
def test_values_and_gradients(backend, channels: tuple[int, int], dtype: torch.dtype) -> None:
    x = street(1)
    with use_engine("triton"):
        maps = maps_of(SparseTensor(x.features.to(CUDA), x.coordinates.to(CUDA)))
    oracle = TorchBackend()
    for kind, kernel_map in maps.items():
        features = random(kernel_map.in_count, channels[0], dtype=dtype)
        kernel = random(kernel_map.offsets, *channels, dtype=dtype)
        bias = random(channels[1], dtype=dtype)
        add = random(kernel_map.out_count, channels[1], dtype=dtype)
        on_cpu = KernelMap(kernel_map.in_count, kernel_map.out_count, table=kernel_map.table.cpu())
        expected = by_definition(features.cpu(), kernel.cpu(), on_cpu, bias.cpu())
        assert_agrees(backend.gather_gemm_scatter(features, kernel, kernel_map, bias), expected, dtype)
        if kind != "identity":
            out = torch.full_like(add, float("nan"))
            assert backend.convolve(features, kernel, kernel_map, bias, add, True, out)
            assert_agrees(out, (expected + add.double().cpu()).relu(), dtype)
        found = backend.kernel_gradient(features, add, kernel_map)
        assert_agrees(found, oracle.kernel_gradient(features.double(), add.double(), kernel_map), dtype)


def test_the_same_bits_every_time(backend) -> None:
    x = street(1)
    with use_engine("triton"):
        kernel_map = SparseTensor(x.features.to(CUDA), x.coordinates.to(CUDA)).maps.submanifold(1)
    features, kernel = random(kernel_map.in_count, 48), random(27, 48, 40)
    gradient = random(kernel_map.out_count, 40)
    first = backend.gather_gemm_scatter(features, kernel, kernel_map, None)
    first_gradient = backend.kernel_gradient(features, gradient, kernel_map)
    for _ in range(2):
        assert torch.equal(backend.gather_gemm_scatter(features, kernel, kernel_map, None), first)
        assert torch.equal(backend.kernel_gradient(features, gradient, kernel_map), first_gradient)


def scan(points: int = 40_000) -> SparseTensor:
    grid = VoxelGrid(0.1, (-100.0, -100.0, -10.0), (100.0, 100.0, 10.0))
    return collate([voxelize(spinning_scan(32, points // 32), None, grid)])[0].to(CUDA)


def error_of_logits(engine: str, dtype: torch.dtype) -> float:
    """The largest deviation from double precision, of the largest logit."""
    torch.manual_seed(0)
    network = fuse(build_network("minkunet18", in_channels=4, classes=19, width=0.5)).to(CUDA)
    x = scan()
    with torch.inference_mode():
        with use_engine("torch"):
            exact = copy.deepcopy(network).double()(SparseTensor(x.features.double(), x.coordinates)).logits
        with use_engine(engine):
            found = in_precision(network, dtype)(SparseTensor(x.features, x.coordinates)).logits
    return float((found.double() - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 6e-2)])
def test_a_network_gives_the_values_of_double_precision(dtype: torch.dtype, off: float) -> None:
    assert error_of_logits("triton", dtype) < off


def test_gradients_of_a_network() -> None:
    torch.manual_seed(0)
    network = build_network("minkunet14s", in_channels=4, classes=19).to(CUDA)
    x = scan()
    gradients = {}
    for engine in ("torch", "triton"):
        network.zero_grad()
        with use_engine(engine):
            network(SparseTensor(x.features, x.coordinates)).logits.square().mean().backward()
        gradients[engine] = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    for name, expected in gradients["torch"].items():
        error = (gradients["triton"][name] - expected).norm() / expected.norm().clamp(min=1e-12)
        assert float(error) < 1e-3 or float(expected.norm()) < 1e-7, name


def test_a_forward_pass_does_not_wait_for_the_device() -> None:
    network = fuse(build_network("minkunet14s", in_channels=4, classes=19)).to(CUDA)
    x = scan()
    with torch.inference_mode(), use_engine("triton"):
        network(x)  # makes maps and tunes
        torch.cuda.synchronize()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "a prototype feature"
            torch.cuda.set_sync_debug_mode("error")
        try:
            logits = network(x).logits
            with pytest.raises(RuntimeError, match="synchroniz"):  # the guard is awake
                logits.sum().item()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(scope="module")
def torchsparse() -> Iterator[None]:
    """torchsparse 2.1 in float32 proper: its default on such a GPU is TF32."""
    package = pytest.importorskip("torchsparse", reason="torchsparse is not installed")
    before = package.backends.allow_tf32
    package.backends.allow_tf32 = False
    yield
    package.backends.allow_tf32 = before


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-5), (torch.float16, 2e-2)])
def test_torchsparse_gives_the_values_of_double_precision(torchsparse: None, dtype: torch.dtype, off: float) -> None:
    assert error_of_logits("torchsparse", dtype) < off


def test_torchsparse_trains(torchsparse: None) -> None:
    torch.manual_seed(0)
    network = build_network("minkunet14s", in_channels=4, classes=19).to(CUDA)
    x = scan(10_000)
    gradients = []
    for engine in ("torch", "torchsparse"):
        network.zero_grad()
        with use_engine(engine):
            network(SparseTensor(x.features, x.coordinates)).logits.square().mean().backward()
        gradients.append(torch.cat([p.grad.view(-1) for p in network.parameters() if p.grad is not None]))
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 1e-3


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_shipped_network_labels_like_the_cpu(precision: str) -> None:
    points = spinning_scan(32, 1000)
    intensity = np.full(len(points), 0.3, np.float32)
    points[::90] = np.nan
    one = Segmenter.load(device="cpu", engine="torch").segment(points, intensity)
    for engine in ("torch", "triton"):
        segmenter = Segmenter.load(device="cuda", engine=engine, precision=precision)
        for _ in range(2):
            other = segmenter.segment(points, intensity)
            assert np.array_equal(one.class_id == 255, other.class_id == 255)
            assert (one.class_id == other.class_id).mean() > (0.999 if precision == "fp32" else 0.99)
            np.testing.assert_allclose(one.probability, other.probability, atol=0.01 if precision == "fp32" else 0.2)


def test_a_graph_grows_with_the_scans_and_gives_its_memory_back() -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    segmenter = Segmenter.load(device="cuda", engine="triton", precision="bf16")
    plain = Segmenter.load(device="cuda", engine="torch", precision="bf16")
    for azimuths in (200, 220, 1000, 300, 1100, 0):
        points = spinning_scan(32, azimuths) if azimuths else np.zeros((0, 3), np.float32)
        intensity = np.full(len(points), 0.3, np.float32)
        one, other = plain.segment(points, intensity), segmenter.segment(points, intensity)
        assert len(one) == len(other)
        assert (one.class_id != other.class_id).sum() <= 0.01 * len(one)
    del segmenter, plain
    give_memory_back()
    assert torch.cuda.memory_reserved() <= before + (8 << 20)  # what libraries keep for themselves
