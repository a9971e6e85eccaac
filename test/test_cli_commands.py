"""Each command of `mdkt` hands what the user typed to the work that it stands for, and prints what came of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_drives import write_kitti, write_nuscenes_set
from test_cli import run

import mdkt_ros.demo
import mdkt_ros.drive.synthetic
import mdkt_ros.render.page
import mdkt_ros.render.picture
from mdkt_ros.drive.bag import BagDrive
from mdkt_ros.errors import OutputError


@pytest.fixture
def scan(tmp_path) -> Path:
    path = tmp_path / "000000.bin"
    np.random.default_rng(0).uniform(0, 1, (500, 4)).astype("<f4").tofile(path)
    return path


@pytest.mark.parametrize("kind", ["semantickitti", "auto"])
def test_convert(monkeypatch, capsys, tmp_path, kind):
    write_kitti(tmp_path / "kitti", sequence="04")
    out = tmp_path / "a bag"
    options = ("--storage", "sqlite3", "--distro", "humble", "--sequence", "04")
    assert run(monkeypatch, "convert", kind, tmp_path / "kitti", out, *options) == 0
    assert "3 scans; play it with `ros2 bag play '" in capsys.readouterr().out
    assert [path.suffix for path in sorted(out.iterdir())] == [".db3", ".yaml"]
    assert "version: 8" in (out / "metadata.yaml").read_text()
    with BagDrive(out) as drive:
        assert len(drive) == 3
    assert run(monkeypatch, "convert", kind, tmp_path / "kitti", out) == 1
    assert "exists already" in capsys.readouterr().err
    assert run(monkeypatch, "convert", kind, tmp_path / "kitti", out, "--force") == 0
    assert (out / "metadata.yaml").read_text().count("mcap")


def test_convert_what_it_is_not(monkeypatch, capsys, tmp_path):
    write_nuscenes_set(tmp_path / "nuscenes")
    assert run(monkeypatch, "convert", "semantickitti", tmp_path / "nuscenes", tmp_path / "bag") == 1
    assert str(tmp_path / "nuscenes") in capsys.readouterr().err
    assert run(monkeypatch, "convert", "kitti", tmp_path / "nuscenes", tmp_path / "bag") == 2
    assert run(monkeypatch, "convert", "nuscenes", tmp_path / "nuscenes", tmp_path / "bag", "--sequence", "x") == 1
    assert "scene-0001" in capsys.readouterr().err
    assert not (tmp_path / "bag").exists()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ((), {"format": "semantickitti", "seed": 0, "scans": 20, "images": True, "beams": None, "force": False}),
        (
            ("--format", "nuscenes", "--seed", 2003, "--scans", 3, "--no-images", "--beams", 64, "--force"),
            {"format": "nuscenes", "seed": 2003, "scans": 3, "images": False, "beams": 64, "force": True},
        ),
        (("--rate", 0.5, "--motion-distortion"), {"rate_hz": 0.5, "motion_distortion": True}),
    ],
)
def test_synthesize(monkeypatch, capsys, tmp_path, typed, expected):
    asked: dict[str, object] = {}
    monkeypatch.setattr(mdkt_ros.drive.synthetic, "synthesize", lambda out, **more: asked.update(out=out, **more))
    assert run(monkeypatch, "synthesize", tmp_path / "town", *typed) == 0
    assert {key: asked[key] for key in expected} == expected
    assert asked["out"] == tmp_path / "town"
    assert ("rate_hz" in asked) == ("--rate" in typed)
    assert f"Written: {tmp_path / 'town'}" in capsys.readouterr().out


@pytest.mark.parametrize("typed", [("--seed", -1), ("--scans", 0), ("--format", "waymo")])
def test_synthesize_out_of_range(monkeypatch, tmp_path, typed):
    assert run(monkeypatch, "synthesize", tmp_path / "town", *typed) == 2


def test_bench(monkeypatch, capsys, tmp_path, scan):
    figures = tmp_path / "bench.json"
    presets = ("--preset", "minkunet14s:0.25", "--preset", "minkunet18:0.25")
    assert run(monkeypatch, "bench", scan, *presets, "--repeats", 1, "--voxel-size", 0.2, "--json", figures) == 0
    rows = json.loads(figures.read_text())["rows"]
    assert {(row["preset"], row["width"], row["points"]) for row in rows} == {
        ("minkunet14s", 0.25, 500),
        ("minkunet18", 0.25, 500),
    }
    assert 0 < rows[0]["voxels"] <= 125
    assert "500 points" in capsys.readouterr().out
    assert run(monkeypatch, "bench", scan, "--preset", "resnet50") == 1
    assert "resnet50" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["view", "picture", "convert"])
def test_the_size_of_the_calibrated_images(monkeypatch, tmp_path, command):
    asked: dict[str, object] = {}

    def take(*_: object, **more: object) -> None:
        asked.update(more)
        raise OutputError("enough")

    monkeypatch.setattr(mdkt_ros.render.page, "page_for_path", take)
    monkeypatch.setattr(mdkt_ros.render.picture, "picture_for_path", take)
    monkeypatch.setattr(mdkt_ros.drive, "open_drive", take)
    first = {"view": [tmp_path, tmp_path / "a.html"], "picture": [tmp_path, tmp_path / "a.png"]}
    typed = [command, *first.get(command, ["auto", tmp_path, tmp_path / "bag"])]
    assert run(monkeypatch, *typed, "--image-size", "1226x370") == 1
    assert asked["image_size"] == (1226, 370)
    for wrong in ("1226", "1226x", "axb", "0x370", "-1x5", "1x2x3"):
        assert run(monkeypatch, *typed, "--image-size", wrong) == 2


def test_demo(monkeypatch, tmp_path):
    asked: dict[str, object] = {}
    monkeypatch.setattr(mdkt_ros.demo, "run_demo", lambda out, **more: asked.update(out=out, **more))
    assert run(monkeypatch, "demo", tmp_path / "demo", "--seed", 2007, "--scans", 2, "--device", "cpu", "--force") == 0
    expected = {"out": tmp_path / "demo", "seed": 2007, "scans": 2, "checkpoint": None, "device": "cpu", "force": True}
    assert {key: asked[key] for key in expected} == expected
    # A town that a network may have been trained in proves nothing.
    assert run(monkeypatch, "demo", tmp_path / "demo", "--seed", 999) == 2
