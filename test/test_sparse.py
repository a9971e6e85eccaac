"""The sparse engine against dense convolutions in double precision, forward and all gradients."""

from __future__ import annotations

import pytest
import torch
from sparse_inputs import INPUTS, random_voxels
from torch import nn
from torch.nn import functional

from mdkt_ros.sparse import (
    SparseConvolution,
    SparseTensor,
    StridedConv3d,
    SubmanifoldConv3d,
    TransposedConv3d,
    use_engine,
)


@pytest.fixture(params=["torch", "native"], autouse=True)
def engine(request):
    """Its maps; in double precision `native` computes by PyTorch."""
    if request.param == "native":
        pytest.importorskip("numba", reason="the engine `native` needs numba")
    with use_engine(request.param):
        yield


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
