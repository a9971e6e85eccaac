"""What a checkpoint says about its weights: network, voxels, classes, sensor, and how it was trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from mdkt_ros.errors import CheckpointError, ConfigError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.network import PRESETS
from mdkt_ros.voxel_grid import VoxelGrid
from mdkt_ros.voxels import DEFAULT_FEATURES, check_features

FORMAT_VERSION = 1
AXES = ("x_forward", "y_forward")
_MAX_WIDTH = 8.0
_MAX_NUMBER = 1e12
_MAX_CHANNELS = 65536


@dataclass(frozen=True)
class OpenVocabulary:
    """What the text embeddings and the projection head of a checkpoint belong to.

    Attributes:
        model, pretrained: the text model's open_clip name, and its tag or file, as the training was told.
        weights: fingerprint of its weights; empty: not known.
        prompts: the templates, each with `{}` in the place of the word.
        hidden, dim: channels of the projection head's inner layer, and of the embeddings.
        temperature: that the training divided cosines by.
    """

    model: str
    pretrained: str
    weights: str
    prompts: tuple[str, ...]
    hidden: int
    dim: int
    temperature: float


@dataclass(frozen=True, eq=False)
class CheckpointMeta:
    """Everything needed to use the weights, besides the weights.

    Attributes:
        preset: name of the network's sizes, in `network.PRESETS`; `width` multiplies its channels.
        grid: voxels, in metres, LiDAR frame.
        labels: the classes, in the order of the logits.
        features: inputs of the network by name (`voxels.FEATURES`), in order.
        intensity_scale: what multiplies the sensor's intensity, so that it lies in 0..1 as training saw it.
        axes: `x_forward` (KITTI: x forward, y left) or `y_forward` (nuScenes: x right, y forward); z is up.
        text_embeddings: (classes, D) float32 or None.
        open_vocabulary: where the file holds a projection head: what text model it speaks the language of.
        training: recipe, time, machine, score: any JSON. data: fingerprint of what it was trained on: any JSON.
    """

    preset: str
    width: float
    grid: VoxelGrid
    labels: LabelSpace
    features: tuple[str, ...] = DEFAULT_FEATURES
    intensity_scale: float = 1.0
    axes: str = "x_forward"
    text_embeddings: torch.Tensor | None = None
    training: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    open_vocabulary: OpenVocabulary | None = None

    def with_text(self, embeddings: torch.Tensor) -> CheckpointMeta:
        """The same with text embeddings (classes, D)."""
        return replace(self, text_embeddings=embeddings)

    def to_dict(self) -> dict[str, Any]:
        """What the file's metadata holds, of JSON types only; the text embeddings are a tensor and not in it."""
        document = {
            "format_version": FORMAT_VERSION,
            "network": {"preset": self.preset, "width": self.width},
            "features": list(self.features),
            "grid": {
                "voxel_size": self.grid.voxel_size,
                "minimum": list(self.grid.minimum),
                "maximum": list(self.grid.maximum),
            },
            "labels": self.labels.to_dict(),
            "intensity_scale": self.intensity_scale,
            "axes": self.axes,
            "training": self.training,
            "data": self.data,
        }
        if self.open_vocabulary is not None:
            stated = asdict(self.open_vocabulary)
            document["open_vocabulary"] = {**stated, "prompts": list(self.open_vocabulary.prompts)}
        return document

    @classmethod
    def from_dict(cls, document: Any, source: str) -> CheckpointMeta:
        """Read what `to_dict` returns.

        Raises:
            CheckpointError: a key is missing, of the wrong type or out of range; the message names it and `source`.
            LabelError: the label space does not hold together.
        """
        root = _Section(document, source, "")
        version = root.take("format_version", int)
        if version != FORMAT_VERSION:
            hint = "written by a newer mdkt_ros; update it" if version > FORMAT_VERSION else "no such version exists"
            raise CheckpointError(
                f"{source}: checkpoint format {one_line(version)}, this reads {FORMAT_VERSION}: {hint}"
            )
        network, grid = root.section("network"), root.section("grid")
        preset = network.take("preset", str)
        if preset not in PRESETS:
            raise network.error("preset", f"{one_line(repr(preset))} is not known; there are {', '.join(PRESETS)}")
        width = network.number("width")
        if not 0 < width <= _MAX_WIDTH:
            raise network.error("width", f"{width:g} is not in 0 .. {_MAX_WIDTH:g}")
        scale = root.number("intensity_scale")
        if not scale > 0:
            raise root.error("intensity_scale", f"{scale:g} is not positive")
        axes = root.take("axes", str)
        if axes not in AXES:
            raise root.error("axes", f"{one_line(repr(axes))} is neither {' nor '.join(AXES)}")
        names = root.take("features", list)
        if not all(isinstance(name, str) for name in names):
            raise root.error("features", "must be a list of names")
        try:
            features = check_features(names)
        except ConfigError as error:
            raise root.error("features", one_line(error)) from error
        try:
            voxels = VoxelGrid(grid.number("voxel_size"), grid.corner("minimum"), grid.corner("maximum"))
        except ConfigError as error:
            raise root.error("grid", one_line(error)) from error
        labels = LabelSpace.from_dict(root.take("labels", dict), source=f"{source}: metadata key 'labels'")
        return cls(
            preset=preset,
            width=width,
            grid=voxels,
            labels=labels,
            features=features,
            intensity_scale=scale,
            axes=axes,
            training=root.take("training", dict),
            data=root.take("data", dict),
            open_vocabulary=_open_vocabulary(root) if "open_vocabulary" in root.value else None,
        )


def _open_vocabulary(root: _Section) -> OpenVocabulary:
    part = root.section("open_vocabulary")
    hidden, dim = part.take("hidden", int), part.take("dim", int)
    for key, value in (("hidden", hidden), ("dim", dim)):
        if not 0 < value <= _MAX_CHANNELS:
            raise part.error(key, f"{one_line(value)} is not in 1 .. {_MAX_CHANNELS}")
    prompts = part.take("prompts", list)
    if not prompts or not all(isinstance(prompt, str) and "{}" in prompt for prompt in prompts):
        raise part.error("prompts", "must be a list of texts that hold {}")
    model, pretrained, weights = (part.take(key, str) for key in ("model", "pretrained", "weights"))
    temperature = part.number("temperature")
    if not temperature > 0:
        raise part.error("temperature", f"{temperature:g} is not positive")
    return OpenVocabulary(model, pretrained, weights, tuple(prompts), hidden, dim, temperature)


class _Section:
    """A JSON object that knows where it is, for messages."""

    def __init__(self, value: Any, source: str, prefix: str):
        if not isinstance(value, dict):
            where = f"key {prefix[:-1]!r}" if prefix else "document"
            raise CheckpointError(f"{source}: metadata {where} must be an object, is {type(value).__name__}")
        self.value, self.source, self.prefix = value, source, prefix

    def error(self, key: str, message: str) -> CheckpointError:
        return CheckpointError(f"{self.source}: metadata key {self.prefix + key!r}: {message}")

    def take(self, key: str, kind: type) -> Any:
        if key not in self.value:
            raise self.error(key, "missing")
        value = self.value[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(key, f"must be {_JSON_NAMES[kind]}, is {one_line(repr(value))}")
        return value

    def section(self, key: str) -> _Section:
        return _Section(self.take(key, dict), self.source, f"{self.prefix}{key}.")

    def number(self, key: str) -> float:
        return self._number(key, self.value.get(key)) if key in self.value else float(self.take(key, int))

    def corner(self, key: str) -> tuple[float, float, float]:
        values = self.take(key, list)
        if len(values) != 3:
            raise self.error(key, f"must be three numbers (x, y, z), has {len(values)}")
        x, y, z = (self._number(key, value) for value in values)
        return x, y, z

    def _number(self, key: str, value: Any) -> float:
        # Compared before float(), which overflows on long integers.
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= _MAX_NUMBER:
            raise self.error(key, f"must be a number, is {one_line(repr(value))}")
        return float(value)


_JSON_NAMES = {int: "an integer", str: "a string", list: "a list", dict: "an object"}


def one_line(value: object) -> str:
    """Text of `value` on one line of at most 200 characters, for messages that quote a file."""
    text = " ".join(str(value).split())
    return text if len(text) <= 200 else text[:197] + "..."
