"""Drawn labels that speak about the points around them: about whom, how strongly, and what becomes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sparse_inputs import few_voxels

from training.config import TrainConfig, load_config
from training.data.dataset import Batch
from training.data.hints import Hints, LocalHints, Seen, collate_hints, local_hints
from training.data.spread import SpreadLabels, spread_labels
from training.processes import Processes
from training.scheme.guidance import Guide

RNG = np.random.default_rng(5)
CAR, ROAD, WALL = 0, 1, 2


def street() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A flat road with a car-sized box and a wall of 30 m on it; rows of the box and of the wall."""
    road = np.stack(np.meshgrid(np.arange(-20, 20, 0.25), np.arange(-8, 8, 0.25)), axis=-1).reshape(-1, 2)
    road = np.c_[road, np.zeros(len(road))]
    box = RNG.uniform([2, 2, 0.4], [6, 4, 1.6], (400, 3))
    along = np.arange(-15, 15, 0.2)
    wall = np.stack([along, np.full(len(along), -6.0), np.full(len(along), 1.5)], axis=1)
    points = np.concatenate([road, box, wall]).astype(np.float32)
    first = len(road) + np.arange(2) * len(box)
    return points, np.arange(first[0], first[1]), np.arange(first[1], len(points))


def drawn(points: np.ndarray, labels: dict[int, int]) -> np.ndarray:
    target = np.full(len(points), 255, np.uint8)
    target[list(labels)] = list(labels.values())
    return target


def test_a_label_of_a_car_labels_the_car_and_nothing_else():
    points, box, _ = street()
    rows, odds = spread_labels(points, drawn(points, {int(box[7]): CAR}), 3)
    assert np.array_equal(rows, box)
    assert np.array_equal(odds, np.tile(np.float32([6, 0, 0]), (len(box), 1)))


def test_two_classes_in_one_thing_both_speak():
    points, box, _ = street()
    rows, odds = spread_labels(points, drawn(points, {int(box[0]): CAR, int(box[1]): WALL, int(box[2]): CAR}), 3)
    assert np.array_equal(rows, box)
    assert np.array_equal(odds[0], [8, 0, 6])  # no number of labels goes beyond 8


def test_a_wall_is_told_the_less_the_further():
    points, _, wall = street()
    labelled = wall[75]
    rows, odds = spread_labels(points, drawn(points, {int(labelled): WALL}), 3)
    distance = np.linalg.norm(points[rows] - points[labelled], axis=1)
    assert set(rows) < set(wall)
    assert np.allclose(odds[:, WALL], 4 * np.exp(-distance / 4), atol=1e-4)
    assert distance.max() == pytest.approx(4 * np.log(8), abs=0.2)


def test_a_label_on_the_road_is_for_the_road_around_it():
    points, box, _ = street()
    beside = int(np.flatnonzero((points == np.float32([4, 1.75, 0])).all(1))[0])
    rows, odds = spread_labels(points, drawn(points, {beside: ROAD}), 3)
    distance = np.linalg.norm(points[rows] - points[beside], axis=1)
    assert (points[rows, 2] < 0.3).all()
    assert not set(rows) & set(box[points[box, 2] > 0.4])
    assert np.allclose(odds[:, ROAD], 4 * np.exp(-distance), atol=1e-4)
    assert distance.max() <= np.log(8) + 1e-6


def test_strength_is_a_factor_on_the_log_odds():
    points, box, _ = street()
    target = drawn(points, {int(box[0]): CAR})
    assert np.allclose(spread_labels(points, target, 3, 0.5).log_odds, 3 * np.eye(3)[CAR])
    assert not len(spread_labels(points, target, 3, 0).rows)


def test_points_that_are_no_numbers_take_no_part():
    points, box, _ = street()
    target = drawn(points, {int(box[0]): CAR, int(box[1]): WALL})
    points[box[1]] = np.nan
    rows, odds = spread_labels(points, target, 3)
    assert box[1] not in rows
    assert np.array_equal(np.unique(odds, axis=0), [[6, 0, 0]])


@pytest.mark.parametrize("labels", [0, 1000])
def test_no_labels_and_whole_scans_have_nothing_to_spread(labels):
    points, _, _ = street()
    target = np.full(len(points), 255, np.uint8)
    target[: len(points) * labels // 1000] = ROAD
    assert not len(spread_labels(points, target, 3).rows)
    assert not len(spread_labels(points[:0], target[:0], 3).rows)


def test_hints_hold_what_images_show_and_what_labels_are_sure_of():
    seen = Seen(np.array([1, 4]), np.float32([[0.2, 0.8], [0.4, 0.6]]), np.float32([0.7, 0.5]))
    spread = SpreadLabels(np.array([0, 1, 2]), np.float32([[1, 0], [1, 0], [0, 3]]))
    hints = local_hints(seen, spread, 2)
    assert hints.row.tolist() == [1, 2, 4]  # 0: no image, and labels are far
    assert np.array_equal(hints.probability, np.float32([[0.2, 0.8], [0, 0], [0.4, 0.6]]))
    assert np.array_equal(hints.weight, np.float32([0.7, 0, 0.5]))
    assert np.array_equal(hints.log_odds, np.float32([[1, 0], [0, 3], [0, 0]]))
    assert local_hints(None, None, 2).probability.shape == (0, 2)


def guide(spread: bool = True, text: bool = True) -> Guide:
    config = load_config(None, ["pseudo.weight=1", "optim.average=0.9", f"pseudo.spread={int(spread)}"])
    assert isinstance(config, TrainConfig)
    return Guide(config, np.array([10, 90]), Processes(0, 1, torch.device("cpu")), text=text)


def hints(probability: list[list[float]], odds: list[list[float]]) -> Hints:
    said = np.float32(probability)
    local = LocalHints(np.arange(len(said)), said, 0.8 * said.max(1), np.float32(odds))
    return collate_hints([local], np.array([0, len(said)]))


def test_labels_around_a_point_change_what_the_image_says_by_their_log_odds():
    made = guide()
    before = made.image_text(hints([[0.1, 0.9]], [[0, 0]]))
    after = made.image_text(hints([[0.1, 0.9]], [[6, 0]]))
    assert before is not None
    assert after is not None
    change = after.probability.logit() - before.probability.logit()
    assert change[0, 0].item() == pytest.approx(6, abs=1e-3)
    assert after.probability.sum().item() == pytest.approx(1)


def test_where_no_image_shows_a_point_the_labels_frequencies_come_first():
    said = guide(text=False).image_text(hints([[0, 0]], [[6, 0]]))
    assert said is not None
    odds = 11 / 91 * np.exp(6)
    assert said.probability[0, 0].item() == pytest.approx(odds / (1 + odds), abs=1e-4)
    # Trusted as far as the labels speak for it, never wholly.
    assert said.weight[0].item() == pytest.approx(0.95)
    less = guide(text=False).image_text(hints([[0, 0]], [[0, 2]]))
    assert less is not None
    assert less.weight[0].item() == pytest.approx(1 - np.exp(-2))


def test_before_the_teacher_is_asked_there_are_opinions_alone():
    made = guide()
    made.config.pseudo.soft = 1
    voxels = few_voxels([[0, 0, i, 0] for i in range(3)], 1)
    row, target = torch.tensor([0]), torch.tensor([1])
    batch = Batch(("scan",), voxels, row, target, row, hints=hints([[0.1, 0.9], [0.9, 0.1]], [[0, 0], [0, 0]]))
    said = made(None, batch, 0)
    assert len(said.pseudo) == len(said.known) == 0
    assert said.candidates is None
    assert said.opinion.row.tolist() == [1]
    assert said.opinion.probability.argmax() == 0
    # Asked, it agrees.
    agreed = made(torch.tensor([[0.1, 0.9], [0.9, 0.1], [0.5, 0.5]]), batch, 1)
    assert agreed.pseudo.row.tolist() == [1]
    assert agreed.known.tolist() == [1, 2]
    # What it is not asked for is learnt as the image says it, not as the teacher does.
    made.config.pseudo.agree, made.config.pseudo.sure, made.text_sure = 0.95, 1.0, None
    doubtful = made(torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.5, 0.5]]), batch, 1)
    assert (len(doubtful.pseudo), doubtful.opinion.row.tolist(), doubtful.known.tolist()) == (0, [1], [2])


def test_an_image_that_outweighs_the_labels_is_trusted_as_before():
    made = guide()
    clear = [[0.0, 1.0]]
    alone, told = made.image_text(hints(clear, [[0, 0]])), made.image_text(hints(clear, [[1, 0]]))
    assert alone is not None
    assert told is not None
    assert told.probability.argmax() == 1
    assert told.weight.item() == alone.weight.item()
