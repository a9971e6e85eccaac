"""What is known about voxels without a label: image-text scores, labels of their neighbours, the teacher's view."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mdkt_ros.sparse.tensor import SparseTensor
from mdkt_ros.voxels import Voxels, collate
from training.data.scan import Scan
from training.data.spread import SpreadLabels

_ALONE = 2.0
"""Log-odds from which the labels around a point are believed without an image."""


class LocalHints(NamedTuple):
    """What images and drawn labels say about P points of a scan, or voxels of an example; none is there twice.

    Attributes:
        row: (P,) int64 of the points or voxels, ascending.
        probability: (P, C) float32 of each class by what the images show, calibrated; zeros where none shows it.
        weight: (P,) float32 trust in the likeliest class, see `Calibration.apply`.
        log_odds: (P, C) float32 of the drawn labels around, see `spread_labels`; 0 where there are none.
    """

    row: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]
    log_odds: npt.NDArray[np.float32]

    def at(self, row: npt.NDArray[np.int64], chosen: npt.NDArray[np.integer]) -> LocalHints:
        """Those of the places `chosen` (Q,), about the points or voxels `row` (Q,)."""
        return LocalHints(row, self.probability[chosen], self.weight[chosen], self.log_odds[chosen])


@dataclass(frozen=True)
class Hints:
    """`LocalHints` of a batch; rows are of the batch's voxels."""

    row: Tensor
    probability: Tensor
    weight: Tensor
    log_odds: Tensor

    def to(self, device: torch.device) -> Hints:
        return Hints(*(each.to(device) for each in (self.row, self.probability, self.weight, self.log_odds)))


@dataclass(frozen=True)
class TeacherView:
    """The scans of a batch as recorded, for the teacher: what the student sees turned, thinned and mixed.

    Attributes:
        voxels: of every recorded scan that has points in the batch.
        row: (V,) int64 row in `voxels` that holds the first point of each voxel of the batch; -1 outside the grid.
    """

    voxels: SparseTensor
    row: Tensor

    def to(self, device: torch.device) -> TeacherView:
        return replace(self, voxels=self.voxels.to(device), row=self.row.to(device))


@dataclass(frozen=True)
class LocalView:
    """The teacher's view of one example: voxels of each part's recorded scan, `row` (V,) into all of them."""

    voxels: tuple[Voxels, ...]
    row: npt.NDArray[np.int64]


class Seen(NamedTuple):
    """What the image-text model says of the points `row` (P,): `probability` (P, C) and `weight` (P,)."""

    row: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]


def local_hints(seen: Seen | None, spread: SpreadLabels | None, classes: int) -> LocalHints:
    """What there is about the points of one recorded scan.

    Args:
        seen: of the image-text model, None where there is none.
        spread: what drawn labels say, None where they are not spread. Where no image shows a point and the labels are
            far it is left out: hardly anything is known about it.
        classes: C.
    """
    nothing = np.zeros((0, classes), np.float32)
    seen = Seen(np.zeros(0, np.int64), nothing, nothing[:, 0]) if seen is None else seen
    told, odds = (seen.row[:0], nothing) if spread is None else spread
    kept = np.isin(told, seen.row) | (odds.max(1, initial=0) >= _ALONE)
    every = np.union1d(seen.row, told[kept])
    hints = LocalHints(every, *(np.zeros((len(every), *shape), np.float32) for shape in ((classes,), (), (classes,))))
    at = np.searchsorted(every, seen.row)
    hints.probability[at], hints.weight[at] = seen.probability, seen.weight
    hints.log_odds[np.searchsorted(every, told[kept])] = odds[kept]
    return hints


def join_hints(scan: Scan, voxels: Voxels, parts: tuple[LocalHints, ...]) -> LocalHints:
    """Hints about the voxels of an example. `parts`: about the points of each recorded scan in it."""
    joined = []
    for part, hints in enumerate(parts):
        found = scan.find(part, hints.row)
        voxel = np.where(found >= 0, voxels.point_to_voxel[found], -1)
        # The first point of a voxel speaks for it.
        row, first = np.unique(voxel, return_index=True)
        joined.append(hints.at(row[row >= 0], first[row >= 0]))
    every = LocalHints(*(np.concatenate(column) for column in zip(*joined, strict=True)))
    return every.at(*np.unique(every.row, return_index=True))


def collate_hints(parts: list[LocalHints], offsets: npt.NDArray[np.int64]) -> Hints:
    """Join the hints of a batch's examples, in order; `offsets`: first voxel of each."""
    moved = [part._replace(row=part.row + offset) for part, offset in zip(parts, offsets, strict=False)]
    return Hints(*(torch.from_numpy(np.concatenate(column)) for column in zip(*moved, strict=True)))


def teacher_view(scan: Scan, voxels: Voxels, recorded: tuple[tuple[Scan, Voxels], ...]) -> LocalView:
    """Find for each voxel of an example the voxel of the recorded scan that its first point came from."""
    point = np.full(len(voxels), -1, dtype=np.int64)
    # Assigned from the last point to the first, which stays.
    inside = np.flatnonzero(voxels.point_to_voxel >= 0)[::-1]
    point[voxels.point_to_voxel[inside]] = inside
    row = np.full(len(voxels), -1, dtype=np.int64)
    offset = 0
    for part, (original, original_voxels) in enumerate(recorded):
        of_part = np.flatnonzero(scan.part[point] == part)
        at = original.find(0, scan.index[point[of_part]])
        found = original_voxels.point_to_voxel[at]
        row[of_part] = np.where(found >= 0, found + offset, -1)
        offset += len(original_voxels)
    return LocalView(tuple(voxels for _, voxels in recorded), row)


def collate_views(views: list[LocalView]) -> TeacherView:
    """Join the teacher's views of a batch's examples, in order."""
    voxels, _ = collate([part for view in views for part in view.voxels])
    rows, offset = [], 0
    for view in views:
        rows.append(np.where(view.row >= 0, view.row + offset, -1))
        offset += sum(len(part) for part in view.voxels)
    return TeacherView(voxels, torch.from_numpy(np.concatenate(rows)))
