"""Is the fused branch better than the network that it teaches? What each predicts where images show points.

    python bench/teachers.py                                    # the recipe of bench/label_efficiency.py, seed 0
    python bench/teachers.py --set transfer.weight=16           # the same, taught harder
    python bench/teachers.py --set pseudo.weight=0 data.percent=100     # images alone, as many labels as there are

Trains the row "+ image-text pseudo labels" (no contrast, no teacher of its own) and, a few times on the way, compares
all branches with the truth of every point in view of the training scans, nearly none of which was drawn as a label.
mIoU and share of the points that are right, in percent. Training scans, so that the question is what was taught, not
what was generalised; nothing is chosen by the figures of towns that are scored.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.methods import RECIPE, Run, budget_of, method_named
from bench.step_cost import open_stream
from mdkt_ros.errors import ConfigError
from mdkt_ros.labels import IGNORE
from mdkt_ros.metrics import confusion_matrix, scores
from training.command import exit_code
from training.config import TrainConfig
from training.data.dataset import TrainingStream, make_batch
from training.data.towns import make_towns
from training.learner import Learner, make_learner
from training.processes import join_processes

AS_RECORDED = [
    *(f"augment.{name}=0" for name in ("yaw", "flip", "scale", "tilt", "shift", "jitter", "drop", "intensity", "mix")),
    "images.color=0",
    "images.flip=0",
    "images.pairs=0",
    "transfer.every=1",
    "pseudo.weight=0",
]
"""Scans as they are, all of their pairs, and nothing said about them."""


def predictions(learner: Learner, stream: TrainingStream, scan: int) -> tuple[npt.NDArray[np.int64], dict[str, Tensor]]:
    """Truth (P,) of a scan's points in view, and scores (P, C) of each branch."""
    batch = make_batch([stream[scan]]).to(learner.processes.device)
    assert batch.pairs is not None
    output = learner.student.network(batch.voxels)
    found = {"student": output.logits[batch.pairs.row]}
    if learner.average is not None:
        found["average"] = learner.average.network(batch.voxels).logits[batch.pairs.row]
    if learner.student.scheme.transfer is not None:
        taught = learner.student.scheme.transfer(output, batch.voxels, batch.pairs)
        found |= {f"fused {stride}": logits for stride, logits in taught.fused.items()}
        found |= {f"point {stride}": logits for stride, logits in taught.point.items() if stride > 1}
        found["image"] = taught.image
    return batch.pairs.target.cpu().numpy(), found


@torch.no_grad()
def compare(learner: Learner, stream: TrainingStream, scans: Sequence[int]) -> dict[str, tuple[float, float]]:
    """mIoU and accuracy of each branch, 0..1, over the points in view of `scans`."""
    classes = len(stream.source.labels)
    total: dict[str, npt.NDArray[np.int64]] = {}
    learner.student.eval()
    for scan in scans:
        truth, found = predictions(learner, stream, scan)
        known = truth != IGNORE
        for name, logits in found.items():
            named = logits.argmax(1).cpu().numpy()[known].astype(np.uint8)
            counts = confusion_matrix(truth[known].astype(np.uint8), named, classes)
            total[name] = total.get(name, 0) + counts
    learner.student.train()
    return {name: (scores(c).miou, float(np.trace(c[:, :classes]) / max(c.sum(), 1))) for name, c in total.items()}


def settings(recipe: Path, more: Sequence[str], seed: int) -> tuple[TrainConfig, TrainConfig]:
    """Of the training, and of the comparison: the scans as recorded, all their labels. Raises ConfigError."""
    method = method_named("image_text")
    trained = Run(method, budget_of(more, recipe), seed).config(more, recipe)
    compared = Run(method, 100.0, seed).config([*more, *AS_RECORDED, "transfer.weight=1"], recipe)
    return trained, compared


def bench(recipe: Path, more: Sequence[str], seed: int, looks: int, scans: int) -> None:
    """Train and compare. Raises MdktError."""
    config, told = settings(recipe, more, seed)
    if config.data.kind == "synthetic":
        make_towns(config.data)
    torch.set_num_threads(1)
    steps = config.optim.steps
    if steps < looks:
        raise ConfigError(f"optim.steps = {steps}: at least {looks}, a step a look")
    with join_processes("cpu") as processes:
        stream, truth = open_stream(config, processes), open_stream(told, processes)
        learner = make_learner(config, processes, stream)
        some = np.linspace(0, len(truth.source) - 1, min(scans, len(truth.source))).astype(int).tolist()
        size = config.optim.batch_size
        for step in range(steps):
            learner.step(make_batch([stream[step * size + i] for i in range(size)]), step, steps)
            if (step + 1) % (steps // looks) == 0:
                each = compare(learner, truth, some)
                line = ", ".join(f"{name} {100 * miou:.1f} ({100 * right:.1f})" for name, (miou, right) in each.items())
                print(f"step {step + 1}: {line}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0, or 1 with the error on one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="a recipe with all parts on")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings over the recipe's")
    parser.add_argument("--seed", type=int, default=0, help="of weights and label draw")
    parser.add_argument("--looks", type=int, default=4, help="how often the branches are compared")
    parser.add_argument("--scans", type=int, default=40, help="training scans that they are compared on")
    options = parser.parse_args(arguments)
    if options.looks < 1 or options.scans < 1:
        parser.error("--looks and --scans must be above 0")
    return exit_code(lambda: bench(options.recipe, options.set, options.seed, options.looks, options.scans))


if __name__ == "__main__":
    sys.exit(main())
