"""Files as model zoos publish them, with random weights, and their import."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from zoo_networks import Mmdet3dNetwork, Spconv, SpvnasNetwork, Torchsparse, randomize

from mdkt_ros.checkpoint import CheckpointMeta, read_meta
from mdkt_ros.importing.convert import import_checkpoint
from mdkt_ros.labels import LabelSpace

KITTI = LabelSpace.load("semantickitti")
SHALLOW = (2,) * 8


def spvnas(classes: int = 19, multiscale: bool = False, features: int = 4, layer: type = Torchsparse):
    network = randomize(SpvnasNetwork(layer, 0.0625, SHALLOW, classes, multiscale, features), seed=0)
    return OrderedDict((name, value.clone()) for name, value in network.state_dict().items())


def mmdet3d(layer: type = Spconv, blocks: tuple[int, ...] = SHALLOW):
    return randomize(Mmdet3dNetwork(layer, 0.0625, blocks, 19, False), seed=0).state_dict()


def imported(
    folder: Path, document: Any, zoo: str = "spvnas", labels: LabelSpace = KITTI, **options: Any
) -> CheckpointMeta:
    """Import `folder/their.pth`, written first unless `document` is None; a failure leaves nothing else behind."""
    path, out = folder / "their.pth", folder / "our.safetensors"
    if document is not None:
        torch.save(document, path)
    try:
        import_checkpoint(path, out, zoo=zoo, labels=labels, **options)
    except BaseException:
        assert sorted(p.name for p in folder.iterdir() if p != path) == []
        raise
    return read_meta(out)
