"""The scheme in the trainer: every part joins, resumes, is shared by processes, and leaves nothing on the vehicle."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_drives import kitti_frames, view
from tiny_drive import TINY

from mdkt_ros.drive.write_semantickitti import write_semantickitti
from mdkt_ros.labels import LabelSpace
from training.config import TrainConfig, load_config
from training.data.dataset import StreamSampler, TrainingStream, make_batch
from training.data.source import open_source
from training.learner import make_learner
from training.processes import Processes, join_processes
from training.state import load_state
from training.train import main, make_grid, shared_draw

ROOT = Path(__file__).resolve().parents[1]
SCHEME = [
    *TINY,
    "data.kind=semantickitti",
    "data.percent=30",
    "optim.average=0.9",
    "image_network.name=test_resnet",
    "image_network.channels=16",
    "images.scale=1",
    "transfer.weight=0.05",
    "pseudo.weight=0.5",
    "contrast.weight=0.1",
    "contrast.dim=8",
    "contrast.queue=16",
    "contrast.anchors=32",
    "teacher.weight=0.5",
    "pseudo.floor=0.05",
    "pseudo.sure=0.1",
]
TERMS = ("cross_entropy", "lovasz", "transfer", "fused", "point", "image")
GUIDED = ("fused_pseudo", "pseudo", "contrast", "teacher")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four scans of 300 points, most of them before the cameras; colours say the class."""
    space = LabelSpace.load("semantickitti")
    raw_ids = np.array([40, 50, 70], dtype=np.uint32)
    frames = []
    for number, frame in enumerate(kitti_frames(4)):
        rng = np.random.default_rng(number)
        points = rng.uniform((-2, -8, -2), (20, 8, 2), (300, 3)).astype(np.float32)
        raw = raw_ids[(points[:, 1] > -3).astype(int) + (points[:, 1] > 3)]
        pixels = np.broadcast_to(np.linspace(0, 255, 40, dtype=np.uint8)[None, :, None], (24, 40, 3)).copy()
        frames.append(
            replace(
                frame,
                points=points,
                intensity=rng.random(300, dtype=np.float32),
                raw_labels=raw,
                labels=space.from_raw(raw, "test"),
                instance=np.zeros(300, dtype=np.uint32),
                views=tuple(view(v.camera, v.stamp, pixels) for v in frame.views),
            )
        )
    root = tmp_path / "kitti"
    write_semantickitti(root, frames, sequence="00", labels=space)
    return root


def overrides(data: Path, out: str, *more: str) -> list[str]:
    return [*SCHEME, f"data.root={data}", f"data.draws={data.parent / 'draws'}", f"out={data.parent / out}", *more]


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_every_part_joins_at_its_time_and_stays_at_home(data: Path):
    assert main(overrides(data, "run", "optim.steps=8", "schedule.labels_only=0.5", "schedule.ramp=0.25")) == 0
    log = rows(data.parent / "run")
    for number, row in enumerate(log):
        assert float(row["loss"]) == pytest.approx(sum(float(row[term]) for term in TERMS + GUIDED))
        assert float(row["fused"]) > 0
        guided = [float(row[term]) != 0 for term in GUIDED]
        # The contrast's first step finds neither text nor prototype nor queue to compare with, and fills them.
        assert guided == [number >= 4, number >= 4, number >= 5, number >= 4]
        counted = sum(float(row[f"labels_{source}"]) for source in ("agree", "teacher", "text"))
        assert (counted > 0) == (number >= 4)
        assert float(row["labels_text"]) == float(row["labels_agree"]) == 0
    assert float(log[0]["transfer"]) > 0
    off = [f"{part}.weight=0" for part in ("transfer", "pseudo", "contrast", "teacher")]
    assert main(overrides(data, "plain", "optim.steps=8", *off)) == 0
    with_scheme = load_file(data.parent / "run" / "model.safetensors")
    plain = load_file(data.parent / "plain" / "model.safetensors")
    assert {name: value.shape for name, value in with_scheme.items()} == {n: v.shape for n, v in plain.items()}
    state = load_state(data.parent / "run" / "state.safetensors")
    assert {name.split(".")[1] for name in state.tensors if name.startswith("scheme.")} == {
        "transfer",
        "contrast",
        "guide",
    }
    assert not [name for name in load_state(data.parent / "plain" / "state.safetensors").tensors if "scheme" in name]


def test_a_run_that_stops_amid_the_ramp_resumes_to_the_same_curve(data: Path, monkeypatch: pytest.MonkeyPatch):
    more = ("optim.steps=6", "schedule.labels_only=0.3", "schedule.ramp=0.5", "augment.mix=0.5", "save_every=4")
    assert main(overrides(data, "whole", *more)) == 0
    assert main(overrides(data, "parts", *more)) == 0
    # As if it had been killed after the state of step 4.
    from training import train

    states: list[Path] = []
    original = train.save_state

    def save_once(path: Path, **given: object) -> None:
        if given["step"] == 4:
            original(path, **given)  # type: ignore[arg-type]
            states.append(path)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "save_state", save_once)
        assert main(overrides(data, "parts", *more, "force=true")) == 130
    assert states
    torch.manual_seed(5)
    assert main(overrides(data, "parts", *more, "resume=true")) == 0
    assert rows(data.parent / "whole") == rows(data.parent / "parts")
    one, two = (load_file(data.parent / run / "model.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def first_gradients(config: TrainConfig, processes: Processes) -> dict[str, torch.Tensor]:
    source = open_source(config.data)
    stream = TrainingStream(source, shared_draw(config, processes, source), config, make_grid(config))
    learner = make_learner(config, processes, stream)
    positions = next(iter(StreamSampler(4, 0, 1, processes.rank, processes.world)))
    losses, _ = learner.losses(make_batch([stream[position] for position in positions]), 0, 10)
    sum(losses.values()).backward()
    return {name: p.grad.clone() for name, p in learner.student.named_parameters()}


# Contrast is left out: its anchors are drawn by each process among its own scans.
SHARED = ("optim.batch_size=4", "contrast.weight=0", "schedule.labels_only=0", "schedule.ramp=0")


def test_two_processes_have_the_gradients_of_one(data: Path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'test'}", "OMP_NUM_THREADS": "1"}
    path = data.parent / "gradients.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__]
    done = subprocess.run(
        [*command, str(path), *overrides(data, "two", *SHARED)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = torch.load(path, weights_only=True)
    with join_processes("cpu") as processes:
        one = first_gradients(load_config(None, overrides(data, "one", *SHARED)), processes)
    assert one.keys() == two.keys()
    for name, gradient in one.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(
            two[name], gradient, rtol=1e-3, atol=1e-4 * scale + 1e-8, msg=lambda m, n=name: n + m
        )


def test_a_batch_without_pairs_or_labels_still_reaches_every_parameter(data: Path):
    config = load_config(None, overrides(data, "run", "schedule.labels_only=0", "schedule.ramp=0"))
    with join_processes("cpu") as processes:
        source = open_source(config.data)
        stream = TrainingStream(source, shared_draw(config, processes, source), config, make_grid(config))
        learner = make_learner(config, processes, stream)
        example = stream[0]
        # No camera sees it, and none of its points has a label.
        blind = replace(
            example, pairs=replace_pairs(example), scan=replace(example.scan, target=example.scan.target * 0 + 255)
        )
        losses, points = learner.losses(make_batch([blind]), 5, 10)
    sum(losses.values()).backward()
    assert points == 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learner.student.parameters())


def test_images_are_looked_at_in_every_so_many_th_step(data: Path):
    config = load_config(None, overrides(data, "run", "transfer.every=3", "optim.batch_size=2"))
    with join_processes("cpu") as processes:
        source = open_source(config.data)
        stream = TrainingStream(source, shared_draw(config, processes, source), config, make_grid(config))
        every = replace(config, transfer=replace(config.transfer, every=1))
        always = TrainingStream(source, stream.draw, every, make_grid(config))
        for position in range(12):
            found, all_of_them = stream[position], always[position]
            step = position // 2
            assert len(found.pairs.row) == (len(all_of_them.pairs.row) if step % 3 == 0 else 0)
            assert np.array_equal(found.voxels.features, all_of_them.voxels.features)
    assert main(overrides(data, "run", "transfer.every=3", "optim.steps=5")) == 0
    log = rows(data.parent / "run")
    assert [float(row["transfer"]) > 0 for row in log] == [True, False, False, True, False]
    # They count as often as they were left out.
    assert main(overrides(data, "each", "optim.steps=1")) == 0
    (each,) = rows(data.parent / "each")
    for term in ("transfer", "fused", "point", "image"):
        assert float(log[0][term]) == pytest.approx(3 * float(each[term]))


def replace_pairs(example: object) -> object:
    from training.data.pairs import join

    return join(example.scan, example.voxels, ())  # type: ignore[attr-defined]


def test_without_augmentation_the_teacher_sees_what_the_student_sees(data: Path):
    still = [f"augment.{key}=0" for key in ("yaw", "flip", "scale", "tilt", "shift", "jitter", "drop", "intensity")]
    config = load_config(None, overrides(data, "run", *still))
    with join_processes("cpu") as processes:
        source = open_source(config.data)
        stream = TrainingStream(source, shared_draw(config, processes, source), config, make_grid(config))
        batch = make_batch([stream[0], stream[1]])
    assert batch.view is not None
    assert torch.equal(batch.view.voxels.coordinates[batch.view.row], batch.voxels.coordinates)


def test_augmented_and_mixed_points_find_their_recorded_voxel(data: Path):
    more = ("augment.mix=1", "augment.drop=0.5", "augment.yaw=180")
    config = load_config(None, overrides(data, "run", *more))
    with join_processes("cpu") as processes:
        source = open_source(config.data)
        stream = TrainingStream(source, shared_draw(config, processes, source), config, make_grid(config))
        example = stream[2]
    assert example.view is not None
    assert len(example.recorded) == 2
    view = example.view
    starts = (0, len(view.voxels[0]))
    for voxel in range(0, len(example.voxels), 7):
        point = int(np.flatnonzero(example.voxels.point_to_voxel == voxel)[0])
        part = int(example.scan.part[point])
        recorded = source[example.recorded[part]].points[example.scan.index[point]]
        grid = make_grid(config)
        cell = np.floor((recorded - np.array(grid.minimum, np.float32)) / np.float32(grid.voxel_size))
        np.testing.assert_array_equal(view.voxels[part].coordinates[view.row[voxel] - starts[part]], cell)


def test_a_loss_that_is_not_finite_is_named_with_its_scans(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from training.scheme import objective

    monkeypatch.setattr(objective, "kl_to_teacher", lambda student, teacher, _: student.sum(1) * float("nan"))
    assert (
        main(
            overrides(data, "run", "optim.steps=4", "schedule.labels_only=0.25", "schedule.ramp=0", "transfer.fused=0")
        )
        == 1
    )
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("step 2: the loss teacher is nan on the scans sequences/00/velodyne/00000")


def test_a_missing_image_text_cache_is_one_line(data: Path, capsys: pytest.CaptureFixture[str]):
    assert main(overrides(data, "run", f"pseudo.cache={data.parent / 'nothing'}")) == 1
    assert "nothing" in capsys.readouterr().err.splitlines()[-1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join_processes("cpu") as all_processes:
        found = first_gradients(load_config(None, sys.argv[2:]), all_processes)
        if all_processes.first:
            torch.save(found, sys.argv[1])
