"""The back end over torchsparse, on a stand-in for it: which arguments it passes, and what it makes of the rest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import fake_torchsparse
import pytest
import torch
from sparse_inputs import INPUTS

from mdkt_ros.sparse import KernelMap
from mdkt_ros.sparse.backend import EngineUnavailable
from mdkt_ros.sparse.self_test import agrees
from mdkt_ros.sparse.torch_backend import TorchBackend
from mdkt_ros.sparse.torchsparse_backend import TorchsparseBackend, available

MAPS = {
    "submanifold": lambda maps: maps.submanifold(1),
    "strided 3": lambda maps: maps.strided(1, 3),
    "strided 2": lambda maps: maps.strided(1, 2),
    "transposed": lambda maps: maps.transposed(1),
}


@pytest.fixture
def backend(monkeypatch) -> TorchsparseBackend:
    fake_torchsparse.insert(monkeypatch)
    return TorchsparseBackend("cpu")


CUDA = torch.device("cuda")


@pytest.fixture
def broken_torchsparse(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """A package of that name, earliest on the path; the test writes what its import runs."""
    package = tmp_path / "torchsparse"
    package.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("torchsparse", "torchsparse.backend"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield package / "__init__.py"
    for name in ("torchsparse", "torchsparse.backend"):
        sys.modules.pop(name, None)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("make", MAPS.values(), ids=MAPS)
@pytest.mark.parametrize("name", INPUTS)
def test_values_and_gradients(backend: TorchsparseBackend, name: str, make, dtype: torch.dtype) -> None:
    kernel_map, oracle = make(INPUTS[name](1).maps), TorchBackend()
    features = random(kernel_map.in_count, 3, dtype=dtype)
    kernel = random(len(kernel_map.table), 5, 3, dtype=dtype).transpose(1, 2)
    gradient = random(kernel_map.out_count, 5, dtype=dtype)
    for bias in (None, random(5, dtype=dtype)):
        out = backend.gather_gemm_scatter(features, kernel, kernel_map, bias)
        expected = oracle.gather_gemm_scatter(
            features.double(), kernel.double(), kernel_map, None if bias is None else bias.double()
        )
        tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 0.02}.get(dtype, 0.05)
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    if kernel_map.out_count:
        by_kernel = backend.kernel_gradient(features, gradient, kernel_map)
        assert torch.equal(by_kernel, oracle.kernel_gradient(features, gradient, kernel_map))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_self_test(backend: TorchsparseBackend, dtype: torch.dtype) -> None:
    assert agrees(backend, "cpu", dtype) is None


@pytest.mark.parametrize(("offsets", "symmetric"), [(1, True), (1, False), (3, False)])
def test_the_middle_offset_is_not_taken_for_granted(backend: TorchsparseBackend, offsets: int, symmetric: bool) -> None:
    """As many outputs as inputs, but every output takes another row."""
    table = torch.full((offsets, 4), -1, dtype=torch.int32)
    table[offsets // 2] = torch.tensor([0, 1, 2, 3] if symmetric else [2, 0, 3, 1], dtype=torch.int32)
    kernel_map = KernelMap(4, 4, table=table, symmetric=symmetric)
    features, kernel = random(4, 3), random(offsets, 3, 2)
    out = backend.gather_gemm_scatter(features, kernel, kernel_map, None)
    expected = TorchBackend().gather_gemm_scatter(features, kernel, kernel_map, None)
    torch.testing.assert_close(out, expected)
    assert out.is_contiguous()


def test_a_map_is_laid_out_once(backend: TorchsparseBackend) -> None:
    kernel_map = INPUTS["dense corner"](1).maps.strided(1, 2)
    with torch.inference_mode():
        backend.gather_gemm_scatter(random(64, 2), random(8, 2, 2), kernel_map, None)
    neighbours = kernel_map.kept["torchsparse"]
    backend.gather_gemm_scatter(random(64, 2), random(8, 2, 2), kernel_map, None)
    assert kernel_map.kept["torchsparse"] is neighbours
    assert not neighbours.pairs.is_inference()


def test_tensors_elsewhere_go_to_pytorch(monkeypatch) -> None:
    fake_torchsparse.insert(monkeypatch)
    backend = TorchsparseBackend()
    monkeypatch.setattr(backend, "_compiled", None)
    kernel_map = INPUTS["dense corner"](1).maps.strided(1, 2)
    features, kernel = random(64, 2), random(8, 2, 2)
    expected = TorchBackend().gather_gemm_scatter(features, kernel, kernel_map, None)
    assert torch.equal(backend.gather_gemm_scatter(features, kernel, kernel_map, None), expected)


def test_available(monkeypatch) -> None:
    fake_torchsparse.insert(monkeypatch)
    assert available(CUDA) is None
    fake_torchsparse.insert(monkeypatch, version="1.4.0")
    assert available(CUDA) == "torchsparse must be version 2.1, not 1.4.0"
    fake_torchsparse.insert(monkeypatch, with_cuda=False)
    assert available(CUDA) == "torchsparse was built without CUDA"
    assert available(torch.device("cpu")) == "it computes on CUDA devices alone"


@pytest.mark.parametrize(
    "error",
    [
        "ImportError('undefined symbol')",
        "ModuleNotFoundError('no module named rootpath')",
        "AssertionError('Torch not compiled with CUDA enabled')",
        "RuntimeError('Found no NVIDIA driver on your system')",
        "OSError('libcudart.so.11.0: cannot open shared object file')",
    ],
)
def test_whatever_its_import_raises(broken_torchsparse: Path, error: str) -> None:
    broken_torchsparse.write_text(f"raise {error}\n")
    kind, _, message = error.partition("('")
    expected = f"torchsparse cannot be imported ({kind}: {message.removesuffix(chr(39) + ')')})"
    assert available(CUDA) == expected
    with pytest.raises(EngineUnavailable) as raised:
        TorchsparseBackend()
    assert str(raised.value) == expected


def test_without_torchsparse(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchsparse", None)
    assert "torchsparse cannot be imported" in (available(CUDA) or "")
