"""Training towns: what is missing is made, what is there is kept, and nothing is mixed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_drives import tree

import mdkt_ros.drive.synthetic
from mdkt_ros.drive import open_drive
from mdkt_ros.drive.synthetic import TEST_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS
from mdkt_ros.errors import ConfigError, DriveError
from training.config import DataConfig
from training.data.towns import make_towns, town_sequences


def towns(root: Path, count: int, **settings: object) -> DataConfig:
    return DataConfig(kind="synthetic", root=str(root), towns=count, town_scans=1, **settings)


@pytest.fixture
def made(monkeypatch) -> list[dict]:
    """Takes the place of the town builder and keeps what it was asked for."""
    calls: list[dict] = []

    def build(root: Path, **arguments: object) -> None:
        calls.append(arguments)
        (root / "sequences" / str(arguments["sequence"])).mkdir()

    monkeypatch.setattr(mdkt_ros.drive.synthetic, "synthesize", build)
    return calls


def test_a_town_is_a_sequence_named_by_its_seed(tmp_path, made):
    config = towns(tmp_path / "new" / "root", 101, town_rate=0.25)
    assert town_sequences(config)[:2] == ["00", "01"]
    assert town_sequences(config)[-1] == "100"
    make_towns(config, workers=1)
    assert [call["sequence"] for call in made] == town_sequences(config)
    assert [call["seed"] for call in made] == list(range(101))
    same = {"format": "semantickitti", "scans": 1, "rate_hz": 0.25, "images": False}
    assert all({key: call[key] for key in same} == same for call in made)


def test_only_what_is_missing_is_made(tmp_path, made):
    make_towns(towns(tmp_path, 2), workers=1)
    (tmp_path / "sequences" / "00").rmdir()
    kept = (tmp_path / "sequences" / "01").stat()
    made.clear()
    make_towns(towns(tmp_path, 4), workers=1)
    assert [call["seed"] for call in made] == [0, 2, 3]
    assert (tmp_path / "sequences" / "01").stat() == kept
    made.clear()
    make_towns(towns(tmp_path, 3), workers=1)
    assert made == []


@pytest.mark.parametrize("other", [{"town_rate": 2.0}, {"town_images": True}])
def test_towns_of_other_settings_are_refused(tmp_path, made, other):
    make_towns(towns(tmp_path, 1), workers=1)
    before = tree(tmp_path)
    made.clear()
    with pytest.raises(DriveError, match=r"towns\.json: the towns there were made with .*; take another data\.root"):
        make_towns(towns(tmp_path, 2, **other), workers=1)
    assert (made, tree(tmp_path)) == ([], before)


def test_damaged_settings(tmp_path, made):
    (tmp_path / "towns.json").write_text('{"scans": 1')
    with pytest.raises(DriveError, match=r"towns\.json: does not say how the towns beside it were made"):
        make_towns(towns(tmp_path, 1), workers=1)
    assert made == []


def test_seeds_for_scoring_are_never_trained_on(tmp_path, made):
    count = len(TRAIN_SEEDS)
    assert not set(TRAIN_SEEDS) & (set(TEST_SEEDS) | set(VALIDATION_SEEDS))
    with pytest.raises(ConfigError, match=rf"data\.towns = {count + 1}: {count} are for training"):
        make_towns(towns(tmp_path / "root", count + 1), workers=1)
    assert made == []
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_towns_before_it(tmp_path, made, monkeypatch):
    build = mdkt_ros.drive.synthetic.synthesize

    def interrupted(root: Path, **arguments: object) -> None:
        if arguments["seed"] == 1:
            raise KeyboardInterrupt
        build(root, **arguments)

    monkeypatch.setattr(mdkt_ros.drive.synthetic, "synthesize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_towns(towns(tmp_path, 3), workers=1)
    monkeypatch.setattr(mdkt_ros.drive.synthetic, "synthesize", build)
    made.clear()
    make_towns(towns(tmp_path, 3), workers=1)
    assert [call["seed"] for call in made] == [1, 2]


@pytest.mark.slow
def test_processes_share_the_work(tmp_path):
    make_towns(towns(tmp_path, 2, town_rate=0.25), workers=2)
    settings = json.loads((tmp_path / "towns.json").read_text())
    assert settings == {"scans": 1, "rate_hz": 0.25, "images": False}
    drive = open_drive(tmp_path)
    assert [drive.sequence(index) for index in range(len(drive))] == ["00", "01"]
    one, other = (tree(tmp_path / "sequences" / name) for name in ("00", "01"))
    assert one.keys() == other.keys()
    assert one["velodyne/000000.bin"] != other["velodyne/000000.bin"]
    assert all(
        len(frame.points) > 10_000 and len(np.unique(frame.labels)) > 5 for frame in map(drive.__getitem__, (0, 1))
    )
