"""Backbones of the image network: timm models that give a feature map a stage, and weights for them from a file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mdkt_ros.errors import CheckpointError, ConfigError
from mdkt_ros.vision_ops import import_timm


def make_backbone(name: str, strides: Sequence[int], *, published: bool = False) -> Any:
    """A timm model as `timm.create_model(name, features_only=True)` gives it: a module from images to feature maps.

    Args:
        name: timm's name, `resnet18` or with a tag of published weights, `resnet50.a1_in1k`.
        strides: that its feature maps must have, among others.
        published: download its published weights; without, the weights are fresh.

    Raises:
        ConfigError: timm is missing, has no model of that name, cannot get the weights, or the strides are others.
    """
    timm = import_timm()
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; see timm.list_models()"
        raise ConfigError(f"image_network.name = {name!r}: timm {timm.__version__} has no such model{hint}")
    try:
        backbone = timm.create_model(name, features_only=True, pretrained=published)
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        what = "its published weights cannot be had" if published else "gives no feature maps"
        raise ConfigError(f"image_network.name = {name!r}: {what}: {' '.join(str(error).split())}") from error
    reduction = backbone.feature_info.reduction()
    innermost = getattr(backbone, "output_fmt", None)
    if not set(strides) <= set(reduction) or "NHWC" in str(innermost):
        found = ", ".join(map(str, reduction))
        raise ConfigError(
            f"image_network.name = {name!r}: its feature maps have strides {found} (layout {innermost or 'NCHW'}); "
            f"a pyramid needs a convolutional network with {', '.join(map(str, strides))}, such as resnet18"
        )
    return backbone


def load_backbone(backbone: nn.Module, path: Path, name: str) -> None:
    """Fill a backbone with weights from a file.

    Args:
        backbone: of `make_backbone`.
        path: .safetensors with the keys of the features-only model (`layer1.0.conv1.weight`, `stages_0...`), or of
            the whole timm model, whose classifier is left out (`stages.0...`). Where its metadata has `name`, that is
            the timm model it belongs to.
        name: of the model, for messages and to compare with the metadata.

    Raises:
        CheckpointError: no such file, not safetensors, of another model, a weight missing or of another shape.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file (image_network.weights)")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole .safetensors file: {' '.join(str(error).split())}") from error
    if metadata.get("name", name) != name:
        raise CheckpointError(f"{path}: weights of {metadata['name']}, but image_network.name is {name}")
    wanted = backbone.state_dict()
    found: dict[str, Tensor] = {}
    for key, value in wanted.items():
        # Features-only models flatten the first level of names where a stage is an item of a list.
        whole = re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", key)
        tensor = tensors.get(key, tensors.get(whole))
        if tensor is None and key.endswith("num_batches_tracked"):
            tensor = value  # which counts steps, and many files leave out
        if tensor is None:
            raise CheckpointError(f"{path}: lacks {key} of {name}")
        if tensor.shape != value.shape:
            raise CheckpointError(f"{path}: {key} is {tuple(tensor.shape)}, {name} needs {tuple(value.shape)}")
        found[key] = tensor
    backbone.load_state_dict(found)


def group_norms(backbone: nn.Module) -> None:
    """Put a group norm (Wu and He, arXiv 1803.08494) in the place of each batch norm, with its scale and shift."""
    for parent in list(backbone.modules()):
        for name, norm in list(parent.named_children()):
            if not isinstance(norm, nn.BatchNorm2d):
                continue
            channels = norm.num_features
            # At least eight channels a group where there are as many: fewer would be nearly instance norm.
            groups = max(g for g in range(1, 33) if channels % g == 0 and channels // g >= min(8, channels))
            group = nn.GroupNorm(groups, channels, eps=norm.eps)
            group.load_state_dict({"weight": norm.weight, "bias": norm.bias})
            # timm's fused batch norms end in a rectifier of their own.
            after = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
            setattr(parent, name, nn.Sequential(group, *after) if after else group)
