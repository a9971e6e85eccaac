"""export.py: what leaves the training, and at what size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_drive import TINY, write_folder

from mdkt_ros.checkpoint import load_checkpoint, read_meta
from mdkt_ros.errors import CheckpointError
from training.export import export_state, main
from training.state import RunState, load_state
from training.train import main as train_main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    data = write_folder(folder / "scans")
    places = [f"data.root={data}", f"data.draws={folder / 'draws'}", f"out={folder / 'run'}"]
    assert train_main([*TINY, *places, "optim.steps=2", "optim.average=0.5", "data.percent=10", "model.width=0.5"]) == 0
    return folder / "run"


def test_the_vehicle_gets_the_network_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "model.safetensors"
    assert main([str(run), str(out)]) == 0
    said = capsys.readouterr().out
    size, state_size = out.stat().st_size, (run / "state.safetensors").stat().st_size
    assert f"{out}: {size / 1e6:.2f} MB" in said.replace("\n", "")
    assert size < state_size / 3  # weights, their mean, two moments
    assert out.read_bytes() == (run / "model.safetensors").read_bytes()
    half = tmp_path / "half.safetensors"
    assert main([str(run / "state.safetensors"), str(half), "--half"]) == 0
    assert half.stat().st_size < 0.65 * size
    one, two = (load_checkpoint(path)[0].state_dict() for path in (out, half))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-6)


def test_the_mean_of_the_weights_or_the_weights_themselves(run: Path, tmp_path: Path):
    state = load_state(run / "state.safetensors")
    for arguments, part in (([], "average"), (["--raw"], "network")):
        out = tmp_path / f"{part}.safetensors"
        assert main([str(run), str(out), *arguments]) == 0
        network, meta = load_checkpoint(out)
        assert meta.training["averaged"] is (part == "average")
        for name, value in network.state_dict().items():
            assert torch.equal(value, state.part(part)[name])


def test_metadata_say_where_the_weights_come_from(run: Path):
    meta = read_meta(run / "model.safetensors")
    assert meta.data["budget"] == {
        "unit": "points",
        "percent": 10.0,
        "seed": 0,
        "scans": 3,
        "labelled_scans": 3,
        "points": 900,
        "labels": 81,
        "labels_percent_of_points": pytest.approx(9.0),
    }
    assert meta.training["config"]["model.width"] == 0.5
    assert (meta.training["step"], meta.training["steps"]) == (2, 2)
    assert meta.training["seconds"] >= 0
    assert not {"data.root", "data.draws", "out"} & set(meta.training["config"])


def test_mistakes_are_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "model.safetensors"

    def error(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 1
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    assert "none/state.safetensors: no such file" in error(tmp_path / "none" / "state.safetensors", out)
    assert "its format is unknown, not mdkt_ros training state 1" in error(run / "model.safetensors", out)
    whole = (run / "state.safetensors").read_bytes()
    for size in (0, 4, 100, len(whole) - 1):
        broken = tmp_path / "broken.safetensors"
        broken.write_bytes(whole[:size])
        assert "broken.safetensors: not a whole training state" in error(broken, out)
    assert not out.exists()
    out.write_bytes(b"mine")
    assert "exists already" in error(run, out)
    assert out.read_bytes() == b"mine"
    assert main([str(run), str(out), "--force"]) == 0


def test_a_state_that_does_not_hold_together_is_refused(run: Path, tmp_path: Path):
    state = load_state(run / "state.safetensors")
    missing = {key: value for key, value in state.facts.items() if key != "axes"}
    with pytest.raises(CheckpointError, match="'axes'"):
        export_state(RunState(state.path, state.config, 2, missing, state.tensors), tmp_path / "x.safetensors")
    broken = {**state.tensors, "average.classifier.0.bias": torch.full((19,), float("nan"))}
    with pytest.raises(CheckpointError, match=r"classifier\.0\.bias' has NaN"):
        export_state(RunState(state.path, state.config, 2, state.facts, broken), tmp_path / "x.safetensors")
    del broken["average.classifier.0.bias"]
    with pytest.raises(CheckpointError, match=r"classifier\.0\.bias"):
        export_state(RunState(state.path, state.config, 2, state.facts, broken), tmp_path / "x.safetensors")
