"""The label draw: which points of which scans have a label, drawn once and stored.

Weak supervision is only real when the labels stay few: drawing anew each epoch would show the network all of them in
the end. So a draw is made once for a data set, a budget and a seed, written to disk, and read ever after. Whatever
the budget is given in (see `training.data.budgets`), it is counted in points.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.frame import Frame
from mdkt_ros.errors import LabelError, OutputError
from mdkt_ros.labels import IGNORE
from mdkt_ros.output import atomic_output
from training.data.budgets import clicks, some_frames, some_points
from training.data.source import Source

Progress = Callable[[int, int], None]
_ARRAYS = ("offsets", "indices", "classes", "points", "counts")


@dataclass(frozen=True)
class LabelDraw:
    """Labelled points of S scans.

    Attributes:
        path: where the draw is stored.
        unit: what the budget is given in, one of `BUDGETS`.
        percent: share of the labelled points of a scan, or of the scans; 100 for clicks, which have no share. Where it
            means all points of some or all scans, `indices` is empty and `counts` tells which scans.
        seed: of the draw.
        fingerprint: of the data set, see `fingerprint`.
        points: (S,) int64 points of each scan.
        counts: (S, C) int64 drawn labels of each scan by class.
        offsets: (S + 1,) int64; the draw of scan s is `indices[offsets[s] : offsets[s + 1]]`.
        indices: (M,) uint32 rows of the drawn points in their scans, ascending.
        classes: (M,) uint8 class ids of the drawn points.
    """

    path: Path
    percent: float
    seed: int
    fingerprint: str
    points: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    indices: npt.NDArray[np.uint32]
    classes: npt.NDArray[np.uint8]
    unit: str = "points"

    def target(self, scan: int, labels: npt.NDArray[np.uint8] | None, name: str) -> npt.NDArray[np.uint8]:
        """Class ids (N,) uint8 of a scan's points, 255 where none was drawn.

        Raises:
            LabelError: the scan's labels are no longer those that were drawn from.
        """
        if labels is None or len(labels) != self.points[scan]:
            found = "no labels" if labels is None else f"{len(labels)} labels"
            raise LabelError(f"{name}: has {found}, the label draw {self.path} was made with {self.points[scan]}")
        if _whole(self.unit, self.percent):
            drawn = labels if self.counts[scan].any() else np.full(len(labels), IGNORE, dtype=np.uint8)
        else:
            drawn = np.full(len(labels), IGNORE, dtype=np.uint8)
            rows = self.indices[self.offsets[scan] : self.offsets[scan + 1]]
            drawn[rows] = labels[rows]
        counts = np.bincount(drawn, minlength=256)
        if (counts[: self.counts.shape[1]] != self.counts[scan]).any():
            raise LabelError(f"{name}: its labels are not those that the label draw {self.path} was made from")
        return drawn

    def budget(self) -> dict[str, Any]:
        """Drawn labels and what they are of, for logs and the checkpoint."""
        drawn, points = int(self.counts.sum()), int(self.points.sum())
        return {
            "unit": self.unit,
            "percent": self.percent,
            "seed": self.seed,
            "scans": len(self.points),
            "labelled_scans": int(self.counts.any(1).sum()),
            "points": points,
            "labels": drawn,
            "labels_percent_of_points": 100 * drawn / max(points, 1),
        }


def _whole(unit: str, percent: float) -> bool:
    """Whether a scan has all of its labels or none."""
    return unit == "frames" or (unit == "points" and percent >= 100)


def fingerprint(source: Source) -> str:
    """16 hex digits of the scans' names, the label space, and the labels of the first and the last scan."""
    digest = hashlib.sha256()
    head = {"kind": source.kind, "names": list(source.names), "labels": source.labels.to_dict()}
    digest.update(json.dumps(head, sort_keys=True).encode())
    for scan in sorted({0, len(source) - 1}):
        digest.update(_labels(source, scan).tobytes())
    return digest.hexdigest()[:16]


def _labels(source: Source, scan: int) -> npt.NDArray[np.uint8]:
    return _labelled(source, scan)[1]


def _labelled(source: Source, scan: int) -> tuple[Frame, npt.NDArray[np.uint8]]:
    frame = source[scan]
    if frame.labels is None:
        raise LabelError(f"{source.names[scan]}: the scan has no labels to train on")
    return frame, frame.labels


def draw_labels(
    source: Source,
    percent: float,
    seed: int,
    path: Path,
    *,
    unit: str = "points",
    key: str = "",
    progress: Progress | None = None,
) -> LabelDraw:
    """Draw labels by one of `BUDGETS`.

    `points`: `percent` of each scan's labelled points, uniformly, at least one. `clicks`: one point an instance or
    cluster. `frames`: all points of `percent` of the scans, spread over the drive, at least one.

    Points and clicks of a scan depend on its name and the seed alone, not on the other scans; a smaller share of the
    same seed is part of a larger one.

    Raises:
        LabelError: a scan without labels, or a data set in which no point has a class.
    """
    classes_of, rows_of, points = [], [], []
    counts = np.zeros((len(source), len(source.labels)), dtype=np.int64)
    frames = some_frames(len(source), percent if unit == "frames" else 100, seed)
    for scan, name in enumerate(source.names):
        frame, labels = _labelled(source, scan)
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if unit == "clicks":
            rows = clicks(frame.points, labels, frame.instance, rng)
        else:
            rows = some_points(labels, percent if unit == "points" else 100, rng)
        rows = rows if frames[scan] else rows[:0]
        points.append(len(labels))
        counts[scan] = np.bincount(labels[rows], minlength=counts.shape[1])
        # All labels of a large data set are gigabytes of indices that say nothing.
        kept = rows[:0] if _whole(unit, percent) else rows
        rows_of.append(kept.astype(np.uint32))
        classes_of.append(labels[kept])
        if progress is not None:
            progress(scan + 1, len(source))
    if not counts.any():
        of = f"of the {int(frames.sum())} chosen scans" if unit == "frames" else f"of its {len(source)} scans"
        raise LabelError(f"{source.root}: no point {of} has a class of {source.labels.name}")
    offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in rows_of])]).astype(np.int64)
    return LabelDraw(
        path=path,
        unit=unit,
        percent=percent,
        seed=seed,
        fingerprint=key or fingerprint(source),
        points=np.asarray(points, dtype=np.int64),
        counts=counts,
        offsets=offsets,
        indices=np.concatenate(rows_of),
        classes=np.concatenate(classes_of),
    )


def save_draw(draw: LabelDraw) -> None:
    """Write the draw to its path, whole or not at all; an existing draw is never replaced. Raises OutputError."""
    head = json.dumps({name: getattr(draw, name) for name in ("unit", "percent", "seed", "fingerprint")})
    with atomic_output(draw.path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, head=np.array(head), **{name: getattr(draw, name) for name in _ARRAYS})


def load_draw(path: Path) -> LabelDraw:
    """Read a stored draw. Raises LabelError when the file is not one."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            head = json.loads(str(data["head"]))
            arrays = {name: data[name] for name in _ARRAYS}
        # Draws of points were stored before there was anything else.
        unit = str(head.get("unit", "points"))
        return LabelDraw(path, float(head["percent"]), int(head["seed"]), str(head["fingerprint"]), **arrays, unit=unit)
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise LabelError(f"{path}: not a label draw ({error}); remove it to draw anew") from error


def stored_draw(
    source: Source,
    percent: float,
    seed: int,
    folder: Path,
    *,
    unit: str = "points",
    progress: Progress | None = None,
) -> LabelDraw:
    """The draw of this data set, budget and seed: read where it is stored, else made and stored.

    Raises:
        LabelError: the stored draw is damaged or of other data; no labels to draw from.
        OutputError: it cannot be stored.
    """
    key = fingerprint(source)
    share = {"points": f"{percent:g}pct", "frames": f"{percent:g}pct-frames"}.get(unit, unit)
    path = folder / f"{source.kind}-{share}-seed{seed}-{key}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        drawn = draw_labels(source, percent, seed, path, unit=unit, key=key, progress=progress)
        try:
            save_draw(drawn)
        except OutputError:
            if not path.exists():  # else another training has stored the same draw meanwhile
                raise
    draw = load_draw(path)
    same = (draw.unit, draw.percent, draw.seed, draw.fingerprint) == (unit, percent, seed, key)
    if not same or len(draw.points) != len(source):
        raise LabelError(f"{path}: a label draw of other data; remove it to draw anew")
    return draw
