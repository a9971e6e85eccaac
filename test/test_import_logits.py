"""Imported networks compute what the projects' own do: the same logits, from random weights in their layouts."""

from __future__ import annotations

import pytest
import torch
from zoo_networks import Mmdet3dNetwork, Spconv, SpvnasNetwork, Torchsparse, grid_of, randomize

from mdkt_ros.checkpoint import load_checkpoint
from mdkt_ros.importing.convert import import_checkpoint
from mdkt_ros.labels import LabelSpace
from mdkt_ros.sparse import SparseTensor, fuse

DEEP = (2, 3, 4, 6, 2, 2, 2, 2)
KITTI = LabelSpace.load("semantickitti")

CASES = {
    # project, key of the state in the file, network, preset, width
    "SPVNAS": ("spvnas", "model", lambda: SpvnasNetwork(Torchsparse, 0.11, (2,) * 8, 19, False), "minkunet18", 0.11),
    "MMDetection3D, torchsparse": (
        *("mmdet3d", "state_dict", lambda: Mmdet3dNetwork(Torchsparse, 0.125, (2,) * 8, 19, False)),
        *("minkunet18", 0.125),
    ),
    "MMDetection3D, spconv": (
        *("mmdet3d", "state_dict", lambda: Mmdet3dNetwork(Spconv, 0.125, DEEP, 19, False)),
        *("minkunet34", 0.125),
    ),
    "MMDetection3D, V2": (
        *("mmdet3d", "state_dict", lambda: Mmdet3dNetwork(Torchsparse, 0.125, DEEP, 19, True)),
        *("minkunet34_multiscale", 0.125),
    ),
    "OpenPCSeg": (
        *("openpcseg", "model_state", lambda: SpvnasNetwork(Torchsparse, 0.2, DEEP, 20, True)),
        *("minkunet34_multiscale", 0.2),
    ),
    "OpenPCSeg, 18": (
        *("openpcseg", "model_state", lambda: SpvnasNetwork(Torchsparse, 0.1, (2,) * 8, 20, True)),
        *("minkunet18_multiscale", 0.1),
    ),
    "spconv": ("spconv", None, lambda: SpvnasNetwork(Spconv, 0.125, (2,) * 8, 19, False), "minkunet18", 0.125),
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_the_same_logits(case, tmp_path):
    zoo, key, build, preset, width = CASES[case]
    theirs = randomize(build(), seed=3)
    state = theirs.state_dict()
    torch.save(state if key is None else {key: state, "epoch": 12}, tmp_path / "their.pth")
    meta = import_checkpoint(tmp_path / "their.pth", tmp_path / "our.safetensors", zoo=zoo, labels=KITTI)
    assert (meta.preset, meta.width) == (preset, width)
    ours, _ = load_checkpoint(tmp_path / "our.safetensors")

    generator = torch.Generator().manual_seed(4)
    occupied = torch.rand((32, 48, 16), generator=generator) < 0.02
    features = torch.randn((int(occupied.sum()), 4), generator=generator)
    expected = theirs(grid_of(occupied, features))
    if zoo == "openpcseg":
        expected = expected[:, 1:]  # the first is for points without a label
    coordinates = torch.nn.functional.pad(occupied.nonzero(), (1, 0)).int()
    assert expected.std(dim=0).min() > 0.03
    for network in (ours, fuse(ours)):
        logits = network(SparseTensor(features, coordinates)).logits
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_logits_depend_on_every_offset(tmp_path):
    """A kernel in the wrong order does not pass: the test above would see it."""
    theirs = randomize(SpvnasNetwork(Spconv, 0.125, (2,) * 8, 19, False), seed=3)
    occupied = torch.rand((16, 16, 16), generator=torch.Generator().manual_seed(4)) < 0.1
    grid = grid_of(occupied, torch.ones(int(occupied.sum()), 4))
    with torch.no_grad():
        before = theirs(grid)
        for name in ("stem.0.weight", "stage2.0.net.0.weight", "up3.0.net.0.weight"):
            weight = theirs.state_dict()[name]
            kept = weight.clone()
            weight.copy_(kept.transpose(1, 3))
            assert (theirs(grid) - before).abs().max() > 0.01, name
            weight.copy_(kept)
