"""The nuScenes writer: tables that refer to each other, boxes, and scenes that the format has no place for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_drives import EGO_FROM_LIDAR, nuscenes_scene, tree, write_nuscenes_set

from mdkt_ros.drive.nuscenes import NuScenes
from mdkt_ros.drive.nuscenes_schema import CATEGORIES, TABLES
from mdkt_ros.drive.pose import pose_from_quaternion
from mdkt_ros.drive.write_nuscenes import Box, Scene, write_nuscenes
from mdkt_ros.errors import DriveError, LabelError, OutputError
from mdkt_ros.labels import LabelSpace


def rows(folder: Path, table: str) -> list[dict]:
    return json.loads((folder / f"{table}.json").read_text())


def test_tables_are_complete_and_refer_to_each_other(tmp_path: Path):
    folder = write_nuscenes_set(tmp_path / "set", scenes=2)
    tables = {name: rows(folder, name) for name in TABLES}
    tokens = {name: [row["token"] for row in table] for name, table in tables.items()}
    for name, values in tokens.items():
        assert len(set(values)) == len(values) > 0, name
    foreign = {f"{end}_annotation_token": "sample_annotation" for end in ("first", "last")}
    foreign |= {f"{end}_sample_token": "sample" for end in ("first", "last")}
    for name, table in tables.items():
        for row in table:
            for field, value in row.items():
                if field == "token" or not (field.endswith("_token") or field in ("prev", "next")):
                    continue
                target = name if field in ("prev", "next") else foreign.get(field, field.removesuffix("_token"))
                assert value == "" or value in tokens[target], (name, field)
    assert [row["name"] for row in sorted(tables["category"], key=lambda row: row["index"])] == list(CATEGORIES)
    assert [row["token"] for row in tables["visibility"]] == ["1", "2", "3", "4"]
    for table, size in (
        ("sample", 6),
        ("sample_data", 18),
        ("ego_pose", 18),
        ("lidarseg", 6),
        ("sample_annotation", 8),
    ):
        assert len(tables[table]) == size
    assert len(tables["calibrated_sensor"]) == 6  # three a scene, not three a frame
    for row in tables["sample_data"]:
        assert (tmp_path / "set" / row["filename"]).is_file()
        assert row["filename"].startswith("samples/")
    for row in tables["lidarseg"]:
        labels = np.fromfile(tmp_path / "set" / row["filename"], dtype=np.uint8)
        assert row["filename"] == f"lidarseg/v1.0-mini/{row['sample_data_token']}_lidarseg.bin"
        assert 60 <= len(labels) <= 62
    assert {row["filename"] for row in tables["map"]} == {f"maps/{p.name}" for p in (tmp_path / "set/maps").iterdir()}


def test_boxes_are_chained_and_count_their_points(tmp_path: Path):
    frame = nuscenes_scene(count=1).frames[0][0]
    later = replace(frame, stamp=frame.stamp + 500_000_000)
    turned = np.array([np.cos(np.pi / 4), 0, 0, np.sin(np.pi / 4)])  # by 90 degrees: the length lies along y
    # Two points in a car 4 m long and 2 m wide, one beside it that only a car along x would hold.
    points = np.array([[0, 1.9, 0], [0.9, -1.9, 0.5], [1.9, 0, 0], [50, 0, 0]], dtype=np.float32)
    bare = {"points": points, "intensity": None, "ring": None, "labels": None, "raw_labels": None, "views": ()}
    pose = pose_from_quaternion([1, 0, 0, 0], [100, 200, 0])
    scans = [replace(f, world_from_lidar=pose, **bare) for f in (frame, later)]
    box = Box("taxi", "vehicle.car", (100, 200, 0), (2, 4, 1.5), tuple(turned), "vehicle.moving", 3)
    write_nuscenes(tmp_path / "set", [Scene("s", [(scans[0], [box]), (scans[1], [box])], EGO_FROM_LIDAR)])
    folder = tmp_path / "set/v1.0-mini"
    first, second = rows(folder, "sample_annotation")
    assert (first["prev"], first["next"], second["prev"], second["next"]) == ("", second["token"], first["token"], "")
    assert [row["num_lidar_pts"] for row in (first, second)] == [2, 2]
    assert (first["visibility_token"], first["size"]) == ("3", [2, 4, 1.5])
    (instance,) = rows(folder, "instance")
    assert instance["nbr_annotations"] == 2
    assert (instance["first_annotation_token"], instance["last_annotation_token"]) == (first["token"], second["token"])
    assert not (folder / "lidarseg.json").exists()  # as the test version: no labels, no table


def test_same_scenes_same_bytes(tmp_path: Path):
    for name in "ab":
        write_nuscenes_set(tmp_path / name, scenes=2)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def _frame_with(**changes):
    def scene() -> Scene:
        made = nuscenes_scene(count=1)
        return replace(made, frames=[(replace(made.frames[0][0], **changes), [])])

    return scene


def _box_with(**changes):
    def scene() -> Scene:
        made = nuscenes_scene(count=1)
        return replace(made, frames=[(made.frames[0][0], [replace(made.frames[0][1][0], **changes)])])

    return scene


def _same_time() -> Scene:
    made = nuscenes_scene(count=1)
    return replace(made, frames=made.frames * 2)


def _distorted() -> Scene:
    made = nuscenes_scene(count=1)
    frame = made.frames[0][0]
    camera = replace(frame.views[0].camera, distortion="plumb_bob", coefficients=(0.1, 0, 0, 0, 0))
    return replace(made, frames=[(replace(frame, views=(replace(frame.views[0], camera=camera),)), [])])


@pytest.mark.parametrize(
    ("scene", "error", "message"),
    [
        (_frame_with(world_from_lidar=None), DriveError, "scene-0001, frame 0: has no pose"),
        (
            _frame_with(raw_labels=np.full(60, 32, np.uint32)),
            LabelError,
            "raw class id 32; the format has 0 to 31",
        ),
        (_frame_with(raw_labels=np.zeros(3, np.uint32)), LabelError, "frame 0: 60 points, 3 labels"),
        (_frame_with(raw_labels=None), LabelError, "frame 0: has class ids; give the label space"),
        (_box_with(category="vehicle.ufo"), DriveError, "box car 1: category 'vehicle.ufo' is not one of nuScenes' 32"),
        (
            _box_with(attribute="vehicle.flying"),
            DriveError,
            "car 1: attribute 'vehicle.flying' is not one of vehicle.m",
        ),
        (_box_with(visibility=5), DriveError, "box car 1: visibility 5 is not 1 to 4"),
        (_box_with(size=(1, 0, 1)), DriveError, "box car 1: .* size .* not positive"),
        (_box_with(rotation=(0, 0, 0, 0)), DriveError, "box car 1: .* length zero"),
        (_same_time, DriveError, "scene-0001: the key frame at 1532402927647951 us is not later"),
        (_distorted, DriveError, "camera CAM_FRONT: nuScenes' images are rectified"),
        (
            lambda: replace(nuscenes_scene(), ego_from_camera={}),
            DriveError,
            "lacks the camera CAM_FRONT",
        ),
        (lambda: replace(nuscenes_scene(), frames=[]), DriveError, "scene-0001: has no frames"),
    ],
)
def test_scenes_that_the_format_has_no_place_for_leave_nothing(tmp_path: Path, scene, error, message):
    with pytest.raises(error, match=message):
        write_nuscenes(tmp_path / "set", [scene()])
    assert list(tmp_path.iterdir()) == []


def test_scene_names_are_unique_and_results_are_not_overwritten(tmp_path: Path):
    with pytest.raises(DriveError, match="scene-0001: two scenes have this name"):
        write_nuscenes(tmp_path / "set", [nuscenes_scene(), nuscenes_scene()])
    with pytest.raises(DriveError, match="at least one scene"):
        write_nuscenes(tmp_path / "set", [])
    write_nuscenes_set(tmp_path / "set")
    with pytest.raises(OutputError, match="set: exists already"):
        write_nuscenes_set(tmp_path / "set")
    calls: list[tuple[int, int]] = []
    write_nuscenes(
        tmp_path / "set", [nuscenes_scene(count=1)], force=True, progress=lambda *call: calls.append(call), total=1
    )
    assert (len(NuScenes(tmp_path / "set")), calls) == (1, [(1, 1)])


def test_class_ids_become_raw_ids(tmp_path: Path):
    labels = LabelSpace.load("nuscenes")
    scene = nuscenes_scene(count=1)
    frame = replace(scene.frames[0][0], raw_labels=None)
    write_nuscenes(tmp_path / "set", [replace(scene, frames=[(frame, [])])], labels=labels)
    np.testing.assert_array_equal(NuScenes(tmp_path / "set")[0].labels, frame.labels)
