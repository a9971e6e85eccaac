"""Synthetic towns for training, made when a recipe first asks for them and kept."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from mdkt_ros.errors import ConfigError, DriveError
from mdkt_ros.output import atomic_output


@dataclass(frozen=True)
class Towns:
    """Which drives, one SemanticKITTI sequence a town.

    Attributes:
        seeds: of the towns; a sequence bears its town's seed as its name.
        scans: of each drive.
        rate_hz: scans a second of driving; a low rate gives scans that differ.
        images: render the camera's images, which labels-only training does not read.
    """

    seeds: tuple[int, ...]
    scans: int
    rate_hz: float
    images: bool

    @property
    def sequences(self) -> tuple[str, ...]:
        """Names of the sequences."""
        return tuple(f"{seed:02d}" for seed in self.seeds)


def make_towns(
    root: Path, towns: Towns, *, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the drives that `root` lacks; those that are there stay as they are.

    Args:
        root: folder of the data set, made with its parents when it is missing.
        workers: processes that share the work, a town each.

    Raises:
        DriveError: a drive is there that was made with other settings.
        ConfigError: seeds that are kept for scoring.
    """
    from mdkt_ros.drive.synthetic import TRAIN_SEEDS

    for seed in towns.seeds:
        if seed not in TRAIN_SEEDS:
            raise ConfigError(
                f"data.seeds: town {seed} is not for training, those are {TRAIN_SEEDS[0]} to {TRAIN_SEEDS[-1]}"
            )
    settings = {"scans": towns.scans, "rate_hz": towns.rate_hz, "images": towns.images}
    (root / "sequences").mkdir(parents=True, exist_ok=True)
    made = root / "towns.json"
    if made.is_file() and (there := json.loads(made.read_text(encoding="utf-8"))) != settings:
        raise DriveError(f"{made}: the towns there were made with {there}, not {settings}; take another data.root")
    with atomic_output(made, force=True) as temporary:
        temporary.write_text(json.dumps(settings), encoding="utf-8")
    missing = [seed for seed in towns.seeds if not (root / "sequences" / f"{seed:02d}").is_dir()]
    done = len(towns.seeds) - len(missing)
    if progress is not None:
        progress(done, len(towns.seeds))
    # Fresh processes: torch's threads do not survive a fork.
    with ProcessPoolExecutor(max(workers, 1), mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(_make, root, seed, towns) for seed in missing]
        try:
            for job in as_completed(jobs):
                job.result()
                done += 1
                if progress is not None:
                    progress(done, len(towns.seeds))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _make(root: Path, seed: int, towns: Towns) -> None:
    from mdkt_ros.drive.synthetic import synthesize

    synthesize(
        root,
        format="semantickitti",
        seed=seed,
        scans=towns.scans,
        rate_hz=towns.rate_hz,
        images=towns.images,
        sequence=f"{seed:02d}",
    )
