"""Sparse inputs that several tests of the engine share."""

from __future__ import annotations

import torch

from mdkt_ros.sparse import KernelMap, SparseTensor

SHAPES = {
    # scans, extents, first voxel, share of voxels that are occupied
    "dense corner": (1, (4, 4, 4), (0, 0, 0), 1.0),
    "negative, odd extents": (2, (7, 5, 9), (-4, -3, -5), 0.4),
    "even extents, crossing zero": (3, (6, 8, 4), (-3, -4, -2), 0.3),
    "far from the origin": (2, (5, 6, 7), (-1001, 2000, -40), 0.25),
    "isolated voxels": (2, (30, 30, 30), (-15, -14, -13), 0.001),
}


def random_voxels(name: str, channels: int, seed: int = 0, shuffle: bool = True) -> SparseTensor:
    """Random voxels of the shape `name` with random features that want gradients."""
    generator = torch.Generator().manual_seed(seed)
    scans, extents, first, share = SHAPES[name]
    occupied = torch.rand((scans, *extents), generator=generator) < share
    coordinates = occupied.nonzero() + torch.tensor([0, *first])
    if shuffle:
        coordinates = coordinates[torch.randperm(len(coordinates), generator=generator)]
    features = torch.randn((len(coordinates), channels), generator=generator, dtype=torch.float64)
    return SparseTensor(features.requires_grad_(), coordinates.to(torch.int32))


def few_voxels(rows: list[list[int]], channels: int) -> SparseTensor:
    features = torch.arange(len(rows) * channels, dtype=torch.float64).reshape(len(rows), channels) + 1
    return SparseTensor(features.requires_grad_(), torch.tensor(rows, dtype=torch.int32).reshape(-1, 4))


INPUTS = {
    **{name: (lambda channels, name=name: random_voxels(name, channels)) for name in SHAPES},
    "one voxel": lambda channels: few_voxels([[0, -7, 3, -1]], channels),
    "one voxel of the last scan": lambda channels: few_voxels([[5, 2, 2, 3]], channels),
    "no voxel": lambda channels: few_voxels([], channels),
}


def street(channels: int, seed: int = 0) -> SparseTensor:
    """A few thousand voxels on a plane and a wall, where a voxel has neighbours as it has in a scan."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randint(0, 60, (2600, 2), generator=generator)
    wall = torch.randint(0, 30, (1500, 2), generator=generator)
    ground = torch.nn.functional.pad(flat, (0, 1))
    upright = torch.stack([torch.full((len(wall),), 7), wall[:, 0] + 10, wall[:, 1]], dim=1)
    xyz = torch.cat([ground, upright]) - torch.tensor([30, 21, 2])
    coordinates = torch.unique(torch.nn.functional.pad(xyz, (1, 0)), dim=0).to(torch.int32)
    return SparseTensor(torch.randn((len(coordinates), channels), generator=generator), coordinates)


def by_definition(
    features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap, bias: torch.Tensor | None
) -> torch.Tensor:
    out = torch.zeros((kernel_map.out_count, kernel.shape[2]), dtype=torch.float64)
    for rows, matrix in zip(kernel_map.table, kernel.double(), strict=True):
        there = rows >= 0
        out[there] += features.double()[rows[there].long()] @ matrix
    return out if bias is None else out + bias.double()


def maps_of(x: SparseTensor) -> dict[str, KernelMap]:
    maps = x.maps
    return {
        "identity": maps.identity(1),
        "submanifold": maps.submanifold(1),
        "strided 2": maps.strided(1, 2),
        "strided 3": maps.strided(1, 3),
        "transposed": maps.transposed(1),
    }
