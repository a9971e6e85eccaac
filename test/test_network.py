"""The point network: shapes, order, edge cases, sizes and the names of its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mdkt_ros.errors import ConfigError
from mdkt_ros.network import PRESETS, STRIDES, PointNetwork, build_network, flops, parameter_count
from mdkt_ros.scan import read_scan
from mdkt_ros.sparse import SparseTensor, SubmanifoldConv3d, TransposedConv3d, fuse, interpolate
from mdkt_ros.voxel_grid import VoxelGrid
from mdkt_ros.voxels import collate, voxelize


def small(preset: str = "minkunet14s", **options: float) -> PointNetwork:
    torch.manual_seed(0)
    return build_network(preset, in_channels=3, classes=5, **{"width": 0.25, **options})


def street(seed: int = 0, scans: int = 2) -> SparseTensor:
    """Voxels of sloping ground and a wall, sorted, with negative coordinates."""
    generator = np.random.default_rng(seed)
    xy = generator.integers(-25, 25, (scans, 500, 2))
    ground = np.concatenate([xy, (xy.sum(axis=2, keepdims=True) // 9)], axis=2)
    wall = np.stack([xy[..., 0], np.full_like(xy[..., 0], 7), xy[..., 1] // 5], axis=2)
    batch = np.broadcast_to(np.arange(scans)[:, None, None], (scans, 1000, 1))
    rows = np.concatenate([batch, np.concatenate([ground, wall], axis=1)], axis=2).reshape(-1, 4)
    coordinates = torch.from_numpy(np.unique(rows, axis=0).astype(np.int32))
    return SparseTensor(torch.from_numpy(generator.normal(size=(len(coordinates), 3)).astype(np.float32)), coordinates)


def shuffled(x: SparseTensor) -> tuple[SparseTensor, torch.Tensor]:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(7))
    return SparseTensor(x.features[order], x.coordinates[order]), order


@pytest.mark.parametrize("preset", PRESETS)
def test_outputs_of_every_preset(preset: str) -> None:
    network = small(preset)
    x = street()
    output = network(x)
    assert output.logits.shape == (len(x), 5)
    assert tuple(output.features) == STRIDES
    for stride, features in output.features.items():
        assert features.stride == stride
        assert features.features.shape[1] == network.feature_channels[stride]
        assert features.coordinates is x.maps.coordinates(stride)
    output.logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_same_input_same_bits() -> None:
    network, x = small().eval(), street()
    first = network(x).logits
    again = network(SparseTensor(x.features, x.coordinates)).logits
    assert torch.equal(first, network(x).logits)
    assert torch.equal(first, again)


def test_gradients_are_the_same_bits_too() -> None:
    gradients = []
    for _ in range(2):
        network = small()
        network(street()).logits.square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_permuted_rows_give_permuted_outputs() -> None:
    network, x = small().eval(), street()
    mixed, order = shuffled(x)
    expected, output = network(x), network(mixed)
    assert torch.equal(output.logits, expected.logits[order])
    assert torch.equal(output.features[1].features, expected.features[1].features[order])
    assert output.features[1].coordinates is mixed.coordinates
    for stride in (2, 4, 8):
        assert torch.equal(output.features[stride].features, expected.features[stride].features)
        # The rows of a coarse level are found from the caller's own tensor.
        rows = mixed.maps.parents(1, stride)
        assert torch.equal(output.features[stride].coordinates[rows, 1:], mixed.coordinates[:, 1:] // stride)


def test_scans_of_a_batch_do_not_meet() -> None:
    network, x = small().eval(), street()
    first = x.coordinates[:, 0] == 0
    alone = network(SparseTensor(x.features[first], x.coordinates[first])).logits
    torch.testing.assert_close(network(x).logits[first], alone, rtol=1e-5, atol=1e-6)


def test_a_shift_by_the_coarsest_stride_changes_nothing() -> None:
    network, x = small().eval(), street()
    moved = x.coordinates + torch.tensor([0, 16, -32, 48], dtype=torch.int32)
    torch.testing.assert_close(network(SparseTensor(x.features, moved)).logits, network(x).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("rows", [0, 1])
def test_no_voxel_and_one_voxel(rows: int, train: bool) -> None:
    network = small().train(train)
    x = SparseTensor(torch.ones((rows, 3)), torch.full((rows, 4), -3, dtype=torch.int32))
    output = network(x)
    assert output.logits.shape == (rows, 5)
    assert torch.isfinite(output.logits).all()
    output.logits.sum().backward()
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_fused_network_agrees() -> None:
    network, x = small(), street()
    for _ in range(3):
        network(x)  # statistics that are not those of a fresh network
    network.eval()
    with torch.inference_mode():
        expected, output = network(x), fuse(network)(x)
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-4, atol=1e-4)
    assert network(x).logits.requires_grad


def test_threads_change_no_bit() -> None:
    network, x = fuse(small()), street()
    threads = torch.get_num_threads()
    outputs = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            outputs.append(network(x).logits)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*outputs)


def test_a_network_learns() -> None:
    """Classes that only neighbours tell: whether a voxel has one above it."""
    x = street(scans=1)
    above = x.maps.submanifold(1).table[22] >= 0  # offset (0, 0, 1)
    network = build_network("minkunet14s", in_channels=3, classes=2, width=0.25)
    x = x.with_features(torch.ones_like(x.features))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(15):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x).logits, above.long())
        loss.backward()
        optimizer.step()
    assert (network(x).logits.argmax(dim=1) == above).float().mean() > 0.97


def test_weights_have_the_names_and_shapes_of_spvnas() -> None:
    """Keys of MinkUNet in mit-han-lab/spvnas, `core/models/semantic_kitti/minkunet.py`."""
    state = build_network("minkunet18", in_channels=4, classes=19).state_dict()
    shapes = {
        "stem.0.kernel": (27, 4, 32),
        "stem.4.running_mean": (32,),
        "stage1.0.net.0.kernel": (8, 32, 32),
        "stage2.1.net.3.kernel": (27, 64, 64),
        "stage2.1.downsample.0.kernel": (32, 64),
        "stage2.1.downsample.1.weight": (64,),
        "up1.0.net.0.kernel": (8, 256, 256),
        "up1.1.0.net.0.kernel": (27, 384, 256),
        "up4.1.1.net.4.num_batches_tracked": (),
        "classifier.0.weight": (19, 96),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert not any(name.startswith("stage1.1.downsample") for name in state)


def test_sizes() -> None:
    """The paper trail of the presets: 21.7 M is SPVNAS' MinkUNet18, and the small one fits 8 MB with room to spare."""
    counts = {name: parameter_count(build_network(name, in_channels=4, classes=19)) for name in PRESETS}
    assert counts == {
        "minkunet_10hz": 1_507_779,
        "minkunet14s": 1_799_579,
        "minkunet18": 21_723_315,
        "minkunet34": 37_875_123,
        "minkunet18_multiscale": 21_723_315 + 19 * (256 + 128),
        "minkunet34_multiscale": 37_875_123 + 19 * (256 + 128),
    }
    assert 4 * counts["minkunet14s"] < 7.5e6
    half = build_network("minkunet18", in_channels=4, classes=19, width=0.5)
    assert half.feature_channels == {8: 128, 4: 64, 2: 48, 1: 48}


def test_a_classifier_of_three_levels_only_adds_inputs() -> None:
    one, three = (small(name).eval() for name in ("minkunet18", "minkunet18_multiscale"))
    state = one.state_dict()
    assert list(three.state_dict()) == list(state)
    channels = three.feature_channels
    assert three.classifier[0].weight.shape == (5, 256 // 4 + channels[4] + channels[1])
    # With nothing from the coarse levels it is the same network.
    state["classifier.0.weight"] = torch.nn.functional.pad(state["classifier.0.weight"], (256 // 4 + channels[4], 0))
    three.load_state_dict(state)
    x = street()
    torch.testing.assert_close(three(x).logits, one(x).logits)
    mixed, order = shuffled(x)
    assert torch.equal(three(mixed).logits, three(x).logits[order])
    coarse = x.maps
    read = 2 * 5 * (len(coarse.coordinates(16)) * 64 + len(coarse.coordinates(4)) * 32 + len(x) * 24)
    assert flops(three, x) - flops(one, x) == read - 2 * len(x) * 24 * 5


def test_coarse_features_are_interpolated() -> None:
    rows = [[0, -3, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 2, 1, 0]]  # parents at stride 4: x of -1 and 0
    x = SparseTensor(torch.zeros((4, 1)), torch.tensor(rows, dtype=torch.int32))
    parents = x.maps.coordinates(4)[:, 1]
    coarse = x.at_stride(torch.where(parents == 0, 10.0, 2.0)[:, None], 4)
    # One quarter of the way from 2 to 10; then nothing above x = 0 to mix with.
    torch.testing.assert_close(interpolate(coarse, x), torch.tensor([[4.0], [10.0], [10.0], [10.0]]))


def test_flops_count_the_pairs_there_are() -> None:
    x = SparseTensor(torch.ones((2, 3)), torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int32))
    assert flops(SubmanifoldConv3d(3, 7), x) == 2 * 4 * 3 * 7  # two centres, one pair each way
    assert flops(SubmanifoldConv3d(3, 7, 1), x) == 2 * 2 * 3 * 7
    coarse = x.at_stride(torch.ones((1, 3)), 2)
    assert flops(TransposedConv3d(3, 7), coarse) == 2 * 2 * 3 * 7
    network = small()
    assert flops(network, street()) > flops(network, x) > 2 * parameter_count(network.classifier)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="'minkunet99' is unknown; there are minkunet14s, minkunet_10hz, minkunet18, minkunet34"
    ):
        build_network("minkunet99", in_channels=4, classes=19)
    with pytest.raises(ConfigError, match="classes: 0 is not positive"):
        build_network("minkunet18", in_channels=4, classes=0)
    with pytest.raises(ConfigError, match=r"width: -0.5 is not positive"):
        build_network("minkunet18", in_channels=4, classes=2, width=-0.5)


@pytest.mark.real
def test_a_real_scan(real_data: Path) -> None:
    cloud = read_scan(real_data / "semantickitti/sequences/00/velodyne/000000.bin")
    grid = VoxelGrid(0.1, (-80, -80, -5), (80, 80, 5))
    batch, _ = collate([voxelize(cloud.xyz(), cloud.intensity(), grid)])
    network = build_network("minkunet14s", in_channels=4, classes=19, width=0.25).eval()
    with torch.inference_mode():
        logits = network(batch).logits
    assert logits.shape == (len(batch), 19)
    assert torch.isfinite(logits).all()
    assert len(batch) > 50_000
