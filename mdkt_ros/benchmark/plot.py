"""Pictures of what `mdkt bench` measured. Needs matplotlib (extra `bench`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdkt_ros.benchmark.cases import STAGES, Row
from mdkt_ros.benchmark.layers import LayerRow
from mdkt_ros.benchmark.machine import Machine
from mdkt_ros.errors import ConfigError
from mdkt_ros.output import atomic_output

_COLORS = {
    "torch": "#8c8c8c",
    "native": "#1f6fb4",
    "native bfloat16": "#7fb2dd",
    "gemm": "#c9c9c9",
    "triton": "#2e9e5b",
    "torchsparse": "#c46a1b",
}
_OTHERS = ("#7d4fb0", "#b0304f")


def plot(path: Path, machine: Machine, rows: Sequence[Row], scaling: Sequence[Row], layers: Sequence[LayerRow]) -> None:
    """Times by stage, the roofline and, where it was measured, scaling, into one picture (.png, .svg, .pdf).

    Raises:
        ConfigError: matplotlib is missing. OutputError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("the plot needs matplotlib: pip install 'mdkt_ros[bench]', or leave --plot out") from None
    figure = Figure(figsize=(15 if scaling else 10.5, 4.4), layout="constrained")
    axes = figure.subplots(1, 3 if scaling else 2)
    _bars(axes[0], rows)
    _roofline(axes[1], machine, layers)
    if scaling:
        _scaling(axes[2], scaling)
    with atomic_output(path, force=True) as part:
        figure.savefig(part, format=path.suffix[1:] or "png", dpi=130)


def _color(engine: str, engines: Sequence[str]) -> str:
    others = [name for name in engines if name not in _COLORS]
    return _COLORS.get(engine) or _OTHERS[others.index(engine) % len(_OTHERS)]


def _bars(axis: Any, rows: Sequence[Row]) -> None:
    """Times of the first network, by engine, at the fewest threads."""
    first = rows[0]
    threads = min(row.threads for row in rows)
    mine = [row for row in rows if (row.preset, row.width, row.threads) == (first.preset, first.width, threads)]
    engines = list(dict.fromkeys(row.who for row in mine))
    stages = [stage for stage in STAGES if any(row.stage == stage for row in mine)]
    for number, engine in enumerate(engines):
        wide = 0.8 / len(engines)
        for row in mine:
            if row.who != engine:
                continue
            place = stages.index(row.stage) + (number - (len(engines) - 1) / 2) * wide
            label = engine if row.stage == "forward" else None
            axis.bar(place, row.cpu_ms, wide * 0.92, color=_color(engine, engines), label=label)
            axis.annotate(f"{row.cpu_ms:.0f}", (place, row.cpu_ms), ha="center", va="bottom", fontsize=8)
    axis.set_xticks(range(len(stages)), [stage.replace("_", " ") for stage in stages], fontsize=9)
    axis.set_ylabel("CPU ms")
    axis.set_title(f"{first.preset} x {first.width:g}, {first.voxels:,} voxels, {threads} thread(s)", fontsize=10)
    axis.legend(frameon=False, fontsize=9)


def _roofline(axis: Any, machine: Machine, layers: Sequence[LayerRow]) -> None:
    engines = list(dict.fromkeys(layer.engine for layer in layers))
    for engine in engines:
        mine = [layer for layer in layers if layer.engine == engine]
        sizes = [12 + 60 * layer.pairs / max(layer.pairs for layer in layers) for layer in mine]
        axis.scatter(
            [layer.intensity for layer in mine],
            [layer.gflops for layer in mine],
            s=sizes,
            color=_color(engine, engines),
            alpha=0.75,
            label=engine,
            linewidths=0,
        )
    low, high = (edge(layer.intensity for layer in layers) for edge in (min, max))
    reach = [low / 1.5, machine.gemm_gflops / machine.copy_gbs, max(high * 1.5, machine.gemm_gflops / machine.copy_gbs)]
    axis.plot(reach, [min(machine.gemm_gflops, machine.copy_gbs * x) for x in reach], color="black", linewidth=1)
    axis.annotate(
        f"SGEMM {machine.gemm_gflops:.0f} GFLOP/s, copy {machine.copy_gbs:.0f} GB/s",
        (reach[-1], machine.gemm_gflops),
        ha="right",
        va="bottom",
        fontsize=8,
    )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("operations a byte, if everything is moved once")
    axis.set_ylabel("GFLOP/s")
    axis.set_title("convolutions against the roofline", fontsize=10)
    axis.legend(frameon=False, fontsize=9)


def _scaling(axis: Any, rows: Sequence[Row]) -> None:
    engines = list(dict.fromkeys(row.engine for row in rows))
    for engine in engines:
        for many, style in ((False, "-o"), (True, "--s")):
            mine = [row for row in rows if row.engine == engine and (row.scans > 1) == many]
            mine.sort(key=lambda row: row.points)
            if mine:
                what = "batches" if many else "one scan"
                axis.plot(
                    [row.points for row in mine],
                    [row.cpu_ms for row in mine],
                    style,
                    markersize=4,
                    linewidth=1,
                    color=_color(engine, engines),
                    label=f"{engine}, {what}",
                )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("points")
    axis.set_ylabel("CPU ms of a forward pass, maps included")
    axis.set_title("size of the scan, number of scans", fontsize=10)
    axis.legend(frameon=False, fontsize=8)
