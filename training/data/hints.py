"""What is known about a batch's voxels without a label: the image-text model's scores, and the teacher's view."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mdkt_ros.sparse.tensor import SparseTensor
from mdkt_ros.voxels import Voxels, collate
from training.data.scan import Scan


@dataclass(frozen=True)
class TextScores:
    """Scores of an image-text model for P voxels, each seen by a camera; no voxel twice.

    Attributes:
        row: (P,) int64 row in the batch's voxels.
        score: (P, C) float32 similarity of what the images show there to each class.
    """

    row: Tensor
    score: Tensor

    def to(self, device: torch.device) -> TextScores:
        return TextScores(self.row.to(device), self.score.to(device))


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


def join_scores(
    scan: Scan, voxels: Voxels, parts: tuple[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]], ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Voxel rows (P,) and scores (P, C) of an example.

    Args:
        parts: of each recorded scan in it, rows (S,) of the points that have scores, and those, (S, C).
    """
    rows, scores = [], []
    for part, (recorded, score) in enumerate(parts):
        found = scan.find(part, recorded)
        voxel = np.where(found >= 0, voxels.point_to_voxel[found], -1)
        # The first point of a voxel speaks for it.
        row, first = np.unique(voxel, return_index=True)
        kept = row >= 0
        rows.append(row[kept])
        scores.append(score[first[kept]])
    row, first = np.unique(np.concatenate(rows), return_index=True)
    return row, np.concatenate(scores)[first].astype(np.float32)


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
