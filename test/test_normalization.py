"""Batch normalisation over voxels, in one process and in two, and its fold into kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from mdkt_ros.sparse import BatchNorm, ReLU, SparseTensor, SubmanifoldConv3d, fuse


def voxels(features: torch.Tensor) -> SparseTensor:
    coordinates = torch.zeros((len(features), 4), dtype=torch.int32)
    coordinates[:, 1] = torch.arange(len(features))
    return SparseTensor(features, coordinates)


def scattered(rows: int, channels: int, seed: int) -> torch.Tensor:
    """Far from zero, where single-precision sums of squares would fail."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((rows, channels), generator=generator) * 0.1 + 50


def test_equals_batchnorm1d_and_shares_its_state() -> None:
    ours, theirs = BatchNorm(3), nn.BatchNorm1d(3)
    theirs.load_state_dict(ours.state_dict())
    for seed in range(3):
        features = scattered(20, 3, seed)
        torch.testing.assert_close(ours(voxels(features)).features, theirs(features))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(voxels(features)).features, theirs(features))


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_voxels_to_have_a_variance(rows: int) -> None:
    norm = BatchNorm(2)
    nn.init.constant_(norm.bias, 0.5)
    features = scattered(rows, 2, 0).requires_grad_()
    out = norm(voxels(features)).features
    assert torch.equal(out, torch.full((rows, 2), 0.5))
    out.sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [0, 0]
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 0


def _train_step(norm: BatchNorm, features: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    features = features.clone().requires_grad_()
    out = norm.normalize(features)
    (out * weights).sum().backward()
    assert features.grad is not None
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    state = {name: value.clone() for name, value in norm.state_dict().items()}
    gradients = {"features": features.grad, "weight.grad": norm.weight.grad, "bias.grad": norm.bias.grad}
    return {"out": out.detach(), **gradients, **state}


SPLITS = {"uneven": 9, "one row": 1, "no row": 0}


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {}
    for name, rows in SPLITS.items():
        features, weights = scattered(24, 3, 0), scattered(24, 3, 1) - 50
        mine = slice(0, rows) if rank == 0 else slice(rows, None)
        results[name] = _train_step(BatchNorm(3), features[mine], weights[mine])
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one_with_all_voxels(tmp_path: Path) -> None:
    mp.spawn(_process, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    whole = _train_step(BatchNorm(3), scattered(24, 3, 0), scattered(24, 3, 1) - 50)
    for name in SPLITS:
        a, b = first[name], second[name]
        for key in ("out", "features"):
            torch.testing.assert_close(torch.cat([a[key], b[key]]), whole[key], rtol=1e-4, atol=1e-4)
        for key in ("weight.grad", "bias.grad"):  # each process has the share of its own voxels
            torch.testing.assert_close(a[key] + b[key], whole[key], rtol=1e-4, atol=1e-4)
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(a[key], b[key])
            torch.testing.assert_close(a[key], whole[key])


def test_fuse_equals_evaluation() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Sequential(SubmanifoldConv3d(2, 4), BatchNorm(4), ReLU()),
        nn.Sequential(SubmanifoldConv3d(4, 3, 1, bias=True), BatchNorm(3)),
        BatchNorm(3),
    )
    for norm in (module for module in network.modules() if isinstance(module, BatchNorm)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = voxels(torch.randn((50, 2)))
    fused = fuse(network)
    expected = network.eval()(x).features
    torch.testing.assert_close(fused(x).features, expected, rtol=1e-5, atol=1e-5)
    assert sum(isinstance(module, BatchNorm) for module in fused.modules()) == 1  # the one without a convolution
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_rectifier_spares_its_input_unless_told() -> None:
    x = voxels(torch.tensor([[-1.0, 2.0]]))
    assert ReLU()(x).features.tolist() == [[0, 2]]
    assert x.features.tolist() == [[-1, 2]]
    assert ReLU(inplace=True)(x).features is x.features
