"""The engine `native` beside spconv on the CPU: the same network, weights and scan, interleaved in one run.

    python -m venv /tmp/peers && /tmp/peers/bin/pip install torch spconv numba safetensors pyyaml   # spconv 2 for CPUs
    PYTHONPATH=. /tmp/peers/bin/python bench/peer_spconv.py SCAN.bin --json peers.json

spconv lives in an environment of its own, because it pins nothing that we do. Logits of the two are compared, so the
comparison is of the same work. CPU time of the whole process on one thread: what else the machine does hardly shows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from bench.peer_networks import SpconvNetwork
from mdkt_ros.benchmark.cases import parse_preset
from mdkt_ros.benchmark.scans import spinning_scan
from mdkt_ros.network import PointNetwork, build_network
from mdkt_ros.sparse import SparseTensor, fuse, in_precision, resolve_precision, use_engine
from mdkt_ros.voxel_grid import VoxelGrid
from mdkt_ros.voxels import collate, voxelize

RANGE = ((-100.0, -100.0, -10.0), (100.0, 100.0, 10.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, nargs="?", help="KITTI's .bin; a made-up street without it")
    parser.add_argument("--preset", default="minkunet18:0.5")
    parser.add_argument("--voxel-size", type=float, default=0.1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    points = spinning_scan() if options.scan is None else np.fromfile(options.scan, np.float32).reshape(-1, 4)[:, :3]
    grid = VoxelGrid(options.voxel_size, *RANGE)
    batch = collate([voxelize(points, None, grid)])[0]
    preset, width = parse_preset(options.preset)
    torch.manual_seed(0)
    network = build_network(preset, in_channels=4, classes=19, width=width)
    figures = compare(network, batch, grid, options.repeats)
    print(f"{preset} x {width:g}, {len(points):,} points, {len(batch):,} voxels, one thread, CPU ms (median, least)")
    for stage, times in figures.items():
        theirs = times["spconv"]
        for name, ours in times.items():
            faster = "" if name == "spconv" else f"   {theirs['median'] / ours['median']:.2f} times as fast"
            print(f"{stage:18s} {name:12s} {ours['median']:7.1f} {ours['least']:7.1f}{faster}")
    if options.json is not None:
        facts = {"preset": preset, "width": width, "points": len(points), "voxels": len(batch), "stages": figures}
        options.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def compare(
    network: PointNetwork, batch: SparseTensor, grid: VoxelGrid, repeats: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds by stage and engine."""
    if not torch.cuda.is_available():
        # Its backward pass asks for a CUDA stream on the CPU, too, which a PyTorch without CUDA refuses.
        import spconv.pytorch.ops

        spconv.pytorch.ops.get_current_stream = lambda: 0
    fused = fuse(network)
    peer, peer_trained = SpconvNetwork(fused, grid.shape, native=True), SpconvNetwork(network, grid.shape, native=True)
    with torch.no_grad(), use_engine("native"):
        ours, theirs = fused(SparseTensor(batch.features, batch.coordinates)).logits, peer(batch)
    error = float((ours - theirs).abs().max() / ours.abs().max())
    if not error < 1e-4:
        raise SystemExit(f"the networks disagree: {error:.1e} of the largest logit")
    print(f"largest deviation of logits: {error:.1e}")
    trained = network.train()

    def fresh() -> SparseTensor:
        return SparseTensor(batch.features, batch.coordinates)

    def no_gradient(work: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> None:
            with torch.no_grad():
                work()

        return run

    rounded = {}
    if resolve_precision("auto", torch.device("cpu"), "native").name == "bf16":
        halved = in_precision(fused, torch.bfloat16)
        rounded["native bf16"] = no_gradient(lambda: halved(fresh()))
    works = {
        "maps and forward": {
            "native": no_gradient(lambda: fused(fresh())),
            **rounded,
            "spconv": no_gradient(lambda: peer(batch)),
        },
        "and backward": {
            "native": lambda: trained(fresh()).logits.square().mean().backward(),
            "spconv": lambda: peer_trained.train()(batch).square().mean().backward(),
        },
    }
    times: dict[str, dict[str, list[float]]] = {stage: {name: [] for name in both} for stage, both in works.items()}
    for repeat in range(repeats + 1):
        for stage, both in works.items():
            for name, work in both.items():
                with use_engine("native"):
                    start = time.process_time()
                    work()
                    if repeat:
                        times[stage][name].append(1e3 * (time.process_time() - start))
    return {
        stage: {name: {"median": median(values), "least": min(values)} for name, values in both.items()}
        for stage, both in times.items()
    }


if __name__ == "__main__":
    main()
