"""Score a checkpoint on labelled scans, over every original point.

    python training/evaluate.py --checkpoint model.safetensors --data folder:scans --frames 21-27
    python training/evaluate.py --checkpoint model.safetensors --data semantickitti:/data/semantickitti --sequences 08 \
        --json scores.json --predictions predictions

One confusion matrix over all scans. A point that the network cannot label (out of its range) is a miss of its class,
points without a class are left out. Where the data has cameras, also inside and outside their view. `--predictions`
writes the files that the benchmark's server takes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mdkt_ros.drive.frame import Drive
from mdkt_ros.drive.predictions import prediction_writer
from mdkt_ros.drive.sight import seen_by_cameras
from mdkt_ros.errors import ConfigError, LabelError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.metrics import confusion_matrix, scores
from mdkt_ros.output import atomic_output, refuse_existing
from mdkt_ros.segmenter import Segmenter
from mdkt_ros.sparse import PRECISIONS, engines
from training.command import exit_code
from training.config import DataConfig
from training.config_checks import DATA_KINDS
from training.data.source import open_data

Sink = Callable[[int, npt.NDArray[np.uint8]], None]


@dataclass(frozen=True)
class Evaluation:
    """What scoring a drive gave.

    Attributes:
        confusion: (C, C + 1) int64 over every labelled point, as `metrics.confusion_matrix`; zeros without any.
        inside, outside: the same over the points that a camera sees, and the others; None where there are no cameras.
        scans, points: read, points with or without a class.
        seconds: of the network and its surroundings, without reading and scoring.
    """

    labels: LabelSpace
    confusion: npt.NDArray[np.int64]
    inside: npt.NDArray[np.int64] | None
    outside: npt.NDArray[np.int64] | None
    scans: int
    points: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Figures by name, of JSON types only; null where there is nothing to divide by."""
        result = scores(self.confusion)
        by_class = {
            name: {
                "iou": _number(result.iou[i]),
                "precision": _number(result.precision[i]),
                "recall": _number(result.recall[i]),
                "points": int(result.support[i]),
            }
            for i, name in enumerate(self.labels.names)
        }
        parts = {"inside_view": self.inside, "outside_view": self.outside}
        views = {
            name: {"miou": _number(scores(part).miou), "points": int(part.sum())}
            for name, part in parts.items()
            if part is not None
        }
        return {
            "label_space": self.labels.name,
            "miou": _number(result.miou),
            "accuracy": _number(result.accuracy),
            "classes_present": int((result.support > 0).sum()),
            "scans": self.scans,
            "points": self.points,
            "labelled_points": int(self.confusion.sum()),
            "unlabelled_predictions": int(self.confusion[:, -1].sum()),
            "ms_per_scan": round(1000 * self.seconds / max(self.scans, 1), 2),
            **views,
            "classes": by_class,
            "confusion": self.confusion.tolist(),
        }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def evaluate(
    segmenter: Segmenter,
    drive: Drive,
    *,
    sink: Sink | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Segment every scan of a drive and compare with its labels; scans without labels are only given to `sink`.

    Raises:
        LabelError: the drive's classes are not the network's.
    """
    labels = segmenter.labels
    if drive.labels is not None and drive.labels.names != labels.names:
        raise LabelError(
            f"{drive.name}: its classes are those of {drive.labels.name} ({', '.join(drive.labels.names)}), "
            f"the checkpoint knows those of {labels.name} ({', '.join(labels.names)})"
        )
    whole, inside, outside = np.zeros((3, len(labels), len(labels) + 1), dtype=np.int64)
    any_view, points, seconds = False, 0, 0.0
    for index in range(len(drive)):
        frame = drive[index]
        began = time.perf_counter()
        predicted = segmenter.segment(frame.points, frame.intensity).class_id
        seconds += time.perf_counter() - began
        points += len(predicted)
        if sink is not None:
            sink(index, predicted)
        if frame.labels is not None:
            whole += confusion_matrix(frame.labels, predicted, len(labels))
            if frame.views:
                any_view, seen = True, seen_by_cameras(frame)
                inside += confusion_matrix(frame.labels[seen], predicted[seen], len(labels))
                outside += confusion_matrix(frame.labels[~seen], predicted[~seen], len(labels))
        if progress is not None:
            progress(index + 1, len(drive))
    seen_part, unseen_part = (inside, outside) if any_view else (None, None)
    return Evaluation(labels, whole, seen_part, unseen_part, len(drive), points, seconds)


def table(evaluation: Evaluation) -> Table:
    """Per-class figures in percent, mean last."""
    result = scores(evaluation.confusion)
    out = Table("class", *(f"{name} %" for name in ("IoU", "precision", "recall")), "points")
    for column in out.columns[1:]:
        column.justify = "right"

    def percent(value: float) -> str:
        return "-" if math.isnan(value) else f"{100 * value:.1f}"

    for i, name in enumerate(evaluation.labels.names):
        figures = (result.iou[i], result.precision[i], result.recall[i])
        out.add_row(name, *map(percent, figures), f"{result.support[i]:,}")
    out.add_section()
    present = int((result.support > 0).sum())
    out.add_row(f"mean of {present}", percent(result.miou), "", "", f"{result.support.sum():,}", style="bold")
    for name, part in (("inside cameras' view", evaluation.inside), ("outside", evaluation.outside)):
        if part is not None:
            out.add_row(name, percent(scores(part).miou), "", "", f"{part.sum():,}")
    return out


def data_config(text: str, frames: str, sequences: str, scenes: str, split: str, label_space: str) -> DataConfig:
    """The data that the command line names. Raises ConfigError."""
    kind, colon, root = text.partition(":")
    if not colon or kind not in DATA_KINDS:
        raise ConfigError(f"--data {text}: write kind:folder, the kind one of {', '.join(DATA_KINDS)}")
    return DataConfig(
        kind=kind,
        root=root,
        label_space=label_space,
        sequences=[name for name in sequences.split(",") if name],
        scenes=[name for name in scenes.split(",") if name],
        split=split,
        frames=frames,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0, or 1 with the error on one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a .safetensors file, or a shipped one by name")
    parser.add_argument("--data", required=True, metavar="KIND:FOLDER", help=f"kind: {', '.join(DATA_KINDS)}")
    parser.add_argument("--frames", default="", help="positions of the scans, 0-20 or 0-20,25")
    parser.add_argument("--sequences", default="", help="SemanticKITTI: 08 or 08,10")
    parser.add_argument("--scenes", default="", help="nuScenes: scene-0103 or several, comma between them")
    parser.add_argument(
        "--split", default="", help="nuScenes: a split of splits.json; also names the predictions' folder"
    )
    parser.add_argument("--label-space", default="", help="name or .yaml, where it is not the data set's own")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--engine", default="auto", help=f"of the convolutions: {', '.join(engines())}")
    parser.add_argument("--precision", default="fp32", help=f"of the convolutions: {', '.join(PRECISIONS)}")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--predictions", type=Path, help="folder to write, as the benchmark's server takes it")
    parser.add_argument("--force", action="store_true", help="replace existing results")
    options = parser.parse_args(arguments)
    return exit_code(lambda: run(options), out=options.json or options.predictions)


def run(options: argparse.Namespace) -> None:
    """Score, write and print what the command line asks for. Raises MdktError."""
    console, errors = Console(), Console(stderr=True)
    if options.json is not None:
        refuse_existing(options.json, options.force)
    chosen = (options.frames, options.sequences, options.scenes, options.split, options.label_space)
    drive = open_data(data_config(options.data, *chosen))
    segmenter = Segmenter.load(
        options.checkpoint,
        options.device,
        engine=options.engine,
        precision=options.precision,
        intensity_scale=drive.intensity_scale,
        axes=drive.axes,
    )
    sink: Any = nullcontext()
    if options.predictions is not None:
        split = options.split or "val"
        sink = prediction_writer(options.predictions, drive, labels=segmenter.labels, split=split, force=options.force)
    elif drive.labels is None:
        raise LabelError(f"{drive.name}: has no labels to score against; --predictions writes what the server takes")
    with sink as write, Progress(console=errors, transient=True) as bar:
        task = bar.add_task("evaluate", total=len(drive))
        result = evaluate(
            segmenter, drive, sink=write, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    if options.json is not None:
        facts = {"checkpoint": str(options.checkpoint or "shipped"), "data": options.data, **result.to_dict()}
        with atomic_output(options.json, force=options.force) as temporary:
            temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if result.confusion.any():
        console.print(table(result))
    console.print(
        f"{result.scans} scans, {result.points:,} points, {1000 * result.seconds / result.scans:.0f} ms a scan"
    )


if __name__ == "__main__":
    sys.exit(main())
