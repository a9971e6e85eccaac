"""Image-text models by name and folder, and what they make of words."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from small_clip import MEAN, STD, VIT, random_clip, write_clip

from mdkt_ros.errors import CheckpointError, ConfigError
from mdkt_ros.image_text_model import load_image_text, weights_fingerprint
from mdkt_ros.labels import LabelSpace
from mdkt_ros.vision_ops import import_open_clip
from training.scheme.text import STREET_PROMPTS, ClassText, class_text, embed_words, load_prompts

KITTI = LabelSpace.load("semantickitti")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "model"
    write_clip(folder, VIT)
    return folder


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def test_a_folder_loads_with_what_it_says_about_itself(folder: Path):
    model = load_image_text(f"local-dir:{folder}")
    assert (list(model.mean), list(model.std)) == (MEAN, STD)
    assert model.image_size == (32, 32)
    assert model.logit_scale == pytest.approx(np.exp(3.0), rel=1e-6)
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    for name, tensor in random_clip(VIT).state_dict().items():
        torch.testing.assert_close(model.network.state_dict()[name], tensor, rtol=0, atol=0)


def test_the_fingerprint_is_of_the_weights_alone(folder: Path):
    model = load_image_text(f"local-dir:{folder}")
    assert model.fingerprint == weights_fingerprint(random_clip(VIT))
    changed = random_clip(VIT)
    with torch.no_grad():
        changed.visual.proj[3, 4] += 1e-6
    assert weights_fingerprint(changed) != model.fingerprint


def test_a_word_is_the_mean_direction_of_its_prompts(folder: Path):
    model, network = load_image_text(f"local-dir:{folder}"), random_clip(VIT)
    tokenizer = import_open_clip().get_tokenizer("ViT-B-32", context_length=16)
    prompts = ("a photo of a {}.", "{} in the street")
    with torch.no_grad():
        rows = [
            unit(sum(unit(network.encode_text(tokenizer([p.format(word)]))[0]) for p in prompts) / 2)
            for word in ("car", "traffic sign")
        ]
    torch.testing.assert_close(embed_words(model, ["car", "traffic sign"], prompts), torch.stack(rows))


def test_a_class_takes_the_best_of_its_words():
    owner = torch.tensor([0, 0, 1, 2, 2, 2])
    text = ClassText(("{}",), tuple("abcdef"), owner, unit(torch.randn(6, 4)), np.ones(3, dtype=bool))
    scores = torch.randn(5, 7, 6)
    best = text.best(scores)
    for i in range(5):
        for j in range(7):
            row = scores[i, j].tolist()
            assert best[i, j].tolist() == [max(row[:2]), row[2], max(row[3:])]
    embeddings = text.class_embeddings()
    torch.testing.assert_close(embeddings[1], text.embeddings[2])
    torch.testing.assert_close(embeddings[2], unit(text.embeddings[3:].mean(0)))


def test_every_word_of_the_label_space_is_asked_for(folder: Path):
    text = class_text(load_image_text(f"local-dir:{folder}"), KITTI)
    assert text.prompts == STREET_PROMPTS
    for class_id, name in enumerate(KITTI.names):
        assert [w for w, o in zip(text.words, text.owner.tolist(), strict=True) if o == class_id] == [
            *KITTI.words[name]
        ]
    torch.testing.assert_close(text.embeddings.norm(dim=1), torch.ones(len(text.words)))
    assert text.known.all()


def test_words_and_prompts_that_a_small_vocabulary_lacks_are_left_out(tmp_path: Path):
    vocabulary = sorted({"a", "of", "photo", "car", "van", "road", "tree", "trunk"})
    text = class_text(load_image_text(write_clip(tmp_path / "m", VIT, vocabulary)), KITTI)
    assert set(text.prompts) == {"a photo of a {}.", "a photo of {}."}
    of = {
        n: [w for w, o in zip(text.words, text.owner.tolist(), strict=True) if o == i]
        for i, n in enumerate(KITTI.names)
    }
    assert of["car"] == ["car", "van"]
    assert of["trunk"] == ["tree trunk"]
    assert {n for n, known in zip(KITTI.names, text.known, strict=True) if known} == {
        "car",
        "road",
        "vegetation",
        "trunk",
    }
    with pytest.raises(ConfigError, match="no word of any class of semantickitti"):
        class_text(load_image_text(write_clip(tmp_path / "n", VIT, ["xylophone"])), KITTI)


def test_a_vocabulary_smaller_than_its_tokenizer_is_named(tmp_path: Path):
    write_clip(tmp_path, VIT, ["car"])
    (tmp_path / "word_tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="its vocabulary has 5"):
        load_image_text(f"local-dir:{tmp_path}").encode(["car"])


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B16", "", "no such model in open_clip; did you mean ViT-B-16"),
        ("ViT-B-16", "", "--pretrained is not given: ViT-B-16 needs a weights file or a tag"),
        ("ViT-B-16", "laion2b_s34b", "no file and no tag of ViT-B-16; did you mean laion2b_s34b_b88k"),
        ("ViT-B-16", "weights/clip.pt", "no such file of ViT-B-16"),
        ("local-dir:nowhere", "", "nowhere: no open_clip_config.json there"),
        ("hf-hub:some/model", "tag", "brings its own weights"),
    ],
)
def test_names_that_mean_nothing(model: str, pretrained: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_image_text(model, pretrained)


def test_a_folder_in_the_place_of_a_model_is_told_how_to_be_written(folder: Path):
    with pytest.raises(ConfigError, match=f"a folder is written local-dir:{folder}"):
        load_image_text(str(folder))


class Trap:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_is_unpickled(tmp_path: Path):
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "clip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(tmp_path / "sprung"), protocol=2))
    for name in ("clip.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match=f"{name}: not a file of plain weights"):
            load_image_text("ViT-S-32-alt", str(tmp_path / name))
    assert not (tmp_path / "sprung").exists()


def test_damage_is_one_error_that_names_the_model(folder: Path, tmp_path: Path):
    config, weights = (folder / n for n in ("open_clip_config.json", "open_clip_model.safetensors"))
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / config.name).write_bytes(config.read_bytes())
    with pytest.raises(CheckpointError, match=r"copy: cannot be loaded: .*could not be loaded"):
        load_image_text(f"local-dir:{copy}")
    (copy / weights.name).write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="copy: cannot be loaded"):
        load_image_text(f"local-dir:{copy}")
    (copy / weights.name).write_bytes(weights.read_bytes())
    (copy / config.name).write_text(config.read_text().replace('"layers": 2', '"layers": 3'))
    with pytest.raises(CheckpointError, match="copy: cannot be loaded"):
        load_image_text(f"local-dir:{copy}")
    (copy / config.name).write_text("{")
    with pytest.raises(CheckpointError, match="copy: cannot be loaded"):
        load_image_text(f"local-dir:{copy}")


def test_prompts_come_from_a_file(tmp_path: Path):
    path = tmp_path / "prompts.yaml"
    path.write_text("- a {} here\n- '{}'\n")
    assert load_prompts(path) == ("a {} here", "{}")
    assert load_prompts(None) == STREET_PROMPTS
    for bad, message in (("- a car\n", "must be a text with one"), ("a: 1\n", "a list of texts"), ("- [", "not YAML")):
        path.write_text(bad)
        with pytest.raises(ConfigError, match=message):
            load_prompts(path)
    with pytest.raises(ConfigError, match=r"gone\.yaml: No such file"):
        load_prompts(tmp_path / "gone.yaml")
