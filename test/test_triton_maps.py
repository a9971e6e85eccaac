"""Tables that the Triton back end makes on the device against those of `KernelMaps`, under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from device_waits import forbid_waits
from interpreted_triton import interpreter, needs_triton
from sparse_inputs import INPUTS

from mdkt_ros.sparse.triton_backend import VoxelTable, strided_table, submanifold_table, transposed_table

pytestmark = [needs_triton, pytest.mark.usefixtures("interpreter")]
__all__ = ["interpreter"]


@pytest.mark.parametrize("name", INPUTS)
def test_tables(name: str) -> None:
    x = INPUTS[name](1)
    coarse = x.maps.coordinates(2)
    assert torch.equal(submanifold_table(x.coordinates), x.maps.submanifold(1).table)
    assert torch.equal(strided_table(x.coordinates, coarse, 3), x.maps.strided(1, 3).table)
    halving = strided_table(x.coordinates, coarse, 2)
    assert torch.equal(halving, x.maps.strided(1, 2).table)
    assert torch.equal(transposed_table(halving, len(x)), x.maps.transposed(1).table)
    assert VoxelTable.of(x.coordinates).sound


def test_more_voxels_than_a_program_asks_for() -> None:
    generator = torch.Generator().manual_seed(1)
    coordinates = (torch.rand((1, 12, 12, 12), generator=generator) < 0.4).nonzero().to(torch.int32)
    table = VoxelTable.of(coordinates)
    assert len(coordinates) > 512
    centres = torch.cat([coordinates, coordinates + 100]).to(torch.int64)  # the latter outside of the box
    centres[:, 0] = 0
    rows = table.table(centres, 3)
    assert torch.equal(rows[13, : len(coordinates)], torch.arange(len(coordinates), dtype=torch.int32))


def test_making_a_table_waits_for_nothing() -> None:
    coordinates = INPUTS["negative, odd extents"](1).coordinates
    with forbid_waits():
        VoxelTable.of(coordinates)
        transposed_table(torch.zeros((8, 1), dtype=torch.int32), 1)


@pytest.mark.parametrize(
    ("rows", "sound"),
    [
        ([[0, 1, 2, 3], [0, 5, 5, 5], [0, 1, 2, 3]], False),
        ([[0, -(2**31), -(2**31), -(2**31)], [0, 2**31 - 1, 2**31 - 1, 2**31 - 1]], False),
        ([[0, -(2**31), 0, 5], [0, 2**31 - 1, 1, 5]], True),
    ],
)
def test_unsound_voxels_are_told_apart(rows: list[list[int]], sound: bool) -> None:
    assert bool(VoxelTable.of(torch.tensor(rows, dtype=torch.int32)).sound) is sound
