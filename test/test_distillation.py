"""`distill.checkpoint`: a trained network of any size and grid teaches the one that is trained."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import random_meta, random_network
from tiny_drive import TINY, write_folder

import training.train
from mdkt_ros.checkpoint import read_meta, save_checkpoint
from mdkt_ros.labels import LabelSpace
from mdkt_ros.network import build_network
from mdkt_ros.segmenter import Segmenter
from training.config import TrainConfig, load_config
from training.data.dataset import Batch, TrainingStream, make_batch
from training.data.source import open_source
from training.processes import Processes
from training.scheme.distillation import Distillation, TrainedTeacher, open_teacher
from training.train import main, make_grid, shared_draw

ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "scans")


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """Another grid, other features and another width than the student's."""
    meta = replace(random_meta(), width=0.5, features=("x", "y", "z", "intensity", "range"))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = build_network(meta.preset, in_channels=5, classes=19, width=0.5)
    save_checkpoint(tmp_path / "teacher.safetensors", network, meta)
    return tmp_path / "teacher.safetensors"


def overrides(data: Path, *more: str) -> list[str]:
    return [*TINY, f"data.root={data}", f"data.draws={data.parent / 'draws'}", f"out={data.parent / 'run'}", *more]


def lesson_of(config: TrainConfig, positions: range) -> tuple[TrainingStream, TrainedTeacher, Batch]:
    source = open_source(config.data)
    teacher = open_teacher(config, source, ALONE)
    assert teacher is not None
    draw = shared_draw(config, ALONE, source)
    stream = TrainingStream(source, draw, config, make_grid(config), distill=teacher.sight)
    return stream, teacher, make_batch([stream[position] for position in positions])


def test_it_says_of_a_voxel_what_it_says_of_its_first_point_as_recorded(data: Path, teacher: Path):
    more = (f"distill.checkpoint={teacher}", "augment.mix=1", "augment.scale=0.2")
    stream, network, batch = lesson_of(load_config(None, overrides(data, *more)), range(2))
    lesson = network(batch)
    assert len(lesson.row) == len(batch.voxels) == len(torch.unique(lesson.row))
    assert torch.allclose(lesson.probability.sum(1), torch.ones(len(lesson.row)), atol=1e-2)
    segmenter = Segmenter.load(teacher)
    said = {number: segmenter.segment(stream.scan(number).points, stream.scan(number).intensity) for number in range(3)}
    offset, parts = 0, set()
    for example in batch.examples:
        scan, voxels = example.scan, example.voxels
        voxel, first = np.unique(voxels.point_to_voxel, return_index=True)
        first = first[voxel >= 0]
        number = np.array(example.recorded)[scan.part[first]]
        places = [(n, stream.scan(n).index.tolist().index(i)) for n, i in zip(number, scan.index[first], strict=True)]
        class_id = np.array([said[n].class_id[at] for n, at in places])
        probability = np.array([said[n].probability[at] for n, at in places])
        mine = lesson.probability[offset : offset + len(voxels)]
        assert (mine.argmax(1).numpy() == class_id).mean() > 0.99
        assert mine.max(1).values.numpy() == pytest.approx(probability, abs=1e-3)
        offset, parts = offset + len(voxels), parts | set(number)
    assert len(parts) > 1


def test_classes_are_matched_by_name_and_temperature_softens(data: Path, tmp_path: Path):
    space = LabelSpace.load("semantickitti").to_dict()
    order = np.random.default_rng(0).permutation(19).tolist()
    shuffled = LabelSpace.from_dict({**space, "classes": [space["classes"][i] for i in order]}, "shuffled")
    network = random_network()
    plain, other = tmp_path / "plain.safetensors", tmp_path / "other.safetensors"
    save_checkpoint(plain, network, random_meta())
    with torch.no_grad():
        for value in network.classifier.parameters():
            value.copy_(value[order])
    save_checkpoint(other, network, replace(random_meta(), labels=shuffled))
    said = []
    for more in ((plain,), (other,), (plain, "distill.temperature=4")):
        config = load_config(None, overrides(data, f"distill.checkpoint={more[0]}", *more[1:]))
        _, teacher, batch = lesson_of(config, range(1))
        said.append(teacher(batch).probability)
    assert torch.allclose(said[0], said[1], atol=1e-3)
    soft = said[0] ** 0.25
    assert torch.allclose(said[2], soft / soft.sum(1, keepdim=True), atol=2e-3)
    assert not torch.allclose(said[0], said[2], atol=1e-2)


def test_small_sets_ask_it_once_a_scan(data: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    for keep in (False, True):
        config = load_config(None, overrides(data, f"distill.checkpoint={teacher}", f"data.cache={keep}"))
        stream, network, _ = lesson_of(config, range(1))
        inner = network._network

        def count(voxels: object, inner: torch.nn.Module = inner) -> object:
            asked.append(1)
            return inner(voxels)

        monkeypatch.setattr(network, "_network", count)
        said = [network(make_batch([stream[p] for p in (0, 1, 2, 3 * epoch)])) for epoch in range(2)]
        assert len(asked) == (3 if keep else 2)
        assert all(len(lesson.row) for lesson in said)


def test_its_losses_are_those_of_the_definition(data: Path, teacher: Path):
    more = (f"distill.checkpoint={teacher}", "distill.weight=3", "distill.lovasz=0.5", "distill.temperature=2")
    config = load_config(None, overrides(data, *more))
    _, network, batch = lesson_of(config, range(2))
    lesson = network(batch)
    weights = torch.rand(19, generator=torch.Generator().manual_seed(1))
    distillation = Distillation(config, ALONE, network, weights)
    logits = torch.randn(len(batch.voxels), 19, generator=torch.Generator().manual_seed(0), requires_grad=True)
    losses = distillation(logits, batch)
    assert list(losses) == distillation.terms == ["distill", "distill_lovasz"]
    p, q = lesson.probability, (logits[lesson.row] / 2).softmax(1)
    each = (p * (p.clamp_min(1e-12).log() - q.log())).sum(1) * (p @ weights)
    assert losses["distill"].item() == pytest.approx(3 * 4 * each.mean().item(), rel=1e-3)
    # Where the student says the same there is nothing to learn.
    same = torch.zeros_like(logits)
    same[lesson.row] = 2 * p.clamp_min(1e-8).log()
    learnt = distillation(same, batch)
    assert learnt["distill"].item() == pytest.approx(0, abs=1e-3)
    assert 0 <= learnt["distill_lovasz"].item() < losses["distill_lovasz"].item() <= 3 * 0.5
    sum(losses.values()).backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum(1).min() > 0
    assert Distillation(config, ALONE, None)(logits, batch) == {}


def test_a_student_learns_what_no_label_tells_it(data: Path, tmp_path: Path):
    """One label in a hundred points; the teacher was fitted to all of them."""
    steps = ("optim.steps=60", "optim.lr=0.01", "augment.yaw=0", "augment.flip=0", "augment.drop=0", "data.cache=true")
    large = tmp_path / "large" / "model.safetensors"
    frame = open_source(load_config(None, overrides(data)).data)[0]
    assert frame.labels is not None
    right = []
    for out, more in (
        ("large", ()),
        ("few", ("data.percent=1",)),
        ("run", ("data.percent=1", f"distill.checkpoint={large}")),
    ):
        assert main(overrides(data, *steps, *more, f"out={tmp_path / out}")) == 0
        segmenter = Segmenter.load(tmp_path / out / "model.safetensors")
        found = segmenter.segment(frame.points, frame.intensity).class_id
        right.append((found == frame.labels)[frame.labels != 255].mean())
    assert right[2] > right[1] + 0.1
    assert right[2] > right[0] - 0.1
    with (tmp_path / "run" / "log.csv").open(newline="", encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    assert float(log[-1]["distill"]) < 0.5 * float(log[0]["distill"])
    assert float(log[-1]["distill_lovasz"]) < float(log[0]["distill_lovasz"])


def test_a_run_goes_on_with_the_same_teacher_alone(
    data: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    given = overrides(data, "optim.steps=4", "save_every=2")
    taught = [*given, f"distill.checkpoint={teacher}"]
    assert main([*taught, f"out={tmp_path / 'whole'}"]) == 0
    original = training.train.save_state

    def save_once(path: Path, **values: object) -> None:
        original(path, **values)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.train, "save_state", save_once)
        assert main(taught) == 130
    capsys.readouterr()
    assert main([*given, "resume=true"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("distill.checkpoint = '': the run in ")
    assert "has another teacher" in error
    # Wherever the file lies now.
    moved = teacher.rename(tmp_path / "elsewhere.safetensors")
    assert main([*given, f"distill.checkpoint={moved}", "resume=true"]) == 0
    whole, parts = (tmp_path / run / "model.safetensors" for run in ("whole", "run"))
    assert read_meta(whole).training["taught_by"] == read_meta(parts).training["taught_by"]
    assert read_meta(parts).training["config"]["distill.checkpoint"] == "elsewhere.safetensors"
    one, two = (Segmenter.load(path).network.state_dict() for path in (whole, parts))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": LabelSpace.load("nuscenes")}, "does not know other-vehicle, person, bicyclist, "),
        ({"axes": "y_forward"}, "has learnt clouds with y_forward, those of "),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], message: str
):
    meta = replace(random_meta(), **change)  # type: ignore[arg-type]
    network = build_network(meta.preset, in_channels=4, classes=len(meta.labels), width=0.25)
    save_checkpoint(tmp_path / "teacher.safetensors", network, meta)
    assert main(overrides(data, f"distill.checkpoint={tmp_path / 'teacher.safetensors'}")) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("distill.checkpoint = ")
    assert message in error
    assert not (tmp_path / "run").exists()
    assert main(overrides(data, f"distill.checkpoint={data / '00.bin'}")) == 1
    assert capsys.readouterr().err.startswith(f"{data / '00.bin'}: ")
