"""Synthetic towns for training, made when a recipe first asks for them and kept."""

from __future__ import annotations

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from rich.progress import Progress

from mdkt_ros.errors import ConfigError, DriveError
from mdkt_ros.output import atomic_output
from training.config import DataConfig
from training.log import console


def town_sequences(config: DataConfig) -> list[str]:
    """Names of the SemanticKITTI sequences that the towns of a configuration are, one each, in the order of seeds."""
    return [f"{seed:02d}" for seed in range(config.towns)]


def make_towns(config: DataConfig, *, workers: int | None = None) -> None:
    """Write the drives that `data.root` lacks; those that are there stay as they are.

    Args:
        config: the `data` section.
        workers: processes that share the work, a town each; by default one a core.

    Raises:
        DriveError: towns are there that were made with other settings. OutputError: no room.
        ConfigError: more towns than there are seeds for training.
    """
    from mdkt_ros.drive.synthetic import TRAIN_SEEDS

    if config.towns > len(TRAIN_SEEDS):
        raise ConfigError(f"data.towns = {config.towns}: {len(TRAIN_SEEDS)} are for training, the rest for scoring")
    root = Path(config.root)
    settings = {"scans": config.town_scans, "rate_hz": config.town_rate, "images": config.town_images}
    (root / "sequences").mkdir(parents=True, exist_ok=True)
    made = root / "towns.json"
    if made.is_file() and (there := json.loads(made.read_text(encoding="utf-8"))) != settings:
        raise DriveError(f"{made}: the towns there were made with {there}, not {settings}; take another data.root")
    with atomic_output(made, force=True) as temporary:
        temporary.write_text(json.dumps(settings), encoding="utf-8")
    missing = [name for name in town_sequences(config) if not (root / "sequences" / name).is_dir()]
    if not missing:
        return
    # Fresh processes: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(workers or os.cpu_count() or 1, mp_context=multiprocessing.get_context("spawn"))
    with pool, Progress(console=console) as bar:
        jobs = [pool.submit(_make, root, name, config) for name in missing]
        try:
            for _ in bar.track(as_completed(jobs), total=len(jobs), description="Building towns"):
                pass
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _make(root: Path, name: str, config: DataConfig) -> None:
    from mdkt_ros.drive.synthetic import synthesize

    synthesize(
        root,
        format="semantickitti",
        seed=int(name),
        scans=config.town_scans,
        rate_hz=config.town_rate,
        images=config.town_images,
        sequence=name,
    )
