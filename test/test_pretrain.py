"""The stand-in for web-scale pre-training: a minute's run from town to weights, and that others can load them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("embreex")

from mdkt_ros.errors import CheckpointError, ConfigError
from mdkt_ros.image_text_model import load_image_text
from mdkt_ros.labels import LabelSpace
from mdkt_ros.tokenizer import WordTokenizer
from mdkt_ros.vision_ops import import_open_clip
from training import pretrain
from training.data.captions import caption_tokenizer, content_words
from training.data.crops import Crops
from training.losses import TrainingError
from training.pretrain_image_network import BackboneConfig, train_image_network
from training.pretrain_image_text import Batches, ImageTextConfig, augment, normalize, train_image_text, word_targets
from training.pretrain_report import ReportConfig, class_figures, write_report
from training.scheme.config import ImageNetworkConfig
from training.scheme.image_network import build_image_network

CPU = torch.device("cpu")
TINY = [
    "crops.towns=1", "crops.drive_views=0", "crops.thing_views=4", "crops.thing_crops=8", "crops.size=40",
    "image_text.image_size=32", "image_text.width=32", "image_text.head_width=16", "image_text.layers=1",
    "image_text.dim=16", "image_text.text_width=32", "image_text.text_layers=1", "image_text.batch_size=8",
    "image_text.epochs=0.5", "image_network.name=resnet10t", "image_network.image_size=32",
    "image_network.batch_size=8", "image_network.epochs=0.5", "report.towns=0", "precision=fp32",
    "workers=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pretrained") / "out"
    assert pretrain.main(["--out", str(out), *TINY]) == 0
    return out


def test_what_is_written(made):
    assert sorted(p.name for p in made.iterdir()) == ["crops", "image_network.safetensors", "image_text"]
    assert sorted(p.name for p in (made / "crops").iterdir()) == ["3000.safetensors", "crops.json"]
    about = json.loads((made / "image_text" / "open_clip_config.json").read_text())["pretraining"]
    assert about["towns"] == "3000 to 3000"
    assert about["wrong_captions"] == 0.1


@pytest.mark.slow
def test_report_of_towns_that_nobody_learnt_in(made):
    report = write_report(made, ReportConfig(towns=1, views=1, step=24), force=True)
    assert set(report["summary"]) == {"dense_labels", "probe", "probe_of_fresh_weights"}
    assert report["towns"] == [1000]
    for figures in report["summary"].values():
        assert 0 <= figures["miou"] <= 100
    (made / "report.json").unlink()


def test_open_clip_loads_the_image_text_model(made):
    model = import_open_clip().create_model(f"local-dir:{made / 'image_text'}", require_pretrained=True)
    assert model.visual.image_size in (32, (32, 32))
    tokens = WordTokenizer.load(made / "image_text")(["a photo of a car", "tree trunk"])
    with torch.no_grad():
        assert model.encode_text(tokens).shape == (2, 16)
    loaded = load_image_text(f"local-dir:{made / 'image_text'}")
    assert loaded.mean == pytest.approx((0.42, 0.42, 0.40))
    for words in LabelSpace.load("semantickitti").words.values():
        assert all(loaded.knows(word) for word in words)


def test_the_image_network_starts_from_the_weights(made):
    weights = str(made / "image_network.safetensors")
    torch.manual_seed(5)
    one = build_image_network(ImageNetworkConfig(name="resnet10t", weights=weights))
    other = build_image_network(ImageNetworkConfig(name="resnet10t", weights=weights))
    assert one.pretrained
    for (key, value), again in zip(
        one.backbone.state_dict().items(), other.backbone.state_dict().values(), strict=True
    ):
        assert torch.equal(value, again), key
    with pytest.raises(CheckpointError, match=r"weights of resnet10t, but image_network\.name is resnet18"):
        build_image_network(ImageNetworkConfig(name="resnet18", weights=weights))


def test_what_is_there_is_kept_unless_settings_differ(made, capsys):
    weights = made / "image_text" / "open_clip_model.safetensors"
    before = weights.stat().st_mtime_ns
    assert pretrain.main(["--out", str(made), *TINY]) == 0
    assert weights.stat().st_mtime_ns == before
    capsys.readouterr()
    assert pretrain.main(["--out", str(made), *TINY, "image_text.lr=0.01"]) == 1
    error = capsys.readouterr().err
    assert "made with other settings" in error
    assert error.count("\n") == 1
    assert pretrain.main(["--out", str(made), *TINY, "crops.wrong=0.3"]) == 1
    assert "crops there were made with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("crops.towns=1001", "crops.towns: must be from 1 to 1000"),
        ("image_text.patch=7", "image_text.patch: must be a divisor"),
        ("image_text.speed=1", "image_text.speed"),
        ("image_network.lr=-1", "image_network.lr: must be above 0"),
        ("crops.wrong=x", "crops.wrong"),
    ],
)
def test_bad_settings_are_one_line(override, message, tmp_path, capsys):
    assert pretrain.main(["--out", str(tmp_path / "out"), override]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_unknown_recipe(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        pretrain.load_pretrain_config(tmp_path / "nowhere.yaml")


def _two_colors(count: int) -> Crops:
    """Photos that are red or green all over, and captions that say `car` or `grass`."""
    rng = np.random.default_rng(0)
    images = np.full((count, 40, 40, 3), 40, dtype=np.uint8)
    images[::2, ..., 0], images[1::2, ..., 1] = 200, 200
    images += rng.integers(0, 40, images.shape, dtype=np.uint8)
    return Crops(images, tuple("a photo of a car" if i % 2 == 0 else "grass" for i in range(count)))


SMALL_TEXT = ImageTextConfig(
    image_size=32, width=32, head_width=16, layers=1, dim=16, text_width=32, text_layers=1, batch_size=2, epochs=60
)


def test_the_image_text_model_learns_and_repeats():
    crops = _two_colors(2)
    model, _, losses = train_image_text(crops, SMALL_TEXT, 0, CPU, None)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])
    tokens = caption_tokenizer()(crops.captions)
    with torch.no_grad():
        images = normalize(torch.from_numpy(crops.images[:, 4:36, 4:36]).permute(0, 3, 1, 2).float() / 255)
        likeness = model.encode_image(images, normalize=True) @ model.encode_text(tokens, normalize=True).T
    assert likeness.argmax(1).tolist() == [0, 1]
    again, _, same = train_image_text(crops, SMALL_TEXT, 0, CPU, None)
    assert losses == same
    assert torch.equal(model.visual.proj, again.visual.proj)


def test_the_backbone_learns_the_words_and_repeats():
    crops = _two_colors(16)
    config = BackboneConfig(name="resnet10t", image_size=32, batch_size=8, epochs=8)
    model, losses = train_image_network(crops, config, 0, CPU, None)
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])
    _, same = train_image_network(crops, config, 0, CPU, None)
    assert losses == same
    assert not model.training


def test_a_loss_that_is_not_finite_stops():
    with pytest.raises(TrainingError, match=r"step .*image_text\.lr"):
        train_image_text(_two_colors(4), ImageTextConfig(**{**vars(SMALL_TEXT), "lr": 1e30}), 0, CPU, None)


def test_targets_are_the_words_that_name_things():
    targets = word_targets(("a photo of a parked car beside a tree trunk", "the sky"))
    words = content_words()
    assert {words[i] for i in np.flatnonzero(targets[0])} == {"parked", "car", "tree", "trunk"}
    assert {words[i] for i in np.flatnonzero(targets[1])} == {"sky"}


def test_batches_take_everything_once_before_anything_twice():
    batches = Batches(6, 3, np.random.default_rng(0))
    assert sorted(np.concatenate([batches.take(), batches.take()])) == list(range(6))
    assert len(Batches(2, 5, np.random.default_rng(0)).take()) == 2


def test_augmented_crops_stay_pictures():
    crops = _two_colors(6)
    pixels = augment(crops.images, 32, 0.3, np.random.default_rng(0))
    assert pixels.shape == (6, 3, 32, 32)
    assert float(pixels.min()) >= 0
    assert float(pixels.max()) <= 1
    # Red stays red: what a crop shows survives.
    assert (pixels.mean((2, 3)).argmax(1) == torch.tensor([0, 1] * 3)).all()


def test_figures_of_a_confusion():
    figures = class_figures(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]), ("road", "car", "tram"))
    assert figures["miou"] == 77.5
    assert figures["accuracy"] == 87.5
    assert figures["classes"]["car"] == {"precision": 80.0, "recall": 100.0, "iou": 80.0}
    assert set(figures["classes"]) == {"road", "car"}


def test_unknown_words_share_a_number():
    tokenizer = caption_tokenizer()
    row = tokenizer("a photo of a Zebra, beside a car!")[0]
    assert tokenizer.decode(row) == "a photo of a <unknown> beside a car"
    assert row.argmax() == 9
    assert int(row.max()) == tokenizer.vocab_size - 1
