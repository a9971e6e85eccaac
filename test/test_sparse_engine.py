"""What the sparse engine promises besides values: numbering, caches, memory, threads, back ends, refusals."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import pytest
import torch
from sparse_inputs import few_voxels, random_voxels
from torch import nn

from mdkt_ros.errors import ConfigError, SparseError
from mdkt_ros.sparse import (
    KernelMap,
    SparseTensor,
    StridedConv3d,
    SubmanifoldConv3d,
    TransposedConv3d,
    block_threads,
    cat,
    current_engine,
    engines,
    register_engine,
    sparse_convolution,
    use_engine,
)
from mdkt_ros.sparse.torch_backend import TorchBackend
from mdkt_ros.sparse.torch_maps import TorchMaps


@pytest.mark.parametrize(
    ("index", "offset"), [(0, (-1, -1, -1)), (1, (0, -1, -1)), (3, (-1, 0, -1)), (9, (-1, -1, 0)), (26, (1, 1, 1))]
)
def test_odd_kernels_count_offsets_x_fastest(index: int, offset: tuple[int, int, int]) -> None:
    """torchsparse 2.1: the input of offset `off` is at `out + off`."""
    x = few_voxels([[0, 0, 0, 0], [0, *offset]], 1)
    kernel = torch.zeros((27, 1, 1), dtype=torch.float64)
    kernel[index] = 1
    out = sparse_convolution(x.features, kernel, x.maps.submanifold(1))
    assert out[0].item() == x.features[1].item()
    assert out[1].item() == 0


@pytest.mark.parametrize(("index", "place"), [(0, (0, 0, 0)), (1, (0, 0, 1)), (2, (0, 1, 0)), (4, (1, 0, 0))])
def test_even_kernels_count_offsets_z_fastest(index: int, place: tuple[int, int, int]) -> None:
    x = few_voxels([[0, -2 + place[0], place[1], 4 + place[2]]], 1)
    for k in range(8):
        kernel = torch.zeros((8, 1, 1), dtype=torch.float64)
        kernel[k] = 1
        out = sparse_convolution(x.features, kernel, x.maps.strided(1, 2))
        assert out.item() == (x.features.item() if k == index else 0)
    assert x.maps.coordinates(2).tolist() == [[0, -1, 0, 2]]


def large(channels: int, dtype: torch.dtype = torch.float64) -> SparseTensor:
    """Enough voxels for several blocks of output rows."""
    generator = torch.Generator().manual_seed(3)
    coordinates = (torch.rand((3, 20, 20, 20), generator=generator) < 0.25).nonzero() - torch.tensor([0, 9, 10, 11])
    features = torch.randn((len(coordinates), channels), generator=generator, dtype=dtype)
    return SparseTensor(features.requires_grad_(), coordinates.to(torch.int32))


def by_definition(
    features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap, bias: torch.Tensor | None
) -> torch.Tensor:
    out = features.new_zeros((kernel_map.out_count, kernel.shape[2])) + (0 if bias is None else bias)
    for rows, matrix in zip(kernel_map.table, kernel, strict=True):
        there = rows >= 0
        out[there] += features[rows[there].long()] @ matrix
    return out


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("make", [lambda maps: maps.submanifold(1), lambda maps: maps.strided(1, 3)])
def test_blocks_and_threads_change_no_bit(make, two_threads: None) -> None:
    x = large(4)
    kernel_map = make(x.maps)
    kernel = torch.randn((27, 4, 6), dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    wanted = (x.features, kernel, bias)
    reference = by_definition(x.features, kernel, kernel_map, bias)
    weights = torch.randn_like(reference)
    expected = torch.autograd.grad((reference * weights).sum(), wanted)
    values = []
    for threads in (1, 1, 2):
        torch.set_num_threads(threads)
        out = sparse_convolution(x.features, kernel, kernel_map, bias)
        torch.testing.assert_close(out, reference, rtol=1e-11, atol=1e-11)
        gradients = torch.autograd.grad((out * weights).sum(), wanted)
        for mine, theirs in zip(gradients, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)
        values.append((out, *gradients))
    assert all(torch.equal(a, b) for a, b in zip(values[0], values[1], strict=True))
    assert torch.equal(values[0][0], values[2][0])
    assert torch.equal(values[0][1], values[2][1])


def test_block_threads_leave_the_setting_as_it_was(two_threads: None) -> None:
    with block_threads():
        assert torch.get_num_threads() == 1
        with block_threads():
            sparse_convolution(large(2).features, torch.zeros((27, 2, 2)).double(), large(2).maps.submanifold(1))
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), block_threads():
        raise KeyError
    assert torch.get_num_threads() == 2


def test_the_order_of_rows_does_not_matter() -> None:
    x = random_voxels("even extents, crossing zero", 3, shuffle=False)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    shuffled = SparseTensor(x.features[order], x.coordinates[order])
    for module in (SubmanifoldConv3d(3, 4), StridedConv3d(3, 4), StridedConv3d(3, 4, 3)):
        module.double()
        expected = module(x).features
        out = module(shuffled).features
        torch.testing.assert_close(
            out, expected[order] if isinstance(module, SubmanifoldConv3d) else expected, rtol=1e-12, atol=1e-12
        )


def test_maps_are_made_once() -> None:
    x = random_voxels("negative, odd extents", 2)
    modules = [SubmanifoldConv3d(2, 2), StridedConv3d(2, 2), SubmanifoldConv3d(2, 2), TransposedConv3d(2, 2)]
    network = nn.Sequential(*modules).double()
    network(x)
    builds = x.maps.builds
    assert builds == 4  # submanifold at 1 and 2, the transposed one and its reverse
    network(x)
    out = network(network(x))
    assert out.maps is x.maps
    assert x.maps.builds == builds


def test_backward_keeps_no_gathered_rows() -> None:
    x = large(4)
    module = SubmanifoldConv3d(4, 8, bias=True).double()
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.shape), tensor)[1], lambda t: t):
        module(x)
    assert sorted(kept) == sorted([x.features.shape, module.kernel.shape])


def test_maps_made_in_inference_mode_serve_training() -> None:
    x = random_voxels("negative, odd extents", 2)
    network = nn.Sequential(SubmanifoldConv3d(2, 3), StridedConv3d(3, 3, 3), StridedConv3d(3, 3)).double()
    with torch.inference_mode():
        expected = network(x).features.clone()
    out = network(x).features
    assert torch.equal(out, expected)
    rows = x.maps.parents(1, 4)
    (out[rows].sum() + x.features.sum()).backward()
    assert x.features.grad is not None


def test_autocast_computes_in_its_dtype() -> None:
    x = large(8, torch.float32)
    module = SubmanifoldConv3d(8, 8, bias=True)
    exact = module(x).features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(x).features
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, rtol=0.03, atol=0.03)
    out.float().sum().backward()
    assert x.features.grad is not None
    assert x.features.grad.dtype == torch.float32
    assert module.kernel.grad is not None
    assert module.kernel.grad.dtype == torch.float32


def test_another_engine_takes_over(own_engines) -> None:
    calls: list[str] = []

    class Plain:
        maps = TorchMaps()

        def gather_gemm_scatter(self, features, kernel, kernel_map, bias):
            calls.append("forward")
            return by_definition(features, kernel, kernel_map, bias)

        def kernel_gradient(self, features, out_gradient, kernel_map):
            calls.append("kernel")
            return features.new_zeros((len(kernel_map.table), features.shape[1], out_gradient.shape[1]))

    register_engine("plain", lambda _device: Plain())
    assert set(engines()) >= {"auto", "torch", "plain"}
    x = random_voxels("negative, odd extents", 2)
    module = StridedConv3d(2, 3).double()
    expected = module(x).features
    with use_engine("plain"):
        out = module(x).features
        out.sum().backward()
    assert calls == ["forward", "forward", "kernel"]
    torch.testing.assert_close(out, expected)
    with (
        pytest.raises(ConfigError, match="'cuda9' is unknown; there are auto, native, plain, torch"),
        use_engine("cuda9"),
    ):
        pass


def test_cat_joins_channels() -> None:
    x = random_voxels("dense corner", 2)
    assert cat([x, x.with_features(x.features[:, :1] * 2)]).features.shape == (64, 3)


@pytest.mark.parametrize(
    ("rows", "dtype", "features", "message"),
    [
        ([[0, 1, 2]], torch.int32, 1, r"expected \(V, 4\) int32 \[batch, x, y, z\], got \(1, 3\) torch.int32"),
        ([[0, 1, 2, 3]], torch.int64, 1, r"got \(1, 4\) torch.int64"),
        ([[0, 1, 2, 3]], torch.int32, 2, r"expected \(1, C\) floating point, a row for each coordinate, got \(2, 1\)"),
        ([[0, 1, 2, 3], [0, 5, 5, 5], [0, 1, 2, 3]], torch.int32, 3, "1 of 3 rows repeat another"),
        (
            [[0, -(2**31), -(2**31), -(2**31)], [0, 2**31 - 1, 2**31 - 1, 2**31 - 1]],
            torch.int32,
            2,
            "1 scans spread over 4294967296 x 4294967296 x 4294967296 voxels, too far for 64-bit keys",
        ),
    ],
)
def test_bad_voxels_are_refused(rows: Sequence[list[int]], dtype: torch.dtype, features: int, message: str) -> None:
    with pytest.raises(SparseError, match=message):
        SubmanifoldConv3d(1, 1)(SparseTensor(torch.zeros((features, 1)), torch.tensor(rows, dtype=dtype)))


def test_far_apart_voxels_still_fit_the_keys() -> None:
    x = SparseTensor(torch.ones((2, 1)), torch.tensor([[0, -(2**31), 0, 5], [0, 2**31 - 1, 1, 5]], dtype=torch.int32))
    assert x.maps.submanifold(1).pairs == 2
    assert x.maps.strided(1, 3).pairs == 2
    assert x.maps.coordinates(2)[:, 1].tolist() == [-(2**30), 2**30 - 1]


def test_no_level_is_finer_than_the_first() -> None:
    x = SparseTensor(torch.ones((1, 1)), torch.zeros((1, 4), dtype=torch.int32), stride=2)
    with pytest.raises(SparseError, match="no level 1 of a tensor that began at stride 2"):
        TransposedConv3d(1, 1)(x)


def test_kernel_sizes_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="1 or 3, not 5"):
        SubmanifoldConv3d(1, 1, 5)
    with pytest.raises(ValueError, match="2 or 3, not 4"):
        StridedConv3d(1, 1, 4)


@pytest.mark.parametrize("name", ["triton", "torchsparse"])
def test_engines_of_the_gpu_say_why_they_do_not_run_on_a_cpu(name: str) -> None:
    with (
        use_engine(name),
        pytest.raises(ConfigError, match=f"engine: {name} cannot run on cpu: .*(CUDA|triton|Triton)"),
    ):
        current_engine(torch.device("cpu"))


def test_a_back_end_that_fails_its_self_test_is_not_used(own_engines, monkeypatch, caplog) -> None:
    """torchsparse of another build, say: it warns, and `auto` goes on to the next."""

    class Wrong(TorchBackend):
        def gather_gemm_scatter(self, *arguments):
            return super().gather_gemm_scatter(*arguments) * 1.1

    monkeypatch.setattr("mdkt_ros.sparse.torchsparse_backend.available", lambda _device: None)
    monkeypatch.setattr("mdkt_ros.sparse.torchsparse_backend.TorchsparseBackend", Wrong)
    monkeypatch.setattr("mdkt_ros.sparse.backend._AUTO", {"cpu": ("torchsparse", "torch")})
    with caplog.at_level("WARNING"):
        choice = current_engine(torch.device("cpu"))
    assert choice.name == "torch"
    assert choice.reason.startswith("torchsparse: its self-test failed: ")
    assert "Wrong fails its self-test on cpu and is not used: " in caplog.text


def test_a_reversed_map_leads_back_without_a_cycle() -> None:
    maps = random_voxels("dense corner", 1).maps
    back = maps.transposed(1)
    there = maps.strided(1, 2)
    assert there is back.reversed
    assert there.reversed is back
    alone = weakref.ref(back)
    there = back.reversed
    table = back.table
    del maps, back
    gc.disable()
    try:
        assert alone() is None, "freed without the collector of cycles"
    finally:
        gc.enable()
    assert torch.equal(there.reversed.table, table)
