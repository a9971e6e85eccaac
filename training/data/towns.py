"""Synthetic towns, made when a recipe first asks for them and kept: a drive each, and all of them as one."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from pathlib import Path

from rich.progress import Progress

from mdkt_ros.drive.frame import Axes, Frame
from mdkt_ros.drive.nuscenes import NuScenes
from mdkt_ros.drive.semantickitti import SemanticKitti
from mdkt_ros.errors import ConfigError, DriveError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.output import atomic_output
from training.config import DataConfig
from training.log import console
from training.pool import run_all


def town_names(config: DataConfig) -> list[str]:
    """Names of the towns of a configuration in the order of their seeds: of a SemanticKITTI sequence or a root each."""
    return [f"{seed:02d}" for seed in range(config.town_first, config.town_first + config.towns)]


class NuScenesTowns:
    """Towns with nuScenes' sensors as one drive: each is a data set of its own below `root`, since one data set's
    tables cannot grow town by town.

    Raises:
        DriveError: a town is missing or incomplete.
    """

    axes: Axes = "y_forward"
    intensity_scale: float = NuScenes.intensity_scale

    def __init__(self, root: Path, names: list[str]) -> None:
        self.name = root.name
        self._towns = [NuScenes(root / name) for name in names]
        self._places = [(town, index) for town in self._towns for index in range(len(town))]

    @property
    def labels(self) -> LabelSpace | None:
        return self._towns[0].labels

    def __len__(self) -> int:
        return len(self._places)

    def scan_path(self, index: int) -> Path:
        """The frame's .pcd.bin file."""
        town, place = self._places[index]
        return town.scan_path(place)

    def __getitem__(self, index: int) -> Frame:
        """Read one key frame. Raises CloudError, LabelError or DriveError that names the file."""
        town, place = self._places[index]
        return town[place]


def open_towns(config: DataConfig) -> SemanticKitti | NuScenesTowns:
    """The towns of a configuration as one drive. Raises DriveError where one is missing."""
    root, names = Path(config.root), town_names(config)
    if config.town_format == "nuscenes":
        if config.frames:
            raise ConfigError("data.frames: towns with nuScenes' sensors are chosen by data.towns alone")
        return NuScenesTowns(root, names)
    return SemanticKitti(root, sequences=names, frames=config.frames or None)


def make_towns(config: DataConfig, *, workers: int | None = None, scoring: bool = False) -> None:
    """Write the drives that `data.root` lacks; those that are there stay as they are.

    Args:
        config: the `data` section.
        workers: processes that share the work, a town each; by default one a core.
        scoring: the towns are not for training, so seeds that training never sees are right.

    Raises:
        DriveError: towns are there that were made with other settings. OutputError: no room.
        ConfigError: a seed that is not for training, or for scoring one that is.
    """
    from mdkt_ros.drive.synthetic import TRAIN_SEEDS
    from mdkt_ros.drive.synthetic.drive import MIXES

    last = config.town_first + config.towns - 1
    if not scoring and last not in TRAIN_SEEDS:
        raise ConfigError(
            f"data.towns = {config.towns} from {config.town_first}: {len(TRAIN_SEEDS)} are for training, "
            "the rest for scoring"
        )
    if scoring and config.town_first in TRAIN_SEEDS:
        raise ConfigError(f"data.town_first = {config.town_first}: a town for training, not for scoring")
    root = Path(config.root)
    settings: dict[str, object] = {
        "scans": config.town_scans,
        "rate_hz": config.town_rate,
        "images": config.town_images,
    }
    kitti = config.town_format == "semantickitti"
    if not kitti:
        settings |= {"format": config.town_format, "mix": dataclasses.asdict(MIXES["nuscenes"])}
    folder = root / "sequences" if kitti else root
    folder.mkdir(parents=True, exist_ok=True)
    made = root / "towns.json"
    settings = json.loads(json.dumps(settings))
    if made.is_file() and (there := _read(made)) != settings:
        raise DriveError(f"{made}: the towns there were made with {there}, not {settings}; take another data.root")
    with atomic_output(made, force=True) as temporary:
        temporary.write_text(json.dumps(settings), encoding="utf-8")
    missing = [name for name in town_names(config) if not (folder / name).is_dir()]
    if not missing:
        return
    with Progress(console=console) as bar:
        share = min(workers or os.cpu_count() or 1, len(missing))
        making = run_all(functools.partial(_make, root, config), missing, share)
        for _ in bar.track(making, total=len(missing), description="Building towns"):
            pass


def _read(made: Path) -> object:
    try:
        return json.loads(made.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DriveError(f"{made}: does not say how the towns beside it were made ({error}); remove them all") from None


def _make(root: Path, config: DataConfig, name: str) -> None:
    from mdkt_ros.drive.synthetic import synthesize

    kitti = config.town_format == "semantickitti"
    synthesize(
        root if kitti else root / name,
        format="semantickitti" if kitti else "nuscenes",
        seed=int(name),
        scans=config.town_scans,
        rate_hz=config.town_rate,
        images=config.town_images,
        sequence=name,
    )
