"""Points by name: what the scores are, what they cost when nobody asks, and what is said when they cannot be had."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from named_models import DIM, HIDDEN, PROMPTS, TAU, asked_by_name, projection, scan, unit, words
from safetensors import safe_open
from safetensors.torch import save_file
from small_clip import VIT, write_clip
from small_models import random_meta, random_network
from torch.utils._python_dispatch import TorchDispatchMode

from mdkt_ros import checkpoint as checkpoint_module
from mdkt_ros.checkpoint import load_checkpoint, load_projection, read_meta, save_checkpoint
from mdkt_ros.checkpoint_meta import CheckpointMeta
from mdkt_ros.errors import CheckpointError, ConfigError
from mdkt_ros.image_text_model import load_image_text
from mdkt_ros.info import describe
from mdkt_ros.labels import LabelSpace
from mdkt_ros.projection import ProjectionHead, cosines
from mdkt_ros.prompts import PromptScorer, PromptWarning, class_of, column_names
from mdkt_ros.segmenter import Segmenter
from mdkt_ros.voxels import collate, voxelize

pytestmark = pytest.mark.usefixtures("one_thread")
LABELS = LabelSpace.load("semantickitti")
WORDS = ["a", "photo", "of", "car", "traffic", "cone", "sign", "bicycle", "road"]


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image-text model of random weights."""
    return write_clip(tmp_path_factory.mktemp("clip") / "model", VIT, WORDS)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "model.safetensors"
    save_checkpoint(path, random_network(), random_meta())
    return path


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("named") / "model.safetensors"
    save_checkpoint(path, random_network(), asked_by_name(), head=projection())
    return path


@pytest.fixture(scope="module")
def trained_with(tmp_path_factory: pytest.TempPathFactory, text_folder: str) -> Path:
    """A checkpoint that says which weights its text model had."""
    path = tmp_path_factory.mktemp("trained") / "model.safetensors"
    weights = load_image_text(text_folder).fingerprint
    save_checkpoint(path, random_network(), asked_by_name(open_vocabulary=words(weights)), head=projection())
    return path


# The checkpoint


def test_a_checkpoint_holds_the_head(named: Path, tmp_path: Path):
    head, expected = load_projection(named), projection()
    for name, value in expected.state_dict().items():
        assert torch.equal(head.state_dict()[name], value)
    assert not any(p.requires_grad for p in head.parameters())
    meta = load_checkpoint(named)[1]
    assert meta.open_vocabulary == read_meta(named).open_vocabulary == words()
    assert meta.text_embeddings is not None
    assert torch.equal(meta.text_embeddings, unit(19, DIM, seed=4))
    half = tmp_path / "half.safetensors"
    save_checkpoint(half, random_network(), asked_by_name(), head=projection(), dtype="float16")
    for name, value in load_projection(half).state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_info_says_so(plain: Path, named: Path):
    assert describe(plain)["open_vocabulary"] is None
    stated = describe(named)["open_vocabulary"]
    assert (stated["model"], stated["pretrained"], stated["dim"]) == ("ViT-B-16", "street_tag", DIM)


def test_without_a_head_the_file_says_nothing_of_it(plain: Path):
    with safe_open(plain, "pt") as file:
        names = set(file.keys())
        document = file.metadata()[checkpoint_module.MARKER]
    assert all(name.startswith("network.") for name in names)
    assert "open_vocabulary" not in document
    with pytest.raises(CheckpointError, match="has no projection head"):
        load_projection(plain)


def test_what_does_not_fit_together_is_not_written(tmp_path: Path):
    out = tmp_path / "model.safetensors"
    cases = [
        (random_meta(), projection(), "unexpected tensor 'projection"),
        (asked_by_name(), None, "tensor 'projection.0.weight' is missing"),
        (asked_by_name(text_embeddings=None), projection(), "without the text embeddings"),
        (
            asked_by_name(text_embeddings=unit(19, 5)),
            projection(),
            r"shape \(19, 5\), but the projection head gives 16",
        ),
        (asked_by_name(), ProjectionHead(3, HIDDEN, DIM), r"projection\.0\.weight' has shape \(7, 3\)"),
        (asked_by_name(open_vocabulary=replace(words(), prompts=("a car",))), projection(), "prompts.*hold {}"),
    ]
    for meta, head, message in cases:
        with pytest.raises(CheckpointError, match=message):
            save_checkpoint(out, random_network(), meta, head=head)
        assert not out.exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden", 0, "'open_vocabulary.hidden': 0 is not in 1"),
        ("dim", 10**9, "'open_vocabulary.dim': 1000000000 is not in 1"),
        ("dim", "16", "'open_vocabulary.dim': must be an integer"),
        ("prompts", [], "'open_vocabulary.prompts': must be a list of texts"),
        ("temperature", 0, "'open_vocabulary.temperature': 0 is not positive"),
        ("model", None, "'open_vocabulary.model': must be a string"),
    ],
)
def test_metadata_that_make_no_sense(key: str, value: Any, message: str):
    document = json.loads(json.dumps(asked_by_name().to_dict()))
    assert CheckpointMeta.from_dict(document, "here").open_vocabulary == words()
    document["open_vocabulary"][key] = value
    with pytest.raises(CheckpointError, match=f"here: metadata key {message}"):
        CheckpointMeta.from_dict(document, "here")


@pytest.mark.parametrize("lost", ["text_embeddings", "projection.2.bias"])
def test_a_file_that_lost_a_part(named: Path, tmp_path: Path, lost: str):
    with safe_open(named, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    del tensors[lost]
    save_file(tensors, tmp_path / "broken.safetensors", metadata)
    with pytest.raises(CheckpointError, match=f"broken.safetensors: tensor '{lost}' is missing"):
        load_checkpoint(tmp_path / "broken.safetensors")


# What it costs when nobody asks


class Recorder(TorchDispatchMode):
    """Names and shapes of all operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append((str(func), tuple(tuple(a.shape) for a in args if isinstance(a, torch.Tensor))))
        return func(*args, **(kwargs or {}))


def test_it_is_free_when_off(plain: Path, named: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> torch.Tensor:
        raise AssertionError("the head is computed although nobody asked")

    monkeypatch.setattr(ProjectionHead, "forward", refuse)
    points, intensity = scan()
    results, recorded = [], []
    for path in (plain, named):
        segmenter = Segmenter.load(path, device="cpu")
        segmenter.segment(points, intensity)
        with Recorder() as recorder:
            results.append(segmenter.segment(points, intensity))
        recorded.append(recorder.calls)
        assert not any(isinstance(module, ProjectionHead) for module in segmenter.network.modules())
    assert len(recorded[0]) > 50
    assert recorded[0] == recorded[1]
    for name in ("class_id", "probability", "entropy"):
        assert np.array_equal(getattr(results[0], name), getattr(results[1], name))
    assert results[1].prompts is None
    assert results[1].prompt_score.shape == (600, 0)


def test_the_head_is_not_even_read(named: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    inner = checkpoint_module._read
    monkeypatch.setattr(
        checkpoint_module, "_read", lambda file, name, *rest: read.append(name) or inner(file, name, *rest)
    )
    Segmenter.load(named, device="cpu")
    assert read
    assert not any(name.startswith("projection") for name in read)


# The scores


def test_the_scores_are_probabilities_beside_the_other_classes(named: Path):
    points, intensity = scan()
    prompts = ["Car", "traffic-sign", "  bicycle "]
    result = Segmenter.load(named, device="cpu", prompts=prompts).segment(points, intensity)
    assert result.prompts is not None
    assert result.prompts.prompts == ("Car", "traffic-sign", "bicycle")
    assert result.prompt_score.shape == (600, 3)
    assert result.prompt_score.dtype == np.float32
    network, meta = load_checkpoint(named)
    voxels = voxelize(points, intensity, meta.grid)
    with torch.no_grad():
        features = network(collate([voxels])[0]).features[1].features
        layers = projection().double()
        inner = torch.relu(features.double() @ layers[0].weight.t() + layers[0].bias)
        embedding = (inner @ layers[2].weight.t() + layers[2].bias).numpy()
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    classes = unit(19, DIM, seed=4).double().numpy()
    cosine = embedding @ classes.T
    own = [LABELS.index(name) for name in ("car", "traffic-sign", "bicycle")]
    inside = voxels.point_to_voxel >= 0
    row = voxels.point_to_voxel[inside]
    # All three are classes, so beside the others they are what a softmax over all says.
    odds = np.exp(cosine / TAU)
    np.testing.assert_allclose(result.prompt_score[inside], (odds / odds.sum(1, keepdims=True))[row][:, own], atol=1e-4)
    assert (result.prompt_score[~inside] == 0).all()
    assert not result.prompts.nearest[~inside].any()
    best = cosine[row].max(1)
    sure = np.sort(cosine[row])[:, -1] - np.sort(cosine[row])[:, -2] > 1e-4
    for i, class_id in enumerate(own):
        assert np.array_equal(result.prompts.nearest[inside, i][sure], (cosine[row, class_id] == best)[sure])
    # The labels are as they were.
    before = Segmenter.load(named, device="cpu").segment(points, intensity)
    assert np.array_equal(before.class_id, result.class_id)
    assert np.array_equal(before.probability, result.probability)


def test_chunks_and_nothing():
    features, texts = torch.randn(50, projection().in_channels), unit(3, DIM)
    torch.testing.assert_close(cosines(projection(), features, texts, chunk=7), cosines(projection(), features, texts))
    assert cosines(projection(), features[:0], texts).shape == (0, 3)


def test_clouds_without_a_point_in_range(named: Path):
    segmenter = Segmenter.load(named, device="cpu", prompts=["car", "road"])
    for points in (np.zeros((0, 3), np.float32), np.full((4, 3), np.nan, np.float32)):
        result = segmenter.segment(points, np.zeros(len(points), np.float32))
        assert result.prompt_score.tolist() == [[0, 0]] * len(points)


def test_a_segmenter_for_another_sensor_keeps_the_prompts(named: Path):
    other = Segmenter.load(named, device="cpu", prompts=["car"]).for_sensor(axes="y_forward")
    assert other.segment(*scan()).prompt_score.shape == (600, 1)


def test_words_of_classes():
    assert class_of("car", LABELS) == LABELS.index("car")
    assert class_of("Traffic  sign", LABELS) == class_of("traffic-sign", LABELS) == LABELS.index("traffic-sign")
    for class_id, name in enumerate(LABELS.names):
        for word in LABELS.words[name]:
            assert class_of(word, LABELS) is not None
        assert class_of(name, LABELS) == class_id
    assert class_of("traffic cone", LABELS) is None


def test_names_of_columns():
    prompts = ["traffic cone", "Traffic-Cone", "Pfütze", "路", "x" * 60, "a/b: c"]
    assert column_names(prompts) == (
        "prompt_traffic_cone",
        "prompt_traffic_cone_1",
        "prompt_pf_tze",
        "prompt_3",
        "prompt_" + "x" * 40,
        "prompt_a_b_c",
    )


# The text model


def test_any_prompt_by_the_text_model(trained_with: Path, text_folder: str):
    points, intensity = scan()
    segmenter = Segmenter.load(trained_with, device="cpu", prompts=["traffic cone", "car"], text_model=text_folder)
    result = segmenter.segment(points, intensity)
    model = load_image_text(text_folder)
    cone = model.encode([prompt.replace("{}", "traffic cone") for prompt in PROMPTS]).mean(0)
    network, meta = load_checkpoint(trained_with)
    voxels = voxelize(points, intensity, meta.grid)
    with torch.no_grad():
        embedding = projection()(network(collate([voxels])[0]).features[1].features)
    texts = torch.cat([unit(19, DIM, seed=4), (cone / cone.norm())[None]])
    expected = (embedding @ texts.t() / TAU).softmax(1)[:, -1].numpy()
    inside = voxels.point_to_voxel >= 0
    np.testing.assert_allclose(result.prompt_score[inside, 0], expected[voxels.point_to_voxel[inside]], atol=1e-4)


def test_the_only_class_there_is(tmp_path: Path):
    scorer = PromptScorer(["car"], projection(), unit(1, DIM), unit(1, DIM), torch.zeros(1, 1, dtype=torch.bool), TAU)
    scores = scorer(torch.randn(2, projection().in_channels), torch.tensor([0, 1, -1]))
    assert scores.score.tolist() == [[1], [1], [0]]
    assert scores.nearest.tolist() == [[True], [True], [False]]


def test_features_that_are_not_finite():
    scorer = PromptScorer(["car"], projection(), unit(1, DIM), unit(2, DIM), torch.ones(1, 2, dtype=torch.bool), TAU)
    features = torch.full((3, projection().in_channels), torch.nan)
    features[1] = torch.inf
    features[2] = 1
    scores = scorer(features, torch.arange(3))
    assert scores.score[:2].tolist() == [[0], [0]]
    assert 0 < scores.score[2, 0] < 1
    assert not scores.nearest[:2].any()


def test_words_that_the_text_model_lacks(trained_with: Path, text_folder: str):
    with pytest.warns(PromptWarning, match="--prompt 'glockenspiel': the text model's vocabulary lacks a word of it"):
        Segmenter.load(trained_with, device="cpu", prompts=["glockenspiel", "traffic cone"], text_model=text_folder)


def test_classes_need_no_text_model(named: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    Segmenter.load(named, device="cpu", prompts=["car", "road"])
    with pytest.raises(ConfigError, match=r"open_clip cannot be imported .*pip install mdkt_ros\[text\]"):
        Segmenter.load(named, device="cpu", prompts=["traffic cone"], text_model="ViT-B-16", text_weights="x.pt")


def test_what_cannot_be_asked(plain: Path, named: Path, trained_with: Path, text_folder: str, tmp_path: Path):
    def error(path: Path, *prompts: str, **options: str) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PromptWarning)
            with pytest.raises((ConfigError, CheckpointError)) as caught:
                Segmenter.load(path, device="cpu", prompts=prompts, **options)
        return str(caught.value)

    said = error(plain, "car")
    assert f"{plain}: cannot be asked by name" in said
    assert "--open-vocabulary" in said
    said = error(named, "car", "traffic cone")
    assert "--prompt 'traffic cone': is no word of semantickitti" in said
    assert "ViT-B-16 street_tag" in said
    assert "--text-model" in said
    assert "--prompt 'car': comes twice" in error(named, "car", " car")
    assert "is empty" in error(named, " ")
    other = write_clip(tmp_path / "other", VIT, WORDS, seed=1)
    assert "are not those that" in error(trained_with, "traffic cone", text_model=other)
    wide = tmp_path / "wide.safetensors"
    meta = asked_by_name(text_embeddings=unit(19, 24), open_vocabulary=replace(words(), dim=24))
    save_checkpoint(wide, random_network(), meta, head=ProjectionHead(projection().in_channels, HIDDEN, 24))
    said = error(wide, "traffic cone", text_model=text_folder)
    assert "its embeddings have 16 numbers" in said
    assert said.endswith("24")
    assert "--text-model ViT-Z: no such model" in error(named, "traffic cone", text_model="ViT-Z")
    assert "--text-weights is not given" in error(named, "traffic cone", text_model="ViT-B-16")
