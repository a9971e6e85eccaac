"""The engine `triton` beside spconv and torchsparse on a GPU: the same network, weights and scan in one run.

    PYTHONPATH=. python bench/peer_cuda.py SCAN.bin --voxel-size 0.05 --json peers.json

Peers that are not installed, or fail, are named and left out. Wall-clock milliseconds with the device waited for.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import numpy.typing as npt
import torch

from bench.peer_networks import PeerNetwork, SpconvNetwork, TorchsparseNetwork
from mdkt_ros.benchmark.cases import parse_preset
from mdkt_ros.benchmark.scans import spinning_scan
from mdkt_ros.checkpoint import CheckpointMeta
from mdkt_ros.labels import LabelSpace
from mdkt_ros.network import PointNetwork, build_network
from mdkt_ros.segmenter import Segmenter
from mdkt_ros.sparse import SparseTensor, fuse, in_precision, use_engine
from mdkt_ros.voxel_grid import VoxelGrid
from mdkt_ros.voxels import collate, voxelize_tensor

RANGE = ((-80.0, -80.0, -10.0), (80.0, 80.0, 10.0))
PEERS: dict[str, type[PeerNetwork]] = {"spconv": SpconvNetwork, "torchsparse": TorchsparseNetwork}
HALF = torch.float16  # what all three know
_DEVICE = torch.device("cuda")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, nargs="?", help="KITTI's .bin; a made-up street without it")
    parser.add_argument("--preset", default="minkunet18")
    parser.add_argument("--voxel-size", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    points = spinning_scan() if options.scan is None else np.fromfile(options.scan, np.float32).reshape(-1, 4)[:, :3]
    preset, width = parse_preset(options.preset)
    torch.manual_seed(0)
    network = build_network(preset, in_channels=4, classes=19, width=width)
    comparison = Comparison(network, np.ascontiguousarray(points), VoxelGrid(options.voxel_size, *RANGE))
    figures = comparison.run(options.repeats)
    name = torch.cuda.get_device_name()
    print(f"{preset} x {width:g}, {len(points):,} points, {len(comparison.batch):,} voxels, float16, {name}, ms")
    for stage, times in figures.items():
        ours = times.get("triton", float("nan"))
        for who, ms in times.items():
            print(f"{stage:20s} {who:16s} {ms:8.2f}   triton is {ms / ours:5.2f} times as fast")
    for who, error in comparison.errors.items():
        print(f"largest deviation from double precision, of the largest logit: {who} {error:.1e}")
    for who, why in comparison.failed.items():
        print(f"left out: {who}: {why}")
    if options.json is not None:
        facts = {"device": name, "preset": preset, "width": width, "points": len(points)}
        result = {**facts, "voxels": len(comparison.batch), "ms": figures, "errors": comparison.errors}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


class Comparison:
    """The networks and what is measured of them."""

    def __init__(self, network: PointNetwork, points: npt.NDArray[np.float32], grid: VoxelGrid):
        self.points, self.grid = points, grid
        self.failed: dict[str, str] = {}
        self.errors: dict[str, float] = {}
        self.batch = self.voxels(points)[0]
        fused = fuse(network).to(_DEVICE)
        with torch.inference_mode(), use_engine("torch"):
            exact = copy.deepcopy(fused).double()(self.fresh(torch.float64)).logits
        half = in_precision(fused, HALF)
        meta = CheckpointMeta(network.preset, network.width, grid, LabelSpace.load("semantickitti"))
        segmenter = Segmenter(fused, meta, device=_DEVICE, engine="triton", precision="fp16")
        intensity = np.full(len(points), 0.3, np.float32)
        trained = network.to(_DEVICE).train()
        self.works: dict[str, dict[str, Callable[[], Any]]] = {
            "maps and forward": {"triton": lambda: _quietly(lambda: half(self.fresh()).logits)},
            "points to labels": {"triton": lambda: segmenter.segment(points, intensity).class_id},
            "training step": {
                name: functools.partial(self._step, lambda x: trained(x).logits, name) for name in ("triton", "torch")
            },
        }
        for name, kind in PEERS.items():
            peer = kind(copy.deepcopy(fused).half(), grid.shape).eval()
            peer_trained = kind(trained, grid.shape).train()
            works: dict[str, Callable[[], Any]] = {
                "maps and forward": functools.partial(_quietly, functools.partial(self._logits, peer)),
                "points to labels": functools.partial(_quietly, functools.partial(self._labels, peer)),
                "training step": functools.partial(self._step, peer_trained, "auto"),
            }
            for stage, work in works.items():
                self.works[stage][name] = work
        for name, work in self.works["maps and forward"].items():
            logits = self._tried(name, work)
            if logits is not None:
                self.errors[name] = float((logits.double() - exact).abs().max() / exact.abs().max())

    def voxels(self, points: npt.NDArray[np.float32]) -> tuple[SparseTensor, torch.Tensor]:
        on_device = torch.from_numpy(points).to(_DEVICE)
        found = voxelize_tensor(on_device, torch.full_like(on_device[:, 0], 0.3), self.grid)
        return collate([found])[0], found.point_to_voxel

    def fresh(self, dtype: torch.dtype = torch.float32) -> SparseTensor:
        return SparseTensor(self.batch.features.to(dtype), self.batch.coordinates)

    def run(self, repeats: int) -> dict[str, dict[str, float]]:
        """Milliseconds by stage and library."""
        times: dict[tuple[str, str], list[float]] = {}
        for repeat in range(repeats + 3):
            for stage, works in self.works.items():
                for name, work in works.items():
                    if name in self.failed:
                        continue
                    torch.cuda.synchronize()
                    start = time.perf_counter()
                    self._tried(name, work)
                    torch.cuda.synchronize()
                    if repeat >= 3:  # those before warm up, and spconv tunes
                        times.setdefault((stage, name), []).append(1e3 * (time.perf_counter() - start))
        found: dict[str, dict[str, float]] = {stage: {} for stage in self.works}
        for (stage, name), values in times.items():
            if name not in self.failed:
                found[stage][name] = median(values)
        return found

    def _logits(self, peer: PeerNetwork) -> Any:
        return peer(self.fresh(HALF))

    def _labels(self, peer: PeerNetwork) -> npt.NDArray[Any]:
        batch, rows = self.voxels(self.points)
        logits = peer(batch.with_features(batch.features.to(HALF)))
        best, index = logits.float().softmax(dim=1).max(dim=1)
        best[rows].cpu()
        labels: npt.NDArray[Any] = index.to(torch.uint8)[rows].cpu().numpy()
        return labels

    def _step(self, forward: Callable[[SparseTensor], torch.Tensor], engine: str) -> None:
        with use_engine(engine):
            with torch.autocast("cuda", dtype=HALF):
                logits = forward(self.fresh())
            logits.float().square().mean().backward()  # type: ignore[no-untyped-call]

    def _tried(self, name: str, work: Callable[[], Any]) -> Any:
        try:
            with use_engine("triton" if name in PEERS else "auto"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return work()
        except Exception as error:  # whatever a peer raises, the others are measured
            if name in ("triton", "torch"):
                raise
            self.failed[name] = f"{type(error).__name__}: {error}"[:300]
            return None


def _quietly(work: Callable[[], Any]) -> Any:
    with torch.inference_mode():
        return work()


if __name__ == "__main__":
    main()
