"""What each network preset costs on a scan: parameters, operations, milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt
import torch

from mdkt_ros.errors import ConfigError
from mdkt_ros.network import PointNetwork, build_network, flops, parameter_count
from mdkt_ros.sparse import SparseTensor, fuse
from mdkt_ros.voxels import VoxelGrid, collate, voxelize

PRESETS = (("minkunet14s", 1.0), ("minkunet18", 0.5), ("minkunet18", 1.0), ("minkunet34", 1.0))
"""Names and widths that are measured unless others are asked for."""


@dataclass(frozen=True)
class Measurement:
    """One network on one scan.

    Attributes:
        preset, width: the network.
        parameters: trained values.
        points, voxels: size of the scan.
        gflop: 10^9 operations of a forward pass, a multiplication and an addition counted as two.
        single_ms: CPU time of a forward pass on one thread, everything after voxelisation included.
        maps_ms: of this, levels and kernel maps, which depend on the scan and not on the preset's width.
        wall_ms: time of a forward pass on `threads` threads (or on the GPU), waiting included.
        threads: threads of `wall_ms`.
    """

    preset: str
    width: float
    parameters: int
    points: int
    voxels: int
    gflop: float
    single_ms: float
    maps_ms: float
    wall_ms: float
    threads: int


def measure(
    points: npt.NDArray[np.float32],
    intensity: npt.NDArray[np.float32] | None = None,
    *,
    voxel_size: float = 0.1,
    presets: Sequence[tuple[str, float]] = PRESETS,
    repeats: int = 5,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> list[Measurement]:
    """Run each preset (name, width) on a scan, with fresh weights and batch norms folded; medians of `repeats` passes.

    Every pass makes its kernel maps anew, as a new scan would have to.

    Args:
        points: (N, 3) metres. intensity: (N,) or None.
        voxel_size: metres.
        device: where `wall_ms` is measured; the other times are the CPU's.

    Raises:
        ConfigError: an unknown preset. CloudError: points that are not points.
    """
    grid = VoxelGrid(voxel_size, (-100.0, -100.0, -10.0), (100.0, 100.0, 10.0))
    batch, _ = collate([voxelize(points, intensity, grid)])
    results = []
    for done, (preset, width) in enumerate(presets):
        network = fuse(build_network(preset, in_channels=batch.features.shape[1], classes=19, width=width))
        single, cached = _single_thread(network, batch, repeats)
        results.append(
            Measurement(
                preset=preset,
                width=width,
                parameters=parameter_count(build_network(preset, in_channels=4, classes=19, width=width)),
                points=len(points),
                voxels=len(batch),
                gflop=flops(network, batch) / 1e9,
                single_ms=single,
                maps_ms=max(single - cached, 0.0),
                wall_ms=_wall(network.to(device), batch.to(device), repeats),
                threads=torch.get_num_threads(),
            )
        )
        if progress is not None:
            progress(done + 1, len(presets))
    return results


def parse_preset(text: str) -> tuple[str, float]:
    """`NAME` or `NAME:WIDTH` as (name, width). Raises ConfigError."""
    name, _, width = text.partition(":")
    try:
        return name, float(width or 1)
    except ValueError:
        raise ConfigError(f"preset: {text!r} is not NAME or NAME:WIDTH, such as minkunet18:0.5") from None


def spinning_scan(beams: int = 64, azimuths: int = 1900, seed: int = 0) -> npt.NDArray[np.float32]:
    """(N, 3) points of a made-up street for benches without data: ground, facades with gaps, scattered poles and cars.

    A real scan of as many points fills about as many voxels, with more neighbours each: it costs half as much again.
    """
    rng = np.random.default_rng(seed)
    azimuth = np.linspace(-np.pi, np.pi, azimuths, endpoint=False)
    elevation = np.radians(np.linspace(2.0, -24.8, beams))
    facade = np.abs(
        rng.uniform(6, 25, 24)[(azimuth * 12 / np.pi).astype(int) + 11] / np.maximum(np.abs(np.sin(azimuth)), 0.08)
    )
    objects = np.where(rng.random(azimuths // 20 + 1) < 0.25, rng.uniform(4, 30, azimuths // 20 + 1), np.inf)
    wall = np.minimum(facade, np.repeat(objects, 20)[:azimuths])
    ground = 1.73 / np.maximum(np.tan(-elevation), 1e-3)
    distance = np.minimum(wall[:, None], ground[None, :]) + rng.normal(0, 0.02, (azimuths, beams))
    x, y = distance * np.cos(azimuth)[:, None], distance * np.sin(azimuth)[:, None]
    z = distance * np.tan(elevation)[None, :]
    seen = distance < 80
    return np.stack([x[seen], y[seen], z[seen]], axis=1).astype(np.float32)


def _fresh(batch: SparseTensor) -> SparseTensor:
    return SparseTensor(batch.features, batch.coordinates)


@torch.inference_mode()
def _single_thread(network: PointNetwork, batch: SparseTensor, repeats: int) -> tuple[float, float]:
    """Milliseconds of CPU time of a pass with new maps and of one with the maps of the pass before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        new: list[float] = []
        cached: list[float] = []
        for repeat in range(repeats + 1):
            x = _fresh(batch)
            for times in (new, cached):
                start = time.process_time()
                network(x)
                if repeat:  # the first pass warms up
                    times.append(1e3 * (time.process_time() - start))
    finally:
        torch.set_num_threads(threads)
    return median(new), median(cached)


@torch.inference_mode()
def _wall(network: PointNetwork, batch: SparseTensor, repeats: int) -> float:
    times = []
    for repeat in range(repeats + 1):
        x = _fresh(batch)
        start = time.perf_counter()
        network(x).logits.sum().item()  # waits for a GPU
        if repeat:
            times.append(1e3 * (time.perf_counter() - start))
    return median(times)
