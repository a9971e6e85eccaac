"""Training towns: what is missing is made, what is there is kept, and nothing is mixed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_drives import nuscenes_scene, tree

import mdkt_ros.drive.synthetic
from mdkt_ros.drive import open_drive
from mdkt_ros.drive.nuscenes import NuScenes
from mdkt_ros.drive.synthetic import TEST_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS
from mdkt_ros.drive.write_nuscenes import write_nuscenes
from mdkt_ros.errors import ConfigError, DriveError
from training.config import DataConfig
from training.data.source import open_source
from training.data.towns import make_towns, open_towns, town_names


def towns(root: Path, count: int, **settings: object) -> DataConfig:
    return DataConfig(kind="synthetic", root=str(root), towns=count, town_scans=1, **settings)


@pytest.fixture
def made(monkeypatch) -> list[dict]:
    """Takes the place of the town builder and keeps what it was asked for."""
    calls: list[dict] = []

    def build(root: Path, **arguments: object) -> None:
        calls.append(arguments)
        kitti = arguments["format"] == "semantickitti"
        (root / "sequences" / str(arguments["sequence"]) if kitti else root).mkdir()

    monkeypatch.setattr(mdkt_ros.drive.synthetic, "synthesize", build)
    return calls


def test_a_town_is_a_sequence_named_by_its_seed(tmp_path, made):
    config = towns(tmp_path / "new" / "root", 101, town_rate=0.25)
    assert town_names(config)[:2] == ["00", "01"]
    assert town_names(config)[-1] == "100"
    make_towns(config, workers=1)
    assert [call["sequence"] for call in made] == town_names(config)
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
    with pytest.raises(ConfigError, match=rf"data\.towns = {count + 1} from 0: {count} are for training"):
        make_towns(towns(tmp_path / "root", count + 1), workers=1)
    with pytest.raises(ConfigError, match=rf"data\.towns = 1 from {TEST_SEEDS[0]}: {count} are for training"):
        make_towns(towns(tmp_path / "root", 1, town_first=TEST_SEEDS[0]), workers=1)
    with pytest.raises(ConfigError, match=r"data\.town_first = 3: a town for training, not for scoring"):
        make_towns(towns(tmp_path / "root", 1, town_first=3), workers=1, scoring=True)
    assert made == []
    assert list(tmp_path.iterdir()) == []
    make_towns(towns(tmp_path / "root", 2, town_first=TEST_SEEDS[0]), workers=1, scoring=True)
    assert [(call["seed"], call["sequence"]) for call in made] == [(2000, "2000"), (2001, "2001")]


def test_towns_with_the_sensors_of_nuscenes_are_a_data_set_each(tmp_path, made):
    make_towns(towns(tmp_path, 2, town_format="nuscenes"), workers=1)
    assert [(call["format"], call["seed"]) for call in made] == [("nuscenes", 0), ("nuscenes", 1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00", "01", "towns.json"]
    made.clear()
    make_towns(towns(tmp_path, 3, town_format="nuscenes"), workers=1)
    assert [call["seed"] for call in made] == [2]
    with pytest.raises(DriveError, match=r"towns\.json: the towns there were made with .*; take another data\.root"):
        make_towns(towns(tmp_path, 2), workers=1)


def test_such_towns_are_one_drive(tmp_path):
    for name in ("00", "01"):
        write_nuscenes(tmp_path / name, [nuscenes_scene(f"scene-{name}", int(name) + 1, int(name))])
    config = towns(tmp_path, 2, town_format="nuscenes")
    source = open_source(config)
    assert (len(source), source.labels.name, source.axes) == (3, "nuscenes", "y_forward")
    assert [name.split("/")[0] for name in source.names] == ["00", "01", "01"]
    assert len(set(source.names)) == 3
    parts = [NuScenes(tmp_path / name) for name in ("00", "01")]
    for index, (part, place) in enumerate([(parts[0], 0), (parts[1], 0), (parts[1], 1)]):
        assert source[index].name == part[place].name
        np.testing.assert_array_equal(source[index].points, part[place].points)
    with pytest.raises(ConfigError, match=r"data\.frames: towns with nuScenes' sensors"):
        open_towns(towns(tmp_path, 2, town_format="nuscenes", frames="0-1"))
    with pytest.raises(DriveError, match="02"):
        open_towns(towns(tmp_path, 3, town_format="nuscenes"))


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
