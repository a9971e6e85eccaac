"""Synthetic drives as data sets: the same bytes from the same seed, or an argument that is named."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from synthetic_frames import SEED

pytest.importorskip("embreex", reason="synthetic drives need the extra `synthetic` (embreex)")

from mdkt_ros.drive import open_drive
from mdkt_ros.drive.synthetic import SyntheticDrive, synthesize
from mdkt_ros.errors import ConfigError, OutputError


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.slow
@pytest.mark.parametrize(("form", "scans"), [("semantickitti", 2), ("nuscenes", 1)])
def test_same_seed_same_bytes_and_they_read_back(tmp_path, request, form, scans):
    seen = []
    # Once from nothing, once in a town that has served other drives: neither may leave a trace in the other.
    options = {"format": form, "seed": SEED, "scans": scans, "beams": 16}
    used = request.getfixturevalue("town" if form == "semantickitti" else "city")
    other = SyntheticDrive(SEED, scans=1, town=used, images=False)
    assert len(other[0].points)
    for name, given in (("a", None), ("b", used)):
        synthesize(tmp_path / name, progress=lambda *a: seen.append(a), town=given, **options)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert seen == [(i + 1, scans) for i in range(scans)] * 2
    reread, made = open_drive(tmp_path / "a"), SyntheticDrive(**options, town=used)
    assert len(reread) == scans
    ours, theirs = made[scans - 1], reread[scans - 1]
    np.testing.assert_array_equal(ours.points, theirs.points)
    np.testing.assert_array_equal(ours.intensity, theirs.intensity)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    views = {v.camera.name: v for v in theirs.views}
    for view in ours.views:
        there = views[view.camera.name]
        np.testing.assert_allclose(there.camera.camera_from_lidar, view.camera.camera_from_lidar, atol=1e-6)
        assert there.load().shape == (view.camera.height, view.camera.width, 3)


@pytest.mark.parametrize(
    ("options", "named_in_message"),
    [
        ({"scans": 0}, "scans 0"),
        ({"seed": -1}, "seed -1"),
        ({"rate_hz": 0.0}, "rate_hz 0.0"),
        ({"scans": 90_000, "rate_hz": 1.0}, "scans / rate_hz 90000.0"),
        ({"beams": 1}, "beams 1"),
        ({"speed": float("nan")}, "speed nan"),
        ({"format": "waymo"}, "semantickitti, nuscenes"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path, options, named_in_message):
    with pytest.raises(ConfigError, match=named_in_message):
        synthesize(tmp_path / "out", **{"seed": 1, "scans": 1, **options})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused_before_any_work(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="out: exists already"):
        synthesize(tmp_path / "out", format="nuscenes", seed=1, scans=1)
