"""The nearest voxel, against distances to all of them."""

from __future__ import annotations

import pytest
import torch

from mdkt_ros.nearest import nearest_voxel


@pytest.mark.parametrize("spread", [3, 30, 1 << 19])
def test_nearest_voxel_is_the_nearest_or_about_as_near(spread: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randint(0, spread, (400, 3), generator=generator)
    target = torch.randint(0, spread, (20, 3), generator=generator)
    row = nearest_voxel(query.int(), target.int())
    squares = (query[:, None] - target[None]).square().sum(dim=2)
    best, got = squares.amin(dim=1), squares.gather(1, row[:, None]).squeeze(1)
    assert torch.equal(got[best <= 3], best[best <= 3])
    assert (got <= 49 * best).all()


def test_nothing_to_find_the_nearest_of() -> None:
    assert nearest_voxel(torch.zeros(0, 3, dtype=torch.int32), torch.zeros(2, 3, dtype=torch.int32)).tolist() == []
