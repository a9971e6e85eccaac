"""Label spaces: the official maps, round trips, and what a wrong file is told."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mdkt_ros.errors import LabelError
from mdkt_ros.labels import IGNORE, LabelSpace
from mdkt_ros.resources import config_dir

# fmt: off
# semantic-kitti-api, config/semantic-kitti.yaml: learning_map, learning_map_inv and color_map (there BGR) by class.
KITTI_LEARNING_MAP = {
    0: 0, 1: 0, 10: 1, 11: 2, 13: 5, 15: 3, 16: 5, 18: 4, 20: 5, 30: 6, 31: 7, 32: 8, 40: 9, 44: 10, 48: 11,
    49: 12, 50: 13, 51: 14, 52: 0, 60: 9, 70: 15, 71: 16, 72: 17, 80: 18, 81: 19, 99: 0,
    252: 1, 253: 7, 254: 6, 255: 8, 256: 5, 257: 5, 258: 4, 259: 5,
}
KITTI_INVERSE = [10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81]
KITTI_BGR = {
    "car": (245, 150, 100), "bicycle": (245, 230, 100), "motorcycle": (150, 60, 30), "truck": (180, 30, 80),
    "other-vehicle": (255, 0, 0), "person": (30, 30, 255), "bicyclist": (200, 40, 255), "motorcyclist": (90, 30, 150),
    "road": (255, 0, 255), "parking": (255, 150, 255), "sidewalk": (75, 0, 75), "other-ground": (75, 0, 175),
    "building": (0, 200, 255), "fence": (50, 120, 255), "vegetation": (0, 175, 0), "trunk": (0, 60, 135),
    "terrain": (80, 240, 150), "pole": (150, 240, 255), "traffic-sign": (0, 0, 255),
}
# nuscenes-devkit, lidarseg: index of each of the 32 classes -> class of the challenge, 0 ignored; and its colour map.
NUSCENES_CHALLENGE = {
    9: 1, 14: 2, 15: 3, 16: 3, 17: 4, 18: 5, 21: 6, 2: 7, 3: 7, 4: 7, 6: 7, 12: 8, 22: 9, 23: 10, 24: 11, 25: 12,
    26: 13, 27: 14, 28: 15, 30: 16,
}
NUSCENES_RGB = {
    "barrier": (112, 128, 144), "bicycle": (220, 20, 60), "bus": (255, 127, 80), "car": (255, 158, 0),
    "construction_vehicle": (233, 150, 70), "motorcycle": (255, 61, 99), "pedestrian": (0, 0, 230),
    "traffic_cone": (47, 79, 79), "trailer": (255, 140, 0), "truck": (255, 99, 71),
    "driveable_surface": (0, 207, 191), "other_flat": (175, 0, 75), "sidewalk": (75, 0, 75),
    "terrain": (112, 180, 60), "manmade": (222, 184, 135), "vegetation": (0, 175, 0),
}
# fmt: on


@pytest.fixture(params=["semantickitti", "nuscenes"])
def space(request) -> LabelSpace:
    return LabelSpace.load(request.param)


def document(**changes):
    """A small valid label space, changed."""
    classes = [
        {"name": "road", "color": [255, 0, 255], "raw": [40, 60], "submission": 9},
        {
            "name": "car",
            "color": [1, 2, 3],
            "raw": [10, 252],
            "canonical": 252,
            "submission": 1,
            "words": ["car", "van"],
        },
    ]
    return {"name": "small", "ignore": [0], "classes": classes, "groups": {"ground": ["road"]}, **changes}


def with_class(index: int, **changes):
    data = copy.deepcopy(document())
    data["classes"][index].update(changes)
    return data


def test_semantickitti_is_the_official_map():
    space = LabelSpace.load("semantickitti")
    official = {raw: (c - 1 if c else IGNORE) for raw, c in KITTI_LEARNING_MAP.items()}
    assert dict(space.raw_ids) == official
    assert list(space.canonical_raw) == list(space.submission_ids) == KITTI_INVERSE
    assert {n: tuple(rgb[::-1]) for n, rgb in zip(space.names, space.palette.tolist(), strict=True)} == KITTI_BGR


def test_nuscenes_is_the_official_map():
    space = LabelSpace.load("nuscenes")
    official = {raw: NUSCENES_CHALLENGE.get(raw, 0) - 1 if raw in NUSCENES_CHALLENGE else IGNORE for raw in range(32)}
    assert dict(space.raw_ids) == official
    assert list(space.submission_ids) == list(range(1, 17))
    assert {n: tuple(rgb) for n, rgb in zip(space.names, space.palette.tolist(), strict=True)} == NUSCENES_RGB


def test_every_shipped_space_loads_and_is_named_after_its_file():
    files = list((config_dir() / "labels").glob("*.yaml"))
    assert {"semantickitti", "nuscenes"} <= {path.stem for path in files}
    for path in files:
        assert LabelSpace.load(path).name == path.stem
        assert LabelSpace.load(path) == LabelSpace.load(path.stem)


def test_raw_round_trip(space):
    class_id = np.arange(len(space), dtype=np.uint8)
    np.testing.assert_array_equal(space.from_raw(space.to_raw(class_id), "test"), class_id)
    assert space.to_raw(class_id).dtype == np.uint32


def test_unlabelled_points_are_written_as_0_and_come_back_as_255(space):
    unlabelled = np.array([IGNORE], dtype=np.uint8)
    assert space.to_raw(unlabelled).tolist() == [0]
    assert space.to_submission(unlabelled).tolist() == [0]
    assert space.from_raw(space.to_raw(unlabelled), "test").tolist() == [IGNORE]


def test_dictionary_round_trip_through_json(space):
    again = LabelSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again == space
    assert hash(again) == hash(space)
    np.testing.assert_array_equal(again.palette, space.palette)
    assert again.palette.dtype == np.uint8
    assert again != LabelSpace.from_dict(document())
    assert again != "semantickitti"


def test_canonical_id_and_words_and_groups():
    space = LabelSpace.from_dict(document())
    assert space.to_raw(np.array([0, 1], dtype=np.uint8)).tolist() == [40, 252]
    assert space.to_submission(np.array([0, 1, 255], dtype=np.uint8)).tolist() == [9, 1, 0]
    assert space.words == {"road": ("road",), "car": ("car", "van")}
    assert space.in_group(np.array([0, 1, 255], dtype=np.uint8), "ground").tolist() == [True, False, False]
    assert LabelSpace.from_dict(space.to_dict()) == space


def test_groups_hold_what_planners_expect(space):
    assert {"obstacle", "drivable", "ground", "vehicle", "person", "static"} <= set(space.groups)
    every = np.arange(len(space), dtype=np.uint8)
    ground, obstacle = space.in_group(every, "ground"), space.in_group(every, "obstacle")
    assert (ground ^ obstacle).all()
    assert (space.in_group(every, "drivable") <= ground).all()
    assert not space.in_group(np.array([IGNORE], dtype=np.uint8), "obstacle").any()


def test_colors(space):
    class_id = np.array([len(space) - 1, 0, IGNORE], dtype=np.uint8)
    colors = space.colors(class_id)
    assert colors.dtype == np.uint8
    assert colors[:2].tolist() == space.palette[[-1, 0]].tolist()
    assert colors[2].tolist() == [96, 96, 96]
    assert space.colors(np.empty(0, dtype=np.uint8)).shape == (0, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int64])
def test_from_raw_takes_any_integer(dtype):
    raw = np.array([40, 60, 0, 10], dtype=dtype)
    assert LabelSpace.from_dict(document()).from_raw(raw, "x").tolist() == [0, 0, IGNORE, 1]
    assert LabelSpace.from_dict(document()).from_raw(raw[:0], "x").shape == (0,)


@pytest.mark.parametrize("raw", [41, 253, 65535, 2**32 - 1])
def test_unknown_raw_id_is_named_with_its_source(raw):
    labels = np.array([40, raw, 40], dtype=np.uint32)
    with pytest.raises(LabelError, match=rf"^08/000001\.label: raw label id {raw} is not in the label space small$"):
        LabelSpace.from_dict(document()).from_raw(labels, "08/000001.label")


def test_negative_raw_id_is_unknown_and_long_lists_are_cut():
    space = LabelSpace.from_dict(document())
    with pytest.raises(LabelError, match="raw label id -1 is not"):
        space.from_raw(np.array([-1]), "x")
    with pytest.raises(LabelError, match=r"id 1, 2, 3, 4, 5 \.\.\. is not"):
        space.from_raw(np.arange(1, 9), "x")


def test_names_that_do_not_exist_are_answered_with_those_that_do():
    space = LabelSpace.from_dict(document())
    assert space.index("car") == 1
    with pytest.raises(LabelError, match="class 'tram' is not in small: road, car"):
        space.index("tram")
    with pytest.raises(LabelError, match="group 'sky' is not in small: ground"):
        space.in_group(np.zeros(1, dtype=np.uint8), "sky")
    with pytest.raises(LabelError, match=r"'waymo' is not known; shipped: .*nuscenes, semantickitti"):
        LabelSpace.load("waymo")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "key 'classes' is missing"),
        (None, "not a label space"),
        ([1], "not a label space"),
        (document(classes=[]), "needs 1 to 254 classes"),
        (document(classes="road"), "not a label space"),
        (document(groups={"ground": ["lawn"]}), "group 'ground' names the class 'lawn'"),
        (document(groups=["ground"]), "not a label space"),
        (document(ignore=[0, 40]), "raw id 40 belongs to two classes"),
        (with_class(1, raw=[60], canonical=60), "raw id 60 belongs to two classes"),
        (with_class(1, name="road"), "distinct names"),
        (with_class(1, raw=[]), "class 'car' has no raw id"),
        (with_class(1, canonical=40), "class 'car' has the canonical id 40, no raw id of its own"),
        (with_class(1, raw=[-5], canonical=-5), "id -5 is not in 0"),
        (with_class(1, raw=[10**12], canonical=10**12), "id 1000000000000 is not in 0"),
        (with_class(1, raw=["x"]), "not a label space"),
        (with_class(1, raw=[float("inf")]), "not a label space"),
        (with_class(1, submission=-1), "submission id -1"),
        (with_class(1, color=[1, 2]), "not a label space"),
        (with_class(1, color=[1, 2, 256]), "a color is three whole numbers"),
        (with_class(1, color=[-1, 2, 3]), "a color is three whole numbers"),
        (with_class(1, color=[0.5, 2, 3]), "a color is three whole numbers"),
        (with_class(1, color=["r", "g", "b"]), "a color is three whole numbers"),
        (with_class(1, words=7), "not a label space"),
    ],
)
def test_wrong_structure_is_one_error_that_names_the_file(data, message):
    with pytest.raises(LabelError, match=rf"^town\.yaml: .*{message}"):
        LabelSpace.from_dict(data, source="town.yaml")


def test_255_classes_are_one_too_many():
    classes = [{"name": f"c{i}", "color": [0, 0, 0], "raw": [i], "submission": i} for i in range(255)]
    with pytest.raises(LabelError, match="has 255"):
        LabelSpace.from_dict({"name": "many", "classes": classes})
    assert len(LabelSpace.from_dict({"name": "many", "classes": classes[:254]})) == 254


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"classes: [", "not YAML"),
        (b"\xff\xfe\xff", "not YAML"),
        (b"a: 2001-99-99", "not YAML"),
        (b"", "not a label space"),
    ],
)
def test_file_that_is_no_label_space(tmp_path, content, message):
    path = tmp_path / "town.yaml"
    path.write_bytes(content)
    with pytest.raises(LabelError, match=rf"town\.yaml: {message}"):
        LabelSpace.load(path)


def test_file_that_is_missing(tmp_path):
    with pytest.raises(LabelError, match=r"town\.yaml: No such file"):
        LabelSpace.load(tmp_path / "town.yaml")


def test_own_label_space_from_a_file(tmp_path):
    (tmp_path / "town.yaml").write_text(yaml.safe_dump(document()))
    assert LabelSpace.load(tmp_path / "town.yaml") == LabelSpace.from_dict(document())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-300, 300) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(
    index=st.integers(0, 1),
    key=st.sampled_from(["name", "color", "raw", "canonical", "submission", "words"]),
    value=_JSON,
    top=st.sampled_from(["name", "ignore", "classes", "groups", None]),
)
def test_any_structure_is_read_or_refused(index, key, value, top):
    data = with_class(index, **{key: value}) if top is None else document(**{top: value})
    try:
        space = LabelSpace.from_dict(data)
    except LabelError:
        return
    assert LabelSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


@pytest.mark.real
def test_real_label_files_hold_the_stated_counts(real_data):
    raw = np.fromfile(real_data / "semantickitti/sequences/07/labels/000964.label", dtype="<u4") & 0xFFFF
    space = LabelSpace.load("semantickitti")
    class_id = space.from_raw(raw, "000964.label")
    counts = np.bincount(class_id, minlength=256)
    assert counts[space.index("road")] == 17_066
    assert counts[space.index("sidewalk")] == 19_952
    assert counts[space.index("building")] == 37_840
    assert counts[space.index("car")] == 10_400 + 1_110
    assert counts[IGNORE] >= 1_767
    for path in sorted((real_data / "nuscenes_lidarseg").glob("*_lidarseg.bin")):
        LabelSpace.load("nuscenes").from_raw(np.fromfile(path, dtype=np.uint8), path.name)
