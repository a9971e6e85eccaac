"""Photos for pre-training: captions say what is in the middle, wrong at the stated rate; no label goes with them."""

from collections import Counter

import numpy as np
import pytest
from safetensors import safe_open

pytest.importorskip("embreex")

from mdkt_ros.drive.synthetic.kinds import Kind, raw_nuscenes, raw_semantickitti
from mdkt_ros.drive.synthetic.town import build_town
from mdkt_ros.errors import DriveError
from mdkt_ros.labels import IGNORE, LabelSpace
from training.data.captions import (
    PHRASES,
    SKY,
    Subject,
    caption_tokenizer,
    color_name,
    content_words,
    phrases,
    write_caption,
)
from training.data.crops import CropConfig, _subjects, load_crops, photograph, save_crops

SEED = 3900
SMALL = CropConfig(drive_views=0, thing_views=10, thing_crops=12, size=48, wrong=0.2)


@pytest.fixture(scope="module")
def town():
    return build_town(SEED)


@pytest.fixture(scope="module")
def shots(town):
    return photograph(SEED, SMALL, town)


def test_captions_are_wrong_at_the_stated_rate(shots):
    count = len(shots.main)
    assert count > 80
    assert shots.wrong.sum() == round(0.2 * count)

    def names(index, subject):
        padded = f" {shots.crops.captions[index]} "
        return any(f" {phrase} " in padded for phrase in phrases(subject))

    right = [names(i, subject) for i, subject in enumerate(shots.main) if not shots.wrong[i]]
    assert all(right)
    # Another photo's caption may name this one's subject beside its own, and kinds share a word or two.
    assert np.mean([names(i, shots.main[i]) for i in np.flatnonzero(shots.wrong)]) < 0.4


def test_wrong_captions_are_those_of_other_subjects(shots, town):
    truth = photograph(SEED, CropConfig(**{**vars(SMALL), "wrong": 0.0}), town)
    assert not truth.wrong.any()
    assert np.array_equal(truth.crops.images, shots.crops.images)
    kinds = np.array([subject.kind for subject in truth.main])
    for index, caption in enumerate(shots.crops.captions):
        if shots.wrong[index]:
            owners = [i for i, other in enumerate(truth.crops.captions) if other == caption]
            assert any(kinds[i] != kinds[index] for i in owners)
        else:
            assert caption == truth.crops.captions[index]


def test_rare_things_are_photographed(shots):
    seen = Counter(subject.kind for subject in shots.main)
    assert len(seen) >= 10
    # Asphalt and walls fill the views, and yet they do not fill the photos.
    assert max(seen.values()) < 0.4 * len(shots.main)
    assert shots.crops.images.shape == (len(shots.main), 48, 48, 3)
    assert shots.crops.images.std(axis=(1, 2, 3)).mean() > 15


def test_nothing_but_crops_and_captions_is_written(shots, tmp_path):
    path = tmp_path / "3900.safetensors"
    save_crops(path, shots.crops)
    with safe_open(path, "numpy") as file:
        assert list(file.keys()) == ["images"]
        assert set(file.metadata()) == {"captions"}
    again = load_crops(path)
    assert np.array_equal(again.images, shots.crops.images)
    assert again.captions == shots.crops.captions
    assert [p.name for p in tmp_path.iterdir()] == ["3900.safetensors"]


def test_damaged_crops_are_named(tmp_path):
    path = tmp_path / "3001.safetensors"
    path.write_bytes(b"not a tensor")
    with pytest.raises(DriveError, match=r"3001\.safetensors: not a file of crops"):
        load_crops(path)


def test_the_middle_is_what_a_crop_shows():
    kind = np.full((40, 40), Kind.BUILDING, dtype=np.uint8)
    kind[25:] = Kind.SIDEWALK
    kind[:, 18:22] = Kind.POLE
    material, color = np.zeros((40, 40), dtype=np.uint8), np.zeros((40, 40, 3), dtype=np.float32)
    assert [s.kind for s in _subjects(kind, material, color)] == [Kind.POLE, Kind.BUILDING, Kind.SIDEWALK]
    # At the rim it is one of the things around, and too thin to be mentioned.
    kind[:, 18:22] = kind[:, 17:18]
    kind[:, :2] = Kind.POLE
    assert [s.kind for s in _subjects(kind, material, color)] == [Kind.BUILDING, Kind.SIDEWALK]
    assert _subjects(np.full((40, 40), Kind.EGO, dtype=np.uint8), material, color) == []


@pytest.mark.parametrize("name", ["semantickitti", "nuscenes"])
def test_every_word_of_a_class_is_used_for_things_of_that_class(name):
    labels = LabelSpace.load(name)
    used = {class_name: set() for class_name in labels.names}
    for kind in set(PHRASES) - {SKY}:
        kinds = np.array([kind])
        raw = raw_nuscenes(kinds) if name == "nuscenes" else raw_semantickitti(kinds, np.array([False]))
        class_id = int(labels.from_raw(raw, name)[0])
        if class_id != IGNORE:
            used[labels.names[class_id]] |= set(PHRASES[kind])
    for class_name, words in labels.words.items():
        missing = set(words) - used[class_name]
        assert not missing, f"{class_name}: {missing}"


def test_a_caption_names_its_subject_and_the_vocabulary_knows_it():
    tokenizer, rng = caption_tokenizer(), np.random.default_rng(0)
    others = [Subject(Kind.MOTORCYCLIST), Subject(Kind.BICYCLIST), Subject(Kind.CONSTRUCTION_VEHICLE)]
    for kind in PHRASES:
        main = Subject(kind, color=(0.4, 0.03, 0.03))
        for _ in range(40):
            text = write_caption(rng, main, others)
            assert any(phrase in text for phrase in phrases(main)), text
            assert tokenizer.knows(text)
            assert tokenizer.decode(tokenizer(text)[0]) == text
    assert {"road", "cyclist", "excavator"} <= set(content_words())
    assert not {"a", "photo", "the", "red"} & set(content_words())


def test_color_names():
    assert color_name((0.45, 0.02, 0.03)) == "red"
    assert color_name((0.02, 0.02, 0.02)) == "black"
    assert color_name((0.78, 0.8, 0.8)) == "white"
