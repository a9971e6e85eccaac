"""`mdkt bench`: measure, write the figures as JSON, and say how to show them."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from mdkt_ros.bench import PRESETS, measure, parse_preset, spinning_scan
from mdkt_ros.bench_node import SIZES, made_up_scan, measure_node, scan_message
from mdkt_ros.device import resolve_device
from mdkt_ros.output import atomic_output
from mdkt_ros.report import print_measurements, print_node_measurements
from mdkt_ros.scan import read_scan

Progress = Callable[[int, int], None]
Show = Callable[[Console], None]


def bench_networks(
    scan: Path | None,
    presets: Sequence[str],
    *,
    voxel_size: float,
    repeats: int,
    device: str,
    progress: Progress | None = None,
    as_json: Path | None = None,
) -> Show:
    """Each network preset on a scan, a made-up street without one. Raises MdktError."""
    cloud = None if scan is None else read_scan(scan)
    rows = measure(
        spinning_scan() if cloud is None else cloud.xyz(),
        None if cloud is None else cloud.intensity(),
        voxel_size=voxel_size,
        presets=[parse_preset(text) for text in presets] or PRESETS,
        repeats=repeats,
        device=str(resolve_device(device)),
        progress=progress,
    )
    _write(as_json, rows)
    return functools.partial(print_measurements, results=rows)


def bench_node(
    scan: Path | None,
    checkpoint: Path | None,
    *,
    repeats: int,
    device: str,
    progress: Progress | None = None,
    as_json: Path | None = None,
) -> Show:
    """Each stage of the ROS 2 node on a scan, two made-up streets without one; what rclpy adds, where it is.

    Raises MdktError.
    """
    if scan is None:
        clouds = [made_up_scan(*size) for size in SIZES]
    else:
        cloud = read_scan(scan)
        clouds = [scan_message(cloud.xyz(), cloud.intensity())]
    if find_spec("rclpy") is None:
        rows = measure_node(clouds, checkpoint, repeats=repeats, progress=progress)
    else:
        from mdkt_ros.ros.bench import measure as measure_with_ros

        on = str(resolve_device(device))
        rows = measure_with_ros(clouds, checkpoint, device=on, repeats=repeats, progress=progress)
    _write(as_json, rows)
    return functools.partial(print_node_measurements, results=rows)


def _write(path: Path | None, rows: Sequence[Any]) -> None:
    if path is not None:
        with atomic_output(path, force=True) as part:
            part.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
