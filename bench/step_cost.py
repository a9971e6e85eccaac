"""What a training step costs, part by part of the scheme: time and peak memory, as ratios to labels only.

    python bench/step_cost.py                        # the recipe of bench/label_efficiency.py, on this machine
    python bench/step_cost.py --recipe config/train/mdkt_nuscenes.yaml --device cuda --set data.root=/data/nuscenes

The parts take turns, so that whatever else the machine does meets all of them; medians and quartiles of the ratios
within a turn. A turn is a step, or as many as it takes until one looks at images (`transfer.every`), and then what
counts is their mean. On a CPU processor time of one thread, on CUDA the clock. Preparing the scans and images is
measured apart: with workers it goes on beside the step. A frozen backbone that remembers its feature maps
(`image_network.keep`) has seen the images of a measured step before, as in all but a run's first round of the scans;
what the first sight costs is a figure of its own. Writes docs/results/step_cost.json and .md.
"""

from __future__ import annotations

import argparse
import datetime
import resource
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from bench.methods import METHODS, RECIPE, Run, budget_of, image_text_model
from bench.rows import write_json
from mdkt_ros.device import machine_name
from mdkt_ros.errors import ConfigError
from mdkt_ros.output import atomic_output
from mdkt_ros.workers import worker_pool
from training.command import exit_code
from training.config import PLACE_KEYS, TrainConfig
from training.data.dataset import Batch, TrainingStream, make_batch
from training.data.source import open_source
from training.data.towns import make_towns
from training.export import make_grid
from training.learner import Learner, make_learner
from training.log import console
from training.processes import Processes, join_processes
from training.train import open_image_text, shared_draw

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results" / "step_cost.json"
PARTS = tuple(m for m in METHODS if m.name not in ("deformable_single_scale", "full_supervision"))
STEPS = 1000
"""Of the imagined run; a step from its middle is measured, when every part is on."""


@dataclass
class Cost:
    """Figures of one part.

    Attributes:
        prepare, step: seconds a step of each measured turn: scans and images, then the step itself.
        peak: bytes, of the process on a CPU, allocated on CUDA.
        sight: seconds of each first sight of images that are remembered, a batch.
        kept: bytes of an image that is remembered.
    """

    title: str
    prepare: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    peak: int = 0
    sight: list[float] = field(default_factory=list)
    kept: int = 0


def open_stream(config: TrainConfig, processes: Processes) -> TrainingStream:
    """The scans of a run with what is drawn and said about them."""
    source = open_source(config.data)
    draw = shared_draw(config, processes, source)
    return TrainingStream(source, draw, config, make_grid(config), open_image_text(config, source))


class Part:
    """One part's learner and scans, ready to take steps."""

    def __init__(self, config: TrainConfig, processes: Processes) -> None:
        self.config, self.processes = config, processes
        self.stream = open_stream(config, processes)
        self.learner = make_learner(config, processes, self.stream)

    def step(self, number: int) -> tuple[float, float, float | None]:
        """Take step `number` of the middle of a run.

        Returns:
            Seconds of preparing, of the step, and of the first sight of images that are remembered, None without any.
        """
        size = self.config.optim.batch_size
        began = _now(self.processes)
        batch = make_batch([self.stream[number * size + i] for i in range(size)]).to(self.processes.device)
        prepared = _now(self.processes)
        sight = self._see(batch)
        seen = _now(self.processes)
        _take(self.learner, batch, STEPS // 2 + number)
        return prepared - began, _now(self.processes) - seen, seen - prepared if sight else None

    @torch.no_grad()
    def _see(self, batch: Batch) -> bool:
        """Have a backbone that remembers see the images. Returns whether it does and there are any."""
        transfer = self.learner.student.scheme.transfer
        if transfer is None or not self.config.image_network.keep or batch.pairs is None or not len(batch.pairs.images):
            return False
        dtype = self.learner.dtype
        with torch.autocast(self.processes.device.type, dtype, enabled=dtype is not None):
            transfer.image_network(batch.pairs.images, batch.pairs.origin)
        return True

    def kept(self) -> int:
        """Bytes of an image that is remembered, 0 without any."""
        transfer = self.learner.student.scheme.transfer
        images, size = (0, 0) if transfer is None else transfer.image_network.kept()
        return size // max(images, 1)


def _take(learner: Learner, batch: Any, step: int) -> None:
    learner.step(batch, step, STEPS)


def _now(processes: Processes) -> float:
    if processes.device.type == "cuda":
        torch.cuda.synchronize(processes.device)
        return time.perf_counter()
    return time.process_time()


def configs(recipe: Path, more: Sequence[str]) -> dict[str, TrainConfig]:
    """Settings of the parts by title, as in the table of label efficiency. Raises ConfigError."""
    return {part.title: Run(part, budget_of(more, recipe), 0).config(more, recipe) for part in PARTS}


def measure_time(parts: dict[str, TrainConfig], rounds: int, device: str) -> dict[str, Cost]:
    """Seconds a step of `rounds` turns of each part, after one that warms up."""
    costs = {title: Cost(title) for title in parts}
    with join_processes(device) as processes:
        ready = {title: Part(config, processes) for title, config in parts.items()}
        for number in range(rounds + 1):
            for title, part in ready.items():
                turn = steps_of_a_turn(parts.values())
                taken = [part.step(number * turn + k) for k in range(turn)]
                if number:
                    costs[title].prepare.append(statistics.fmean(prepare for prepare, _, _ in taken))
                    costs[title].step.append(statistics.fmean(step for _, step, _ in taken))
                    costs[title].sight += [sight for _, _, sight in taken if sight is not None]
                    costs[title].kept = part.kept()
            console.print(f"round {number} of {rounds}", highlight=False)
    return costs


def steps_of_a_turn(parts: Iterable[TrainConfig]) -> int:
    """As many as it takes until every part has looked at images."""
    return max(config.transfer.every for config in parts)


def peak_memory(config: TrainConfig, device: str, steps: int = 3) -> int:
    """Bytes at the peak of a few steps; in a process of its own, since a process never gives its peak back."""
    with join_processes(device) as processes:
        torch.set_num_threads(1)
        part = Part(config, processes)
        for number in range(steps):
            part.step(number)
        if processes.device.type == "cuda":
            return torch.cuda.max_memory_allocated(processes.device)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else 1024 * kilobytes


def ratios(costs: Sequence[Cost]) -> list[tuple[float, float, float]]:
    """Median and quartiles of each part's step over the first part's in the same turn."""
    found = []
    for cost in costs:
        values = [own / base for own, base in zip(cost.step, costs[0].step, strict=True)]
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        found.append((low, middle, high))
    return found


def to_rows(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    """Figures of JSON types, a row a part."""
    rows = []
    for cost, (low, middle, high) in zip(costs, ratios(costs), strict=True):
        rows.append(
            {
                "part": cost.title,
                "step_ms": round(1000 * statistics.median(cost.step), 1),
                "ratio": round(middle, 3),
                "ratio_quartiles": [round(low, 3), round(high, 3)],
                "prepare_ms": round(1000 * statistics.median(cost.prepare), 1),
                "peak_mb": round(cost.peak / 1e6),
                "memory_ratio": round(cost.peak / max(costs[0].peak, 1), 3),
                "turns": len(cost.step),
                "first_sight_ms": round(1000 * statistics.median(cost.sight), 1) if cost.sight else None,
                "kept_mb_an_image": round(cost.kept / 1e6, 2) if cost.kept else None,
            }
        )
    return rows


def markdown(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The table and what it was measured on."""
    each = "steps" if facts["turn"] == 1 else f"turns of {facts['turn']} steps, of which one looks at images"
    kind = "the clock" if facts["cuda"] else "processor time, one thread"
    memory = "allocated on the GPU" if facts["cuda"] else "of the process"
    lines = [
        "# Cost of a training step",
        "",
        f"Medians of {rows[0]['turns']} {each} ({kind}), the parts taking turns; ratios are to labels only in the same "
        f"turn, quartiles in brackets; peak memory {memory}. Written by `python bench/step_cost.py`.",
        "",
        "| part | step ms | ratio | preparing scans and images ms | peak MB | ratio |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        low, high = row["ratio_quartiles"]
        lines.append(
            f"| {row['part']} | {row['step_ms']:.0f} | {row['ratio']:.2f} ({low:.2f} - {high:.2f}) | "
            f"{row['prepare_ms']:.0f} | {row['peak_mb']:,} | {row['memory_ratio']:.2f} |"
        )
    if (last := rows[-1])["first_sight_ms"] is not None:
        lines += [
            "",
            f"The backbone remembers its feature maps of the images, which the steps above found there, at "
            f"{last['kept_mb_an_image']:.2f} MB an image (not in the peaks, but for the images of three steps). The "
            f"first sight of a batch's images costs {last['first_sight_ms']:.0f} ms more.",
        ]
    lines += ["", *(f"- {name}: {facts[name]}" for name in ("recipe", "image text", "machine", "date") if facts[name])]
    return "\n".join(lines) + "\n"


def bench(recipe: Path, more: Sequence[str], device: str, rounds: int, results: Path) -> None:
    """Measure and write. Raises MdktError."""
    parts = configs(recipe, more)
    first = next(iter(parts.values()))
    if first.data.kind == "synthetic":
        make_towns(first.data)
    torch.set_num_threads(1 if device == "cpu" else torch.get_num_threads())
    peaks = {}
    # Before anything large is in this process, whose peak a new one inherits.
    for title, config in parts.items():
        with worker_pool(1) as pool:
            peaks[title] = pool.submit(peak_memory, config, device).result()
    costs = measure_time(parts, rounds, device)
    for title, peak in peaks.items():
        costs[title].peak = peak
    rows = to_rows(list(costs.values()))
    cuda = device.startswith("cuda")
    facts = {
        "recipe": " ".join([recipe.name, *(text for text in more if text.partition("=")[0] not in PLACE_KEYS)]),
        "image text": image_text_model(first) or "none: pseudo labels come from the teacher alone",
        "machine": machine_name(torch.device(device), 1),
        "date": datetime.date.today().isoformat(),
        "cuda": cuda,
        "turn": steps_of_a_turn(parts.values()),
    }
    results.parent.mkdir(parents=True, exist_ok=True)
    write_json(results, {"facts": facts, "rows": rows})
    with atomic_output(results.with_suffix(".md"), force=True) as temporary:
        temporary.write_text(markdown(rows, facts), encoding="utf-8")
    for row in rows:
        console.print(f"{row['part']}: {row['step_ms']:.0f} ms, {row['ratio']:.2f} x; {row['peak_mb']} MB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0, or 1 with the error on one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="a recipe with all parts on")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings over the recipe's")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=9, help="measured turns of each part")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the figures, .json")
    options = parser.parse_args(arguments)

    def work() -> None:
        if options.rounds < 1:
            raise ConfigError(f"--rounds {options.rounds}: must be above 0")
        # Reading the scans is part of preparing them.
        bench(options.recipe, ["data.cache=false", *options.set], options.device, options.rounds, options.results)

    return exit_code(work, out=options.results)


if __name__ == "__main__":
    sys.exit(main())
