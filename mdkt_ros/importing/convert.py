"""A file of a public model zoo, turned into a checkpoint."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import torch

from mdkt_ros.checkpoint import CheckpointMeta, save_checkpoint
from mdkt_ros.checkpoint_meta import one_line
from mdkt_ros.errors import CheckpointError, ConfigError, OutputError
from mdkt_ros.importing.architecture import Architecture, State, recognise
from mdkt_ros.importing.pth import read_state
from mdkt_ros.importing.zoos import ZOOS, Zoo
from mdkt_ros.labels import LabelSpace
from mdkt_ros.network import PointNetwork, build_network
from mdkt_ros.output import refuse_existing, refuse_input
from mdkt_ros.voxel_grid import VoxelGrid

_REACH = (200.0, 200.0, 50.0)
"""Metres to each side that the grid covers: farther than LiDARs see, because the projects have no limit."""


def import_checkpoint(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    zoo: str,
    labels: LabelSpace,
    voxel_size: float | None = None,
    intensity_scale: float | None = None,
    force: bool = False,
) -> CheckpointMeta:
    """Write the MinkUNet in `path`, a file that torch.save wrote in the project `zoo`, to the checkpoint `out`.

    Args:
        zoo: a name of `zoos.ZOOS`.
        labels: the classes that the network tells apart.
        voxel_size: metres, where training did not have the project's usual one; likewise `intensity_scale`, which
            brings the sensor's intensity to the 0..1 that training saw.

    Returns:
        What the checkpoint says about its weights.

    Raises:
        CheckpointError: the file cannot be read or is not such a network; the message names what is wrong.
        ConfigError: `zoo` is unknown, or has no networks for `labels`. OutputError: `out` cannot be written.
    """
    path, out = Path(path), Path(out)
    if zoo not in ZOOS:
        raise ConfigError(f"from: {zoo!r} is unknown; there are {', '.join(ZOOS)}")
    if out.suffix != ".safetensors":
        raise OutputError(f"{out}: a checkpoint is written as .safetensors")
    conventions = _overridden(ZOOS[zoo], voxel_size, intensity_scale)
    refuse_input(out, path)
    refuse_existing(out, force)
    rows = conventions.rows(labels)
    state = read_state(path)
    network, architecture = convert(state, conventions, rows, str(path))
    meta = CheckpointMeta(
        preset=architecture.preset,
        width=architecture.width,
        grid=_grid(conventions.voxel_size),
        labels=labels,
        features=conventions.features,
        intensity_scale=conventions.intensity_scale,
        training={
            "imported": {
                "from": conventions.name,
                "project": conventions.title,
                "layout": architecture.layout.title,
                "file": path.name,
                "sha256": _sha256(path),
            }
        },
    )
    save_checkpoint(out, network, meta, force=force)
    return meta


def convert(state: State, zoo: Zoo, rows: list[int], source: str) -> tuple[PointNetwork, Architecture]:
    """The network whose tensors `state` holds, with the outputs `rows` of the classifier, and what it was built from.

    Raises:
        CheckpointError: a tensor is missing, superfluous or misshapen, or they are no MinkUNet of `zoo`.
    """
    found = recognise(state, zoo, source)
    if found.in_channels != len(zoo.features):
        raise CheckpointError(
            f"{source}: the network takes {found.in_channels} features of a voxel, not the {len(zoo.features)} of "
            f"{zoo.title}: {', '.join(zoo.features)}"
        )
    outputs = len(rows) + zoo.unlabelled_first
    if found.outputs != outputs:
        first = " and one for points without a label" if zoo.unlabelled_first else ""
        raise CheckpointError(
            f"{source}: the network tells {found.outputs} classes apart, but {outputs} are expected: those of the "
            f"label space{first}"
        )
    with torch.random.fork_rng(devices=[]):
        network = build_network(found.preset, in_channels=found.in_channels, classes=len(rows), width=found.width)
    ours = network.state_dict()
    _refuse_superfluous(state, {found.layout.rename(name) for name in ours}, zoo, source)
    taken = {name: _taken(name, like, state, found, rows, source) for name, like in ours.items()}
    network.load_state_dict(taken)
    return network.eval(), found


def _taken(
    name: str, like: torch.Tensor, state: State, found: Architecture, rows: list[int], source: str
) -> torch.Tensor:
    """The file's value of our tensor `name`, which has the shape and the type of `like`."""
    there = found.layout.rename(name)
    if there not in state:
        if name.endswith("num_batches_tracked"):  # older PyTorch did not count; only training would want to know
            return torch.zeros_like(like)
        raise CheckpointError(f"{source}: tensor {there!r} is missing")
    value = state[there]
    shape = tuple(like.shape)
    is_kernel, is_classifier = name.endswith(".kernel"), name.startswith("classifier.")
    expected = found.layout.file_shape(shape) if is_kernel else shape
    if is_classifier:
        expected = (found.outputs, *shape[1:])
    # torchsparse wrote 1^3 kernels both with and without their one offset.
    one_offset = is_kernel and not found.layout.spconv and tuple(value.shape) == (1, *shape)
    if tuple(value.shape) != expected and not one_offset:
        raise CheckpointError(f"{source}: tensor {there!r} has shape {tuple(value.shape)}, expected {expected}")
    if value.is_floating_point() != like.is_floating_point():
        raise CheckpointError(f"{source}: tensor {there!r} has type {value.dtype}, expected {like.dtype}")
    if is_kernel:
        value = found.layout.kernel(value)
    return (value[rows] if is_classifier else value).to(like.dtype)


def _refuse_superfluous(state: State, known: set[str], zoo: Zoo, source: str) -> None:
    for name in state:
        ignored = name.startswith(zoo.unused)
        # SPVNAS' SPVCNN has the names of its MinkUNet, which has these too, but never trains them.
        if "point_transforms." in name and not (ignored and _untrained(name, state[name])):
            raise CheckpointError(f"{source}: tensor {name!r} is of an SPVCNN's branch for points; it is no MinkUNet")
        if name not in known and not ignored:
            raise CheckpointError(f"{source}: unexpected tensor {one_line(repr(name))}; the MinkUNet does not have it")


def _untrained(name: str, value: torch.Tensor) -> bool:
    return not (name.endswith("running_mean") and bool(value.any()))


def _overridden(zoo: Zoo, voxel_size: float | None, intensity_scale: float | None) -> Zoo:
    if intensity_scale is not None and not 0 < intensity_scale < float("inf"):
        raise ConfigError(f"intensity_scale: {intensity_scale} is not a positive number")
    return replace(
        zoo,
        voxel_size=zoo.voxel_size if voxel_size is None else voxel_size,
        intensity_scale=zoo.intensity_scale if intensity_scale is None else intensity_scale,
    )


def _grid(size: float) -> VoxelGrid:
    """Voxels around the multiples of `size`, because the projects round to the nearest where others round down."""
    VoxelGrid(size, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))  # refuses what is no size, before it divides
    corner = [(round(reach / size) + 0.5) * size for reach in _REACH]
    x, y, z = corner
    return VoxelGrid(size, (-x, -y, -z), (x, y, z))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
