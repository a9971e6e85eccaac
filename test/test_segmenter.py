"""Segmenter: a label for every point, in place and in order, whatever the cloud holds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import mdkt_ros.segmenter as module
from mdkt_ros import Segmenter
from mdkt_ros.checkpoint import CheckpointMeta, save_checkpoint
from mdkt_ros.device import resolve_device
from mdkt_ros.errors import CheckpointError, CloudError, ConfigError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.network import PointNetwork, build_network
from mdkt_ros.segmenter import IntensityWarning, PointLimitWarning
from mdkt_ros.sparse import fuse
from mdkt_ros.voxels import VoxelGrid, collate, voxelize

LABELS = LabelSpace.load("semantickitti")
META = CheckpointMeta("minkunet14s", 0.25, VoxelGrid(0.5, (-40.0, -40.0, -4.0), (40.0, 40.0, 4.0)), LABELS)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(seed: int = 0) -> PointNetwork:
    """Random weights, loud enough that many classes win somewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_network("minkunet14s", in_channels=4, classes=19, width=0.25)
        for name, value in net.state_dict().items():
            if "running_var" in name:
                value.uniform_(0.01, 0.1)
            elif name.startswith("classifier"):
                value.normal_()
    return net.eval()


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(network(), META)


def scan(count: int = 4000, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    points = rng.normal(0, [8, 8, 0.5], (count, 3)).astype(np.float32)
    return points, rng.random(count, dtype=np.float32)


def test_every_point_gets_what_the_network_says_of_its_voxel(segmenter: Segmenter) -> None:
    points, intensity = scan()
    result = segmenter.segment(points, intensity)
    voxels = voxelize(points, intensity, META.grid)
    with torch.no_grad():
        log_p = torch.log_softmax(network()(collate([voxels])[0]).logits.double(), dim=1)
    p = log_p.exp()[voxels.point_to_voxel].numpy()
    entropy = -(log_p * log_p.exp()).sum(dim=1)[voxels.point_to_voxel].numpy()
    np.testing.assert_array_equal(result.class_id, p.argmax(axis=1))
    np.testing.assert_allclose(result.probability, p.max(axis=1), rtol=1e-4)
    np.testing.assert_allclose(result.entropy, entropy, rtol=1e-3, atol=1e-5)
    assert len(np.unique(result.class_id)) > 3
    assert (result.class_id.dtype, result.probability.dtype, result.entropy.dtype) == (np.uint8, np.float32, np.float32)
    assert set(result.timings) == {"preprocess", "inference", "postprocess", "total"}
    stages = sum(result.timings[stage] for stage in ("preprocess", "inference", "postprocess"))
    assert stages == pytest.approx(result.timings["total"])


def test_order_follows_the_points(segmenter: Segmenter) -> None:
    points, intensity = scan()
    order = np.random.default_rng(2).permutation(len(points))
    one, other = segmenter.segment(points, intensity), segmenter.segment(points[order], intensity[order])
    np.testing.assert_array_equal(one.class_id[order], other.class_id)
    np.testing.assert_allclose(one.probability[order], other.probability, rtol=1e-4)
    np.testing.assert_allclose(one.entropy[order], other.entropy, rtol=1e-3, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.data())
def test_points_without_a_place_stay_unlabelled_wherever_they_are(segmenter: Segmenter, data: st.DataObject) -> None:
    points, intensity = scan(300)
    clean = segmenter.segment(points, intensity)
    bad = np.array(data.draw(st.lists(st.integers(0, 329), min_size=30, max_size=30, unique=True)))
    mixed, values = np.empty((330, 3), np.float32), np.empty(330, np.float32)
    good = np.setdiff1d(np.arange(330), bad)
    mixed[good], values[good] = points, intensity
    mixed[bad] = 0
    axis = np.array(data.draw(st.lists(st.integers(0, 2), min_size=30, max_size=30)))
    mixed[bad, axis] = np.resize(np.array([np.nan, np.inf, -np.inf, 41, -3e38], np.float32), 30)
    values[bad] = np.nan
    result = segmenter.segment(mixed, values)
    np.testing.assert_array_equal(result.class_id[good], clean.class_id)
    np.testing.assert_array_equal(result.probability[good], clean.probability)
    assert (result.class_id[bad] == 255).all()
    assert (result.probability[bad] == 0).all()
    assert (result.entropy[bad] == 0).all()


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_few_points(segmenter: Segmenter, count: int) -> None:
    result = segmenter.segment(np.ones((count, 3), np.float32), np.ones(count, np.float32))
    assert len(result) == count == len(result.probability) == len(result.entropy)
    assert (result.class_id < 19).all()
    assert (result.probability > 1 / 19 - 1e-6).all()


def test_no_point_with_a_place(segmenter: Segmenter) -> None:
    result = segmenter.segment(np.full((50, 3), np.nan), np.zeros(50))
    assert result.class_id.tolist() == [255] * 50
    assert result.probability.tolist() == result.entropy.tolist() == [0] * 50


def test_any_layout_is_read_and_nothing_is_modified(segmenter: Segmenter) -> None:
    points, intensity = scan(500)
    expected = segmenter.segment(points, intensity)
    wide = np.full((500, 9), np.nan)
    wide[:, 4:1:-1], wide[:, 7] = points, intensity
    wide.setflags(write=False)
    before = wide.copy()
    for xyz, values in (
        (wide[:, 4:1:-1], wide[:, 7]),
        (np.asfortranarray(points), intensity.astype(">f4")),
        (points.tolist(), intensity.tolist()),
    ):
        result = segmenter.segment(xyz, values)
        np.testing.assert_array_equal(result.class_id, expected.class_id)
        np.testing.assert_array_equal(result.probability, expected.probability)
    np.testing.assert_array_equal(wide, before)


@settings(deadline=None, max_examples=25)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 20), st.just(4)), elements=st.floats(width=32)),
)
def test_any_values_keep_the_contract(segmenter: Segmenter, table: np.ndarray) -> None:
    result = segmenter.segment(table[:, :3], table[:, 3])
    labelled = result.class_id != 255
    assert len(result) == len(table)
    assert (result.class_id[labelled] < 19).all()
    assert (result.probability[labelled] > 0).all()
    assert (result.probability <= 1).all()
    assert (result.probability[~labelled] == 0).all()
    assert (result.entropy >= 0).all()
    assert (result.entropy <= np.log(19) + 1e-5).all()


def test_logits_that_are_not_finite_are_no_prediction() -> None:
    nan, inf = float("nan"), float("inf")
    logits = torch.tensor([[0.0, np.log(3.0), -200.0], [0, nan, 0], [0, inf, 0], [0, 1, -inf], [inf, inf, inf]])
    class_id, probability, entropy = module._tables(logits)
    assert class_id.tolist() == [1, 255, 255, 255, 255, 255]
    assert probability.tolist() == pytest.approx([0.75, 0, 0, 0, 0, 0])
    nats = 0.75 * np.log(4 / 3) + 0.25 * np.log(4)
    assert entropy.tolist() == pytest.approx([nats, 0, 0, 0, 0, 0])


def test_absurd_intensity_gives_a_label_or_none_but_no_nan(segmenter: Segmenter) -> None:
    points, _ = scan(60)
    result = segmenter.segment(points, np.full(60, 3e38, np.float32))
    assert np.isfinite(result.probability).all()
    assert np.isfinite(result.entropy).all()


@pytest.mark.filterwarnings("ignore:Creating an ndarray from ragged")  # NumPy below 1.24 makes it of objects
@pytest.mark.parametrize(
    ("points", "intensity", "message"),
    [
        (np.zeros((5, 4)), None, r"points: shape \(5, 4\) is not \(N, 3\), x y z in metres"),
        (np.zeros(15), None, r"points: shape \(15,\)"),
        (np.zeros((5, 3)), np.zeros(4), r"intensity: shape \(4,\) is not \(5,\), one value per point"),
        (np.zeros((5, 3), object), None, "points: dtype object is not a real number type"),
        ([[1, 2, 3], [4, 5]], None, "points: (not an array of numbers|dtype object)"),
    ],
)
def test_wrong_input_is_refused_by_name(segmenter: Segmenter, points: Any, intensity: Any, message: str) -> None:
    with pytest.raises(CloudError, match=message):
        segmenter.segment(points, intensity)


def test_a_loaded_checkpoint_labels_like_the_network_that_was_saved(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "net.safetensors", network(), META)
    loaded = Segmenter.load(tmp_path / "net.safetensors", device="cpu")
    assert loaded.labels == LABELS
    one, other = Segmenter(fuse(network()), META).segment(*scan()), loaded.segment(*scan())
    np.testing.assert_array_equal(one.class_id, other.class_id)
    np.testing.assert_array_equal(one.probability, other.probability)


def test_class_names_follow_the_checkpoint_not_the_usual_order(segmenter: Segmenter, tmp_path: Path) -> None:
    order = np.random.default_rng(3).permutation(19)
    document = LABELS.to_dict()
    document["classes"] = [document["classes"][i] for i in order]
    shuffled = network()
    with torch.no_grad():
        for parameter in shuffled.classifier.parameters():
            parameter.copy_(parameter[torch.from_numpy(order)])
    path = tmp_path / "shuffled.safetensors"
    save_checkpoint(path, shuffled, replace(META, labels=LabelSpace.from_dict(document)))
    other = Segmenter.load(path, device="cpu")
    expected = np.array(LABELS.names)[segmenter.segment(*scan()).class_id]
    np.testing.assert_array_equal(np.array(other.labels.names)[other.segment(*scan()).class_id], expected)


def test_without_a_path_the_shipped_checkpoint_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "weights_dir", lambda: tmp_path)
    with pytest.raises(CheckpointError, match=rf"{module.SHIPPED}: no such file"):
        Segmenter.load()
    save_checkpoint(tmp_path / module.SHIPPED, network(), META)
    assert Segmenter.load(device="cpu").labels == LABELS


def caught(action: Callable[[], object]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        action()
    return list(messages)


@pytest.mark.parametrize(
    ("scale", "factor", "words"),
    [
        (1.0, 255.0, ["1 % of the values are above", "reach 255", "set intensity_scale to about 0.00392"]),
        (1.0, 40000.0, ["set intensity_scale to about 1.53e-05"]),
        (1 / 255, 1.0, ["all values are below 0.01", "set intensity_scale to about 1"]),
        (1.0, 1 / 256, ["all values are below 0.01", "set intensity_scale to about 256"]),
        (1.0, 0.0, ["no value is above 0"]),
    ],
)
def test_intensity_that_contradicts_the_checkpoint_is_said_once(scale: float, factor: float, words: list[str]) -> None:
    segmenter = Segmenter(network(), replace(META, intensity_scale=scale))
    points, intensity = scan(2000)
    intensity[0] = 1.0
    messages = caught(lambda: segmenter.segment(points, intensity * factor))
    assert [message.category for message in messages] == [IntensityWarning]
    assert messages[0].filename == __file__
    for word in words:
        assert word in str(messages[0].message)
    assert caught(lambda: segmenter.segment(points, intensity * factor)) == []


def test_a_cloud_without_intensity_is_said_once_and_counts_as_zero() -> None:
    segmenter = Segmenter(network(), META)
    points, _ = scan(50)
    with pytest.warns(IntensityWarning, match="the cloud has none"):
        without = segmenter.segment(points)
    zero = segmenter.segment(points, np.zeros(50))
    np.testing.assert_array_equal(without.class_id, zero.class_id)


def test_plausible_intensity_and_few_points_are_not_doubted() -> None:
    for values in (scan()[1], scan()[1] * 0.02, np.where(scan()[1] > 0.995, 9, 0.2)):
        assert caught(lambda values=values: Segmenter(network(), META).segment(scan()[0], values)) == []
    assert caught(lambda: Segmenter(network(), META).segment(np.zeros((9, 3)), np.full(9, 255))) == []


def test_a_network_without_intensity_does_not_ask_for_it() -> None:
    net = build_network("minkunet14s", in_channels=3, classes=19, width=0.25)
    segmenter = Segmenter(net, replace(META, features=("x", "y", "z")))
    points, intensity = scan(300)
    np.testing.assert_array_equal(
        segmenter.segment(points).class_id, segmenter.segment(points, intensity * 255).class_id
    )


def test_intensity_scale_of_the_sensor_replaces_that_of_the_checkpoint(segmenter: Segmenter) -> None:
    points, intensity = scan()
    other = Segmenter(network(), replace(META, intensity_scale=100.0), intensity_scale=1 / 256)
    one = segmenter.segment(points, intensity)
    np.testing.assert_array_equal(other.segment(points, intensity * 256).class_id, one.class_id)
    dark = Segmenter(network(), META, intensity_scale=0.05).segment(points, intensity)
    assert (dark.class_id != one.class_id).any()


def test_a_cloud_with_other_axes_is_turned_for_the_network(segmenter: Segmenter) -> None:
    points, intensity = scan()
    expected = segmenter.segment(points, intensity)
    # What lies ahead of a KITTI sensor at x is ahead of a nuScenes sensor at y; its left, +y, is there at -x.
    turned = np.stack([-points[:, 1], points[:, 0], points[:, 2]], axis=1)
    result = segmenter.for_sensor(axes="y_forward").segment(turned, intensity)
    np.testing.assert_array_equal(result.class_id, expected.class_id)
    assert (segmenter.segment(turned, intensity).class_id != expected.class_id).any()
    nuscenes = Segmenter(network(), replace(META, axes="y_forward"), axes="x_forward")
    expected = nuscenes.for_sensor(axes="y_forward").segment(turned, intensity)
    np.testing.assert_array_equal(nuscenes.segment(points, intensity).class_id, expected.class_id)


def test_another_sensor_shares_the_network_and_keeps_what_is_not_named(segmenter: Segmenter) -> None:
    first = segmenter.for_sensor(intensity_scale=0.5, axes="y_forward")
    second = first.for_sensor()
    assert second.network is segmenter.network
    assert (second.intensity_scale, second.axes, second.max_points) == (0.5, "y_forward", segmenter.max_points)
    assert (segmenter.intensity_scale, segmenter.axes) == (1.0, "x_forward")


def test_too_many_points_are_subsampled_and_all_get_the_nearest_label() -> None:
    points, intensity = scan(6000)
    points[::100] = np.nan
    segmenter = Segmenter(network(), META, max_points=700)
    with pytest.warns(PointLimitWarning, match="5940 points in range are more than max_points = 700"):
        result = segmenter.segment(points, intensity)
    assert caught(lambda: segmenter.segment(points, intensity)) == []
    labelled = np.isfinite(points).all(axis=1)
    np.testing.assert_array_equal(result.class_id == 255, ~labelled)

    voxels = voxelize(points, intensity, META.grid)
    chosen = np.flatnonzero(labelled)[np.arange(700) * 5940 // 700]
    kept = np.unique(voxels.point_to_voxel[chosen])
    assert len(kept) < len(voxels)
    subset = replace(
        voxels,
        coordinates=voxels.coordinates[kept],
        features=voxels.features[kept],
        point_to_voxel=np.arange(len(kept)),
    )
    with torch.no_grad():
        label_of_kept = network()(collate([subset])[0]).logits.argmax(dim=1).numpy()
    steps = voxels.coordinates[:, None, :] - voxels.coordinates[None, kept, :]
    squares = (steps.astype(np.int64) ** 2).sum(axis=2)
    for voxel in range(len(voxels)):
        got = np.unique(result.class_id[voxels.point_to_voxel == voxel])
        assert len(got) == 1
        # Exact among the 27 neighbours; further away any of about as near will do.
        best = squares[voxel].min()
        near = squares[voxel] == best if best <= 3 else squares[voxel] <= 49 * best
        assert got[0] in label_of_kept[near]


def test_two_million_points() -> None:
    segmenter = Segmenter(network(), META, max_points=20_000)
    rng = np.random.default_rng(4)
    points = rng.uniform(-45, 45, (2_000_000, 3)).astype(np.float32) * np.float32([1, 1, 0.05])
    with pytest.warns(PointLimitWarning):
        result = segmenter.segment(points, np.full(len(points), 0.5, np.float32))
    inside = (np.abs(points[:, :2]) < 40).all(axis=1)
    assert inside.sum() > 1_500_000
    np.testing.assert_array_equal(result.class_id != 255, inside)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "gpu"}, "device: 'gpu' is not one of auto, cpu, cuda, cuda:N"),
        ({"device": "cuda:x"}, "device: 'cuda:x' is not one of"),
        ({"device": "cuda:999"}, "device: 'cuda:999' is not there; PyTorch sees"),
        ({"intensity_scale": 0.0}, "intensity_scale: 0.0 is not a positive number"),
        ({"intensity_scale": float("nan")}, "intensity_scale: nan"),
        ({"axes": "up"}, "axes: 'up' is neither x_forward nor y_forward"),
        ({"max_points": 0}, "max_points: 0 is not at least 1"),
    ],
)
def test_parameters_out_of_range_are_named(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    save_checkpoint(tmp_path / "net.safetensors", network(), META)
    with pytest.raises(ConfigError, match=message):
        Segmenter.load(tmp_path / "net.safetensors", **{"device": "cpu", **arguments})


def test_auto_is_a_device_of_this_machine() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")


def test_arrays_that_torch_refuses_reach_a_device() -> None:
    points, _ = scan(10)
    points.setflags(write=False)
    np.testing.assert_array_equal(module._to_device(points[::-1], torch.device("cpu")).numpy(), points[::-1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_labels_like_the_cpu(segmenter: Segmenter) -> None:
    points, intensity = scan()
    points[::9] = np.nan
    for limit in (module.MAX_POINTS, 700):
        pair = [Segmenter(network(), META, device=device, max_points=limit) for device in ("cpu", "cuda")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PointLimitWarning)
            one, other = (each.segment(points, intensity) for each in pair)
        assert (one.class_id == other.class_id).mean() > 0.999
        np.testing.assert_array_equal(one.class_id == 255, other.class_id == 255)
        np.testing.assert_allclose(one.probability, other.probability, atol=1e-2)


@pytest.mark.real
def test_a_real_scan_is_labelled_whole(real_data: Path) -> None:
    data = np.fromfile(real_data / "semantickitti/sequences/00/velodyne/000000.bin", np.float32).reshape(-1, 4)
    result = Segmenter(network(), META).segment(data[:, :3], data[:, 3])
    inside = np.all((data[:, :3] >= META.grid.minimum) & (data[:, :3] < META.grid.maximum), axis=1)
    np.testing.assert_array_equal(result.class_id != 255, inside)
    assert inside.mean() > 0.9
