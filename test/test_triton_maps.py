"""Maps that the Triton back end makes against those of the PyTorch one, under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from device_waits import forbid_waits
from interpreted_triton import interpreter, needs_triton
from sparse_inputs import INPUTS

from mdkt_ros.sparse import SparseTensor, use_engine
from mdkt_ros.sparse.torch_maps import TorchMaps
from mdkt_ros.sparse.triton_backend.loading import load
from mdkt_ros.sparse.triton_backend.maps import TritonMaps
from mdkt_ros.sparse.triton_backend.tiling import TILING, Tiling

pytestmark = [needs_triton, pytest.mark.usefixtures("interpreter")]
__all__ = ["interpreter"]


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_maps(name: str, in_order: bool) -> None:
    coordinates = INPUTS[name](1).coordinates
    builder, oracle = TritonMaps(load()), TorchMaps()
    level = builder.level(coordinates)
    if in_order:
        coordinates = coordinates if level.order is None else coordinates[level.order]
        level = builder.level(coordinates)
    coarse, parents = builder.coarser(level)
    for mine, expected in (
        (builder.submanifold(level), oracle.submanifold(level)),
        (builder.strided(level, coarse), oracle.strided(level, coarse)),
        (builder.transposed(level, coarse, parents), oracle.transposed(level, coarse, parents)),
    ):
        assert torch.equal(mine.table, expected.table)
        assert (mine.in_count, mine.out_count) == (expected.in_count, expected.out_count)
        assert mine.symmetric is expected.symmetric


def test_more_voxels_than_a_program_asks_for() -> None:
    generator = torch.Generator().manual_seed(1)
    coordinates = (torch.rand((1, 12, 12, 12), generator=generator) < 0.4).nonzero().to(torch.int32)
    level = TorchMaps().level(coordinates[torch.randperm(len(coordinates), generator=generator)])
    assert len(coordinates) > 512
    assert torch.equal(TritonMaps(load()).submanifold(level).table, TorchMaps().submanifold(level).table)


def test_steps_of_more_than_32_bits() -> None:
    rows = [[0, -(2**19), -(2**19), 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1], [0, 2**19, 2**19, 2**19]]
    level = TorchMaps().level(torch.tensor(rows, dtype=torch.int32))
    assert level.frame.offset(1, 0, 0) > 2**32
    assert torch.equal(TritonMaps(load()).submanifold(level).table, TorchMaps().submanifold(level).table)


def test_compiled_kernels_leave_the_cpu_to_pytorch() -> None:
    class Compiled:
        INTERPRETED = False

    level = TorchMaps().level(INPUTS["dense corner"](1).coordinates)
    coarse, _ = TorchMaps().coarser(level)
    builder = TritonMaps(Compiled)  # type: ignore[arg-type]
    assert torch.equal(builder.submanifold(level).table, TorchMaps().submanifold(level).table)
    assert torch.equal(builder.strided(level, coarse).table, TorchMaps().strided(level, coarse).table)


def test_searching_waits_for_nothing(monkeypatch) -> None:
    class Kernels:
        INTERPRETED = True
        find_neighbours: dict = {(1, 9): lambda *arguments, **options: None}  # noqa: RUF012

    builder = TritonMaps(Kernels)  # type: ignore[arg-type]
    level = builder.level(INPUTS["negative, odd extents"](1).coordinates[:200])
    coarse, parents = builder.coarser(level)
    with forbid_waits():
        builder.submanifold(level)
        builder.strided(level, coarse)
        builder.transposed(level, coarse, parents)


@pytest.mark.parametrize("name", ["far from the origin", "isolated voxels", "no voxel"])
def test_maps_that_are_arranged_together_are_laid_out_as_each_alone(name: str) -> None:
    with use_engine("triton"):
        maps = SparseTensor(torch.zeros((len(INPUTS[name](1)), 1)), INPUTS[name](1).coordinates).maps
        maps.prepare([1, 2, 4])
    found = [maps.submanifold(1), maps.submanifold(4), maps.strided(1, 2), maps.transposed(2), maps.strided(2, 2)]
    for kernel_map in found:
        together, alone = kernel_map.kept[TILING], Tiling.of(kernel_map, load())
        assert torch.equal(together.rows, alone.rows)
        assert torch.equal(together.table, alone.table)
        for rows in (32, 128):
            assert torch.equal(together.offsets(rows).packed, alone.offsets(rows).packed)
            assert torch.equal(together.offsets(rows).counts, alone.offsets(rows).counts)
    assert maps.strided(1, 2).reversed is maps.transposed(1)
