"""What segmenting a drive came to: counts, times and, where there is truth, the confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.frame import Axes
from mdkt_ros.labels import IGNORE, LabelSpace
from mdkt_ros.metrics import confusion_matrix

if TYPE_CHECKING:
    from mdkt_ros.segmentation import Segmentation

_REASONS = 20
"""Different reasons that are told apart; a bag of a million bad clouds must not fill the memory with messages."""


@dataclass(frozen=True)
class SegmentSummary:
    """Result of `segment_path`.

    Attributes:
        source, out: input and output.
        labels: classes of the prediction.
        frames: scans labelled.
        points: their points, unlabelled ones included.
        class_points: (C,) int64 points by predicted class.
        unlabelled: points that got 255 (NaN, infinite, out of range).
        timings: stage -> median milliseconds a scan: read, preprocess, inference, postprocess, write, total.
        confusion: (C, C + 1) int64 over every point with a truth, None where nothing could be scored.
        skipped: reason -> number of scans that could not be read.
        notes: what the user should know, such as why there is no confusion matrix.
        topic: cloud topic of a bag.
        prompts: prompt -> points that lie nearer to it than to any class, see `prompts.PromptScores`.
    """

    source: Path
    out: Path
    labels: LabelSpace
    frames: int
    points: int
    class_points: npt.NDArray[np.int64]
    unlabelled: int
    timings: dict[str, float]
    confusion: npt.NDArray[np.int64] | None = None
    skipped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    topic: str | None = None
    prompts: dict[str, int] = field(default_factory=dict)


class _Meta(Protocol):
    @property
    def axes(self) -> str: ...
    @property
    def intensity_scale(self) -> float: ...


class PointLabeller(Protocol):
    """The part of `Segmenter` that this work needs."""

    @property
    def labels(self) -> LabelSpace: ...
    @property
    def meta(self) -> _Meta: ...
    @property
    def axes(self) -> str: ...
    @property
    def intensity_scale(self) -> float: ...
    def for_sensor(self, *, intensity_scale: float | None = None, axes: str | None = None) -> PointLabeller: ...
    def segment(
        self, points: npt.NDArray[np.float32], intensity: npt.NDArray[np.float32] | None = None
    ) -> Segmentation: ...


def for_drive(segmenter: PointLabeller, axes: Axes, stated: float | None, chosen: float | None = None) -> PointLabeller:
    """The segmenter as a drive's scans need it.

    For the intensity counts, in this order: the scale that the user gave, here or to the segmenter; what the drive
    states about its sensor; the checkpoint's scale, which belongs to the sensor that it was trained on. For the axes:
    those that the user gave to the segmenter, then the drive's.

    Args:
        axes: axis convention of the drive.
        stated: factor that brings the drive's intensity to 0..1, None where nobody stated it.
        chosen: the user's factor.
    """
    meta = segmenter.meta
    if chosen is None and segmenter.intensity_scale == meta.intensity_scale:
        chosen = stated
    return segmenter.for_sensor(intensity_scale=chosen, axes=axes if segmenter.axes == meta.axes else None)


class Tally:
    """Counts scan by scan; its size does not depend on the length of the drive, but for 8 bytes a stage and scan."""

    def __init__(self, labels: LabelSpace, truth: LabelSpace | None) -> None:
        self._labels = labels
        self._counts = np.zeros(256, dtype=np.int64)
        self._times: dict[str, list[float]] = {}
        self._confusion: npt.NDArray[np.int64] | None = None
        self._skipped: dict[str, int] = {}
        self._unscored: dict[str, int] = {}
        self._notes: list[str] = []
        self._prompts: dict[str, int] = {}
        self.frames = 0
        self._empty = 0
        self._same_classes = truth is not None and truth.names == labels.names
        if truth is not None and not self._same_classes:
            self._notes.append(
                f"not scored: the truth's classes are {truth.name} ({len(truth)}), the checkpoint's {labels.name} "
                f"({len(labels)})"
            )

    def add(self, result: Segmentation, read_ms: float, write_ms: float) -> None:
        """Count a labelled scan."""
        self.frames += 1
        self._empty += not len(result.class_id)
        self._counts += np.bincount(result.class_id, minlength=256)
        if result.prompts is not None:
            for prompt, nearest in zip(result.prompts.prompts, result.prompts.nearest.T, strict=True):
                self._prompts[prompt] = self._prompts.get(prompt, 0) + int(nearest.sum())
        stages = {name: ms for name, ms in result.timings.items() if name != "total"}
        stages = {"read": read_ms, **stages, "write": write_ms}
        stages["total"] = sum(stages.values())
        for name, ms in stages.items():
            self._times.setdefault(name, []).append(ms)

    def score(self, truth: npt.NDArray[np.uint8] | None, prediction: npt.NDArray[np.uint8]) -> None:
        """Count a scan's true against its predicted class ids (N,) uint8."""
        if truth is None or not self._same_classes:
            return
        if len(truth) != len(prediction):
            self.unscored(f"truth of {len(truth)} labels for {len(prediction)} points")
            return
        added = confusion_matrix(truth, prediction, len(self._labels))
        self._confusion = added if self._confusion is None else self._confusion + added

    def skip(self, reason: str) -> None:
        """Count a scan that could not be read."""
        _count(self._skipped, reason)

    def unscored(self, reason: str) -> None:
        """Count a scan whose truth could not be used."""
        _count(self._unscored, reason)

    def note(self, text: str) -> None:
        """Tell the user something; after as many notes as one reads, only that there is more."""
        if len(self._notes) <= _REASONS:
            self._notes.append(text if len(self._notes) < _REASONS else "and more of this kind")

    @property
    def reasons(self) -> str:
        """Why scans were skipped, most frequent first."""
        ordered = sorted(self._skipped.items(), key=lambda item: -item[1])
        return "; ".join(f"{count} x {reason}" for reason, count in ordered)

    def summary(self, source: Path, out: Path, topic: str | None = None) -> SegmentSummary:
        """The result so far."""
        unscored = [f"not scored: {counted(count, 'scan')}: {reason}" for reason, count in self._unscored.items()]
        empty = [f"without a single point: {counted(self._empty, 'scan')}"] if self._empty else []
        return SegmentSummary(
            source=source,
            out=out,
            labels=self._labels,
            frames=self.frames,
            points=int(self._counts.sum()),
            class_points=self._counts[: len(self._labels)].copy(),
            unlabelled=int(self._counts[IGNORE]),
            timings={name: float(np.median(values)) for name, values in self._times.items()},
            confusion=self._confusion,
            skipped=dict(self._skipped),
            notes=(*self._notes, *unscored, *empty),
            topic=topic,
            prompts=dict(self._prompts),
        )


def counted(count: int, what: str) -> str:
    """`1 scan`, `2 scans`, `1,000 scans`."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _count(reasons: dict[str, int], reason: str) -> None:
    if reason not in reasons and len(reasons) >= _REASONS:
        reason = "other reasons"
    reasons[reason] = reasons.get(reason, 0) + 1
