"""Confusion matrix and scores against counting by hand and the official evaluator's arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mdkt_ros.errors import LabelError
from mdkt_ros.metrics import confusion_matrix, scores


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint8)


def test_confusion_by_hand():
    truth = ids(0, 0, 0, 1, 1, 255, 255, 2)
    prediction = ids(0, 1, 255, 1, 0, 0, 255, 2)
    assert confusion_matrix(truth, prediction, 3).tolist() == [[1, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]]


def test_scores_by_hand():
    figures = scores(np.array([[6, 2, 0, 2], [1, 4, 0, 0], [0, 0, 0, 0]]))
    np.testing.assert_allclose(figures.iou, [6 / 11, 4 / 7, np.nan])
    np.testing.assert_allclose(figures.precision, [6 / 7, 4 / 6, np.nan])
    np.testing.assert_allclose(figures.recall, [6 / 10, 4 / 5, np.nan])
    assert figures.support.tolist() == [10, 5, 0]
    assert figures.miou == pytest.approx((6 / 11 + 4 / 7) / 2)
    assert figures.accuracy == pytest.approx(10 / 15)


def test_leaving_points_unlabelled_never_raises_a_score():
    truth = ids(0, 0, 1, 1)
    wrong = scores(confusion_matrix(truth, ids(0, 1, 1, 1), 2))
    unlabelled = scores(confusion_matrix(truth, ids(0, 255, 1, 1), 2))
    assert unlabelled.iou[0] == wrong.iou[0] == 0.5
    assert unlabelled.accuracy == wrong.accuracy == 0.75
    assert scores(confusion_matrix(truth, ids(255, 255, 255, 255), 2)).miou == 0


def test_predicted_class_that_the_model_should_not_have_is_a_miss():
    assert confusion_matrix(ids(0, 1), ids(7, 1), 2).tolist() == [[0, 0, 1], [0, 1, 0]]


def test_class_that_is_only_predicted_has_iou_0_and_is_no_part_of_the_mean():
    figures = scores(confusion_matrix(ids(0, 0, 0), ids(0, 0, 1), 2))
    np.testing.assert_allclose(figures.iou, [2 / 3, 0])
    assert figures.miou == pytest.approx(2 / 3)


def test_nothing_to_score_is_nan():
    for truth in (ids(), ids(255, 255)):
        confusion = confusion_matrix(truth, np.zeros_like(truth), 2)
        assert confusion.tolist() == [[0, 0, 0], [0, 0, 0]]
        figures = scores(confusion)
        assert np.isnan(figures.miou)
        assert np.isnan(figures.accuracy)
        assert np.isnan(figures.iou).all()


def test_lengths_that_differ():
    with pytest.raises(LabelError, match=r"\(3,\) true labels and \(2,\) predicted ones"):
        confusion_matrix(ids(0, 1, 0), ids(0, 1), 2)


def test_truth_of_another_label_space():
    with pytest.raises(LabelError, match="true class id 18 is not one of 16 classes"):
        confusion_matrix(ids(0, 18, 255), ids(0, 0, 0), 16)


def test_confusion_of_parts_adds_up():
    rng = np.random.default_rng(0)
    truth, prediction = rng.choice([*range(5), 255], size=(2, 1000)).astype(np.uint8)
    parts = sum(confusion_matrix(truth[i : i + 100], prediction[i : i + 100], 5) for i in range(0, 1000, 100))
    np.testing.assert_array_equal(confusion_matrix(truth, prediction, 5), parts)


@settings(deadline=None, max_examples=100)
@given(data=st.data(), classes=st.integers(1, 20))
def test_scores_are_those_of_the_official_evaluator(data, classes):
    """semantic-kitti-api's iouEval and nuscenes-devkit's: tp / (tp + fp + fn), over points whose truth is a class."""
    size = data.draw(st.integers(0, 60))
    labels = st.sampled_from([*range(classes), 255])
    truth = data.draw(hnp.arrays(np.uint8, size, elements=labels))
    prediction = data.draw(hnp.arrays(np.uint8, size, elements=labels))
    figures = scores(confusion_matrix(truth, prediction, classes))
    kept = truth != 255
    for c in range(classes):
        is_true, is_predicted = (truth == c) & kept, (prediction == c) & kept
        both, either = (is_true & is_predicted).sum(), (is_true | is_predicted).sum()
        assert figures.support[c] == is_true.sum()
        if either:
            assert figures.iou[c] == pytest.approx(both / either)
        else:
            assert np.isnan(figures.iou[c])
    if kept.any():
        present = sorted(set(truth[kept].tolist()))
        assert figures.miou == pytest.approx(figures.iou[present].mean())
        assert figures.accuracy == pytest.approx((truth == prediction)[kept].mean())
