"""Label efficiency: what each part of the scheme adds when one point in a thousand has a label.

    python bench/label_efficiency.py --jobs 2                            # all runs that are missing, then the table
    python bench/label_efficiency.py --only ema --budget 0.1 --seed 0    # one run
    python bench/label_efficiency.py --validate --only ema --set optim.lr=0.003    # to choose settings by
    python bench/label_efficiency.py --table                             # table and plots of the rows that are there

Every run trains by config/train/mdkt_towns.yaml with a method's parts switched off, one thread, and is scored with its
last checkpoint on towns of seeds that training never sees. A row that is there is not made again, a run that was
stopped goes on where it was. `docs/results/label_efficiency.json` holds the rows; table and plots lie beside it.
Settings are chosen by the validation towns (`--validate`, rows in runs/label_efficiency), never by the test towns.
"""

from __future__ import annotations

import argparse
import datetime
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from bench.label_table import markdown, plot
from bench.methods import METHODS, RECIPE, Run, plan, settings_digests
from bench.provenance import engine_of, origins, times
from bench.rows import Row, put_row, read_rows
from mdkt_ros.device import machine_name, resolve_device
from mdkt_ros.drive.synthetic import TEST_SEEDS, VALIDATION_SEEDS
from mdkt_ros.errors import ConfigError, MdktError
from mdkt_ros.output import atomic_output
from mdkt_ros.segmenter import Segmenter
from mdkt_ros.workers import worker_pool
from training.config import DataConfig, TrainConfig
from training.data.towns import make_towns, open_towns
from training.evaluate import evaluate
from training.log import console
from training.losses import TrainingError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "label_efficiency.json"
RUNS = ROOT / "runs" / "label_efficiency"
SCORED = {"test": (TEST_SEEDS[0], 12, 3), "validation": (VALIDATION_SEEDS[0], 12, 3)}
"""Split -> seed of its first town, towns, scans of each."""


@dataclass(frozen=True)
class Experiment:
    """What all runs share.

    Attributes:
        split: the towns that are scored, `test` or `validation`.
        results: file of the rows. runs: folder of the training runs.
        more: overrides over the recipe, for all runs. threads: of one run.
        force: train what has been trained to its end anew: the code may be another.
    """

    split: str
    results: Path
    runs: Path
    more: tuple[str, ...] = ()
    threads: int = 1
    recipe: Path = RECIPE
    force: bool = False

    def settings(self, run: Run) -> dict[str, str]:
        """Digests of the parts of recipe and overrides that have a say in a run."""
        return settings_digests(run, self.more, self.recipe)

    def folder(self, run: Run) -> Path:
        """Where a run trains; other settings train elsewhere."""
        return self.runs / "-".join(self.settings(run).values()) / f"{run.method.name}-{run.budget:g}-seed{run.seed}"


def scored_towns(config: TrainConfig, split: str) -> DataConfig:
    """The towns that a run is scored on, with the sensors of those it is trained on."""
    first, towns, scans = SCORED[split]
    root = f"{config.data.root.rstrip('/')}_{split}"
    return replace(config.data, root=root, town_first=first, towns=towns, town_scans=scans, frames="")


def perform(run: Run, experiment: Experiment) -> Row:
    """Train, score, and return the row. Raises MdktError when one of the two fails."""
    out = experiment.folder(run)
    config = run.config(experiment.more, experiment.recipe)
    cpu_seconds = _train(run, experiment, out)
    data = scored_towns(config, experiment.split)
    drive = open_towns(data)
    torch.set_num_threads(experiment.threads)
    segmenter = Segmenter.load(
        out / "model.safetensors", config.device, intensity_scale=drive.intensity_scale, axes=drive.axes
    )
    result = evaluate(segmenter, drive).to_dict()
    step_ms, minutes = times(out / "log.csv")
    views = {name: (result.get(name) or {}).get("miou") for name in ("inside_view", "outside_view")}
    return {
        "method": run.method.name,
        "budget": run.budget,
        "seed": run.seed,
        "miou": result["miou"],
        "miou_in_view": views["inside_view"],
        "miou_out_of_view": views["outside_view"],
        "iou": {name: figures["iou"] for name, figures in result["classes"].items()},
        "support": {name: figures["points"] for name, figures in result["classes"].items()},
        "step_ms": step_ms,
        "minutes": minutes,
        "cpu_minutes": None if cpu_seconds is None else round(cpu_seconds / 60, 2),
        **origins(config),
        "machine": machine_name(resolve_device(config.device), experiment.threads),
        "engine": engine_of(config),
        "date": datetime.date.today().isoformat(),
        "split": experiment.split,
        "scans": result["scans"],
        "points": result["labelled_points"],
        "settings": experiment.settings(run),
        "overrides": list(experiment.more),
    }


def _train(run: Run, experiment: Experiment, out: Path) -> float | None:
    """Run train.py to its end, from where it was if it was begun. Returns its processor seconds if all were here."""
    command = [sys.executable, str(ROOT / "training" / "train.py"), "--config", str(experiment.recipe)]
    command += [*run.overrides(experiment.more), f"out={out}"]
    resumed = (out / "state.safetensors").is_file() and not (experiment.force and (out / "model.safetensors").is_file())
    if resumed:
        command.append("resume=true")
    elif out.exists():
        command.append("force=true")
    out.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(experiment.threads), "COLUMNS": "200"}
    before = os.times()
    with (out.parent / f"{out.name}.log").open("a+", encoding="utf-8") as log:
        start = log.tell()
        done = subprocess.run(command, stderr=log, stdout=log, cwd=ROOT, env=environment, check=False)
        log.seek(start)
        said = log.read().strip().splitlines()
    if done.returncode:
        raise TrainingError(f"{run}: {said[-1] if said else f'exit code {done.returncode}'} ({out}.log)")
    after = os.times()
    if resumed:
        return None
    return after.children_user + after.children_system - before.children_user - before.children_system


def _key(row: Row) -> tuple[Any, ...]:
    return (row["method"], row["budget"], row["seed"])


def _place(row: Row) -> tuple[Any, ...]:
    names = [method.name for method in METHODS]
    return (names.index(row["method"]) if row["method"] in names else len(names), row["budget"], row["seed"])


def missing(runs: Sequence[Run], experiment: Experiment, *, force: bool) -> list[Run]:
    """The runs that have no row yet, or with `force` all.

    Raises:
        ConfigError: a row is there that was made with other settings.
    """
    rows = {_key(row): row for row in read_rows(experiment.results)}
    if force:
        return list(runs)
    for run in runs:
        row = rows.get(run.key)
        if row is not None and row.get("settings") != (now := experiment.settings(run)):
            raise ConfigError(
                f"{experiment.results}: its row of {run} is of settings {row.get('settings')}, the recipe is now at "
                f"{now}; --force makes it anew, --results writes elsewhere"
            )
    return [run for run in runs if run.key not in rows]


def _let_training_stop() -> None:
    """Ctrl-C reaches the training itself, which leaves a state; its parent has to wait for that."""
    signal.signal(signal.SIGINT, lambda *_: None)


def run_all(runs: Sequence[Run], experiment: Experiment, jobs: int) -> int:
    """Make the rows of some runs, `jobs` at a time. Returns how many failed; the others' rows are there."""
    failed, left = 0, list(runs)
    pending: dict[Future[Row], Run] = {}
    with worker_pool(jobs, _let_training_stop) as pool:
        while left or pending:
            # No more than are worked on: what waits in the pool would begin after Ctrl-C.
            while left and len(pending) < jobs:
                run = left.pop(0)
                pending[pool.submit(perform, run, experiment)] = run
            for job in wait(pending, return_when=FIRST_COMPLETED).done:
                failed += not _keep(job, pending.pop(job), experiment)
    return failed


def _keep(job: Future[Row], run: Run, experiment: Experiment) -> bool:
    """Store the row of a run that is done. Returns whether it went well."""
    try:
        row = job.result()
    except MdktError as error:
        console.print(f"failed: {error}", style="red", highlight=False)
        return False
    put_row(experiment.results, row, lambda old: _key(old) == run.key, _place)
    console.print(f"{run}: mIoU {100 * row['miou']:.1f} % after {row['minutes']:.1f} minutes")
    return True


def write_report(experiment: Experiment, *, plots: bool) -> None:
    """Table and plots beside the rows."""
    rows = read_rows(experiment.results)
    report = experiment.results.with_suffix(".md")
    with atomic_output(report, force=True) as temporary:
        temporary.write_text(markdown(rows, split=experiment.split), encoding="utf-8")
    written = [report, *(plot(rows, experiment.results.parent) if plots and rows else [])]
    console.print(f"{len(rows)} rows: {', '.join(path.name for path in written)} in {report.parent}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(method.name for method in METHODS)
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD", help=f"of {names}")
    parser.add_argument("--budget", nargs="+", type=float, default=[], help="percent of the points with a label")
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2], help="of weights and label draw")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings over the recipe's, all runs"
    )
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="instead of config/train/mdkt_towns.yaml")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--threads", type=int, default=1, help="of one run")
    parser.add_argument("--validate", action="store_true", help="score on validation towns, to choose settings by")
    parser.add_argument("--results", type=Path, help="another file of rows")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the training runs")
    parser.add_argument("--force", action="store_true", help="make rows anew that are there, from training on")
    parser.add_argument("--table", action="store_true", help="only rewrite table and plots")
    parser.add_argument("--no-plots", dest="plots", action="store_false", help="the table alone")
    parser.add_argument("--list", action="store_true", help="only say which runs are missing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0, 1 with the error on one line, or 130 when interrupted."""
    options = parse(arguments)
    split = "validation" if options.validate else "test"
    results: Path = options.results or (options.runs / "validation.json" if options.validate else RESULTS)
    began = time.monotonic()
    try:
        experiment = Experiment(
            split, results, options.runs.resolve(), tuple(options.set), options.threads, options.recipe, options.force
        )
        results.parent.mkdir(parents=True, exist_ok=True)
        failed = 0
        if not options.table:
            runs = missing(plan(options.only, options.budget, options.seed), experiment, force=options.force)
            console.print(f"{len(runs)} runs to do, scored on {split} towns")
            if options.list:
                for run in runs:
                    print(run)
                return 0
            if runs:
                config = runs[0].config(options.set, options.recipe)
                # Once for all runs, which must not write the same towns side by side.
                make_towns(config.data)
                make_towns(scored_towns(config, split), scoring=True)
                failed = run_all(runs, experiment, options.jobs)
        write_report(experiment, plots=options.plots)
        if not options.table:
            console.print(f"{(time.monotonic() - began) / 60:.1f} minutes")
        return 1 if failed else 0
    except MdktError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the rows that were finished are kept, the runs go on where they were", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
