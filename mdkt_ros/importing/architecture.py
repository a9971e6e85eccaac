"""Which network a file's tensors belong to: layout by their names, preset and width by their shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch

from mdkt_ros.errors import CheckpointError
from mdkt_ros.importing.layouts import LAYOUTS, Layout
from mdkt_ros.importing.zoos import ZOOS, Zoo
from mdkt_ros.network import PRESETS, Preset

_MAX_BLOCKS = 64
_LANDMARKS = ("stem.0.kernel", "stage1.0.net.0.kernel", "stage1.1.net.0.kernel", "up4.0.net.0.kernel")
_ENGINES = {
    ".net.0.bn.weight": "MinkowskiEngine",
    ".norm1.bn.weight": "MinkowskiEngine",
}

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Architecture:
    """What `network.build_network` needs, besides `layout`: how the file's tensors are called and laid out.

    Attributes:
        outputs: rows of the classifier.
    """

    layout: Layout
    preset: str
    width: float
    in_channels: int
    outputs: int


def recognise(state: State, zoo: Zoo, source: str) -> Architecture:
    """The architecture that the tensors `state` of a file of `zoo` belong to.

    Raises:
        CheckpointError: they are another project's, or of a network that no preset describes.
    """
    layout = _layout(state, zoo, source)
    blocks = tuple(_count_blocks(state, layout, stage) for stage in _STAGES)
    shapes = [_kernel_shape(state, layout, name, source) for name in _widest_names()]
    channels = tuple(out_channels for _, _, out_channels in shapes)
    classifier = layout.rename("classifier.0.weight")
    outputs, read = _matrix(state, classifier, source)
    multiscale = read == channels[4] + channels[6] + channels[8]
    if multiscale not in zoo.multiscale:
        described = "three levels" if multiscale else "one level"
        other = ", ".join(
            z.name for z in ZOOS.values() if layout in z.layouts and multiscale in z.multiscale and z is not zoo
        )
        hint = f"; is it --from {other}?" if other else ""
        raise CheckpointError(
            f"{source}: the classifier reads {described} ({read} channels), unlike that of {zoo.title}{hint}"
        )
    preset, width = _preset(blocks, channels, multiscale, source)
    return Architecture(layout, preset, width, shapes[0][1], outputs)


_STAGES = (*(f"stage{stage}." for stage in range(1, 5)), *(f"up{stage}.1." for stage in range(1, 5)))


def _widest_names() -> list[str]:
    """Kernels whose outputs are the channels of the stem, the encoder's stages and the decoder's."""
    stages = [f"stage{stage}.1.net.0.kernel" for stage in range(1, 5)]
    return ["stem.0.kernel", *stages, *(f"up{stage}.0.net.0.kernel" for stage in range(1, 5))]


def _layout(state: State, zoo: Zoo, source: str) -> Layout:
    def fits(layout: Layout) -> bool:
        return all(layout.rename(name) in state for name in _LANDMARKS)

    for layout in zoo.layouts:
        if fits(layout):
            return layout
    other = next((layout for layout in LAYOUTS if fits(layout)), None)
    if other is not None:
        names = " or ".join(z.name for z in ZOOS.values() if other in z.layouts)
        raise CheckpointError(f"{source}: has the {other.title}, which is not {zoo.title}'s; try --from {names}")
    for ending, engine in _ENGINES.items():
        if any(name.endswith(ending) for name in state):
            raise CheckpointError(f"{source}: a network of {engine}, which is not imported; take one of spconv")
    missing = next(zoo.layouts[0].rename(name) for name in _LANDMARKS if zoo.layouts[0].rename(name) not in state)
    raise CheckpointError(
        f"{source}: not a MinkUNet of {zoo.title}: tensor {missing!r} is missing; has {len(state)} tensors, the first "
        f"{next(iter(state))!r}"
    )


def _count_blocks(state: State, layout: Layout, stage: str) -> int:
    first = 1 if stage.startswith("stage") else 0
    count = 0
    while count < _MAX_BLOCKS and layout.rename(f"{stage}{first + count}.net.0.kernel") in state:
        count += 1
    return count


def _kernel_shape(state: State, layout: Layout, name: str, source: str) -> tuple[int, int, int]:
    there = layout.rename(name)
    if there not in state:
        raise CheckpointError(f"{source}: tensor {there!r} is missing")
    shape = layout.kernel_shape(tuple(state[there].shape))
    if shape is None:
        kernels = "spconv (out, k, k, k, in)" if layout.spconv else "torchsparse (offsets, in, out)"
        raise CheckpointError(
            f"{source}: tensor {there!r} has shape {tuple(state[there].shape)}, which is no kernel of {kernels}"
        )
    return shape


def _matrix(state: State, name: str, source: str) -> tuple[int, int]:
    if name not in state:
        raise CheckpointError(f"{source}: tensor {name!r} is missing")
    shape = tuple(state[name].shape)
    if len(shape) != 2:
        raise CheckpointError(f"{source}: tensor {name!r} has shape {shape}, expected (classes, channels)")
    return shape[0], shape[1]


def _preset(blocks: tuple[int, ...], channels: tuple[int, ...], multiscale: bool, source: str) -> tuple[str, float]:
    for name, preset in PRESETS.items():
        if preset.blocks == blocks and (len(preset.classified) > 1) == multiscale:
            width = _width(preset, channels)
            if width is not None:
                return name, width
    raise CheckpointError(
        f"{source}: residual blocks {list(blocks)} with channels {list(channels)} are of no known preset; there are "
        + "; ".join(f"{name}: {list(p.blocks)}, {list(p.channels)} times a width" for name, p in PRESETS.items())
    )


def _width(preset: Preset, channels: tuple[int, ...]) -> float | None:
    """The number with the fewest digits that makes `channels` of the preset's; None where there is none."""
    # int(width * base) == found means found <= width * base < found + 1.
    pairs = list(zip(channels, preset.channels, strict=True))
    low = max(Fraction(found, base) for found, base in pairs)
    high = min(Fraction(found + 1, base) for found, base in pairs)
    for digits in range(10):
        width: float = math.ceil(low * 10**digits) / 10**digits
        if low <= Fraction(width) < high and all(int(width * base) == found for found, base in pairs):
            return width
    return None
