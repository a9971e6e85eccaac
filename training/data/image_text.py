"""Image-text scores of a data set's points, computed once by `training/pseudo_labels.py` and kept on disk.

A cache is a folder: `image_text.json` says what it was made with, `text.safetensors` holds the classes' text
embeddings, `scans/NAME.safetensors` the scores of the points of one scan that a camera sees.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from mdkt_ros.drive.frame import Frame
from mdkt_ros.errors import ConfigError
from mdkt_ros.labels import IGNORE
from mdkt_ros.output import atomic_output
from training.data.draw import LabelDraw
from training.data.image_text_head import HEAD, CacheHead, frame_digest, read_head
from training.data.shape import MEASURES, shape_columns
from training.data.source import Source
from training.scheme.calibration import Calibration, fit_calibration
from training.scheme.calibration_map import ABSENT
from training.scheme.config import PseudoConfig

_LABELS_OF_A_SCAN, _LABELS = 2000, 200_000
"""Labels that a calibration asks at most: of a scan where whole scans are labelled, and in all."""
_WHOLE_SCANS = 200

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]


class ImageTextCache:
    """The scores of a source's scans.

    Attributes:
        folder: of the cache.
        head: what it was made with.
        source: the scans.
    """

    def __init__(self, folder: Path, head: CacheHead, source: Source) -> None:
        self.folder, self.head, self.source = folder, head, source

    @classmethod
    def open(cls, folder: Path, source: Source, *, check: bool = True) -> ImageTextCache:
        """Open the cache of a source for reading.

        Args:
            folder: that `training/pseudo_labels.py` wrote.
            source: the scans.
            check: compare the first and the last scan and their images with what the scores were made of.

        Raises:
            ConfigError: no cache, a damaged one, or one of other classes or other data.
        """
        cache = cls(folder, read_head(folder), source)
        if cache.head.classes != source.labels.names:
            raise ConfigError(
                f"{folder}: scores of the classes {', '.join(cache.head.classes)}; those of {source.labels.name} are "
                f"{', '.join(source.labels.names)}"
            )
        if check:
            for index in sorted({0, len(source) - 1}):
                cache.check(index, source[index])
        return cache

    @property
    def text(self) -> Tensor:
        """(C, D) float32 unit text embeddings of the classes."""
        return self.head.text

    @property
    def description(self) -> dict[str, str]:
        """Model and weights."""
        return self.head.description

    def path(self, index: int) -> Path:
        """File of a scan's scores."""
        return self.folder / "scans" / f"{self.source.names[index]}.safetensors"

    def __contains__(self, index: int) -> bool:
        """Whether the scores of a scan are there."""
        return self.path(index).is_file()

    def scan(self, index: int, points: Rows | None = None) -> tuple[Rows, Scores]:
        """Scores of a scan's points, or of those of `points` (Q,) alone that a camera sees.

        Returns:
            (P,) int64 rows of the points in the recorded scan, ascending: those that a camera sees; and (P, C + K)
            float32: cosines to the C classes, `ABSENT` (-1) for those that are not in the image, components of the
            image's own features and shape, where the cache has them. A point of several images has their mean.

        Raises:
            ConfigError: the scan is not in the cache, or its file is damaged or of other settings.
        """
        _, arrays = self._read(index, ("rows", "scores"))
        rows, stored = arrays["rows"].astype(np.int64), arrays["scores"]
        if points is not None:
            kept = np.isin(rows, points)
            rows, stored = rows[kept], stored[kept]
        scores = stored.astype(np.float32)
        if self.head.shape:
            scores = np.hstack([scores[:, :-MEASURES], shape_columns(scores[:, -MEASURES:])])
        return rows, scores

    def check(self, index: int, frame: Frame) -> None:
        """Raise ConfigError when the scores of a scan were made of other points, images or calibrations than these."""
        metadata, _ = self._read(index, ())
        if metadata.get("frame") != frame_digest(frame):
            raise ConfigError(
                f"{self.path(index)}: made of other points or images than {self.source.names[index]} has now; remove "
                f"{self.folder} and run training/pseudo_labels.py again"
            )

    def write(self, index: int, frame: Frame, rows: Rows, scores: Scores) -> None:
        """Store scores (P, C), components and measures of shape of the points `rows` (P,) of a scan, side by side.

        The file is written whole or not at all. Raises OutputError.
        """
        path = self.path(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, npt.NDArray[Any]] = {"rows": rows.astype(np.uint32), "scores": scores.astype(np.float16)}
        about = {"key": self.head.key, "frame": frame_digest(frame), "points": len(frame.points)}
        # In one piece, since safetensors writes several in any order, and equal scores are to be equal files.
        metadata = {"image_text": json.dumps(about)}
        with atomic_output(path, force=True) as temporary:
            # Not save_file, whose files nobody else may read.
            temporary.write_bytes(save(arrays, metadata))

    def _read(self, index: int, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        path = self.path(index)
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = json.loads((file.metadata() or {})["image_text"])
                arrays = {name: file.get_tensor(name) for name in names}
        except FileNotFoundError:
            raise ConfigError(
                f"{self.folder}: has no scores of {self.source.names[index]}; make them with {self._command()}"
            ) from None
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ConfigError(f"{path}: damaged ({error}); remove it and run {self._command()}") from error
        if metadata.get("key") != self.head.key:
            raise ConfigError(f"{path}: made with other settings than {self.folder / HEAD}; remove the folder")
        return metadata, arrays

    def _command(self) -> str:
        model = " ".join(f"--{key} {self.description[key]}" for key in ("model", "pretrained") if self.description[key])
        return f"python training/pseudo_labels.py --config RECIPE {model} --out {self.folder}"


def combine(rows: Sequence[Rows], scores: Sequence[Scores], classes: int) -> tuple[Rows, Scores]:
    """One row a point from the scores of several images.

    Args:
        rows: of each image, (P_i,) the points that it shows.
        scores: of each image, (P_i, C); NaN for classes that are not in it.
        classes: C, or C + K with components.

    Returns:
        (P,) int64 points, ascending, and (P, C) float32: the mean over the images that have the class, `ABSENT` where
        none has.
    """
    every = np.concatenate([np.zeros(0, np.int64), *rows])
    values = np.concatenate([np.zeros((0, classes), np.float32), *scores])
    order = np.argsort(every, kind="stable")
    points, first = np.unique(every[order], return_index=True)
    if not len(points):
        return points, values
    there = np.isfinite(values[order])
    total = np.add.reduceat(np.where(there, values[order], 0), first, axis=0)
    count = np.add.reduceat(there.astype(np.float32), first, axis=0)
    return points, np.where(count > 0, total / np.maximum(count, 1), ABSENT).astype(np.float32)


def labelled_scores(
    cache: ImageTextCache, draw: LabelDraw, progress: Callable[[int, int], None] | None = None
) -> tuple[Scores, npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Scores at the drawn labels in view: scores (L, C + K), class ids (L,), scan of each (L,).

    Of a draw that labels whole scans, a part of some scans; of very many labels, some of each scan.
    """
    source = cache.source
    scans = np.flatnonzero(draw.counts.any(1))
    whole = not len(draw.indices)
    if whole:
        scans = scans[np.unique(np.linspace(0, len(scans) - 1, _WHOLE_SCANS).astype(int))]
    most = min(_LABELS_OF_A_SCAN, -(-_LABELS // max(len(scans), 1)))
    scores: list[Scores] = [np.zeros((0, cache.head.columns), np.float32)]
    labels, groups = [np.zeros(0, np.uint8)], [np.zeros(0, np.int64)]
    for done, scan in enumerate(scans.tolist(), 1):
        if whole:
            target = draw.target(scan, source[scan].labels, source.names[scan])
            drawn = np.flatnonzero(target != IGNORE)
            classes = target[drawn]
        else:
            part = slice(draw.offsets[scan], draw.offsets[scan + 1])
            drawn, classes = draw.indices[part].astype(np.int64), draw.classes[part]
        seen, values = cache.scan(scan, drawn)
        some = np.random.default_rng(scan).permutation(len(seen))[:most]
        scores.append(values[some])
        labels.append(classes[np.searchsorted(drawn, seen[some])])
        groups.append(np.full(len(some), scan, np.int64))
        if progress is not None:
            progress(done, len(scans))
    return np.concatenate(scores), np.concatenate(labels), np.concatenate(groups)


def calibrate(
    cache: ImageTextCache,
    draw: LabelDraw,
    config: PseudoConfig,
    *,
    columns: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Calibrate the scores of a cache by the label draw of its source, which alone is read of the truth.

    Args:
        cache: of the source that the draw was made from.
        draw: the labels.
        config: its `balance`, how far rare classes are helped, and `precision`, below which a class is switched off.
        columns: of the scores, the first ones, to calibrate by; None: all.
        progress: called with labelled scans done and all.

    Raises:
        ConfigError: a labelled scan has no scores, or no label is in view.
    """
    scores, labels, groups = labelled_scores(cache, draw, progress)
    return fit_calibration(
        scores[:, :columns],
        labels,
        cache.head.classes,
        scale=cache.head.logit_scale,
        groups=groups,
        balance=config.balance,
        min_precision=config.precision,
    )
