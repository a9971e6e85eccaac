"""train.py: it learns, it goes on after an interruption as if there had been none, processes share its batches."""

from __future__ import annotations

import csv
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_drive import TINY, write_folder

import training.train
from mdkt_ros.checkpoint import load_checkpoint
from mdkt_ros.errors import CheckpointError, ConfigError
from mdkt_ros.network import build_network
from mdkt_ros.segmenter import Segmenter
from training.config import OptimConfig, TrainConfig, load_config
from training.data.dataset import StreamSampler, TrainingStream, make_batch
from training.data.draw import LabelDraw
from training.data.source import open_source
from training.log import RunLog
from training.losses import SegmentationLoss
from training.optimization import balance_inputs, class_weights, half_precision, learning_rate
from training.processes import Processes, join_processes
from training.state import load_state
from training.train import main, make_grid, make_learner, shared_draw, train

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "scans")


def overrides(data: Path, out: str, *more: str) -> list[str]:
    draws = data.parent / "draws"
    return [*TINY, f"data.root={data}", f"data.draws={draws}", f"out={data.parent / out}", *more]


def rows(out: Path) -> list[dict[str, str]]:
    """The log without what the clock says."""
    with (out / "log.csv").open(newline="", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def same_weights(one: Path, two: Path) -> bool:
    a, b = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_a_scan_by_heart(tmp_path: Path):
    """And what it exports has learnt it too: the same voxels, features and statistics at inference."""
    data = write_folder(tmp_path / "one", scans=1)
    still = [f"augment.{key}=0" for key in ("yaw", "flip", "scale", "tilt", "shift", "jitter", "drop", "intensity")]
    more = ["optim.steps=80", "optim.batch_size=1", "optim.lr=0.01", "data.cache=true", "model.width=0.5"]
    assert main(overrides(data, "run", *more, "model.voxel_size=0.2", *still)) == 0
    log = rows(tmp_path / "run")
    losses = [float(row["loss"]) for row in log]
    assert losses[-1] < losses[0] / 10
    assert float(log[-1]["miou"]) > 0.97
    assert {float(row["labels"]) for row in log} == {270.0}
    assert float(log[0]["lr"]) < float(log[7]["lr"]) > float(log[-1]["lr"])
    segmenter = Segmenter.load(tmp_path / "run" / "model.safetensors", "cpu")
    frame = open_source(load_config(None, overrides(data, "run")).data)[0]
    predicted = segmenter.segment(frame.points, frame.intensity).class_id
    known = frame.labels != 255
    assert (predicted[known] == frame.labels[known]).mean() > 0.97


def test_a_run_leaves_what_the_next_step_needs(data: Path, capsys: pytest.CaptureFixture[str]):
    out = data.parent / "run"
    assert main(overrides(data, "run", "optim.epochs=2", "data.percent=10", "optim.average=0.9")) == 0
    assert capsys.readouterr().err.count("left 0:00:00") == 1
    network, meta = load_checkpoint(out / "model.safetensors")
    assert (meta.preset, meta.labels.name, meta.axes, meta.intensity_scale) == (
        "minkunet14s",
        "semantickitti",
        "x_forward",
        1,
    )
    assert meta.data["budget"]["labels"] == 81
    assert len(meta.data["fingerprint"]) == 16
    assert (meta.training["step"], meta.training["averaged"]) == (3, True)
    assert meta.training["machine"].startswith("CPU")
    assert meta.training["config"]["optim.average"] == 0.9
    assert str(data.parent) not in str(meta.to_dict())
    state = load_state(out / "state.safetensors")
    for name, value in network.state_dict().items():
        assert torch.equal(value, state.part("average")[name])
    assert not torch.equal(state.part("network")["classifier.0.weight"], network.classifier[0].weight)
    assert load_config(out / "config.yaml").out == str(out)
    assert len(list(out.glob("events.out.tfevents.*"))) == 1
    log = rows(out)
    assert [float(row["epoch"]) for row in log] == [2 / 3, 4 / 3, 2]
    assert [bool(row["miou"]) for row in log] == [False, True, True]
    for row in log:
        assert float(row["loss"]) == pytest.approx(float(row["cross_entropy"]) + float(row["lovasz"]))


INTERRUPTED = ("optim.steps=7", "augment.mix=0.5", "data.percent=50", "optim.average=0.9", "save_every=2")


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: object) -> None:
    original = RunLog.row

    def row(self: RunLog, number: int, values: dict[str, float | None]) -> None:
        original(self, number, values)
        if number == step:
            action()

    monkeypatch.setattr(RunLog, "row", row)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_resumes_to_the_same_curve(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
):
    assert main(overrides(data, "whole", *INTERRUPTED)) == 0
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), number))
        assert main(overrides(data, "parts", *INTERRUPTED)) == 130
    assert "stopped after step 3 of 7; resume=true goes on from there" in capsys.readouterr().err
    assert signal.getsignal(number) is before
    assert len(rows(data.parent / "parts")) == 3
    torch.manual_seed(99)
    assert main(overrides(data, "parts", *INTERRUPTED, "resume=true")) == 0
    assert rows(data.parent / "whole") == rows(data.parent / "parts")
    assert same_weights(data.parent / "whole", data.parent / "parts")


def test_ctrl_c_with_workers_leaves_a_state(data: Path):
    """Ctrl-C reaches every process of the terminal's group, those that prepare scans too."""
    command = [
        sys.executable,
        str(ROOT / "training" / "train.py"),
        *overrides(data, "run", "optim.steps=5000", "workers=1"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment) as run:
        log, deadline = data.parent / "run" / "log.csv", time.monotonic() + 60
        while time.monotonic() < deadline and not (log.is_file() and len(rows(data.parent / "run")) > 2):
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGINT)
        error = run.communicate(timeout=60)[1]
    assert run.returncode == 130, error
    state = load_state(data.parent / "run" / "state.safetensors")
    assert f"stopped after step {state.step} of 5000" in error.replace("\n", " ")
    assert state.step == len(rows(data.parent / "run")) >= 3


def test_a_killed_run_resumes_from_its_last_state(data: Path, monkeypatch: pytest.MonkeyPatch):
    assert main(overrides(data, "whole", *INTERRUPTED)) == 0

    def die() -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        at_step(patch, 5, die)
        with pytest.raises(ZeroDivisionError):
            main(overrides(data, "parts", *INTERRUPTED))
    out = data.parent / "parts"
    with (out / "log.csv").open("a", encoding="utf-8") as file:
        file.write("6,4.0,0.0")  # killed within a line
    assert load_state(out / "state.safetensors").step == 4
    assert main(overrides(data, "parts", *INTERRUPTED, "resume=true")) == 0
    assert rows(data.parent / "whole") == rows(out)
    assert same_weights(data.parent / "whole", out)


def test_workers_change_nothing(data: Path):
    for out, more in (("none", "workers=0"), ("one", "workers=1")):
        assert main(overrides(data, out, "optim.steps=2", "augment.mix=1", more)) == 0
    assert rows(data.parent / "none") == rows(data.parent / "one")


def test_what_resuming_refuses(data: Path, capsys: pytest.CaptureFixture[str]):
    def error(*arguments: str) -> str:
        assert main(overrides(data, "run", "optim.steps=1", *arguments)) == 1
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    assert "state.safetensors: no such file" in error("resume=true")
    assert main(overrides(data, "run", "optim.steps=1")) == 0
    capsys.readouterr()
    assert "holds a run already; resume=true goes on with it, force=true replaces it" in error()
    assert "optim.lr = 0.5: the run in" in error("resume=true", "optim.lr=0.5")
    assert "has 0.002; resume with that, or start another" in error("resume=true", "optim.lr=0.5")
    path = data.parent / "run" / "state.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "not a whole training state" in error("resume=true")
    (data.parent / "run" / "model.safetensors").replace(path)
    assert "its format is unknown, not mdkt_ros training state 1" in error("resume=true")
    path.write_bytes(whole)
    raw = np.fromfile(data / "00.label", np.uint32)
    raw[raw == 40] = 50
    raw.tofile(data / "00.label")
    assert "not the data that the run in" in error("resume=true")
    assert main(overrides(data, "run", "optim.steps=1", "force=true")) == 0


def test_a_state_of_another_network_is_refused(data: Path):
    assert main(overrides(data, "run", "optim.steps=1")) == 0
    state = load_state(data.parent / "run" / "state.safetensors")
    tensors = {name: value for name, value in state.tensors.items() if name != "network.classifier.0.bias"}
    broken = training.state.RunState(state.path, state.config, state.step, state.facts, tensors)
    config = load_config(None, overrides(data, "run"))
    with join_processes("cpu") as processes:
        source = open_source(config.data)
        draw = shared_draw(config, processes, source)
        learner = make_learner(config, processes, TrainingStream(source, draw, config, make_grid(config)))
    with pytest.raises(CheckpointError, match=r"state\.safetensors: does not fit the network: .*classifier\.0\.bias"):
        training.state.restore(broken, learner.student, None, learner.optimizer, learner.scaler)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optim.lrr=1"], "unknown key optim.lrr; did you mean optim.lr?"),
        (["out="], "out is not set"),
        (["out=/dev/null"], "/dev/null: is a file; out names the folder of the run"),
        (["out=/proc/run"], "/proc/run: No such file or directory"),
        (["data.root="], "data.root is not set"),
        (["model.preset=unet"], "model.preset = 'unet': must be one of minkunet14s"),
        (["model.features=[x, colour]"], "model.features: feature 'colour' is not known"),
        (["device=tpu"], "device = 'tpu': must be auto, cpu, cuda or cuda:N"),
        (["device=cuda:99"], "device = 'cuda:99': this machine has"),
        (["data.frames=0-7"], "frames 0-7 asked for, there are 3"),
        (["--config", "none.yaml"], "none.yaml: No such file"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_1(
    data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    assert main([*overrides(data, "run"), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (data.parent / "run" / "state.safetensors").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_scan_is_one_line_too(data: Path, capsys: pytest.CaptureFixture[str], workers: int):
    assert main(overrides(data, "first", "optim.steps=1")) == 0
    capsys.readouterr()
    (data / "01.bin").write_bytes(b"abc")
    assert main(overrides(data, "run", "optim.steps=4", f"workers={workers}")) == 1
    last = capsys.readouterr().err.rstrip("\n").splitlines()[-1]
    assert last.startswith(str(data / "01.bin"))


def test_a_loss_that_is_not_a_number_stops_the_run(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(SegmentationLoss, "lovasz", lambda self, labelled: labelled.logits.sum() * float("nan"))
    assert main(overrides(data, "run", "optim.steps=3")) == 1
    last = capsys.readouterr().err.rstrip("\n").splitlines()[-1]
    assert last.startswith("step 1: the loss lovasz is nan on the scans ")
    assert last.count(".bin") == 2


def test_learning_rate_rises_and_falls():
    rates = [learning_rate(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[9] == rates[10] == 1
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 1e-3
    assert learning_rate(0, 1, 1.0, 0.0) == 1


def test_inputs_count_alike_at_the_start():
    """Whatever their units: each feature contributes the same variance to the first layer."""
    torch.manual_seed(0)
    network = build_network("minkunet14s", in_channels=3, classes=4)
    features = np.random.default_rng(0).normal(0, (20, 1, 0.05), (1000, 3)).astype(np.float32)
    balance_inputs(network, features)
    kernel = network.stem[0].kernel.detach().numpy()
    shares = (kernel**2).mean((0, 2)) * features.var(0)
    np.testing.assert_allclose(shares, shares.mean(), rtol=0.2)


def test_class_weights_come_from_the_draw_and_average_to_one():
    counts = np.array([[3, 0, 1], [1, 0, 0]])
    draw = LabelDraw(Path("x"), 1, 0, "x", np.array([9, 9]), counts, np.zeros(3), np.zeros(0), np.zeros(0))
    assert class_weights("none", draw) is None
    weights = class_weights("sqrt", draw).numpy()
    assert weights[1] == 0
    assert weights[2] / weights[0] == pytest.approx(2)  # sqrt(4 / 1)
    assert (weights * counts.sum(0)).sum() / 5 == pytest.approx(1)


def test_the_cpu_computes_in_full_precision():
    assert half_precision(OptimConfig(amp="bf16"), torch.device("cpu")) is None
    assert half_precision(OptimConfig(amp="off"), torch.device("cuda")) is None
    assert half_precision(OptimConfig(amp="fp16"), torch.device("cuda")) is torch.float16


def test_a_batch_that_processes_cannot_share_is_refused(data: Path):
    config = load_config(None, overrides(data, "run", "optim.batch_size=3"))
    with pytest.raises(ConfigError, match=r"optim\.batch_size = 3: 2 processes cannot share it evenly"):
        train(config, Processes(0, 2, torch.device("cpu")))


SHARED = ("optim.batch_size=4", "augment.mix=0.5", "data.percent=30", "seed=3")


def gradients(config_overrides: list[str], path: str) -> None:
    """Write the gradients of the first batch, of this process among those of its environment."""
    torch.set_num_threads(1)
    config = load_config(None, config_overrides)
    with join_processes("cpu") as processes:
        found = first_gradients(config, processes)
        if processes.first:
            torch.save(found, path)


def first_gradients(config: TrainConfig, processes: Processes) -> dict[str, torch.Tensor]:
    source = open_source(config.data)
    draw = shared_draw(config, processes, source)
    stream = TrainingStream(source, draw, config, make_grid(config))
    learner = make_learner(config, processes, stream)
    positions = next(iter(StreamSampler(4, 0, 1, processes.rank, processes.world)))
    losses, _ = learner.losses(make_batch([stream[position] for position in positions]), 0, 10)
    sum(losses.values()).backward()
    return {name: p.grad.clone() for name, p in learner.student.network.named_parameters()}


def test_two_processes_have_the_gradients_of_one_with_twice_the_batch(data: Path):
    """Four scans with different numbers of labels, in two processes and in one; and a few steps by torchrun."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'test'}", "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]

    def run(*command: str) -> None:
        done = subprocess.run(
            [*torchrun, *command], env=environment, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr[-3000:]

    whole, shared = data.parent / "whole.pt", data.parent / "shared.pt"
    gradients(overrides(data, "run", *SHARED), str(whole))
    run(__file__, str(shared), *overrides(data, "run", *SHARED))
    one, two = torch.load(whole, weights_only=True), torch.load(shared, weights_only=True)
    assert one.keys() == two.keys()
    for name, gradient in one.items():
        scale = float(gradient.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(two[name], gradient, rtol=1e-3, atol=1e-4 * scale, msg=lambda m, n=name: f"{n}: {m}")

    assert main(overrides(data, "one", *SHARED, "optim.steps=3")) == 0
    run(str(ROOT / "training" / "train.py"), *overrides(data, "two", *SHARED, "optim.steps=3"))
    for a, b in zip(rows(data.parent / "one"), rows(data.parent / "two"), strict=True):
        assert a["labels"] == b["labels"]
        for key in ("loss", "lovasz", "gradient_norm"):
            assert float(a[key]) == pytest.approx(float(b[key]), rel=0.02 if a["step"] != "1" else 1e-4)


if __name__ == "__main__":
    gradients(sys.argv[2:], sys.argv[1])
