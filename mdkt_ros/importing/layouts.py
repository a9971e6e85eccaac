"""How a project names a MinkUNet's tensors and lays out its kernels, told from the names and kernels of this one.

The network here has SPVNAS' names and the kernels of torchsparse, (offsets, in, out): those of 3^3 with x fastest,
those of 2^3 with z fastest. spconv has (out, x, y, z, in), the axes in the order of the coordinates' columns, which are
x, y, z in MMDetection3D (`data_preprocessor.py`, `voxel_type="minkunet"`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

_SIDES = {1: 1, 8: 2, 27: 3}


@dataclass(frozen=True)
class Layout:
    """Names and kernels of a kind of file.

    Attributes:
        title: for messages.
        rename: the file's name of a tensor of `PointNetwork`.
        spconv: whether kernels are spconv's, rather than torchsparse's.
    """

    title: str
    rename: Callable[[str], str]
    spconv: bool

    def kernel_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int] | None:
        """Offsets, inputs and outputs of a kernel of the file; None where it is no such kernel."""
        if self.spconv:
            if len(shape) != 5 or len(set(shape[1:4])) != 1:
                return None
            return shape[1] ** 3, shape[4], shape[0]
        if len(shape) == 2:
            return 1, shape[0], shape[1]
        return (shape[0], shape[1], shape[2]) if len(shape) == 3 else None

    def kernel(self, value: torch.Tensor) -> torch.Tensor:
        """A kernel of the file, of 1^3, 2^3 or 3^3, as `SparseConvolution` has it."""
        if self.spconv:
            side, in_channels, out_channels = value.shape[1], value.shape[4], value.shape[0]
            if side == 1:
                # spconv 2.x reads the memory of these, and only of these, as (in, out): its issue 450. So it trained.
                return value.reshape(in_channels, out_channels)
            order = (3, 2, 1, 4, 0) if side % 2 else (1, 2, 3, 4, 0)
            value = value.permute(order).reshape(side**3, in_channels, out_channels)
        return value[0] if value.ndim == 3 and len(value) == 1 else value

    def file_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in a file of a kernel that is (offsets, in, out) or (in, out) here."""
        if not self.spconv:
            return shape
        offsets, in_channels, out_channels = shape if len(shape) == 3 else (1, *shape)
        side = _SIDES[offsets]
        return out_channels, side, side, side, in_channels


_STEM = {"0": "0.{0}", "1": "0.{1}", "3": "1.{0}", "4": "1.{1}"}
_RESIDUAL = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2"}


def _same(name: str) -> str:
    return name


def _weight(name: str) -> str:
    return re.sub(r"\.kernel$", ".weight", name)


def _mmdet3d_torchsparse(name: str) -> str:
    if found := re.fullmatch(r"stem\.(\d)\.(\w+)", name):
        return f"backbone.conv_input.{_STEM[found[1]].format('net.0', 'net.1')}.{found[2]}"
    if found := re.fullmatch(r"(stage|up)(\d)\.(.+)", name):
        return f"backbone.{_CODERS[found[1]]}.{int(found[2]) - 1}.{found[3]}"
    return name.replace("classifier.0.", "decode_head.conv_seg.")


def _mmdet3d_spconv(name: str) -> str:
    name = _weight(name)
    if found := re.fullmatch(r"stem\.(\d)\.(\w+)", name):
        return f"backbone.conv_input.{_STEM[found[1]].format('0', '1')}.{found[2]}"
    if found := re.fullmatch(r"(stage|up)(\d)\.0\.net\.(.+)", name):
        return f"backbone.{_CODERS[found[1]]}.{int(found[2]) - 1}.0.{found[3]}"
    if found := re.fullmatch(r"(stage|up)(\d)\.(.+)\.net\.(\d)\.(\w+)", name):
        return f"backbone.{_CODERS[found[1]]}.{int(found[2]) - 1}.{found[3]}.{_RESIDUAL[found[4]]}.{found[5]}"
    return _mmdet3d_torchsparse(name)


_CODERS = {"stage": "encoder", "up": "decoder"}

SPVNAS_TORCHSPARSE = Layout("names of SPVNAS with torchsparse kernels", _same, spconv=False)
SPVNAS_SPCONV = Layout("names of SPVNAS with spconv kernels", _weight, spconv=True)
MMDET3D_TORCHSPARSE = Layout("names of MMDetection3D with torchsparse kernels", _mmdet3d_torchsparse, spconv=False)
MMDET3D_SPCONV = Layout("names of MMDetection3D with spconv kernels", _mmdet3d_spconv, spconv=True)
LAYOUTS = (SPVNAS_TORCHSPARSE, SPVNAS_SPCONV, MMDET3D_TORCHSPARSE, MMDET3D_SPCONV)
