"""What a run reports while it goes: a CSV file, TensorBoard events, and a line on the terminal."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from mdkt_ros.output import atomic_output

console = Console(stderr=True)


class RunLog:
    """One row a step in `log.csv` and TensorBoard; a context manager.

    Rows after `start` that an interrupted run left behind are removed, so the resumed run's log is one curve.
    `mIoU` is over the drawn labels of the epoch that ended last, as the network saw them while it learned.
    """

    def __init__(self, out: Path, columns: list[str], start: int, steps: int, *, quiet: bool) -> None:
        """`columns`: names after step; `quiet`: write nothing (every process but the first)."""
        self.quiet, self.columns, self._miou = quiet, ["step", *columns], math.nan
        if quiet:
            return
        path = out / "log.csv"
        kept = [row for row in _rows(path) if int(row["step"]) <= start] if start else []
        with atomic_output(path, force=True) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)
        self._miou = next((float(row["miou"]) for row in reversed(kept) if row["miou"]), math.nan)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._csv = csv.DictWriter(self._file, self.columns, lineterminator="\n")
        self._events = SummaryWriter(str(out), purge_step=start + 1)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._task = self._bar.add_task("training", total=steps, completed=start, figures="")

    def __enter__(self) -> RunLog:
        if not self.quiet:
            self._bar.start()
        return self

    def row(self, step: int, values: dict[str, float | None]) -> None:
        """Report step `step` (1 is the first); None leaves a figure out."""
        if self.quiet:
            return
        if (miou := values.get("miou")) is not None:
            self._miou = miou
            if not self._bar.console.is_terminal:
                # A log file holds a line an epoch instead of a bar.
                console.print(f"step {step} epoch {values['epoch']:.2f} loss {values['loss']:.4f} mIoU {miou:.4f}")
        self._csv.writerow({"step": step, **{k: "" if v is None else repr(v) for k, v in values.items()}})
        self._file.flush()
        for name, value in values.items():
            if value is not None:
                self._events.add_scalar(f"train/{name}", value, step)
        figures = f"loss {values['loss']:.3f}  mIoU {self._miou:.3f}"
        self._bar.update(self._task, completed=step, figures=figures)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.quiet:
            self._bar.stop()
            self._events.close()
            self._file.close()


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        # A row that a killed run left half-written has no last column.
        return [row for row in csv.DictReader(file) if None not in row.values() and row["step"].isdigit()]
