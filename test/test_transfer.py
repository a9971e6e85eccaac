"""Transfer at all scales: who teaches whom, what is counted, and that nothing breaks where there is nothing to see."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mdkt_ros.errors import ConfigError
from mdkt_ros.labels import IGNORE
from mdkt_ros.network import build_network
from mdkt_ros.sparse import SparseTensor
from training.config import LossConfig
from training.data.pairs import Pairs
from training.losses import SegmentationLoss
from training.scheme.config import ImageNetworkConfig, TransferConfig
from training.scheme.fusion import Fusion, transfer_kl
from training.scheme.image_network import build_image_network
from training.scheme.transfer import PairCounts, Transfer, coarse_rows

CLASSES = 5
BY_LABELS = SegmentationLoss(LossConfig())


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make_voxels(scans=2, each=60, shuffle=True) -> SparseTensor:
    coordinates = torch.cat(
        [torch.cat([torch.full((each, 1), b), torch.randint(-9, 9, (each, 3))], 1) for b in range(scans)]
    ).unique(dim=0)
    if shuffle:
        coordinates = coordinates[torch.randperm(len(coordinates))]
    return SparseTensor(torch.randn(len(coordinates), 4), coordinates.int())


def make_pairs(voxels: SparseTensor, count=80, images=3, labelled=9) -> Pairs:
    target = torch.full((count,), IGNORE)
    target[torch.randperm(count)[:labelled]] = torch.randint(0, CLASSES, (min(labelled, count),))
    return Pairs(
        images=torch.rand(images, 3, 40, 100),
        row=torch.randint(0, max(len(voxels), 1), (count,)),
        image=torch.randint(0, max(images, 1), (count,)).sort().values,
        pixel=torch.rand(count, 2) * torch.tensor([99.0, 39.0]),
        target=target,
        origin=torch.stack([torch.zeros(images, dtype=torch.int64), torch.arange(images)], 1),
    )


def make_models(learnt=True, **settings):
    network = build_network("minkunet14s", in_channels=4, classes=CLASSES, width=0.25)
    images = build_image_network(ImageNetworkConfig(name="test_resnet", channels=16))
    transfer = Transfer(network.feature_channels, images, CLASSES, TransferConfig(**{"weight": 1.0, **settings}))
    if learnt:  # fresh, the deformable part ignores what it finds
        for name, parameter in transfer.named_parameters():
            if "deformable" in name:
                nn.init.normal_(parameter, std=0.3)
    return network, transfer


def run(network, transfer, voxels, pairs):
    output = network(voxels)
    found = transfer(output, voxels, pairs)
    return output, found, transfer.losses(found, pairs, BY_LABELS, PairCounts.of(pairs))


def gradients(module):
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def test_shapes():
    voxels = make_voxels()
    pairs = make_pairs(voxels)
    output, found, losses = run(*make_models(lovasz=1.0), voxels, pairs)
    assert list(found.fused) == list(found.point) == [8, 4, 2, 1]
    for logits in (*found.fused.values(), *found.point.values(), found.image):
        assert logits.shape == (80, CLASSES)
        assert logits.isfinite().all()
    assert set(losses) == {"transfer", "transfer_lovasz", "fused", "point", "image"}
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    # What is distilled at stride 1 is what leaves for the vehicle.
    torch.testing.assert_close(found.point[1], output.logits[pairs.row])


@pytest.mark.parametrize("name", ["transfer", "transfer_lovasz"])
def test_the_transfer_teaches_the_point_network_alone(name):
    network, transfer = make_models(lovasz=1.0)
    voxels = make_voxels()
    losses = run(network, transfer, voxels, make_pairs(voxels))[2]
    losses[name].backward()
    heads = 0
    for name, gradient in gradients(transfer).items():
        if name.startswith("scales.") and ".head." in name and "fusion" not in name:  # of the point features
            heads += 1
            assert gradient.abs().sum() > 0, name
        else:
            assert gradient is None or not gradient.any(), name
    assert heads == 6
    learning = gradients(network)
    assert all(gradient is not None for gradient in learning.values())
    assert sum(bool(gradient.any()) for gradient in learning.values()) > 0.9 * len(learning)


def test_labels_teach_every_part():
    network, transfer = make_models()
    for parameter in transfer.image_network.parameters():  # timm begins with residual branches that are shut
        nn.init.normal_(parameter, std=0.1)
    voxels = make_voxels()
    losses = run(network, transfer, voxels, make_pairs(voxels))[2]
    (losses["fused"] + losses["point"] + losses["image"]).backward()
    for name, gradient in gradients(transfer).items():
        assert gradient is not None, name
        assert gradient.any(), name


@pytest.mark.parametrize("offsets", [0, 2])
@pytest.mark.parametrize("images", [0, 2])
def test_no_pairs(images, offsets):
    network, transfer = make_models(offsets=offsets)
    voxels = make_voxels()
    nothing = make_pairs(voxels, count=0, images=images, labelled=0)
    _, found, losses = run(network, transfer, voxels, nothing)
    assert found.image.shape == found.fused[8].shape == (0, CLASSES)
    assert all(loss == 0 for loss in losses.values())
    sum(losses.values()).backward()
    for name, gradient in gradients(transfer).items():
        assert gradient is not None, name
        assert not gradient.any(), name


def test_no_voxels():
    network, transfer = make_models()
    voxels = SparseTensor(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.int32))
    losses = run(network, transfer, voxels, make_pairs(voxels, count=0, images=0, labelled=0))[2]
    assert sum(losses.values()) == 0


def test_no_labels():
    network, transfer = make_models()
    voxels = make_voxels()
    losses = run(network, transfer, voxels, make_pairs(voxels, labelled=0))[2]
    assert losses["transfer"] > 0
    assert losses["fused"] == losses["point"] == losses["image"] == 0
    sum(losses.values()).backward()
    assert all(gradient is not None for gradient in gradients(transfer).values())


@pytest.mark.parametrize("offsets", [0, 3])
def test_step_zero_is_one_to_one(offsets):
    """With the same weights elsewhere, a fresh deformable transfer scores as one-to-one does."""
    voxels = make_voxels()
    pairs = make_pairs(voxels)
    network, single = make_models(offsets=0, learnt=False)
    fresh = make_models(offsets=3, learnt=False)[1]
    missing, unexpected = fresh.load_state_dict(single.state_dict(), strict=False)
    assert not unexpected
    assert all("deformable" in name for name in missing)
    output = network(voxels)
    one, other = single(output, voxels, pairs), fresh(output, voxels, pairs)
    for stride in (8, 4, 2, 1):
        torch.testing.assert_close(one.fused[stride], other.fused[stride], atol=1e-6, rtol=0)


def test_processes_share_the_losses():
    """The sum of what two processes compute from their images is what one computes from all."""
    network, transfer = make_models()
    network.eval()
    voxels = make_voxels()
    pairs = make_pairs(voxels)
    whole = run(network, transfer, voxels, pairs)[2]
    counts, total = PairCounts.of(pairs), dict.fromkeys(whole, 0.0)
    for images in ([0, 1], [2]):
        mine = torch.isin(pairs.image, torch.tensor(images))
        part = Pairs(
            pairs.images[images],
            *(getattr(pairs, name)[mine] - (images[0] if name == "image" else 0) for name in ("row", "image")),
            pairs.pixel[mine],
            pairs.target[mine],
            pairs.origin[images],
        )
        found = transfer(network(voxels), voxels, part)
        for name, loss in transfer.losses(found, part, BY_LABELS, counts).items():
            total[name] += loss.item()
    assert total == pytest.approx({name: loss.item() for name, loss in whole.items()}, rel=1e-4)


def test_counts():
    voxels = make_voxels()
    pairs = dataclasses.replace(
        make_pairs(voxels, count=4), image=torch.tensor([0, 0, 1, 2]), target=torch.tensor([1, 1, IGNORE, 3])
    )
    assert PairCounts.of(pairs) == PairCounts(pairs=4, labelled=3, images=2)


@pytest.mark.parametrize("shuffle", [False, True])
def test_coarse_rows(shuffle):
    """Of an input that is sorted or not: the coarser voxel is the one that holds the finer."""
    voxels = make_voxels(shuffle=shuffle)
    features = make_models()[0](voxels).features
    rows = torch.randint(0, len(voxels), (50,))
    for stride, level in features.items():
        found = level.coordinates[coarse_rows(voxels, level, rows)]
        expected = voxels.coordinates[rows].clone()
        expected[:, 1:] = torch.div(expected[:, 1:], stride, rounding_mode="floor")
        assert torch.equal(found, expected)


def test_kl():
    fused = torch.randn(6, CLASSES, requires_grad=True)
    point = torch.randn(6, CLASSES, requires_grad=True)
    for temperature in (1.0, 2.5):
        p, q = (F.softmax(x / temperature, 1) for x in (fused, point))
        expected = temperature**2 * (p * (p / q).log()).sum(1)
        torch.testing.assert_close(transfer_kl(fused, point, temperature), expected)
    transfer_kl(fused, point).sum().backward()
    assert fused.grad is None
    torch.testing.assert_close(point.grad, (F.softmax(point, 1) - F.softmax(fused, 1)).detach())
    assert transfer_kl(point, point).abs().max() < 1e-6
    # Scores in half precision lose nothing more, and none is infinite.
    assert transfer_kl(fused.half() * 100, point.half() * 100).isfinite().all()


def test_fusion():
    """The formula, with W_1 in one piece."""
    fusion = Fusion(3, 4, CLASSES)
    f3, f2, voxel = torch.randn(5, 3), torch.randn(7, 4), torch.tensor([0, 4, 4, 1, 2, 3, 0])
    h = F.relu(fusion.learner[0](f3[voxel]))
    w1 = torch.cat([fusion.from_image.weight, fusion.from_point.weight], 1)
    g = F.linear(torch.cat([f2, h], 1), w1, fusion.from_image.bias)
    z = F.relu(g * torch.sigmoid(fusion.gate[0](g)))
    torch.testing.assert_close(fusion(f3, voxel, f2), fusion.head(z))


def test_parameter_groups():
    transfer = make_models(offset_lr=0.1)[1]
    groups = transfer.parameter_groups()
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in transfer.parameters())
    rates = {id(p): g["factor"] for g in groups for p in g["params"]}
    for name, parameter in transfer.named_parameters():
        assert rates[id(parameter)] == (0.1 if "deformable.place" in name else 1.0), name
    assert [g["factor"] for g in make_models(offsets=0)[1].parameter_groups() if g["params"]] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("scales", [[], [16], [8, 8]])
def test_scales_that_do_not_fit(scales):
    with pytest.raises(ConfigError, match=r"transfer\.scales = \["):
        make_models(scales=scales)


def test_some_scales():
    network, transfer = make_models(scales=[4])
    voxels = make_voxels()
    _, found, losses = run(network, transfer, voxels, make_pairs(voxels))
    assert list(found.fused) == [4]
    assert losses["point"] > 0
    network, transfer = make_models(scales=[1])
    assert run(network, transfer, voxels, make_pairs(voxels))[2]["point"] == 0


def test_classes_weigh_in_the_transfer_as_in_the_labels():
    network, transfer = make_models()
    voxels = make_voxels()
    pairs = make_pairs(voxels)
    output = transfer(network(voxels), voxels, pairs)
    weights = torch.linspace(0.5, 2, CLASSES)
    losses = transfer.losses(output, pairs, SegmentationLoss(LossConfig(), weights), PairCounts.of(pairs))
    expected = [
        (
            transfer_kl(output.fused[s], output.point[s], transfer.config.temperature)
            * weights[output.fused[s].argmax(1)]
        ).mean()
        for s in output.fused
    ]
    torch.testing.assert_close(losses["transfer"], transfer.config.weight * torch.stack(expected).mean())
