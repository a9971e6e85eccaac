"""Class scores of voxels to labels: by compiled loops and by PyTorch's operations, which say the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mdkt_ros.label_tables as module
from mdkt_ros.label_tables import label_tables, take


@pytest.fixture(params=["loops", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "loops":
        pytest.importorskip("numba", reason="compiled loops need numba")
    else:
        monkeypatch.setattr(module, "compiled_loops", lambda _module: None)
    name: str = request.param
    return name


def scores(voxels: int, classes: int, seed: int = 0, spread: float = 4) -> torch.Tensor:
    return spread * torch.randn((voxels, classes), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("voxels", "classes"), [(0, 3), (1, 1), (63, 19), (64, 19), (65, 2), (9000, 33)])
@pytest.mark.parametrize("spread", [0, 1e-3, 4, 60, 1e4])
def test_tables_are_those_of_the_softmax(path: str, voxels: int, classes: int, spread: float) -> None:
    logits = scores(voxels, classes, spread=spread)
    class_id, probability, entropy = label_tables(logits)
    log_p = torch.log_softmax(logits.double(), dim=1)
    assert (class_id.dtype, probability.dtype, entropy.dtype) == (torch.uint8, torch.float32, torch.float32)
    assert class_id.tolist() == [*log_p.argmax(1).tolist(), 255]
    expected = torch.cat([log_p.exp().amax(1), torch.zeros(1)])
    torch.testing.assert_close(probability.double(), expected.double(), rtol=1e-6, atol=0)
    nats = torch.cat([-(log_p * log_p.exp()).nan_to_num().sum(1), torch.zeros(1)])
    torch.testing.assert_close(entropy.double(), nats.double(), rtol=1e-5, atol=1e-6)


def test_of_equal_scores_the_first_class_is_taken(path: str) -> None:
    class_id, probability, entropy = label_tables(torch.tensor([[1.0, 5.0, 5.0], [2.0, 2.0, 2.0]]))
    assert class_id.tolist() == [1, 0, 255]
    assert probability[1].item() == pytest.approx(1 / 3)
    assert entropy[1].item() == pytest.approx(np.log(3))


def test_scores_that_are_not_finite_are_no_prediction(path: str) -> None:
    nan, inf = float("nan"), float("inf")
    logits = torch.tensor(
        [[0.0, np.log(3.0), -200.0], [0, nan, 0], [nan, 0, 0], [0, inf, 0], [0, 1, -inf], [inf] * 3, [-inf] * 3]
    )
    class_id, probability, entropy = label_tables(logits)
    assert class_id.tolist() == [1] + 7 * [255]
    assert probability.tolist() == pytest.approx([0.75] + 7 * [0])
    assert entropy.tolist() == pytest.approx([0.75 * np.log(4 / 3) + 0.25 * np.log(4)] + 7 * [0], abs=1e-7)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_blocks_and_threads_change_no_bit(path: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, before = scores(1000, 5), torch.get_num_threads()
    logits[17, 2] = torch.inf
    whole = label_tables(logits)
    torch.set_num_threads(threads)
    try:
        for block in (1, 7, 333, 1000):
            monkeypatch.setattr(module, "_BLOCK", block)
            for found, expected in zip(label_tables(logits), whole, strict=True):
                assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)


def test_layouts_and_half_precision_are_read_as_they_are(path: str) -> None:
    logits = scores(300, 7)
    half = logits.bfloat16()
    for other, same in ((logits.t().contiguous().t(), logits), (half, half.float())):
        for found, expected in zip(label_tables(other), label_tables(same), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_point_in_no_voxel_takes_the_last_row() -> None:
    assert take(torch.tensor([3, 4, 255]), torch.tensor([1, -1, 0])).tolist() == [4, 255, 3]
