"""What an imported checkpoint says, what is not imported, with one line that says why, and `mdkt import`."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from zoo_files import KITTI, imported, mmdet3d, spvnas
from zoo_networks import Spconv

from mdkt_ros import cli
from mdkt_ros.checkpoint import load_checkpoint
from mdkt_ros.errors import CheckpointError, ConfigError, LabelError, OutputError
from mdkt_ros.importing.convert import import_checkpoint
from mdkt_ros.importing.zoos import SEMANTICKITTI, ZOOS
from mdkt_ros.labels import LabelSpace
from mdkt_ros.segmenter import Segmenter
from mdkt_ros.voxels import voxelize


def test_what_the_checkpoint_says(tmp_path):
    meta = imported(tmp_path, {"model": spvnas(), "epoch": 15})
    assert meta.labels == KITTI
    assert meta.features == ("x", "y", "z", "intensity")
    assert (meta.intensity_scale, meta.axes, meta.grid.voxel_size) == (1.0, "x_forward", 0.05)
    digest = hashlib.sha256((tmp_path / "their.pth").read_bytes()).hexdigest()
    assert meta.training == {
        "imported": {
            "from": "spvnas",
            "project": "SPVNAS",
            "layout": "names of SPVNAS with torchsparse kernels",
            "file": "their.pth",
            "sha256": digest,
        }
    }


def test_voxels_are_those_of_the_projects():
    """They round to the nearest voxel and begin at the scan's lowest; only where the count begins differs here."""
    from mdkt_ros.importing.convert import _grid

    points = np.random.default_rng(0).uniform(-80, 80, (20_000, 3)).astype(np.float32)
    points[:, 2] /= 20
    rounded = np.round(points.astype(np.float64) / 0.05).astype(np.int32)
    # Where a point lies on the border of two voxels, float32 decides.
    clear = (np.abs(np.abs(points.astype(np.float64) / 0.05 - rounded) - 0.5) > 1e-3).all(axis=1)
    voxels = voxelize(points, None, _grid(0.05))
    ours = voxels.coordinates[voxels.point_to_voxel]
    shift = (ours - rounded)[clear]
    assert clear.mean() > 0.9
    assert (shift == shift[0]).all()


def test_a_class_has_its_own_row_whatever_the_order(tmp_path):
    data = KITTI.to_dict()
    data["classes"].reverse()
    state = spvnas()
    imported(tmp_path, {"model": state}, labels=LabelSpace.from_dict(data))
    network, meta = load_checkpoint(tmp_path / "our.safetensors")
    assert meta.labels.names == tuple(reversed(SEMANTICKITTI))
    assert torch.equal(network.classifier[0].weight, state["classifier.0.weight"].flip(0))
    assert torch.equal(network.classifier[0].bias, state["classifier.0.bias"].flip(0))


def test_zoos_know_our_classes():
    assert set(SEMANTICKITTI) == set(KITTI.names)
    assert ZOOS["openpcseg"].rows(KITTI) == list(range(1, 20))


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


WRONG = {
    "a missing tensor": (
        *("spvnas", lambda: without(spvnas(), "up2.1.1.net.4.bias"), "tensor 'up2.1.1.net.4.bias' is missing"),
    ),
    "a missing tensor, as its project calls it": (
        *("mmdet3d", lambda: without(mmdet3d(), "backbone.encoder.2.1.downsample.0.weight")),
        "tensor 'backbone.encoder.2.1.downsample.0.weight' is missing",
    ),
    "one too many": ("spvnas", lambda: {**spvnas(), "neck.weight": torch.ones(3)}, "unexpected tensor 'neck.weight'"),
    "a wrong shape": (
        *("spvnas", lambda: {**spvnas(), "stage3.1.net.0.kernel": torch.ones(27, 5, 8)}),
        "tensor 'stage3.1.net.0.kernel' has shape (27, 5, 8), expected (27, 4, 8)",
    ),
    "a wrong shape of spconv": (
        *("mmdet3d", lambda: {**mmdet3d(), "backbone.conv_input.1.0.weight": torch.ones(2, 5, 5, 5, 2)}),
        "tensor 'backbone.conv_input.1.0.weight' has shape (2, 5, 5, 5, 2), expected (2, 3, 3, 3, 2)",
    ),
    "a wrong type": (
        *("spvnas", lambda: {**spvnas(), "stem.1.weight": torch.ones(2, dtype=torch.int64)}),
        "tensor 'stem.1.weight' has type torch.int64, expected torch.float32",
    ),
    "not finite": (
        *("spvnas", lambda: {**spvnas(), "stem.1.weight": torch.tensor([1, float("nan")])}),
        "'network.stem.1.weight' has NaN",
    ),
    "another project": ("spvnas", mmdet3d, "has the names of MMDetection3D with spconv kernels, which is not SPVNAS's"),
    "another engine": ("spvnas", lambda: spvnas(layer=Spconv), "try --from spconv"),
    "one level, not three": ("openpcseg", lambda: spvnas(20), "reads one level (6 channels), unlike that of OpenPCSeg"),
    "three levels, not one": ("spvnas", lambda: spvnas(20, True), "is it --from openpcseg?"),
    "other classes": ("spvnas", lambda: spvnas(22), "tells 22 classes apart, but 19 are expected"),
    "other classes and none": ("openpcseg", lambda: spvnas(23, True), "23 classes apart, but 20 are expected"),
    "other features": ("spvnas", lambda: spvnas(features=5), "takes 5 features of a voxel, not the 4 of SPVNAS"),
    "other blocks": (
        *("mmdet3d", lambda: mmdet3d(blocks=(1, 2, 2, 2, 2, 2, 2, 2))),
        "residual blocks [1, 2, 2, 2, 2, 2, 2, 2] with channels",
    ),
    "an SPVCNN": (
        *("spvnas", lambda: {**spvnas(), "point_transforms.0.1.running_mean": torch.ones(4)}),
        "tensor 'point_transforms.0.1.running_mean' is of an SPVCNN's branch for points",
    ),
    "MinkowskiEngine": (
        *("mmdet3d", lambda: {"backbone.encoder.0.1.norm1.bn.weight": torch.ones(2)}),
        "a network of MinkowskiEngine, which is not imported",
    ),
    "something else": ("mmdet3d", lambda: {"fc.weight": torch.ones(2, 2)}, "not a MinkUNet of MMDetection3D"),
    "a kernel of no layout": (
        *("spconv", lambda: {**spvnas(layer=Spconv), "stem.0.weight": torch.ones(27, 4, 2)}),
        "has shape (27, 4, 2), which is no kernel of spconv (out, k, k, k, in)",
    ),
    "sparse": ("spvnas", lambda: {"a": torch.eye(2).to_sparse()}, "is not an ordinary tensor of real numbers"),
    "no state": ("spvnas", lambda: {"epoch": 3, "model": None}, "no tensors of a network"),
    "a list": ("spvnas", lambda: [1, 2], "holds a Python list, not a network's state"),
    "a tensor": ("spvnas", lambda: torch.ones(3), "holds one tensor, not a network's state"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(tmp_path, case):
    zoo, build, message = WRONG[case]
    with pytest.raises(CheckpointError) as error:
        imported(tmp_path, build(), zoo)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    if case != "not finite":
        assert str(error.value).startswith(str(tmp_path / "their.pth"))


def test_arguments_that_do_not_fit(tmp_path):
    with pytest.raises(ConfigError, match="SPVNAS has networks for semantickitti, not for 'nuscenes'"):
        imported(tmp_path, spvnas(), labels=LabelSpace.load("nuscenes"))
    with pytest.raises(ConfigError, match="'pointcept' is unknown; there are spvnas, mmdet3d, openpcseg, spconv"):
        imported(tmp_path, spvnas(), "pointcept")
    with pytest.raises(ConfigError, match="voxel_size"):
        imported(tmp_path, spvnas(), voxel_size=0)
    with pytest.raises(ConfigError, match="intensity_scale: -1"):
        imported(tmp_path, spvnas(), intensity_scale=-1)
    with pytest.raises(OutputError, match=r"written as \.safetensors"):
        import_checkpoint(tmp_path / "their.pth", tmp_path / "our.pth", zoo="spvnas", labels=KITTI)


def test_spconv_takes_any_label_space(tmp_path):
    labels = LabelSpace.load("nuscenes")
    meta = imported(
        tmp_path, spvnas(len(labels), layer=Spconv), "spconv", labels, voxel_size=0.1, intensity_scale=1 / 255
    )
    assert meta.labels == labels
    assert (meta.grid.voxel_size, meta.intensity_scale) == (0.1, 1 / 255)


def test_label_spaces_are_known_by_their_classes():
    data = KITTI.to_dict()
    data["classes"][0]["name"] = "automobile"
    data["groups"] = {}
    with pytest.raises(ConfigError, match="has other classes than SPVNAS trains: car, bicycle"):
        ZOOS["spvnas"].rows(LabelSpace.from_dict(data))
    with pytest.raises(LabelError):
        LabelSpace.load(Path("none.yaml"))


def command(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["mdkt", "import", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_the_command(monkeypatch, capsys, tmp_path):
    file, out = tmp_path / "their.pth", tmp_path / "model.safetensors"
    torch.save({"state_dict": mmdet3d()}, file)
    assert command(monkeypatch, file, "--from", "mmdet3d", "--labels", "semantickitti", "-o", out) == 0
    said = capsys.readouterr().out
    assert "model.safetensors (minkunet18, width 0.063, 19 classes, voxels of 0.05 m, intensity times 1)" in said
    points = np.random.default_rng(0).uniform(-3, 3, (300, 3)).astype(np.float32)
    result = Segmenter.load(out, "cpu").segment(points, np.linspace(0, 1, 300, dtype=np.float32))
    assert result.class_id.max() < 19

    before = out.read_bytes()
    assert command(monkeypatch, file, "--from", "mmdet3d", "-o", out) == 1
    assert "exists already" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert command(monkeypatch, file, "--from", "mmdet3d", "-o", out, "--force") == 0
    assert command(monkeypatch, file, "--from", "zoo", "-o", out) == 2
    assert command(monkeypatch, file, "-o", out) == 2
    capsys.readouterr()
    assert command(monkeypatch, file, "--from", "spvnas", "-o", tmp_path / "b.safetensors") == 1
    error = capsys.readouterr().err
    assert error.startswith("mdkt: ")
    assert error.count("\n") == 1
    assert command(monkeypatch, file, "--from", "mmdet3d", "--labels", "towns", "-o", tmp_path / "b.safetensors") == 1
    assert "label space 'towns' is not known" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "their.pth"]
