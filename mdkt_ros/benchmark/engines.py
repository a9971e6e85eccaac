"""Engines side by side: maps, forward, forward and backward pass, points to labels, interleaved in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from statistics import median, quantiles

import numpy as np
import numpy.typing as npt
import torch

from mdkt_ros.benchmark.cases import GEMM, PRESETS, STAGES, Case, Row, parse_engine, stages_of
from mdkt_ros.benchmark.products import Products
from mdkt_ros.checkpoint import CheckpointMeta
from mdkt_ros.labels import LabelSpace
from mdkt_ros.network import PointNetwork, build_network, flops, parameter_count
from mdkt_ros.segmenter import Segmenter
from mdkt_ros.sparse import (
    KernelMaps,
    Precision,
    SparseTensor,
    block_threads,
    fuse,
    in_precision,
    use_engine,
)
from mdkt_ros.voxel_grid import VoxelGrid
from mdkt_ros.voxels import collate, voxelize

_CLASSES = 19


class _Subject:
    """A network and an input, with the works that are measured on them."""

    def __init__(self, preset: str, width: float, scans: Sequence[npt.NDArray[np.float32]], grid: VoxelGrid, on: str):
        torch.manual_seed(0)
        self.network = build_network(preset, in_channels=4, classes=_CLASSES, width=width)
        self.fused = fuse(self.network).to(on)
        self.network = self.network.to(on).train()
        self.batch = collate([voxelize(scan, None, grid) for scan in scans])[0].to(on)
        self.scans, self.grid, self.device = scans, grid, torch.device(on)
        self._inputs: dict[str, SparseTensor] = {}
        self._rounded = {"fp32": self.fused}

    @cached_property
    def products(self) -> Products:
        with use_engine("torch"):
            return Products(self.fused, self.fresh())

    @cached_property
    def labels(self) -> tuple[CheckpointMeta, PointNetwork]:
        space = LabelSpace.load("semantickitti")
        return CheckpointMeta(self.fused.preset, self.fused.width, self.grid, space), self.fused

    def fresh(self) -> SparseTensor:
        return SparseTensor(self.batch.features, self.batch.coordinates)

    def work(self, case: Case) -> Callable[[], torch.Tensor | None]:
        """What to time. What it returns is for `_errors`."""
        engine, stage = case.engine, case.stage
        if engine == GEMM:
            return self.products
        if stage == "maps":
            return self._maps
        if stage == "end_to_end":
            meta, network = self.labels
            segmenter = Segmenter(network, meta, device=self.device, engine=engine, precision=case.precision)
            points = np.concatenate(self.scans)
            # The intensity is asked for, and there is none in a made-up street.
            intensity = np.full(len(points), 0.3, dtype=np.float32)

            def label() -> None:
                segmenter.segment(points, intensity)

            return label
        if engine not in self._inputs:
            self._inputs[engine] = self.fresh()
        x = self._inputs[engine]
        network = self._in(case.precision)
        dtype = Precision(case.precision).dtype
        return lambda: _forward(network, x) if stage == "forward" else self._step(x, dtype)

    def _in(self, precision: str) -> PointNetwork:
        if precision not in self._rounded:
            self._rounded[precision] = in_precision(self.fused, Precision(precision).dtype)
        return self._rounded[precision]

    def _maps(self) -> None:
        maps = KernelMaps(self.batch.coordinates)
        for stride in (1, 2, 4, 8):
            maps.submanifold(stride)
            maps.strided(stride, 2)
        maps.submanifold(16)

    def _step(self, x: SparseTensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """All gradients, computed under autocast where `dtype` is half of a precision."""
        self.network.zero_grad(set_to_none=True)
        halved = dtype is not None and dtype.itemsize == 2
        with block_threads():
            with torch.autocast(self.device.type, dtype=dtype if halved else None, enabled=halved):
                logits = self.network(x).logits
            logits.to(x.features.dtype).square().mean().backward()
        gradients = [p.grad.view(-1) for p in self.network.parameters() if p.grad is not None]
        return torch.cat(gradients)

    def exact(self) -> dict[str, torch.Tensor]:
        """Logits and gradients in double precision by PyTorch's engine."""
        with use_engine("torch"):
            x = SparseTensor(self.batch.features.double(), self.batch.coordinates)
            self.fused.double()
            self.network.double()
            found = {"forward": _forward(self.fused, x).clone(), "forward_backward": self._step(x)}
            self.fused.float()
            self.network.float()
        return found


def _forward(network: PointNetwork, x: SparseTensor) -> torch.Tensor:
    with torch.inference_mode():
        return network(x).logits  # type: ignore[no-any-return]


def measure(
    scans: Sequence[npt.NDArray[np.float32]],
    *,
    voxel_size: float = 0.1,
    presets: Sequence[tuple[str, float]] = PRESETS,
    engines: Sequence[str] = ("torch", "native"),
    threads: Sequence[int] = (1,),
    stages: Sequence[str] = STAGES,
    repeats: int = 5,
    device: str = "cpu",
    compare: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Run every case in turn, `repeats` times over, so that what else the machine does meets all of them.

    Networks have fresh weights; batch norms are folded, but for `forward_backward`. `forward` and `forward_backward`
    find their kernel maps made.

    Args:
        scans: (N, 3) metres each; several are one batch, whose points `end_to_end` takes as one cloud.
        voxel_size: metres.
        engines: names; `gemm` for the products alone. `NAME:bf16` is the engine in bfloat16, which no maps are made in
            and nothing is trained in.
        compare: whether to compare values with PyTorch's engine in double precision.

    Raises:
        ConfigError: an unknown preset or engine, or one that cannot run. CloudError: points that are not points.
    """
    grid = VoxelGrid(voxel_size, (-100.0, -100.0, -10.0), (100.0, 100.0, 10.0))
    rows: list[Row] = []
    for index, (preset, width) in enumerate(presets):
        subject = _Subject(preset, width, scans, grid, device)
        cases = [
            Case(engine, precision, preset, width, count, stage)
            for count in threads
            for stage in stages
            for engine, precision in map(parse_engine, engines)
            if stage in stages_of(engine, precision, subject.device.type)
        ]
        done = index * (repeats + 1)

        def told(number: int, done: int = done) -> None:
            if progress is not None:
                progress(done + number, len(presets) * (repeats + 1))

        rows += _measure(subject, cases, repeats, compare, told)
    return rows


def _measure(
    subject: _Subject, cases: Sequence[Case], repeats: int, compare: bool, told: Callable[[int], None]
) -> list[Row]:
    works = {}
    for case in cases:
        with _engine(case):
            works[case] = subject.work(case)
    times: dict[Case, list[tuple[float, float]]] = {case: [] for case in cases}
    exact = subject.exact() if compare else {}
    errors: dict[Case, float | None] = {}
    for repeat in range(repeats + 1):
        for case, work in works.items():
            with _engine(case):
                if repeat == 0:  # warms up
                    errors[case] = _error(work(), None if case.engine == GEMM else exact.get(case.stage))
                    continue
                start, cpu = time.perf_counter(), time.process_time()
                work()
                if subject.device.type == "cuda":
                    torch.cuda.synchronize(subject.device)
                times[case].append((1e3 * (time.perf_counter() - start), 1e3 * (time.process_time() - cpu)))
        told(repeat + 1)
    gflop = flops(subject.fused, subject.fresh()) / 1e9
    return [_row(subject, case, times[case], gflop, errors[case]) for case in cases]


@contextmanager
def _engine(case: Case) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(case.threads)
    try:
        with use_engine("auto" if case.engine == GEMM else case.engine):
            yield
    finally:
        torch.set_num_threads(before)


def _error(found: torch.Tensor | None, exact: torch.Tensor | None) -> float | None:
    if found is None or exact is None:
        return None
    return float((found.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-300))


def _row(subject: _Subject, case: Case, times: Sequence[tuple[float, float]], gflop: float, error: float | None) -> Row:
    wall, cpu = ([pair[side] for pair in times] for side in range(2))
    low, _, high = quantiles(cpu, n=4) if len(cpu) > 1 else (cpu[0],) * 3
    return Row(
        engine=case.engine,
        preset=case.preset,
        width=case.width,
        voxel_size=subject.grid.voxel_size,
        points=sum(len(scan) for scan in subject.scans),
        voxels=len(subject.batch),
        scans=len(subject.scans),
        threads=case.threads,
        dtype=str(Precision(case.precision).dtype).removeprefix("torch."),
        device=str(subject.device),
        stage=case.stage,
        parameters=parameter_count(subject.network),
        gflop=gflop,
        wall_ms=median(wall),
        cpu_ms=median(cpu),
        spread=(high - low) / max(median(cpu), 1e-9),
        max_rel_error=error,
    )
