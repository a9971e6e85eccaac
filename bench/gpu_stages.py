"""Where a scan's time goes on a GPU, from points to labels, against what arithmetic and memory allow.

    PYTHONPATH=. python bench/gpu_stages.py SCAN.bin --voxel-size 0.05 --json stages.json

Times are those of the kernels of one replay of the graph, by PyTorch's profiler, which itself slows the host down: the
wall-clock time beside them is measured without it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from mdkt_ros.benchmark.cases import parse_preset
from mdkt_ros.benchmark.machine import measure_machine
from mdkt_ros.benchmark.scans import spinning_scan
from mdkt_ros.checkpoint import CheckpointMeta
from mdkt_ros.labels import LabelSpace
from mdkt_ros.network import PointNetwork, build_network, flops
from mdkt_ros.segmenter import Segmenter
from mdkt_ros.sparse import SparseConvolution, SparseTensor, fuse, in_precision, use_engine
from mdkt_ros.voxel_grid import VoxelGrid
from mdkt_ros.voxels import collate, voxelize

RANGE = ((-80.0, -80.0, -10.0), (80.0, 80.0, 10.0))
STAGES = {
    # the first kernel of each stage, in the order in which a scan passes them
    "copy to the GPU": "Memcpy HtoD",
    "voxels and levels": "number_cells",
    "kernel maps": "link_levels",
    "order of tiles": "number_patterns",
    "network": "gather_gemm_scatter",
    "labels": "label_points",
    "copy from the GPU": "Memcpy DtoH",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, nargs="?", help="KITTI's .bin; a made-up street without it")
    parser.add_argument("--preset", default="minkunet18")
    parser.add_argument("--voxel-size", type=float, default=0.05)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--tune", action="store_true", help="measure launch configurations first")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    points = spinning_scan() if options.scan is None else np.fromfile(options.scan, np.float32).reshape(-1, 4)[:, :3]
    points = np.ascontiguousarray(points)
    preset, width = parse_preset(options.preset)
    torch.manual_seed(0)
    network = fuse(build_network(preset, in_channels=4, classes=19, width=width))
    grid = VoxelGrid(options.voxel_size, *RANGE)
    meta = CheckpointMeta(preset, width, grid, LabelSpace.load("semantickitti"))
    if options.tune:
        from mdkt_ros.sparse.backend import current_backend

        with use_engine("triton"):
            backend: Any = current_backend(torch.device("cuda"))
        backend.tuning = True
    start = time.perf_counter()
    segmenter = Segmenter(network, meta, device="cuda", engine="triton", precision=options.precision)
    intensity = np.full(len(points), 0.3, np.float32)
    segmenter.segment(points, intensity)
    ready = time.perf_counter() - start
    memory = torch.cuda.memory_reserved() / 2**20
    walls = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        segmenter.segment(points, intensity)
        walls.append(1e3 * (time.perf_counter() - start))
    stages = _stages(segmenter, points, intensity)
    machine = measure_machine(torch.device("cuda"))
    voxels, gflop, megabytes = _work(in_precision(network, segmenter.precision.dtype), points, grid)
    rate = machine.gemm_gflops if segmenter.precision.name == "fp32" else machine.gemm_half_gflops
    print(
        f"{machine.name}: {preset} x {width:g}, {options.precision}, voxels of {options.voxel_size} m, {len(points):,} "
        f"points, {voxels:,} voxels; ready after {ready:.1f} s, {memory:.0f} MiB reserved"
    )
    for stage, (count, milliseconds) in stages.items():
        print(f"{stage:20s} {count:4d} kernels {milliseconds:7.3f} ms")
    total = sum(milliseconds for _, milliseconds in stages.values())
    print(f"{'all on the GPU':20s}              {total:7.3f} ms")
    walls.sort()
    print(
        f"points to labels, wall clock: median {median(walls):.2f} ms, least {walls[0]:.2f}, "
        f"90th percentile {walls[int(0.9 * len(walls))]:.2f}"
    )
    print(f"floors of the network: {gflop:.0f} GFLOP at {rate / 1e3:.0f} TFLOP/s are {gflop / rate * 1e3:.2f} ms;")
    print(f"  {megabytes:.0f} MB at {machine.copy_gbs:.0f} GB/s are {megabytes / machine.copy_gbs:.2f} ms")
    if options.json is not None:
        found = {
            "machine": vars(machine),
            "stages_ms": {stage: milliseconds for stage, (_, milliseconds) in stages.items()},
            "wall_ms": {"median": median(walls), "least": walls[0], "p90": walls[int(0.9 * len(walls))]},
            "floors": {"gflop": gflop, "megabytes": megabytes},
            "voxels": voxels,
            "ready_s": ready,
            "memory_mib": memory,
        }
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _stages(segmenter: Segmenter, points: Any, intensity: Any) -> dict[str, tuple[int, float]]:
    """Kernels and milliseconds of each stage of one scan, in the order of the scan's way."""
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as recorded:
        segmenter.segment(points, intensity)
    kernels = [event for event in recorded.events() if event.device_type.name == "CUDA"]
    kernels.sort(key=lambda event: event.time_range.start)
    stages: dict[str, tuple[int, float]] = dict.fromkeys(STAGES, (0, 0.0))
    waiting = list(STAGES)
    stage = waiting.pop(0)
    for kernel in kernels:
        if waiting and STAGES[waiting[0]] in kernel.name:
            stage = waiting.pop(0)
        count, milliseconds = stages[stage]
        stages[stage] = count + 1, milliseconds + kernel.time_range.elapsed_us() / 1e3
    return stages


@torch.no_grad()
def _work(network: PointNetwork, points: Any, grid: VoxelGrid) -> tuple[int, float, float]:
    """Voxels, 10^9 operations and 10^6 bytes of a forward pass, whatever is read or written counted once a layer."""
    x = collate([voxelize(points, None, grid)])[0].to("cuda")
    moved = 0

    def count(module: Any, inputs: Sequence[SparseTensor], output: SparseTensor) -> None:
        nonlocal moved
        kernel_map = module.kernel_map(inputs[0])
        volume, cin, cout = kernel_map.offsets, module.in_channels, module.out_channels
        size = module.kernel.element_size()
        moved += size * (len(inputs[0]) * cin + len(output) * cout + volume * cin * cout) + 4 * kernel_map.pairs

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, SparseConvolution)]
    try:
        with use_engine("triton"):
            operations = flops(network.to("cuda"), x)
    finally:
        for hook in hooks:
            hook.remove()
    return len(x), operations / 1e9, moved / 1e6


if __name__ == "__main__":
    main()
