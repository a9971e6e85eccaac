"""The Triton back end against the PyTorch one, under Triton's interpreter."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from interpreted_triton import interpreter, needs_triton
from sparse_inputs import INPUTS
from torch import nn

from mdkt_ros.sparse import (
    KernelMap,
    SparseTensor,
    StridedConv3d,
    SubmanifoldConv3d,
    TransposedConv3d,
    register_engine,
    self_test,
    use_engine,
)
from mdkt_ros.sparse.backend import EngineUnavailable
from mdkt_ros.sparse.torch_backend import TorchBackend
from mdkt_ros.sparse.triton_backend import TritonBackend, available, load
from mdkt_ros.sparse.triton_backend.loading import MODULES
from mdkt_ros.sparse.triton_backend.tuning import Launch

pytestmark = [needs_triton, pytest.mark.usefixtures("interpreter")]
__all__ = ["interpreter"]

MAPS = {
    "submanifold": lambda maps: maps.submanifold(1),
    "strided 3": lambda maps: maps.strided(1, 3),
    "strided 2": lambda maps: maps.strided(1, 2),
    "transposed": lambda maps: maps.transposed(1),
}
TOLERANCES = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}  # of the largest value


@pytest.fixture(scope="module")
def backend(interpreter: None) -> TritonBackend:
    return TritonBackend()


@pytest.fixture
def without_interpreter(monkeypatch) -> Iterator[None]:
    kernels = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    monkeypatch.delenv("TRITON_INTERPRET")
    yield
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.modules.update(kernels)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64).to(dtype)


def assert_agrees(result: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    assert result.dtype == dtype
    largest = float(expected.abs().max()) if expected.numel() else 0
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=TOLERANCES[dtype] * largest)


def check(
    backend: TritonBackend,
    kernel_map: KernelMap,
    channels: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    bias: torch.Tensor | None = None,
) -> None:
    """Values and both gradients, as `operator` asks for them."""
    oracle = TorchBackend()
    features = random(kernel_map.in_count, channels[0], dtype=dtype)
    kernel = random(len(kernel_map.table), *channels, dtype=dtype)
    gradient = random(kernel_map.out_count, channels[1], dtype=dtype)
    assert_agrees(
        backend.gather_gemm_scatter(features, kernel, kernel_map, bias),
        oracle.gather_gemm_scatter(
            features.double(), kernel.double(), kernel_map, None if bias is None else bias.double()
        ),
        dtype,
    )
    back, mirrored = kernel_map.reversed, kernel.transpose(1, 2)
    if kernel_map.symmetric:
        back, mirrored = kernel_map, kernel.flip(0).transpose(1, 2)
    assert_agrees(
        backend.gather_gemm_scatter(gradient, mirrored, back, None),
        oracle.gather_gemm_scatter(gradient.double(), mirrored.double(), back, None),
        dtype,
    )
    by_kernel = backend.kernel_gradient(features, gradient, kernel_map)
    if kernel_map.out_count == 0:
        assert by_kernel.shape == kernel.shape
        assert not by_kernel.any()
    else:
        assert_agrees(by_kernel, oracle.kernel_gradient(features.double(), gradient.double(), kernel_map), dtype)


@pytest.mark.parametrize("make", MAPS.values(), ids=MAPS)
@pytest.mark.parametrize("name", INPUTS)
def test_values_and_gradients(backend: TritonBackend, name: str, make) -> None:
    check(backend, make(INPUTS[name](1).maps), (3, 19), bias=random(19))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("channels", [(3, 40), (19, 3), (24, 16), (40, 19), (33, 24), (1, 1)])
def test_channels_that_fill_no_block(backend: TritonBackend, channels: tuple[int, int], dtype: torch.dtype) -> None:
    bias = None if channels[1] == 19 else random(channels[1], dtype=dtype)
    check(backend, INPUTS["dense corner"](1).maps.strided(1, 2), channels, dtype, bias)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_over_27_offsets(backend: TritonBackend, dtype: torch.dtype) -> None:
    check(backend, INPUTS["dense corner"](1).maps.submanifold(1), (19, 24), dtype, random(24, dtype=dtype))


def test_tiles_without_any_pair(backend: TritonBackend) -> None:
    """Rows of every tile but the middle one have no neighbour under any offset."""
    table = torch.full((27, 200), -1, dtype=torch.int32)
    table[4, 90:100] = torch.arange(10, dtype=torch.int32)
    check(backend, KernelMap(10, 200, table=table), (5, 7), bias=random(7))
    nothing = KernelMap(3, 70, table=torch.full((8, 70), -1, dtype=torch.int32))
    check(backend, nothing, (5, 7))
    out = backend.gather_gemm_scatter(random(3, 5), random(8, 5, 7), nothing, random(7))
    assert torch.equal(out, random(7).expand(70, 7))


def test_no_input_voxel_for_some_output(backend: TritonBackend) -> None:
    check(backend, KernelMap(0, 4, table=torch.full((8, 4), -1, dtype=torch.int32)), (2, 3), bias=random(3))


def test_tensors_of_any_strides(backend: TritonBackend) -> None:
    kernel_map = INPUTS["dense corner"](1).maps.strided(1, 2)
    wide = random(kernel_map.in_count, 20)
    kernel = random(6, 9, 8).permute(2, 1, 0)
    expected = TorchBackend().gather_gemm_scatter(wide[:, 1::2][:, :9], kernel, kernel_map, random(12)[::2])
    out = backend.gather_gemm_scatter(wide[:, 1::2][:, :9], kernel, kernel_map, random(12)[::2])
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    gradient = random(6, kernel_map.out_count).t()
    expected = TorchBackend().kernel_gradient(wide[:, 3:12], gradient, kernel_map)
    result = backend.kernel_gradient(wide[:, 3:12], gradient, kernel_map)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_every_run_gives_the_same_bits(backend: TritonBackend) -> None:
    kernel_map = INPUTS["dense corner"](1).maps.transposed(1)
    features, gradient = random(kernel_map.in_count, 5), random(kernel_map.out_count, 6)
    first = backend.kernel_gradient(features, gradient, kernel_map)
    assert torch.equal(backend.kernel_gradient(features, gradient, kernel_map), first)
    again = KernelMap(kernel_map.in_count, kernel_map.out_count, table=kernel_map.table.clone())
    assert torch.equal(backend.kernel_gradient(features, gradient, again), first)


@pytest.mark.parametrize(("offsets", "dtype"), [(8, torch.float64), (32, torch.float32)])
def test_what_it_cannot_compute_goes_to_pytorch(backend: TritonBackend, offsets: int, dtype: torch.dtype) -> None:
    table = torch.arange(5, dtype=torch.int32).repeat(offsets, 1)
    kernel_map = KernelMap(5, 5, table=table)
    features, kernel = random(5, 3, dtype=dtype), random(offsets, 3, 4, dtype=dtype)
    oracle = TorchBackend()
    out = backend.gather_gemm_scatter(features, kernel, kernel_map, None)
    assert torch.equal(out, oracle.gather_gemm_scatter(features, kernel, kernel_map, None))
    by_kernel = backend.kernel_gradient(features, out, kernel_map)
    assert torch.equal(by_kernel, oracle.kernel_gradient(features, out, kernel_map))


def test_a_map_is_laid_out_once(backend: TritonBackend) -> None:
    kernel_map = KernelMap(1, 1, table=torch.zeros((8, 1), dtype=torch.int32))
    with torch.inference_mode():
        backend.gather_gemm_scatter(random(1, 2), random(8, 2, 2), kernel_map, None)
    tiling = kernel_map.kept["triton tiling"]
    backend.gather_gemm_scatter(random(1, 2), random(8, 2, 2), kernel_map, None)
    assert kernel_map.kept["triton tiling"] is tiling
    assert not tiling.rows.is_inference()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("added", ["nothing", "another", "itself"])
def test_sum_and_rectifier(backend: TritonBackend, added: str, relu: bool, dtype: torch.dtype) -> None:
    kernel_map = INPUTS["dense corner"](1).maps.strided(1, 2)
    features, kernel, bias = random(64, 3, dtype=dtype), random(8, 3, 5, dtype=dtype), random(5, dtype=dtype)
    wide = random(kernel_map.out_count, 11, dtype=dtype)
    out, rest = wide[:, 2:7], wide[:, 7:].clone()
    add = {"nothing": None, "another": random(5, kernel_map.out_count, dtype=dtype).t(), "itself": out}[added]
    expected = TorchBackend().gather_gemm_scatter(features.double(), kernel.double(), kernel_map, bias.double())
    expected = expected if add is None else expected + add.double()
    assert backend.convolve(features, kernel, kernel_map, bias, add, relu, out)
    assert_agrees(out, expected.relu() if relu else expected, dtype)
    assert torch.equal(wide[:, 7:], rest)


@pytest.mark.parametrize(
    ("of", "splits", "dtype"),
    [("submanifold", 3, torch.float32), ("strided 2", 2, torch.float16), ("strided 2", 12, torch.bfloat16)],
)
def test_programs_that_share_a_tile(
    backend: TritonBackend, of: str, splits: int, dtype: torch.dtype, monkeypatch
) -> None:
    """Also more of them than there are steps, some of which have nothing to add."""
    kernel_map = MAPS[of](INPUTS["dense corner"](1).maps)
    offsets = len(kernel_map.table)
    features, kernel, bias = random(64, 20, dtype=dtype), random(offsets, 20, 19, dtype=dtype), random(19, dtype=dtype)
    add = random(kernel_map.out_count, 19, dtype=dtype)
    expected = TorchBackend().gather_gemm_scatter(features.double(), kernel.double(), kernel_map, bias.double())
    monkeypatch.setattr(backend, "_launch", lambda *_: Launch(32, 32, 32, splits=splits))
    assert_agrees(backend.gather_gemm_scatter(features, kernel, kernel_map, bias), expected, dtype)
    out = add.clone()
    assert backend.convolve(features, kernel, kernel_map, bias, out, True, out)
    assert_agrees(out, (expected + add.double()).relu(), dtype)
    again = add.clone()
    assert backend.convolve(features, kernel, kernel_map, bias, again, True, again)
    assert torch.equal(out, again)


def test_rectified_nan_stays(backend: TritonBackend) -> None:
    kernel_map = KernelMap(1, 1, table=torch.zeros((8, 1), dtype=torch.int32))
    out = torch.zeros((1, 2))
    backend.convolve(torch.full((1, 3), torch.nan), random(8, 3, 2), kernel_map, None, None, True, out)
    assert out.isnan().all()


def test_channels_that_lie_apart_are_refused(backend: TritonBackend) -> None:
    kernel_map = INPUTS["dense corner"](1).maps.strided(1, 2)
    with pytest.raises(ValueError, match="side by side"):
        backend.convolve(random(64, 3), random(8, 3, 2), kernel_map, None, None, False, random(2, 8).t())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_1_1_1_convolutions_are_plain_products(backend: TritonBackend, dtype: torch.dtype) -> None:
    kernel_map = INPUTS["dense corner"](1).maps.identity(1)
    features, kernel, bias = random(64, 3, dtype=dtype), random(1, 3, 5, dtype=dtype), random(5, dtype=dtype)
    assert not backend.convolve(features, kernel, kernel_map, None, None, False, random(64, 5, dtype=dtype))
    assert torch.equal(backend.gather_gemm_scatter(features, kernel, kernel_map, None), features @ kernel[0])
    out = backend.gather_gemm_scatter(features, kernel, kernel_map, bias)
    torch.testing.assert_close(out, features @ kernel[0] + bias)
    expected = TorchBackend().kernel_gradient(features, out, kernel_map)
    torch.testing.assert_close(backend.kernel_gradient(features, out, kernel_map), expected)


def test_tuning_does_not_add_twice(backend: TritonBackend, monkeypatch) -> None:
    """What is measured may run any number of times, on an output that is added to itself."""
    kernel_map = INPUTS["dense corner"](1).maps.strided(1, 2)
    features, kernel = random(64, 3), random(8, 3, 5)
    start = random(kernel_map.out_count, 5)
    expected = TorchBackend().gather_gemm_scatter(features, kernel, kernel_map, None) + start

    def measured(*arguments) -> Launch:
        run = arguments[-1]
        run(Launch(64, 16, 16))
        run(Launch(32, 16, 16))
        return Launch(32, 16, 16)

    monkeypatch.setattr(backend, "_launch", measured)
    assert backend.convolve(features, kernel, kernel_map, None, start, False, start)
    torch.testing.assert_close(start, expected, rtol=1e-5, atol=1e-5)


def test_engine_trains_a_network(backend: TritonBackend, own_engines: None) -> None:
    register_engine("triton interpreted", lambda _device: backend)
    network = nn.Sequential(SubmanifoldConv3d(2, 3, bias=True), StridedConv3d(3, 4), TransposedConv3d(4, 2))
    values = {}
    for engine in ("torch", "triton interpreted"):
        with use_engine(engine):
            x = INPUTS["isolated voxels"](2)
            x = SparseTensor(x.features.float(), x.coordinates)
            out = network(x).features
            gradients = torch.autograd.grad(out.square().sum(), tuple(network.parameters()))
            with torch.no_grad():
                assert torch.allclose(network(x).features, out)
        values[engine] = (out, *gradients)
    for mine, expected in zip(values["triton interpreted"], values["torch"], strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_31_offsets(backend: TritonBackend) -> None:
    table = torch.full((31, 40), -1, dtype=torch.int32)
    table[:, :35] = torch.randint(-1, 9, (31, 35), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    features, kernel = random(9, 5), random(31, 5, 7)
    out = backend.gather_gemm_scatter(features, kernel, KernelMap(9, 40, table=table), None)
    gathered = torch.where((table >= 0)[:, :, None], features[table.long()], 0)
    torch.testing.assert_close(out, (gathered @ kernel).sum(dim=0), rtol=1e-5, atol=1e-5)


def test_self_test(backend: TritonBackend, monkeypatch) -> None:
    kernel_maps = self_test._kernel_maps
    monkeypatch.setattr(  # the interpreter is slow
        self_test, "_kernel_maps", lambda *arguments: dict(list(kernel_maps(*arguments).items())[2:])
    )
    assert self_test.agrees(backend, "cpu", torch.float32) is None


def test_available(without_interpreter: None, monkeypatch) -> None:
    assert available(torch.device("cpu")) == "it computes on CUDA devices alone"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    message = "its kernels are made for compute capability 8.0 and up, and this device has 7.5"
    assert available(torch.device("cuda")) == message
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 7))
    assert available(torch.device("cuda")) is None


def test_the_interpreter_is_available_anywhere() -> None:
    assert available(torch.device("cpu")) is None


def test_compiled_kernels_leave_the_cpu_to_pytorch(without_interpreter: None) -> None:
    backend = TritonBackend()
    assert not backend.tuning
    backend.tuning = True
    assert backend.tuning
    kernel_map = INPUTS["dense corner"](1).maps.strided(1, 2)
    features, kernel = random(kernel_map.in_count, 3), random(8, 3, 4)
    expected = TorchBackend().gather_gemm_scatter(features, kernel, kernel_map, None)
    assert torch.equal(backend.gather_gemm_scatter(features, kernel, kernel_map, None), expected)


def test_without_triton(without_interpreter: None, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(EngineUnavailable, match=r"triton cannot be imported: .*; PyTorch for CUDA on Linux has it"):
        load()
    with pytest.raises(EngineUnavailable, match="triton cannot be imported"):
        TritonBackend()
    assert "triton cannot be imported" in (available(torch.device("cuda")) or "")


def test_tf32_follows_pytorch(backend: TritonBackend, monkeypatch) -> None:
    asked: list[str] = []
    launches = defaultdict(lambda: lambda *_, **options: asked.append(options["PRECISION"]))
    monkeypatch.setattr(backend, "_kernels", SimpleNamespace(**{**vars(load()), "gather_gemm_scatter": launches}))
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    try:
        for allowed in (False, True):
            matmul.allow_tf32 = allowed
            backend.gather_gemm_scatter(
                random(1, 2), random(1, 2, 2), KernelMap(1, 1, table=torch.zeros((1, 1), dtype=torch.int32)), None
            )
    finally:
        matmul.allow_tf32 = before
    assert asked == ["ieee", "tf32"]
