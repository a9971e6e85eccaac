"""nuScenes data sets: written and read again, ego motion between sensors, and what is wrong with the tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_drives import EGO_FROM_LIDAR, nuscenes_scene, write_nuscenes_set

from mdkt_ros.camera import Camera
from mdkt_ros.drive.nuscenes import NuScenes
from mdkt_ros.drive.pose import inverse, pose_from_quaternion
from mdkt_ros.drive.write_nuscenes import Scene, write_nuscenes
from mdkt_ros.errors import CloudError, DriveError, LabelError
from mdkt_ros.labels import LabelSpace


def rows(folder: Path, table: str) -> list[dict]:
    return json.loads((folder / f"{table}.json").read_text())


def test_what_is_written_is_read_again(tmp_path: Path):
    scene = nuscenes_scene(count=4)
    write_nuscenes(tmp_path / "set", [scene])
    drive = NuScenes(tmp_path / "set")
    assert (drive.name, drive.axes, drive.version, len(drive)) == ("scene-0001", "y_forward", "v1.0-mini", 4)
    assert drive.intensity_scale == 1 / 255
    assert drive.labels == LabelSpace.load("nuscenes")
    for i, (frame, _) in enumerate(scene.frames):
        read = drive[i]
        assert read.stamp == frame.stamp
        for field in ("points", "intensity", "ring", "labels", "raw_labels"):
            expected, value = getattr(frame, field), getattr(read, field)
            assert value.dtype == expected.dtype
            np.testing.assert_array_equal(value, expected)
        np.testing.assert_allclose(read.world_from_lidar, frame.world_from_lidar, atol=1e-9)
        expected_views = {view.camera.name: view for view in frame.views}
        assert [view.camera.name for view in read.views] == sorted(expected_views)
        for view in read.views:
            expected_view = expected_views[view.camera.name]
            assert view.stamp == expected_view.stamp
            np.testing.assert_array_equal(view.camera.matrix, expected_view.camera.matrix)
            # Poses are stored as quaternions and global coordinates, hence not to the last digit.
            np.testing.assert_allclose(view.camera.camera_from_lidar, expected_view.camera.camera_from_lidar, atol=1e-9)
            assert view.load().shape == (24, 40, 3)
            assert view.encoded().startswith(b"\xff\xd8")
        np.testing.assert_allclose(drive.ego_from_lidar(i), EGO_FROM_LIDAR, atol=1e-12)


def test_camera_from_lidar_includes_the_motion_between_their_times(tmp_path: Path):
    """A vehicle at 10 m/s whose camera fires 50 ms after the scan: what is 20 m ahead is 19.5 m from the camera."""
    level = pose_from_quaternion([1, 0, 0, 0], [0, 0, 0])
    moved = pose_from_quaternion([1, 0, 0, 0], [0.5, 0, 0])
    optical = pose_from_quaternion([0.5, -0.5, 0.5, -0.5], [0, 0, 0])  # z of the camera is x of the vehicle
    scan = nuscenes_scene(count=1).frames[0][0]
    camera = Camera("CAM_FRONT", 40, 24, np.array([[30.0, 0, 20], [0, 30, 12], [0, 0, 1]]), inverse(moved @ optical))
    view = replace(scan.views[0], camera=camera, stamp=scan.stamp + 50_000_000)
    frame = replace(scan, world_from_lidar=level, views=(view,))
    write_nuscenes(tmp_path / "set", [Scene("scene-0001", [(frame, [])], level, {"CAM_FRONT": optical})])
    poses = {row["timestamp"]: row["translation"] for row in rows(tmp_path / "set/v1.0-mini", "ego_pose")}
    stamp = scan.stamp // 1000
    assert poses[stamp] == [0, 0, 0]
    np.testing.assert_allclose(poses[stamp + 50_000], [0.5, 0, 0], atol=1e-12)
    read = NuScenes(tmp_path / "set")[0].views[0].camera
    np.testing.assert_allclose(read.camera_from_lidar @ [20, 0, 0, 1], [0, 0, 19.5, 1], atol=1e-9)


@pytest.mark.real
def test_real_sample_survives_writing_and_reading(tmp_path: Path, real_data: Path):
    """Six real cameras: their calibration and ego motion come back as they are in the sample."""
    from mdkt_ros.drive.images import image_view
    from mdkt_ros.scan import read_scan

    folder = real_data / "nuscenes_sample"
    sample = json.loads((folder / "sample.json").read_text())
    ego_from_lidar = np.array(sample["lidar"]["lidar2ego"])
    cloud = read_scan(folder / sample["lidar"]["file"])
    frame = replace(
        nuscenes_scene(count=1).frames[0][0],
        points=cloud.xyz(),
        intensity=cloud.intensity(),
        ring=cloud.ring(),
        labels=None,
        raw_labels=None,
        stamp=round(sample["timestamp_s"] * 1e6) * 1000,
        world_from_lidar=np.array(sample["ego2global"]) @ ego_from_lidar,
    )
    views = []
    for name, camera in sample["cameras"].items():
        matrix, extrinsic = np.array(camera["cam2img"]), np.array(camera["lidar2cam"])
        views.append(image_view(folder / camera["file"], Camera(name, 1600, 900, matrix, extrinsic), frame.stamp))
    # The mounting is not in the sample: any will do, since the vehicle's pose at the image's time makes up for it.
    mounts = {name: pose_from_quaternion([0.5, -0.5, 0.5, -0.5], [1, 0, 1]) for name in sample["cameras"]}
    write_nuscenes(
        tmp_path / "set", [Scene("scene-0001", [(replace(frame, views=tuple(views)), [])], ego_from_lidar, mounts)]
    )
    read = NuScenes(tmp_path / "set")
    assert read.labels is None
    seen = np.zeros(len(cloud), dtype=bool)
    for view in read[0].views:
        expected = next(v for v in views if v.camera.name == view.camera.name)
        assert view.encoded() == expected.encoded()  # the JPEG itself, not one more generation
        projected, wanted = view.camera.project(cloud.xyz()), expected.camera.project(cloud.xyz())
        np.testing.assert_array_equal(projected.in_view, wanted.in_view)
        # float32 matrices of the sample are rotations to 1e-7 only, and quaternions are rotations exactly.
        np.testing.assert_allclose(projected.pixels, wanted.pixels, atol=0.05)
        seen |= projected.in_view
    assert len(read[0].views) == 6
    assert 0.5 < seen.mean() < 0.8  # two thirds of the points


def test_scenes_are_chosen_and_ordered(tmp_path: Path):
    scenes = [nuscenes_scene(f"scene-000{i}", 2, seed=3 - i) for i in (1, 2, 3)]
    write_nuscenes(tmp_path / "set", scenes, splits={"train": ["scene-0001", "scene-0003"], "val": ["scene-0002"]})
    drive = NuScenes(tmp_path / "set")
    assert [drive.scene(i) for i in range(6)] == [f"scene-000{i}" for i in (1, 1, 2, 2, 3, 3)]
    assert all(drive[i].stamp < drive[i + 1].stamp for i in (0, 2, 4))
    train = NuScenes(tmp_path / "set", split="train")
    assert [train.scene(i) for i in range(len(train))] == ["scene-0001", "scene-0001", "scene-0003", "scene-0003"]
    chosen = NuScenes(tmp_path / "set", scenes=["scene-0003", "scene-0002"], frames=[0, 3])
    assert [chosen.scene(i) for i in range(2)] == ["scene-0003", "scene-0002"]
    with pytest.raises(DriveError, match=r"scene.json: no scene scene-0009; there are 3: scene-0001, scene-0002, s"):
        NuScenes(tmp_path / "set", scenes=["scene-0009"])
    with pytest.raises(DriveError, match=r"splits.json: no split 'test'; there are train, val"):
        NuScenes(tmp_path / "set", split="test")
    with pytest.raises(DriveError, match="scenes or a split, not both"):
        NuScenes(tmp_path / "set", split="val", scenes=["scene-0001"])
    (tmp_path / "set/v1.0-mini/splits.json").unlink()
    with pytest.raises(DriveError, match=r"splits.json: the splits cannot be read: No such file"):
        NuScenes(tmp_path / "set", split="val")


def test_versions_are_found(tmp_path: Path):
    with pytest.raises(DriveError, match="no nuScenes tables"):
        NuScenes(tmp_path)
    folder = write_nuscenes_set(tmp_path / "set")
    with pytest.raises(DriveError, match=r"no version v1\.0-test; there are v1\.0-mini"):
        NuScenes(tmp_path / "set", version="v1.0-test")
    (tmp_path / "set/v1.0-test").mkdir()
    for path in folder.iterdir():
        if path.stem != "lidarseg":
            (tmp_path / "set/v1.0-test" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(DriveError, match=r"holds v1\.0-mini, v1\.0-test; choose a version"):
        NuScenes(tmp_path / "set")
    test = NuScenes(tmp_path / "set", version="v1.0-test")
    assert test.labels is None
    assert test[0].labels is None


def test_sweeps_and_radar_are_passed_over(tmp_path: Path):
    folder = write_nuscenes_set(tmp_path / "set")
    sensors, data, calibrated = rows(folder, "sensor"), rows(folder, "sample_data"), rows(folder, "calibrated_sensor")
    sensors.append({"token": "radar", "channel": "RADAR_FRONT", "modality": "radar"})
    calibrated.append({**calibrated[0], "token": "radar", "sensor_token": "radar"})
    data.append({**data[0], "token": "sweep", "is_key_frame": False, "ego_pose_token": "of a sweep"})
    data.append({**data[0], "token": "radar", "calibrated_sensor_token": "radar"})
    for name, table in (("sensor", sensors), ("sample_data", data), ("calibrated_sensor", calibrated)):
        (folder / f"{name}.json").write_text(json.dumps(table))
    drive = NuScenes(tmp_path / "set")
    assert len(drive) == 3
    assert [view.camera.name for view in drive[0].views] == ["CAM_BACK", "CAM_FRONT"]


def _edit(table: str, change):
    def damage(folder: Path) -> None:
        content = rows(folder, table)
        change(content)
        (folder / f"{table}.json").write_text(json.dumps(content))

    return damage


def _drop(table: str, field: str):
    return _edit(table, lambda content: content[0].pop(field))


def _set(table: str, field: str, value: object):
    return _edit(table, lambda content: content[0].update({field: value}))


def _cut(table: str):
    return lambda folder: (folder / f"{table}.json").write_text((folder / f"{table}.json").read_text()[:-40])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "ego_pose.json").unlink(), r"ego_pose.json: the table ego_pose cannot be read: No such file"),
        (_cut("sample_data"), r"sample_data.json: is truncated or not JSON at character \d+"),
        (lambda f: (f / "scene.json").write_text("{}"), r"scene.json: is not a JSON table: no list"),
        (lambda f: (f / "scene.json").write_text("[1]"), r"scene.json: is not a JSON table: a row is no object"),
        (
            lambda f: (f / "scene.json").write_text("[" * 100_000),
            r"scene.json: is truncated or not JSON at character 1",
        ),
        (lambda f: (f / "scene.json").write_text("[" + "9" * 5000), r"scene.json: is (truncated or )?not"),
        (lambda f: (f / "scene.json").write_bytes(b"[\xff"), r"scene.json: is not a JSON table: invalid start byte"),
        (
            _edit("ego_pose", lambda content: content.pop(0)),
            r"ego_pose.json: no row with token '\w{32}', needed by sample_data \w{32}, field ego_pose_token",
        ),
        (
            _edit("calibrated_sensor", lambda content: content.pop(0)),
            r"calibrated_sensor.json: no row with token '\w{32}', needed by sample_data \w{32}, field calibrated_sens",
        ),
        (
            _edit("sensor", lambda content: content.pop(0)),
            r"sensor.json: no row with token '\w{32}', needed by calibrated_sensor \w{32}, field sensor_token",
        ),
        (
            _edit("scene", lambda content: content.pop(0)),
            r"scene.json: no row with token '\w{32}', needed by sample \w{32}, field scene_token",
        ),
        (
            _edit("sample_data", lambda content: content.pop(0)),
            r"sample_data.json: no key frame of LIDAR_TOP for sample \w{32}",
        ),
        (_edit("sample", lambda content: content.clear()), r"sample.json: no samples in the scenes chosen"),
        (_drop("ego_pose", "rotation"), r"ego_pose.json: row \w{32}: field rotation is missing"),
        (_drop("sample_data", "filename"), r"sample_data.json: row \w{32}: field filename is missing"),
        (_drop("sample", "token"), r"sample.json: row \(without token\): field token is missing"),
        (_set("sample", "timestamp", "now"), r"sample.json: row \w{32}: field timestamp should be of type int, is str"),
        (_set("ego_pose", "rotation", [0, 0, 0, 0]), r"row \w{32}: field rotation is not a rotation: .* length zero"),
        (_set("ego_pose", "rotation", [1, 0]), r"ego_pose.json: row \w{32}: field rotation is not 4 finite numbers"),
        (_set("ego_pose", "translation", ["a", [], 0]), r"field translation is not 3 finite numbers"),
        (
            _edit("calibrated_sensor", lambda content: content[1].update(camera_intrinsic=[])),
            r"calibrated_sensor.json: row \w{32}: field camera_intrinsic is not 3x3 finite numbers",
        ),
    ],
)
def test_what_the_tables_lack_is_named(tmp_path: Path, damage, message):
    damage(write_nuscenes_set(tmp_path / "set"))
    with pytest.raises(DriveError, match=message):
        NuScenes(tmp_path / "set")[0]


def test_missing_and_damaged_files_are_named(tmp_path: Path):
    folder = write_nuscenes_set(tmp_path / "set")
    drive = NuScenes(tmp_path / "set")
    view = drive[0].views[0]
    for path in (tmp_path / "set/samples" / view.camera.name).iterdir():
        path.unlink()
    with pytest.raises(DriveError, match=rf"{view.camera.name}__\d+.jpg: cannot be read as an image: No such file"):
        drive[0].views[0].load()
    label = tmp_path / "set" / rows(folder, "lidarseg")[0]["filename"]
    content = label.read_bytes()
    label.write_bytes(content[:-1])
    with pytest.raises(LabelError, match=r"_lidarseg.bin: 59 uint8 labels, but the scan has 60 points"):
        drive[0]
    label.write_bytes(content[:-1] + b"\x63")
    with pytest.raises(LabelError, match=r"_lidarseg.bin: raw label id 99 is not in the label space nuscenes"):
        drive[0]
    label.unlink()
    with pytest.raises(LabelError, match=r"_lidarseg.bin: No such file"):
        drive[0]
    drive.scan_path(1).write_bytes(b"\0" * 30)
    with pytest.raises(CloudError, match=r"pcd.bin: 30 bytes are not a whole number of points of 5 float32"):
        drive[1]


def test_quaternions_of_every_turn_come_back():
    from mdkt_ros.drive.pose import quaternion_from_matrix

    rng = np.random.default_rng(0)
    turns = [*rng.normal(size=(200, 4)), *np.eye(4), *(np.eye(4) + 1e-9), [1e-8, 1, 0, 0], [0, 1, 1, 0]]
    for turn in turns:
        matrix = pose_from_quaternion(turn, [0, 0, 0])
        np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1)
        quaternion = quaternion_from_matrix(matrix)
        assert quaternion[0] >= 0
        np.testing.assert_allclose(pose_from_quaternion(quaternion, [0, 0, 0]), matrix, atol=1e-12)
