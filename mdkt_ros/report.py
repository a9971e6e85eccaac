"""What a run came to, as tables on the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mdkt_ros.labels import LabelSpace
from mdkt_ros.metrics import scores
from mdkt_ros.segment_summary import SegmentSummary, counted

if TYPE_CHECKING:
    from mdkt_ros.benchmark.cases import Row
    from mdkt_ros.benchmark.machine import Machine
    from mdkt_ros.benchmark.node import NodeMeasurement


def print_summary(console: Console, summary: SegmentSummary) -> None:
    """Print classes (with IoU where the drive had truth), milliseconds a stage, and what was skipped and why."""
    console.print(class_table(summary))
    console.print(_stage_table(summary))
    if summary.prompts:
        console.print(_prompt_table(summary))
    for reason, count in summary.skipped.items():
        text = f"skipped {counted(count, 'scan')}: {reason}"
        console.out(text, style="yellow", highlight=False)
    for note in summary.notes:
        console.out(note, style="yellow", highlight=False)


def class_table(summary: SegmentSummary) -> Table:
    """Points by predicted class and, where there is truth, IoU, precision and recall."""
    labels, total = summary.labels, max(summary.points, 1)
    title = f"{counted(summary.frames, 'scan')}, {counted(summary.points, 'point')}"
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    table.add_column("points", justify="right")
    table.add_column("share", justify="right")
    result = None if summary.confusion is None else scores(summary.confusion)
    if result is not None:
        for name in ("IoU", "precision", "recall", "true points"):
            table.add_column(name, justify="right")
    for class_id, name in enumerate(labels.names):
        points = int(summary.class_points[class_id])
        row = [_swatch(labels, class_id, name), f"{points:,}", f"{points / total:.1%}"]
        if result is not None:
            row += [_percent(column[class_id]) for column in (result.iou, result.precision, result.recall)]
            row.append(f"{int(result.support[class_id]):,}")
        table.add_row(*row)
    table.add_row("[dim]not labelled[/dim]", f"{summary.unlabelled:,}", f"{summary.unlabelled / total:.1%}")
    if result is not None:
        present = int((result.support > 0).sum())
        table.add_section()
        mean = f"[bold]mean of the {present} classes present[/bold]"
        table.add_row(mean, "", "", f"[bold]{_percent(result.miou)}[/bold]", "", "", f"{int(result.support.sum()):,}")
    return table


def _stage_table(summary: SegmentSummary) -> Table:
    table = Table(title="median milliseconds a scan", title_justify="left")
    for stage in summary.timings:
        table.add_column(stage, justify="right")
    table.add_row(*(f"{ms:.1f}" for ms in summary.timings.values()))
    return table


def _prompt_table(summary: SegmentSummary) -> Table:
    # Late, because torch takes seconds to import and only this table needs it.
    from mdkt_ros.prompts import column_names

    table = Table(title="points by name", title_justify="left")
    table.add_column("prompt")
    table.add_column("field")
    table.add_column("nearer than any class", justify="right")
    for prompt, column in zip(summary.prompts, column_names(tuple(summary.prompts)), strict=True):
        table.add_row(Text(prompt), column, f"{summary.prompts[prompt]:,}")
    return table


def summary_json(summary: SegmentSummary) -> dict[str, Any]:
    """The same as JSON types; IoU, precision and recall are null for a class that does not occur."""
    result = None if summary.confusion is None else scores(summary.confusion)
    document: dict[str, Any] = {
        "scans": summary.frames,
        "points": summary.points,
        "not_labelled": summary.unlabelled,
        "median_ms": summary.timings,
        "skipped": summary.skipped,
        "notes": list(summary.notes),
        **({"prompts": summary.prompts} if summary.prompts else {}),
        "classes": {
            name: {"points": int(summary.class_points[class_id])} for class_id, name in enumerate(summary.labels.names)
        },
    }
    if result is not None:
        document["miou"], document["accuracy"] = _number(result.miou), _number(result.accuracy)
        for class_id, entry in enumerate(document["classes"].values()):
            entry["true_points"] = int(result.support[class_id])
            for key in ("iou", "precision", "recall"):
                entry[key] = _number(getattr(result, key)[class_id])
    return document


def print_engines(console: Console, machine: Machine, rows: Sequence[Row], scaling: Sequence[Row]) -> None:
    """Print what `mdkt bench` measured: a table a network, a row a stage and engine."""
    console.print(
        f"{machine.name}: SGEMM {machine.gemm_gflops:.0f} GFLOP/s, "
        + (f"in bfloat16 {machine.gemm_half_gflops:.0f}, " if machine.gemm_half_gflops else "")
        + f"copy {machine.copy_gbs:.1f} GB/s, "
        + f"{counted(machine.threads, 'thread')}"
    )
    for network in dict.fromkeys((row.preset, row.width, row.threads) for row in rows):
        mine = [row for row in rows if (row.preset, row.width, row.threads) == network]
        first = mine[0]
        title = (
            f"{first.preset} x {first.width:g}: {first.parameters / 1e6:.2f} M parameters, {first.gflop:.1f} GFLOP; "
            f"{first.points:,} points, {first.voxels:,} voxels of {first.voxel_size:g} m; "
            f"{counted(first.threads, 'thread')}, {first.device}"
        )
        console.print(f"\n{title}", soft_wrap=True, highlight=False)
        table = Table()
        table.add_column("stage", no_wrap=True)
        table.add_column("engine", no_wrap=True)
        for column in ("CPU ms", "spread", "wall ms", "x torch", "of GEMM", "error"):
            table.add_column(column, justify="right")
        for row in mine:
            base = [other.ms for other in mine if other.stage == row.stage and other.engine == "torch"]
            halved = row.dtype != "float32" and machine.gemm_half_gflops
            rate = row.gflop / row.ms * 1e3 / (machine.gemm_half_gflops if halved else machine.gemm_gflops)
            same = row.stage == "forward" and row.threads == machine.threads
            table.add_row(
                row.stage.replace("_", " "),
                row.who,
                f"{row.cpu_ms:.1f}",
                f"{100 * row.spread:.0f}%",
                f"{row.wall_ms:.1f}",
                f"{base[0] / row.ms:.2f}" if base else "",
                f"{100 * rate:.0f}%" if same else "",
                "" if row.max_rel_error is None else f"{row.max_rel_error:.0e}",
            )
        console.print(table)
    if scaling:
        table = Table(title="Forward pass with maps, one thread", title_justify="left")
        for column in ("scans", "points", "voxels", "engine", "CPU ms"):
            table.add_column(column, justify="right")
        for row in scaling:
            table.add_row(str(row.scans), f"{row.points:,}", f"{row.voxels:,}", row.engine, f"{row.cpu_ms:.1f}")
        console.print(table)


def print_node_measurements(console: Console, results: Sequence[NodeMeasurement]) -> None:
    """Print what `mdkt bench --node` measured: a row a stage, two columns a scan."""
    table = Table(title="One thread; milliseconds are medians, a scan", title_justify="left")
    table.add_column("stage", no_wrap=True)
    for row in results:
        table.add_column(f"{row.points:,} points, CPU", justify="right")
        table.add_column("wall", justify="right")
    for stage in results[0].cpu_ms:
        figures = [figure for row in results for figure in (row.cpu_ms[stage], row.wall_ms[stage])]
        table.add_row(stage, *(f"{figure:.2f}" for figure in figures))
    totals = [text for row in results for text in (f"{row.overhead_ms:.2f}", "")]
    table.add_row("all but the network", *totals, style="bold")
    console.print(table)
    for row in results:
        if row.latency_ms is None:
            console.print(f"{row.points:,} points: latency not measured, there is no rclpy here")
            continue
        told = ", ".join(f"{name} {value:.1f}" for name, value in row.latency_ms.items())
        console.print(
            f"{row.points:,} points: from publishing the cloud to its labels in another process {told} ms "
            f"({counted(row.latency_scans, 'scan')})"
        )


def print_description(console: Console, description: dict[str, Any]) -> None:
    """Print what `mdkt info` found, nested values indented."""
    for line in _lines(description, 0):
        console.out(line, highlight=False)


def _lines(value: dict[str, Any], depth: int) -> list[str]:
    lines: list[str] = []
    pad = "  " * depth
    for key, item in value.items():
        if isinstance(item, dict) and item:
            lines += [f"{pad}{key}:", *_lines(item, depth + 1)]
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            lines.append(f"{pad}{key}:")
            for entry in item:
                first, *rest = _lines(entry, depth + 2)
                lines += [f"{pad}  - {first.strip()}", *rest]
        elif isinstance(item, list):
            lines.append(f"{pad}{key}: {', '.join(map(str, item))}")
        else:
            lines.append(f"{pad}{key}: {item}")
    return lines


def _swatch(labels: LabelSpace, class_id: int, name: str) -> str:
    red, green, blue = (int(v) for v in labels.palette[class_id])
    return f"[rgb({red},{green},{blue})]■[/] {name.replace('[', chr(92) + '[')}"


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
