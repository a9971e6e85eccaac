"""The endless, reproducible stream of training scans, and batches of it.

Position p of the stream is scan `order[p % S]` of epoch `p // S`, augmented by a generator seeded with (seed, p): what
a position holds depends on nothing else. So a run that is resumed, that has other workers, or that shares its batches
among processes sees the same scans.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mdkt_ros.errors import ConfigError
from mdkt_ros.labels import IGNORE
from mdkt_ros.sparse.tensor import SparseTensor
from mdkt_ros.voxel_grid import VoxelGrid
from mdkt_ros.voxels import Voxels, collate, voxelize
from training.config import TrainConfig, spreads_labels, uses_images, uses_teacher
from training.data.augment import augment, mix
from training.data.draw import LabelDraw
from training.data.hints import (
    Hints,
    LocalHints,
    LocalView,
    Seen,
    TeacherView,
    collate_hints,
    collate_views,
    join_hints,
    local_hints,
    teacher_view,
)
from training.data.image_text import ImageTextCache, calibrate
from training.data.pair_finder import PairFinder
from training.data.pairs import ExamplePairs, Pairs, collate_pairs, join, thin
from training.data.scan import Scan, make_scan
from training.data.source import Source
from training.data.spread import SpreadLabels, spread_labels
from training.scheme.calibration_map import ABSENT

_Part = TypeVar("_Part")
_Whole = TypeVar("_Whole")


@dataclass(frozen=True)
class Example:
    """One scan as the network takes it, the points it was made from, and what else is known about them.

    Attributes:
        recorded: number in the source of the recorded scan that each part of `scan` came from.
        pairs: points that images show, None where no part of the scheme needs images.
        hints: what images and drawn labels say about voxels without a label, or None.
        view: what the teacher sees, or None.
        distill_view: what the trained network of `distill.checkpoint` sees, or None.
    """

    scan: Scan
    voxels: Voxels
    recorded: tuple[int, ...] = ()
    pairs: ExamplePairs | None = None
    hints: LocalHints | None = None
    view: LocalView | None = None
    distill_view: LocalView | None = None


class Sight(NamedTuple):
    """How a network takes a scan: its grid, and the names of its features."""

    grid: VoxelGrid
    features: tuple[str, ...]


@dataclass(frozen=True)
class Batch:
    """Some scans as one sparse tensor.

    Attributes:
        names: of the scans.
        voxels: features (V, F) float32 on coordinates (V, 4).
        rows: (L,) int64 row in `voxels` of each labelled point in the grid.
        target: (L,) int64 class ids of the labelled points.
        scan: (L,) int64 number of the scan that each labelled point belongs to, ascending.
        examples: the scans' points, for what needs more than the labels; stays on the CPU.
        pairs, hints, view: what the scheme's parts need, None where they are off.
    """

    names: tuple[str, ...]
    voxels: SparseTensor
    rows: Tensor
    target: Tensor
    scan: Tensor
    examples: tuple[Example, ...] = ()
    pairs: Pairs | None = None
    hints: Hints | None = None
    view: TeacherView | None = None

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        moved = {name: getattr(self, name).to(device) for name in ("voxels", "rows", "target", "scan")}
        extras = {name: getattr(self, name) for name in ("pairs", "hints", "view")}
        moved |= {name: value.to(device) for name, value in extras.items() if value is not None}
        return replace(self, **moved)


def make_batch(examples: list[Example]) -> Batch:
    """Join scans. Labelled points outside the grid are left out: the network says nothing about them."""
    voxels, offsets = collate([example.voxels for example in examples])
    rows, target, scan = [], [], []
    for number, example in enumerate(examples):
        where = np.flatnonzero((example.scan.target != IGNORE) & (example.voxels.point_to_voxel >= 0))
        rows.append(example.voxels.point_to_voxel[where] + offsets[number])
        target.append(example.scan.target[where].astype(np.int64))
        scan.append(np.full(len(where), number, dtype=np.int64))
    return Batch(
        names=tuple(example.scan.name for example in examples),
        voxels=voxels,
        rows=torch.from_numpy(np.concatenate(rows)),
        target=torch.from_numpy(np.concatenate(target)),
        scan=torch.from_numpy(np.concatenate(scan)),
        examples=tuple(examples),
        pairs=_join([example.pairs for example in examples], lambda pairs: collate_pairs(pairs, offsets)),
        hints=_join([example.hints for example in examples], lambda hints: collate_hints(hints, offsets)),
        view=_join([example.view for example in examples], collate_views),
    )


def _join(parts: Sequence[_Part | None], collate: Callable[[list[_Part]], _Whole]) -> _Whole | None:
    there = [part for part in parts if part is not None]
    return collate(there) if there else None


class TrainingStream(Dataset[Example]):
    """Examples by position in the stream; see the module's docstring."""

    def __init__(
        self,
        source: Source,
        draw: LabelDraw,
        config: TrainConfig,
        grid: VoxelGrid,
        image_text: ImageTextCache | None = None,
        distill: Sight | None = None,
    ) -> None:
        """What the stream is made of.

        Args:
            image_text: scores of the image-text model, where pseudo labels use it.
            distill: how the network of `distill.checkpoint` takes a scan, where there is one.
        """
        self.source, self.draw, self.config, self.image_text = source, draw, config, image_text
        self.sight, self.distill = Sight(grid, tuple(config.model.features)), distill
        cache = config.data.cache
        self._views: dict[tuple[int, Sight], tuple[Scan, Voxels]] = {}
        self._said: dict[int, LocalHints] = {}
        self._calibration = None if image_text is None else calibrate(image_text, draw, config.pseudo)
        self._finder = PairFinder(source, config.images, cache=cache) if uses_images(config) else None
        if self._finder is not None and not source[0].views:
            raise ConfigError(
                f"transfer.weight = {config.transfer.weight:g}: {source.names[0]} has no image to learn from, and 0 "
                "trains without images"
            )
        self._kept = [self._read(index) for index in range(len(source))] if cache else None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, position: int) -> Example:
        config, rng = self.config.augment, np.random.default_rng([self.config.seed, position])
        scans = len(self.source)
        epoch, place = divmod(position, scans)
        index = int(_order(self.config.seed, epoch, scans)[place])
        scan = augment(self.scan(index), config, rng)
        recorded: tuple[int, ...] = (index,)
        if scans > 1 and rng.random() < config.mix:
            # Never with itself: turned differently, the same labelled point could come in twice.
            other = (index + 1 + int(rng.integers(scans - 1))) % scans
            scan, recorded = mix(scan, augment(self.scan(other), config, rng), config, rng), (index, other)
        images = position // self.config.optim.batch_size % self.config.transfer.every == 0
        return self._complete(Example(scan, self._voxelize(scan), recorded), rng, images=images)

    def _complete(self, example: Example, rng: np.random.Generator, *, images: bool) -> Example:
        """Add what the scheme's parts need; without `images` there are no pairs."""
        scan, voxels, recorded = example.scan, example.voxels, example.recorded
        pairs = hints = view = distill_view = None
        if self._finder is not None:
            shown = tuple(self._finder.find(index, rng) for index in recorded) if images else ()
            found = join(scan, voxels, shown)
            pairs = thin(found, self.config.images.pairs, rng)
        if self.image_text is not None or spreads_labels(self.config):
            hints = join_hints(scan, voxels, tuple(self._hints(index) for index in recorded))
        if uses_teacher(self.config):
            view = teacher_view(scan, voxels, tuple(self._recorded(index, self.sight) for index in recorded))
        if self.distill is not None:
            distill_view = teacher_view(scan, voxels, tuple(self._recorded(index, self.distill) for index in recorded))
        return replace(example, pairs=pairs, hints=hints, view=view, distill_view=distill_view)

    def _hints(self, index: int) -> LocalHints:
        """What images and drawn labels say about the points of a recorded scan."""
        if index in self._said:
            return self._said[index]
        seen = spread = None
        if self.image_text is not None and self._calibration is not None:
            rows, scores = self.image_text.scan(index)
            said = scores[:, : len(self.source.labels)].max(1, initial=ABSENT) > ABSENT
            seen = Seen(rows[said], *self._calibration.apply(scores[said]))
        if spreads_labels(self.config):
            scan, classes = self.scan(index), len(self.source.labels)
            told, odds = spread_labels(scan.points, scan.target, classes, self.config.pseudo.spread)
            spread = SpreadLabels(scan.index[told], odds)
        made = local_hints(seen, spread, len(self.source.labels))
        if self.config.data.cache:
            self._said[index] = made
        return made

    def _recorded(self, index: int, sight: Sight) -> tuple[Scan, Voxels]:
        """A scan and its voxels without augmentation."""
        if (index, sight) in self._views:
            return self._views[index, sight]
        scan = self.scan(index)
        made = scan, self._voxelize(scan, sight)
        if self.config.data.cache:
            self._views[index, sight] = made
        return made

    def scan(self, index: int) -> Scan:
        """A scan with its drawn labels, as recorded."""
        return self._read(index) if self._kept is None else self._kept[index]

    def some_features(self, scans: int = 4) -> npt.NDArray[np.float32]:
        """Voxel features (V, F) of a few scans as recorded, spread over the data."""
        indices = np.unique(np.linspace(0, len(self.source) - 1, scans).astype(int))
        return np.concatenate([self._voxelize(self.scan(int(index))).features for index in indices])

    def _voxelize(self, scan: Scan, sight: Sight | None = None) -> Voxels:
        grid, features = sight or self.sight
        return voxelize(scan.points, scan.intensity, grid, features)

    def _read(self, index: int) -> Scan:
        frame = self.source[index]
        target = self.draw.target(index, frame.labels, self.source.names[index])
        if self._finder is not None:
            self._finder.prepare(index, frame)
        return make_scan(self.source.names[index], frame, target, self.source.intensity_scale)


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, scans: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, epoch, scans]).permutation(scans)


class StreamSampler(Sampler[list[int]]):
    """Positions of the stream that one process takes at each step, from `start` to `steps`.

    Step s is positions s * B .. (s + 1) * B - 1 whatever the number of processes; process r of W takes every W-th.
    """

    def __init__(self, batch_size: int, start: int, steps: int, rank: int = 0, world: int = 1) -> None:
        self.batch_size, self.start, self.steps, self.rank, self.world = batch_size, start, steps, rank, world

    def __len__(self) -> int:
        return max(0, self.steps - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            yield list(range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world))
