"""The sparse engine against dense convolutions in double precision, and its own promises."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn
from torch.nn import functional

from mdkt_ros.errors import ConfigError, SparseError
from mdkt_ros.sparse import (
    KernelMap,
    SparseConvolution,
    SparseTensor,
    StridedConv3d,
    SubmanifoldConv3d,
    TransposedConv3d,
    backends,
    block_threads,
    cat,
    register_backend,
    sparse_convolution,
    use_backend,
)

SHAPES = {
    # scans, extents, first voxel, share of voxels that are occupied
    "dense corner": (1, (4, 4, 4), (0, 0, 0), 1.0),
    "negative, odd extents": (2, (7, 5, 9), (-4, -3, -5), 0.4),
    "even extents, crossing zero": (3, (6, 8, 4), (-3, -4, -2), 0.3),
    "far from the origin": (2, (5, 6, 7), (-1001, 2000, -40), 0.25),
    "isolated voxels": (2, (30, 30, 30), (-15, -14, -13), 0.001),
}


def random_voxels(name: str, channels: int, seed: int = 0, shuffle: bool = True) -> SparseTensor:
    """Random voxels of the shape `name` with random features that want gradients."""
    generator = torch.Generator().manual_seed(seed)
    scans, extents, first, share = SHAPES[name]
    occupied = torch.rand((scans, *extents), generator=generator) < share
    coordinates = occupied.nonzero() + torch.tensor([0, *first])
    if shuffle:
        coordinates = coordinates[torch.randperm(len(coordinates), generator=generator)]
    features = torch.randn((len(coordinates), channels), generator=generator, dtype=torch.float64)
    return SparseTensor(features.requires_grad_(), coordinates.to(torch.int32))


def few_voxels(rows: list[list[int]], channels: int) -> SparseTensor:
    features = torch.arange(len(rows) * channels, dtype=torch.float64).reshape(len(rows), channels) + 1
    return SparseTensor(features.requires_grad_(), torch.tensor(rows, dtype=torch.int32).reshape(-1, 4))


INPUTS = {
    **{name: (lambda channels, name=name: random_voxels(name, channels)) for name in SHAPES},
    "one voxel": lambda channels: few_voxels([[0, -7, 3, -1]], channels),
    "one voxel of the last scan": lambda channels: few_voxels([[5, 2, 2, 3]], channels),
    "no voxel": lambda channels: few_voxels([], channels),
}


def box(*tensors: SparseTensor) -> tuple[torch.Tensor, list[int]]:
    """First voxel (even, with a margin) and extents that hold the voxels of the finest tensor."""
    xyz = torch.cat([tensor.coordinates[:, 1:].long() * tensor.stride for tensor in tensors])
    if len(xyz) == 0:
        return torch.zeros(3, dtype=torch.long), [4, 4, 4]
    low = torch.div(xyz.amin(dim=0), 2, rounding_mode="floor") * 2 - 2
    return low, ((xyz.amax(dim=0) - low + 4) // 2 * 2).tolist()


def densify(x: SparseTensor, low: torch.Tensor, extents: list[int]) -> torch.Tensor:
    """(scans, C, X, Y, Z) with the features of `x` and zeros elsewhere, differentiable."""
    scans = int(x.coordinates[:, 0].max()) + 1 if len(x) else 1
    dense = x.features.new_zeros((scans, *extents, x.features.shape[1]))
    b, i, j, k = at(x, low)
    return dense.index_put((b, i, j, k), x.features).permute(0, 4, 1, 2, 3)


def at(x: SparseTensor, low: torch.Tensor) -> tuple[torch.Tensor, ...]:
    index = x.coordinates.long() - torch.cat([torch.zeros(1, dtype=torch.long), low])
    return index[:, 0], index[:, 1], index[:, 2], index[:, 3]


def sparsify(dense: torch.Tensor, like: SparseTensor, low: torch.Tensor) -> torch.Tensor:
    b, i, j, k = at(like, low)
    return dense.permute(0, 2, 3, 4, 1)[b, i, j, k]


def dense_kernel(convolution: SparseConvolution) -> torch.Tensor:
    """(Cout, Cin, X, Y, Z) from (K, Cin, Cout): odd kernels count x fastest, even ones z fastest."""
    size, kernel = convolution.kernel_size, convolution.kernel
    kernel = kernel.reshape(size, size, size, *kernel.shape[-2:])
    order = (4, 3, 0, 1, 2) if size == 2 else (4, 3, 2, 1, 0)
    return kernel.permute(order)


def check(sparse: torch.Tensor, dense: torch.Tensor, module: nn.Module, x: SparseTensor) -> None:
    """Values and gradients of features, kernel and bias agree."""
    torch.testing.assert_close(sparse, dense, rtol=1e-11, atol=1e-11)
    weights = torch.randn(sparse.shape, generator=torch.Generator().manual_seed(1), dtype=sparse.dtype)
    wanted = [x.features, *module.parameters()]
    ours = torch.autograd.grad((sparse * weights).sum(), wanted)
    theirs = torch.autograd.grad((dense * weights).sum(), wanted)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_submanifold_equals_dense(name: str, size: int, bias: bool) -> None:
    x = INPUTS[name](3)
    module = SubmanifoldConv3d(3, 5, size, bias=bias).double()
    out = module(x)
    low, extents = box(x)
    dense = functional.conv3d(densify(x, low, extents), dense_kernel(module), module.bias, padding=size // 2)
    assert out.stride == 1
    assert out.coordinates is x.coordinates
    check(out.features, sparsify(dense, x, low), module, x)


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_strided_equals_dense(name: str, size: int, bias: bool) -> None:
    x = INPUTS[name](3)
    module = StridedConv3d(3, 5, size, bias=bias).double()
    out = module(x)
    low, extents = box(x)
    dense = functional.conv3d(
        densify(x, low, extents), dense_kernel(module), module.bias, stride=2, padding=1 if size == 3 else 0
    )
    halves = x.coordinates.clone()
    halves[:, 1:] = torch.div(halves[:, 1:], 2, rounding_mode="floor")
    assert out.stride == 2
    assert torch.equal(out.coordinates, torch.unique(halves, dim=0) if len(x) else halves)
    check(out.features, sparsify(dense, out, low // 2), module, x)


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("bias", [False, True])
def test_transposed_equals_dense(name: str, bias: bool) -> None:
    fine = INPUTS[name](3)
    coarse = StridedConv3d(3, 4).double()(fine)
    x = coarse.with_features(coarse.features.detach().requires_grad_())
    module = TransposedConv3d(4, 5, bias=bias).double()
    out = module(x)
    low, extents = box(fine)
    dense = functional.conv_transpose3d(
        densify(x, low // 2, [extent // 2 for extent in extents]),
        dense_kernel(module).transpose(0, 1),
        module.bias,
        stride=2,
    )
    assert out.stride == 1
    assert out.coordinates is fine.coordinates
    check(out.features, sparsify(dense, out, low), module, x)


def test_two_levels_down_and_up_equal_dense() -> None:
    """Coordinates are halved level by level, so errors of rounding would show at stride 4."""
    fine = random_voxels("negative, odd extents", 2)
    down = nn.ModuleList([StridedConv3d(2, 3), StridedConv3d(3, 4)]).double()
    half = down[0](fine)
    quarter = down[1](half)
    expected = torch.unique(torch.cat([fine.coordinates[:, :1], fine.coordinates[:, 1:] >> 2], dim=1), dim=0)
    assert torch.equal(quarter.coordinates, expected)
    low, extents = box(half)
    dense = functional.conv3d(densify(half, low, extents), dense_kernel(down[1]), stride=2)
    torch.testing.assert_close(quarter.features, sparsify(dense, quarter, low // 2), rtol=1e-11, atol=1e-11)
    parents = fine.maps.parents(1, 4)
    assert torch.equal(quarter.coordinates[parents, 1:], fine.coordinates[:, 1:] >> 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SubmanifoldConv3d(2, 3, bias=True),
        lambda: StridedConv3d(2, 3, 2, bias=True),
        lambda: StridedConv3d(2, 3, 3, bias=True),
        lambda: TransposedConv3d(2, 3, bias=True),
    ],
    ids=["submanifold", "strided 2", "strided 3", "transposed"],
)
def test_gradcheck(make) -> None:
    x = random_voxels("isolated voxels", 2)
    dense = random_voxels("dense corner", 2).coordinates[:12]
    x = SparseTensor(torch.randn((12, 2), dtype=torch.float64), dense)
    module = make().double()
    if isinstance(module, TransposedConv3d):
        x = StridedConv3d(2, 2).double()(x)
    features = x.features.detach().requires_grad_()

    def function(features: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(
            module, {"kernel": kernel, "bias": bias}, (x.with_features(features),)
        ).features

    assert torch.autograd.gradcheck(function, (features, module.kernel, module.bias))


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


def test_another_backend_takes_over() -> None:
    calls: list[str] = []

    class Plain:
        def gather_gemm_scatter(self, features, kernel, kernel_map, bias):
            calls.append("forward")
            return by_definition(features, kernel, kernel_map, bias)

        def kernel_gradient(self, features, out_gradient, kernel_map):
            calls.append("kernel")
            return features.new_zeros((len(kernel_map.table), features.shape[1], out_gradient.shape[1]))

    register_backend("plain", Plain())
    assert set(backends()) >= {"torch", "plain"}
    x = random_voxels("negative, odd extents", 2)
    module = StridedConv3d(2, 3).double()
    expected = module(x).features
    with use_backend("plain"):
        out = module(x).features
        out.sum().backward()
    assert calls == ["forward", "forward", "kernel"]
    torch.testing.assert_close(out, expected)
    with pytest.raises(ConfigError, match="'cuda9' is unknown; there are plain, torch"), use_backend("cuda9"):
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
