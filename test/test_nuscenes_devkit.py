"""The official nuScenes devkit opens what the writer wrote and agrees with the reader.

The devkit pins numpy < 2, so it lives in an environment of its own: `pip install nuscenes-devkit pytest pyyaml`, then
`PYTHONPATH=. python -m pytest test/test_nuscenes_devkit.py` there.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_drives import nuscenes_scene

from mdkt_ros.drive.nuscenes import LIDAR, NuScenes
from mdkt_ros.drive.predictions import prediction_writer
from mdkt_ros.drive.write_nuscenes import write_nuscenes

devkit = pytest.importorskip("nuscenes", reason="nuscenes-devkit is not installed (it pins numpy < 2)")
pytestmark = pytest.mark.filterwarnings("ignore")  # the devkit leaves images open and uses what is deprecated

VAL = ("scene-0103", "scene-0916")  # the devkit's own mini_val split


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("devkit") / "set"
    scenes = [nuscenes_scene(name, 3, seed) for seed, name in enumerate(VAL)]
    write_nuscenes(folder, scenes, splits={"town": [VAL[0]]})
    return folder


@pytest.fixture(scope="module")
def nusc(root: Path):
    return devkit.NuScenes(version="v1.0-mini", dataroot=str(root), verbose=False)


def test_scans_labels_and_poses_agree(root: Path, nusc):
    from nuscenes.utils.data_classes import LidarPointCloud
    from nuscenes.utils.geometry_utils import transform_matrix
    from pyquaternion import Quaternion

    drive = NuScenes(root)
    assert [scene["name"] for scene in nusc.scene] == list(VAL)
    assert len(drive) == len(nusc.sample) == 6
    for i in range(len(drive)):
        frame = drive[i]
        sample = nusc.get("sample", frame.name)
        data = nusc.get("sample_data", sample["data"][LIDAR])
        assert data["token"] == drive.lidar_token(i)
        assert frame.stamp == sample["timestamp"] * 1000
        cloud = LidarPointCloud.from_file(str(root / data["filename"])).points
        np.testing.assert_array_equal(cloud.T, np.column_stack([frame.points, frame.intensity]))
        labels = np.fromfile(root / nusc.get("lidarseg", data["token"])["filename"], dtype=np.uint8)
        np.testing.assert_array_equal(labels, frame.raw_labels)
        chain = (
            nusc.get("ego_pose", data["ego_pose_token"]),
            nusc.get("calibrated_sensor", data["calibrated_sensor_token"]),
        )
        ego, sensor = (transform_matrix(row["translation"], Quaternion(row["rotation"])) for row in chain)
        np.testing.assert_allclose(ego @ sensor, frame.world_from_lidar, atol=1e-9)


def test_points_fall_on_the_same_pixels(root: Path, nusc):
    drive = NuScenes(root)
    compared = 0
    for i in range(len(drive)):
        frame = drive[i]
        data = nusc.get("sample", frame.name)["data"]
        for view in frame.views:
            pixels, _, picture = nusc.explorer.map_pointcloud_to_image(
                data[LIDAR], data[view.camera.name], min_dist=0.5
            )
            assert picture.size == (view.camera.width, view.camera.height)
            ours = view.camera.project(frame.points)
            # The devkit leaves out a margin of one pixel.
            inner = ours.in_view & (ours.pixels > 1).all(1) & (ours.pixels < np.array(picture.size) - 1).all(1)
            np.testing.assert_allclose(pixels[:2].T, ours.pixels[inner], atol=1e-2)  # the devkit computes in float32
            compared += int(inner.sum())
    assert compared > 10


def test_boxes_chains_and_maps(nusc):
    from nuscenes.utils.data_classes import LidarPointCloud
    from nuscenes.utils.geometry_utils import points_in_box

    for sample in nusc.sample:
        path, boxes, _ = nusc.get_sample_data(sample["data"][LIDAR])
        points = LidarPointCloud.from_file(path).points[:3]
        for box in boxes:
            annotation = nusc.get("sample_annotation", box.token)
            assert points_in_box(box, points).sum() == annotation["num_lidar_pts"]
            velocity = nusc.box_velocity(box.token)
            assert np.isnan(velocity).all() if annotation["prev"] == annotation["next"] else (velocity == 0).all()
    for scene in nusc.scene:
        token, samples = scene["first_sample_token"], 0
        while token:
            samples, last, token = samples + 1, token, nusc.get("sample", token)["next"]
        assert (samples, last) == (scene["nbr_samples"], scene["last_sample_token"])
    for instance in nusc.instance:
        token, boxes = instance["first_annotation_token"], 0
        while token:
            boxes, last, token = boxes + 1, token, nusc.get("sample_annotation", token)["next"]
        assert (boxes, last) == (instance["nbr_annotations"], instance["last_annotation_token"])
    assert [row["mask"].mask().shape for row in nusc.map] == [(100, 100)]


def test_splits_file_is_the_devkits(nusc):
    from nuscenes.utils.splits import get_scenes_of_split

    assert get_scenes_of_split("town", nusc) == [VAL[0]]


def test_predictions_pass_the_validator_and_score_as_ours(root: Path, nusc, tmp_path: Path):
    from nuscenes.eval.lidarseg.evaluate import LidarSegEval
    from nuscenes.eval.lidarseg.validate_submission import validate_submission

    from mdkt_ros.metrics import confusion_matrix, scores

    drive = NuScenes(root)
    rng = np.random.default_rng(0)
    confusion = np.zeros((16, 17), dtype=np.int64)
    with prediction_writer(tmp_path / "out", drive, split="mini_val") as write:
        for i in range(len(drive)):
            labels = drive[i].labels
            guess = rng.integers(0, 16, len(labels), dtype=np.uint8)
            predicted = np.where((rng.random(len(labels)) < 0.6) & (labels != 255), labels, guess).astype(np.uint8)
            write(i, predicted)
            confusion += confusion_matrix(labels, predicted, 16)
    validate_submission(nusc, str(tmp_path / "out"), "mini_val")
    official = LidarSegEval(nusc, str(tmp_path / "out"), "mini_val").evaluate()
    ours = scores(confusion)
    assert official["miou"] == pytest.approx(ours.miou, abs=1e-12)
    by_name = official["iou_per_class"]
    np.testing.assert_allclose([by_name[name] for name in drive.labels.names], ours.iou, atol=1e-12)
    assert json.loads((tmp_path / "out/mini_val/submission.json").read_text())["meta"]["use_lidar"] is True
