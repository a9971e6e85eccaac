"""The whole scheme's recipes: their images and scores are found, a few steps on real scans leave a checkpoint."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_clip import VIT, write_clip
from small_drives import nuscenes_scene

import training.pseudo_labels
from mdkt_ros.camera import Camera
from mdkt_ros.checkpoint import load_checkpoint
from mdkt_ros.drive.images import image_view
from mdkt_ros.drive.pose import pose_from_quaternion
from mdkt_ros.drive.write_nuscenes import Scene, write_nuscenes
from mdkt_ros.labels import LabelSpace
from mdkt_ros.network import build_network, parameter_count
from mdkt_ros.scan import read_scan
from training.config import flatten, load_config
from training.train import main

RECIPES = Path(__file__).resolve().parents[1] / "config" / "train"
SMALL = ["model.width=0.25", "model.voxel_size=0.4", "optim.batch_size=1", "optim.steps=2", "workers=0", "device=cpu"]
"""Overrides for a CPU; all parts of the scheme stay as the recipe has them."""
NO_DOWNLOAD = ["image_network.name=resnet18", "image_network.weights=", "images.scale=0.25", "schedule.labels_only=0"]


@pytest.mark.parametrize("name", ["semantickitti", "nuscenes"])
def test_a_recipe_is_its_labels_only_baseline_and_the_scheme(name: str):
    """Same scans, network and length, so that the two can be compared; class weights are part of few labels."""
    scheme, baseline = (flatten(load_config(RECIPES / f"{prefix}{name}.yaml")) for prefix in ("mdkt_", ""))
    differing = {key for key in scheme if scheme[key] != baseline[key]}
    parts = ("images.", "image_network.", "transfer.", "pseudo.", "contrast.", "teacher.", "schedule.")
    assert {key for key in differing if not key.startswith(parts)} <= {"out", "loss.class_weights"}
    assert all(scheme[f"{part}weight"] > 0 for part in parts[2:6])
    assert scheme["image_network.weights"] == "timm"
    assert scheme["data.percent"] == 0.1


def dry_run(recipe: str, root: Path, folder: Path, *more: str) -> None:
    """Score the images by a tiny random model, take two steps, and look at what they leave."""
    config = str(RECIPES / f"mdkt_{recipe}.yaml")
    data = [f"data.root={root}", f"data.draws={folder / 'draws'}", f"pseudo.cache={folder / 'cache'}", *more]
    model = write_clip(folder / "clip", VIT)
    scoring = ["--config", config, "--model", model, "--device", "cpu", "--workers", "0"]
    assert training.pseudo_labels.main([*scoring, *data, *NO_DOWNLOAD[:2]]) == 0
    out = folder / "run"
    assert main(["--config", config, *data, *SMALL, *NO_DOWNLOAD, f"out={out}"]) == 0
    with (out / "log.csv").open(newline="") as file:
        log = list(csv.DictReader(file))
    assert len(log) == 2
    for name in ("cross_entropy", "lovasz", "transfer", "fused", "image", "pseudo", "contrast", "teacher"):
        values = [float(row[name]) for row in log]
        assert all(math.isfinite(value) for value in values), name
    assert all(float(row["transfer"]) > 0 for row in log)
    # What goes to the vehicle is the baseline's network.
    network, meta = load_checkpoint(out / "model.safetensors")
    alone = build_network(meta.preset, in_channels=len(meta.features), classes=len(meta.labels), width=meta.width)
    assert parameter_count(network) == parameter_count(alone)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*the calibration is KITTI's:UserWarning")
def test_semantickitti_on_a_real_scan(real_data: Path, tmp_path: Path):
    dry_run("semantickitti", real_data / "semantickitti", tmp_path, "data.sequences=['07']")


@pytest.mark.real
@pytest.mark.slow
def test_nuscenes_on_a_real_sample(real_data: Path, tmp_path: Path):
    """Six real cameras and the real scan; the sample has no point labels, so these are by height and mean nothing."""
    folder = real_data / "nuscenes_sample"
    sample = json.loads((folder / "sample.json").read_text())
    ego_from_lidar = np.array(sample["lidar"]["lidar2ego"])
    cloud = read_scan(folder / sample["lidar"]["file"])
    raw = np.select([cloud.xyz()[:, 2] < -1.5, cloud.xyz()[:, 2] < 0.5], [24, 17], 28).astype(np.uint32)
    frame = replace(
        nuscenes_scene(count=1).frames[0][0],
        points=cloud.xyz(),
        intensity=cloud.intensity(),
        ring=cloud.ring(),
        labels=LabelSpace.load("nuscenes").from_raw(raw, "test"),
        raw_labels=raw,
        stamp=round(sample["timestamp_s"] * 1e6) * 1000,
        world_from_lidar=np.array(sample["ego2global"]) @ ego_from_lidar,
    )
    views = []
    for name, camera in sample["cameras"].items():
        matrix, extrinsic = np.array(camera["cam2img"]), np.array(camera["lidar2cam"])
        views.append(image_view(folder / camera["file"], Camera(name, 1600, 900, matrix, extrinsic), frame.stamp))
    mounts = {name: pose_from_quaternion([0.5, -0.5, 0.5, -0.5], [1, 0, 1]) for name in sample["cameras"]}
    scene = Scene("scene-0001", [(replace(frame, views=tuple(views)), [])], ego_from_lidar, mounts)
    write_nuscenes(tmp_path / "set", [scene])
    (tmp_path / "set" / "v1.0-mini" / "splits.json").write_text(json.dumps({"train": ["scene-0001"]}))
    dry_run("nuscenes", tmp_path / "set", tmp_path)
