"""Synthetic towns for training, made when a recipe first asks for them and kept."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
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
    if made.is_file() and (there := _read(made)) != settings:
        raise DriveError(f"{made}: the towns there were made with {there}, not {settings}; take another data.root")
    with atomic_output(made, force=True) as temporary:
        temporary.write_text(json.dumps(settings), encoding="utf-8")
    missing = [name for name in town_sequences(config) if not (root / "sequences" / name).is_dir()]
    if not missing:
        return
    with Progress(console=console) as bar:
        making = _make_all(root, missing, config, min(workers or os.cpu_count() or 1, len(missing)))
        for _ in bar.track(making, total=len(missing), description="Building towns"):
            pass


def _read(made: Path) -> object:
    try:
        return json.loads(made.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DriveError(f"{made}: does not say how the towns beside it were made ({error}); remove them all") from None


def _make_all(root: Path, names: list[str], config: DataConfig, workers: int) -> Iterator[None]:
    """Yield whenever a town is done."""
    if workers == 1:
        for name in names:
            _make(root, name, config)
            yield
        return
    # Fresh processes: torch's threads do not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(_make, root, name, config) for name in names]
        try:
            for job in as_completed(jobs):
                job.result()
                yield
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
