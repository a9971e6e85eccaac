"""What each network preset costs on a scan.

    python bench/forward.py SCAN [--voxel-size 0.1] [--preset minkunet18:0.5 ...] [--device cuda] [--json FILE]

SCAN is a KITTI or nuScenes .bin or a .pcd; without it a made-up street of 120 k points is used. Times are medians; the
CPU columns are process time on one thread, so that other work on the machine disturbs them less: of a whole pass, and
of what is made anew for every scan (levels and kernel maps). Wall time is that of a pass on all threads (their number).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from mdkt_ros.bench import PRESETS, Measurement, measure, spinning_scan
from mdkt_ros.errors import MdktError
from mdkt_ros.output import atomic_output
from mdkt_ros.scan import read_scan


def parse_preset(text: str) -> tuple[str, float]:
    name, _, width = text.partition(":")
    return name, float(width or 1)


def table(results: list[Measurement]) -> Table:
    first = results[0]
    title = f"{first.points} points, {first.voxels} voxels, {platform.machine()}, PyTorch {torch.__version__}"
    out = Table(title=title)
    wall = f"wall ms ({first.threads})"
    for column in ("preset", "width", "parameters", "GFLOP", "CPU ms", "maps", wall):
        out.add_column(column, justify="left" if column == "preset" else "right")
    for row in results:
        out.add_row(
            row.preset,
            f"{row.width:g}",
            f"{row.parameters:,}",
            f"{row.gflop:.1f}",
            f"{row.single_ms:.0f}",
            f"{row.maps_ms:.0f}",
            f"{row.wall_ms:.0f}",
        )
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", nargs="?", type=Path)
    parser.add_argument("--voxel-size", type=float, default=0.1, help="metres")
    parser.add_argument("--preset", action="append", type=parse_preset, help="name or name:width; all when not given")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="of the wall time")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    try:
        cloud = None if arguments.scan is None else read_scan(arguments.scan)
        results = measure(
            spinning_scan() if cloud is None else cloud.xyz(),
            None if cloud is None else cloud.intensity(),
            voxel_size=arguments.voxel_size,
            presets=arguments.preset or PRESETS,
            repeats=arguments.repeats,
            device=arguments.device,
        )
        if arguments.json is not None:
            with atomic_output(arguments.json, force=True) as path:
                path.write_text(json.dumps([dataclasses.asdict(row) for row in results], indent=1) + "\n", "utf-8")
    except MdktError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    Console().print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
