"""`mdkt bench`: measure, write the figures as JSON, and say how to show them."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mdkt_ros.benchmark.cases import GEMM, PRESETS, Row, parse_engine, parse_preset
from mdkt_ros.benchmark.engines import measure as measure_engines
from mdkt_ros.benchmark.layers import measure_layers
from mdkt_ros.benchmark.machine import measure_machine
from mdkt_ros.benchmark.node import SIZES, NodeMeasurement, made_up_scan, measure_node, save_random, scan_message
from mdkt_ros.benchmark.plot import plot
from mdkt_ros.benchmark.scans import scan_of, spinning_scan
from mdkt_ros.device import resolve_device
from mdkt_ros.errors import ConfigError
from mdkt_ros.memory import keep_freed_memory
from mdkt_ros.network import build_network
from mdkt_ros.output import atomic_output
from mdkt_ros.report import print_engines, print_node_measurements
from mdkt_ros.scan import read_scan
from mdkt_ros.sparse import current_engine, engines, fuse, resolve_precision, use_engine
from mdkt_ros.voxel_grid import VoxelGrid
from mdkt_ros.voxels import collate, voxelize

Progress = Callable[[int, int], None]
Show = Callable[[Console], None]

_SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
_BATCHES = (1, 2, 4, 8, 16)
_BATCH_POINTS = 30_000


def bench_engines(
    scan: Path | None,
    presets: Sequence[str],
    *,
    chosen: Sequence[str] = (),
    threads: Sequence[int] = (),
    voxel_size: float,
    repeats: int,
    device: str,
    scaling: bool = False,
    progress: Progress | None = None,
    as_json: Path | None = None,
    picture: Path | None = None,
) -> Show:
    """Engines side by side on a scan, a made-up street without one. Raises MdktError.

    Args:
        chosen: engines, `NAME` or `NAME:bf16`; without them all that run here, in bfloat16 too where that is quicker,
            and the products alone.
        threads: numbers of CPU threads; without them 1 and as many as PyTorch takes.
        scaling: also scans of 10 thousand to 1 million points, and batches of 1 to 16.
    """
    on = resolve_device(device)
    names = list(chosen) if chosen else [*_running(on), GEMM]
    counts = list(threads) or sorted({1, torch.get_num_threads()})
    networks = [parse_preset(text) for text in presets] or list(PRESETS)
    points = spinning_scan() if scan is None else read_scan(scan).xyz()
    rows = measure_engines(
        [points],
        voxel_size=voxel_size,
        presets=networks,
        engines=names,
        threads=counts,
        repeats=repeats,
        device=str(on),
        progress=progress,
    )
    real = list(dict.fromkeys(name for name, _ in map(parse_engine, names) if name != GEMM))
    grown = _scaling(networks[0], real, voxel_size, repeats, str(on)) if scaling else []
    before = torch.get_num_threads()
    torch.set_num_threads(min(counts))
    try:
        machine = measure_machine(on)
        preset, width = networks[0]
        grid = VoxelGrid(voxel_size, (-100.0, -100.0, -10.0), (100.0, 100.0, 10.0))
        batch = collate([voxelize(points, None, grid)])[0].to(on)
        network = fuse(build_network(preset, in_channels=4, classes=19, width=width)).to(on)
        layers = measure_layers(network, batch, real, repeats)
    finally:
        torch.set_num_threads(before)
    if as_json is not None:
        _write(as_json, {"machine": machine, "rows": rows, "scaling": grown, "layers": layers})
    if picture is not None:
        plot(picture, machine, rows, grown, layers)
    return functools.partial(print_engines, machine=machine, rows=rows, scaling=grown)


def _running(device: torch.device) -> list[str]:
    """Engines that run on the device, and those in bfloat16 that it makes quicker."""
    found = []
    for name in engines():
        if name == "auto":
            continue
        try:
            with use_engine(name):
                current_engine(device)
        except ConfigError:
            continue
        found.append(name)
        if resolve_precision("auto", device, name).name == "bf16":
            found.append(f"{name}:bf16")
    return sorted(found, key=lambda name: name.partition(":")[0] != "torch")


def _scaling(
    network: tuple[str, float], names: Sequence[str], voxel_size: float, repeats: int, device: str
) -> list[Row]:
    """Forward passes with their maps, on one CPU thread."""
    inputs = [[scan_of(size)] for size in _SIZES]
    inputs += [[scan_of(_BATCH_POINTS, seed) for seed in range(count)] for count in _BATCHES]
    rows = []
    for scans in inputs:
        found = measure_engines(
            scans,
            voxel_size=voxel_size,
            presets=[network],
            engines=names,
            stages=("maps", "forward"),
            repeats=repeats,
            device=device,
            compare=False,
        )
        for name in names:
            maps, forward = (row for row in found if row.engine == name)
            rows.append(
                dataclasses.replace(
                    forward,
                    stage="maps_and_forward",
                    wall_ms=maps.wall_ms + forward.wall_ms,
                    cpu_ms=maps.cpu_ms + forward.cpu_ms,
                    spread=max(maps.spread, forward.spread),
                )
            )
    return rows


def bench_node(
    scan: Path | None,
    checkpoint: Path | None,
    *,
    presets: Sequence[str] = (),
    voxel_size: float = 0.1,
    repeats: int,
    device: str,
    precision: str = "fp32",
    progress: Progress | None = None,
    as_json: Path | None = None,
) -> Show:
    """Each stage of the ROS 2 node on a scan, two made-up streets without one; what rclpy adds, where it is.

    Raises MdktError.

    Args:
        presets: instead of a checkpoint a network with random weights, `NAME` or `NAME:WIDTH`, in voxels of
            `voxel_size`, metres: a network's time does not depend on what it has learnt.
    """
    if len(presets) > 1 or (presets and checkpoint is not None):
        raise ConfigError("preset: with --node one network is measured: give one --preset, or --checkpoint")
    if scan is None:
        clouds = [made_up_scan(*size) for size in SIZES]
    else:
        cloud = read_scan(scan)
        clouds = [scan_message(cloud.xyz(), cloud.intensity())]
    keep_freed_memory()  # as the node does
    on = str(resolve_device(device))
    measure_clouds: Callable[..., list[NodeMeasurement]] = measure_node
    if find_spec("rclpy") is not None:
        from mdkt_ros.ros.bench import measure

        measure_clouds = measure
    with tempfile.TemporaryDirectory(prefix="mdkt-bench-") as folder:
        if presets:
            checkpoint = Path(folder, "random.safetensors")
            save_random(checkpoint, *parse_preset(presets[0]), voxel_size)
        rows = measure_clouds(clouds, checkpoint, precision, device=on, repeats=repeats, progress=progress)
    if as_json is not None:
        _write(as_json, rows)
    return functools.partial(print_node_measurements, results=rows)


def _write(path: Path, figures: Any) -> None:
    with atomic_output(path, force=True) as part:
        part.write_text(json.dumps(figures, indent=1, default=dataclasses.asdict) + "\n", encoding="utf-8")
