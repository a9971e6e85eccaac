"""export.py --open-vocabulary: a run's projection head goes out when it is asked for, and only then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_clip import VIT, write_clip
from small_drives import kitti_frames
from tiny_drive import TINY, write_folder
from typer.testing import CliRunner

from mdkt_ros.checkpoint import load_checkpoint, load_projection, read_meta
from mdkt_ros.cli import app
from mdkt_ros.drive.write_semantickitti import write_semantickitti
from mdkt_ros.errors import CheckpointError, ConfigError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.scan import read_scan
from mdkt_ros.segment_drive import segment_path
from mdkt_ros.segmenter import Segmenter
from training.config import ContrastConfig
from training.export import CONTRAST, export_state, make_network
from training.export import main as export_main
from training.pseudo_labels import main as pseudo_labels_main
from training.scheme.contrast import SemanticContrast
from training.state import RunState, load_state
from training.train import main as train_main

TEXT_MODEL = {
    "model": "local-dir:/home/someone/clip",
    "pretrained": "",
    "weights": "0123456789abcdef",
    "prompts": ["a photo of a {}.", "{}"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    data = write_folder(folder / "scans")
    places = [f"data.root={data}", f"data.draws={folder / 'draws'}", f"out={folder / 'run'}"]
    assert train_main([*TINY, *places, "optim.steps=2", "optim.average=0.5"]) == 0
    return folder / "run"


def with_contrast(run: Path, text: bool = True) -> tuple[RunState, SemanticContrast]:
    """The run's state as it is when a contrast was in it."""
    state = load_state(run / "state.safetensors")
    channels = make_network(state.config, 19).feature_channels[1]
    torch.manual_seed(0)
    texts = torch.nn.functional.normalize(torch.randn(19, 12), dim=1) if text else None
    known = torch.arange(19) != 3
    contrast = SemanticContrast(channels, 19, ContrastConfig(queue=4, dim=12), texts, known=known)
    labelled = torch.ones(19, dtype=torch.bool)
    contrast.update(torch.nn.functional.normalize(torch.randn(19, 12), dim=1), torch.arange(19), labelled)
    tensors = state.tensors | {f"{CONTRAST}.{name}": value for name, value in contrast.state_dict().items()}
    facts = state.facts | ({"text_model": TEXT_MODEL} if text else {})
    return replace(state, tensors=tensors, facts=facts), contrast


def test_nothing_of_it_goes_out_unasked(run: Path, tmp_path: Path):
    export_state(with_contrast(run)[0], tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_the_head_goes_out_when_asked(run: Path, tmp_path: Path):
    state, contrast = with_contrast(run)
    out = tmp_path / "model.safetensors"
    export_state(state, out, open_vocabulary=True)
    for name, value in load_projection(out).state_dict().items():
        assert torch.equal(value, contrast.head.state_dict()[name])
    network, meta = load_checkpoint(out)
    assert contrast.text is not None
    assert meta.text_embeddings is not None
    others = torch.arange(19) != 3
    assert torch.equal(meta.text_embeddings[others], contrast.text[others])
    # The text model has no word for class 3: it is where its points are.
    assert torch.equal(meta.text_embeddings[3], contrast.prototypes[3])
    stated = meta.open_vocabulary
    assert stated is not None
    assert (stated.model, stated.weights) == ("local-dir:clip", "0123456789abcdef")
    assert (stated.dim, stated.temperature) == (12, 0.07)
    assert stated.prompts == ("a photo of a {}.", "{}")
    # The network is the one that goes out without.
    for name, value in load_checkpoint(run / "model.safetensors")[0].state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    assert read_meta(out).training == read_meta(run / "model.safetensors").training


def test_a_run_that_has_none(run: Path, tmp_path: Path):
    out = tmp_path / "model.safetensors"
    for state in (load_state(run / "state.safetensors"), with_contrast(run, text=False)[0]):
        with pytest.raises(CheckpointError, match="no projection head in a text model's space"):
            export_state(state, out, open_vocabulary=True)
    state = with_contrast(run)[0]
    del state.tensors[f"{CONTRAST}.head.2.bias"]
    with pytest.raises(CheckpointError, match=r"not a whole training state: .*head\.2\.bias"):
        export_state(state, out, open_vocabulary=True)
    assert not out.exists()


def test_from_the_command_line(run: Path, tmp_path: Path):
    model = tmp_path / "model.safetensors"
    export_state(with_contrast(run)[0], model, open_vocabulary=True)
    scan = write_folder(tmp_path / "scans", scans=1) / "00.bin"
    arguments = ["segment", str(scan), str(tmp_path / "out.pcd"), "--checkpoint", str(model), "--device", "cpu"]
    result = CliRunner().invoke(app, [*arguments, "--prompt", "car", "--prompt", "traffic sign"])
    assert result.exit_code == 0, result.output
    for text in ("points by name", "prompt_car", "prompt_traffic_sign", "nearer than any class"):
        assert text in result.output
    columns = read_scan(tmp_path / "out.pcd").columns
    assert np.isfinite(columns["prompt_car"]).all()
    assert len(np.unique(columns["prompt_traffic_sign"])) > 10
    without = CliRunner().invoke(app, [*arguments, "--force"])
    assert without.exit_code == 0
    assert "by name" not in without.output
    unknown = CliRunner().invoke(app, [*arguments, "--force", "--prompt", "traffic cone"])
    assert "--text-model local-dir:FOLDER" in str(unknown.exception)


@pytest.mark.slow
def test_from_images_and_words_to_a_prompt(tmp_path: Path):
    """The whole way: scores of the images, training with them, export, and a prompt that names no class."""
    words = ["a", "photo", "of", "road", "building", "tree", "traffic", "cone"]
    clip = write_clip(tmp_path / "clip", VIT, words)
    root = tmp_path / "kitti"
    write_semantickitti(root, kitti_frames(2), sequence="00", labels=LabelSpace.load("semantickitti"))
    places = ["data.kind=semantickitti", f"data.root={root}", f"data.draws={tmp_path / 'draws'}"]
    places += [f"pseudo.cache={tmp_path / 'scores'}", "images.scale=1"]
    assert pseudo_labels_main(["--model", clip, *places]) == 0
    settings = ["contrast.weight=0.1", "contrast.queue=8", "contrast.anchors=16", "pseudo.weight=0.5"]
    settings += ["optim.steps=4", "optim.average=0.9", "schedule.labels_only=0.25", "schedule.ramp=0.25"]
    assert train_main([*TINY, *places, *settings, f"out={tmp_path / 'run'}"]) == 0
    model, scan = tmp_path / "model.safetensors", root / "sequences" / "00" / "velodyne" / "000000.bin"
    assert export_main([str(tmp_path / "run"), str(model), "--open-vocabulary"]) == 0
    segmenter = Segmenter.load(model, device="cpu", prompts=["traffic cone", "road"], text_model=clip)
    segment_path(scan, tmp_path / "out.pcd", segmenter)
    score = read_scan(tmp_path / "out.pcd").columns["prompt_traffic_cone"]
    assert ((score > 0) & (score < 1)).any()
    other = write_clip(tmp_path / "other", VIT, words, seed=1)
    with pytest.raises(ConfigError, match="the prompts would mean something else"):
        Segmenter.load(model, device="cpu", prompts=["traffic cone"], text_model=other)
