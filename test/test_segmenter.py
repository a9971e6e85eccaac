"""Segmenter: a label for every point, in place and in order, whatever the cloud holds."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from segmenter_inputs import LABELS, META, network, scan
from synthetic_frames import SEED

import mdkt_ros.segmenter as module
from mdkt_ros import Segmenter, resources
from mdkt_ros.checkpoint import save_checkpoint
from mdkt_ros.device import resolve_device
from mdkt_ros.drive.synthetic import TRAIN_SEEDS, SyntheticDrive
from mdkt_ros.drive.synthetic.town import Town
from mdkt_ros.errors import CheckpointError, CloudError, ConfigError
from mdkt_ros.labels import IGNORE, LabelSpace
from mdkt_ros.scan_graph import GraphLabels
from mdkt_ros.segmenter import PointLimitWarning, ScanGraphWarning
from mdkt_ros.sparse import fuse
from mdkt_ros.voxels import collate, voxelize

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(network(), META)


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


def test_a_shipped_checkpoint_is_loaded_by_name_and_one_of_them_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "weights"
    shipped.mkdir()
    monkeypatch.setattr(resources, "weights_dir", lambda: shipped)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=rf"{resources.SHIPPED}.safetensors: no such file"):
        Segmenter.load()
    for name, scale in ((resources.SHIPPED, 1.0), ("other", 0.5)):
        save_checkpoint(shipped / f"{name}.safetensors", network(), replace(META, intensity_scale=scale))
    assert Segmenter.load(device="cpu").intensity_scale == 1.0
    assert Segmenter.load("other", device="cpu").intensity_scale == 0.5
    with pytest.raises(CheckpointError, match=rf"othr: no such file.*{resources.SHIPPED}, other do"):
        Segmenter.load("othr")
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointError, match="other: a folder"):
        Segmenter.load("other")


def test_the_shipped_checkpoints_know_a_town_that_they_have_not_seen(town: Town) -> None:
    """docs/figures.md has 82 to 86 % of the points right in whole towns."""
    assert SEED not in TRAIN_SEEDS
    frame = SyntheticDrive(SEED, scans=1, town=town, images=False)[0]
    assert frame.labels is not None
    known = frame.labels != IGNORE
    assert resources.shipped_checkpoints() == [resources.SHIPPED, f"{resources.SHIPPED}_10hz"]
    for name, preset in zip(resources.shipped_checkpoints(), ("minkunet14s", "minkunet_10hz"), strict=True):
        segmenter = Segmenter.load(name, device="cpu")
        assert segmenter.meta.preset == preset
        assert segmenter.labels == LABELS
        found = segmenter.segment(frame.points, frame.intensity).class_id
        assert (found == frame.labels)[known].mean() > 0.75, name


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


class _Graph:
    """Stands in for `ScanGraph`, which needs a GPU: it labels scans of up to 100 points once it has been recorded."""

    def __init__(self, error: str = "") -> None:
        self.error, self.rooms = error, []

    def label(self, xyz, intensity, clock):
        if not self.rooms or len(xyz) > 100:
            return None
        return GraphLabels(np.full(len(xyz), 7, np.uint8), *np.ones((2, len(xyz)), np.float32), {"total": 1.0})

    def make_room(self, xyz, intensity, voxels) -> None:
        if self.error:
            raise RuntimeError(self.error)
        self.rooms.append(list(voxels))


def test_a_graph_labels_where_it_has_room() -> None:
    segmenter = Segmenter(network(), META)
    graph = _Graph()
    segmenter._graph = graph
    points, intensity = scan(60)
    assert (segmenter.segment(points, intensity).class_id == 7).all()
    assert len(graph.rooms) == 1
    assert graph.rooms[0] == sorted(graph.rooms[0], reverse=True)
    assert len(graph.rooms[0]) == 5
    segmenter.segment(points, intensity)
    assert len(graph.rooms) == 1, "recorded once"
    points, intensity = scan()
    expected = Segmenter(network(), META).segment(points, intensity)
    np.testing.assert_array_equal(segmenter.segment(points, intensity).class_id, expected.class_id)
    assert len(segmenter.segment(points[:0], intensity[:0])) == 0


def test_without_memory_for_a_graph_scans_are_labelled_without_one() -> None:
    segmenter = Segmenter(network(), META)
    segmenter._graph = _Graph("CUDA out of memory.")
    points, intensity = scan()
    with pytest.warns(ScanGraphWarning, match="no CUDA graph could be recorded: CUDA out of memory"):
        found = segmenter.segment(points, intensity)
    np.testing.assert_array_equal(found.class_id, Segmenter(network(), META).segment(points, intensity).class_id)
    segmenter.segment(points, intensity)  # and no second warning


@pytest.mark.real
def test_a_real_scan_is_labelled_whole(real_data: Path) -> None:
    data = np.fromfile(real_data / "semantickitti/sequences/00/velodyne/000000.bin", np.float32).reshape(-1, 4)
    result = Segmenter(network(), META).segment(data[:, :3], data[:, 3])
    inside = np.all((data[:, :3] >= META.grid.minimum) & (data[:, :3] < META.grid.maximum), axis=1)
    np.testing.assert_array_equal(result.class_id != 255, inside)
    assert inside.mean() > 0.9


@pytest.mark.parametrize("engine", ["auto", "torch", "native"])
def test_an_engine_changes_no_label(engine: str) -> None:
    if engine == "native":
        pytest.importorskip("numba", reason="the engine `native` needs numba")
    segmenter = Segmenter(network(), META, engine=engine)
    expected = Segmenter(network(), META, engine="torch").segment(*scan())
    result = segmenter.segment(*scan())
    assert segmenter.engine == ("torch" if engine == "torch" else segmenter.engine)
    assert segmenter.for_sensor(axes="y_forward").engine == segmenter.engine != "auto"
    assert np.array_equal(result.class_id, expected.class_id)
    # This network's logits reach 1e5, of which float32 tells 0.01 apart; either engine is off by 1e-3 from float64.
    np.testing.assert_allclose(result.probability, expected.probability, atol=5e-3)


def test_an_engine_that_is_none_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="engine: 'fast' is unknown; there are auto, native, torch, torchsparse, triton"
    ):
        Segmenter(network(), META, engine="fast")
