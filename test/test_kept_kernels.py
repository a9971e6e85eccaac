"""What the engine `native` remembers of a kernel of one voxel, whose view a layer keeps, and when it forgets it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest import mock

import pytest
import torch
from sparse_inputs import street

from mdkt_ros.sparse import SubmanifoldConv3d, use_engine
from mdkt_ros.sparse.backend import current_backend

pytest.importorskip("numba", reason="the engine `native` needs numba")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_kernel_of_one_voxel_is_packed_once_and_again_when_it_changes(
    mode: Callable[[], AbstractContextManager[None]],
) -> None:
    x = street(4)
    module = SubmanifoldConv3d(x.features.shape[1], 5, 1).requires_grad_(False)
    backend = current_backend(x.features.device)

    def difference(layer: SubmanifoldConv3d) -> float:
        with mode(), use_engine("native"):
            return float((layer(x).features - x.features @ layer.kernel).abs().max())

    assert difference(module) < 1e-5
    with mode(), mock.patch.object(backend, "_packed_anew", side_effect=AssertionError("packed again")):
        assert difference(module) < 1e-5
    module.kernel.mul_(2)
    assert difference(module) < 1e-5
    for _ in range(20):  # the allocator likes to give freed memory again
        module.kernel.data = torch.randn_like(module.kernel)
        assert difference(module) < 1e-5
    other = copy.deepcopy(module)
    other.load_state_dict({"kernel": torch.randn_like(module.kernel)})
    assert difference(other) < 1e-5
    assert difference(module) < 1e-5
