"""From images to a cache of image-text scores, a scan after the other."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mdkt_ros.camera import Camera
from mdkt_ros.drive.frame import Frame
from mdkt_ros.drive.sight import sights
from mdkt_ros.errors import ConfigError, DriveError
from mdkt_ros.labels import LabelSpace
from training.data.image_text import ImageTextCache, Rows, Scores, combine
from training.data.image_text_head import CacheHead
from training.data.shape import MEASURES, shape_measures
from training.data.source import Source
from training.data.superpoints import Superpoints
from training.scheme.dense_clip import DenseClip


@dataclass(frozen=True, eq=False)
class Shot:
    """An image of a scan, and the points that it shows.

    Attributes:
        camera: that took it.
        image: (H, W, 3) uint8 RGB.
        rows: (P,) int64 points of the scan that the camera sees.
        pixels: (P, 2) float64 where.
    """

    camera: Camera
    image: npt.NDArray[np.uint8]
    rows: Rows
    pixels: npt.NDArray[np.float64]


def read_shots(frame: Frame) -> list[Shot]:
    """The images of a frame; one that cannot be read is left out with a warning."""
    shots = []
    for view, sight in zip(frame.views, sights(frame), strict=True):
        try:
            image = view.load()
        except DriveError as error:
            warnings.warn(f"scan {frame.name} is scored without an image: {error}", stacklevel=2)
            continue
        rows = np.flatnonzero(sight.visible)
        shots.append(Shot(view.camera, image, rows, sight.projection.pixels[rows]))
    return shots


class Components(Protocol):
    """See `training.data.image_components.ImageComponents`."""

    @property
    def count(self) -> int: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    def at(self, image: npt.NDArray[np.uint8], pixels: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]: ...


def cache_head(
    dense: DenseClip,
    labels: LabelSpace,
    superpoints: Superpoints,
    components: Components | None = None,
    *,
    shape: bool = False,
) -> CacheHead:
    """What a cache of the scores that `dense` gives the classes of a label space says about itself.

    `components` and `shape`: what else it holds, see `make_scores`.
    """
    model, text = dense.model, dense.text
    settings: dict[str, Any] = {
        "weights": model.fingerprint,
        "mean": list(model.mean),
        "std": list(model.std),
        "tokens": model.tokenize(list(text.words)).tolist(),
        "prompts": list(text.prompts),
        "words": list(text.words),
        "owner": text.owner.tolist(),
        "classes": list(labels.names),
        **dense.settings,
        "superpoints": asdict(superpoints),
        **({} if components is None else {"components": components.settings}),
        **({"shape": {"measures": MEASURES}} if shape else {}),
    }
    return CacheHead(
        settings=settings,
        description=model.description,
        classes=labels.names,
        known=tuple(map(bool, text.known)),
        logit_scale=model.logit_scale,
        text=text.class_embeddings(),
    )


def as_images(images: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
    """(B, 3, H, W) uint8 of images (H, W, 3) of one size."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def score_shots(dense: DenseClip, shots: Sequence[Shot], components: Components | None = None) -> tuple[Rows, Scores]:
    """Rows (P,) and scores (P, C + K) of the points that any of the images shows, as a cache holds them."""
    rows, scores = [], []
    for size in sorted({shot.image.shape for shot in shots}):
        alike = [shot for shot in shots if shot.image.shape == size]
        # Images of one size go through the tower together.
        maps = dense.scores(as_images([shot.image for shot in alike]))
        for number, shot in enumerate(alike):
            rows.append(shot.rows)
            seen = [maps.at(number, shot.pixels)]
            if components is not None:
                seen.append(components.at(shot.image, shot.pixels))
            scores.append(np.hstack(seen))
    return combine(rows, scores, len(dense.text.known) + (0 if components is None else components.count))


def make_scores(
    cache: ImageTextCache,
    dense: DenseClip,
    superpoints: Superpoints,
    *,
    components: Components | None = None,
    shape: bool = False,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Score the scans that a cache lacks. Returns how many.

    Args:
        cache: of the source, with the head of all of these.
        dense: the image-text model.
        superpoints: whose scores are averaged.
        components: of the images' own features, averaged, too, behind the scores.
        shape: whether `shape_measures` come after them.
        workers: threads that read scans and images ahead.
        progress: called with scans done, those that were there included, and all scans.

    Raises:
        ConfigError: no scan has an image. CloudError, LabelError: a scan cannot be read. OutputError: no room.
    """
    scans = len(cache.source)
    missing = [index for index in range(scans) if index not in cache]
    images = 0
    for done, (index, frame, shots) in enumerate(_read_ahead(cache.source, missing, workers), 1):
        images += len(shots)
        if done == _SCANS_TO_TRY and not images and len(missing) == scans:
            raise ConfigError(_no_images(cache.source, done))
        rows, scores = score_shots(dense, shots, components)
        scores = superpoints.average(frame.points[rows], scores)
        if shape:
            scores = np.hstack([scores, shape_measures(frame.points, frame.intensity, rows)])
        cache.write(index, frame, rows, scores)
        if progress is not None:
            progress(scans - len(missing) + done, scans)
    if missing and len(missing) == scans and not images:
        raise ConfigError(_no_images(cache.source, scans))
    return len(missing)


_SCANS_TO_TRY = 50


def _no_images(source: Source, scans: int) -> str:
    if source.kind == "synthetic":
        return f"{source.root}: the towns have no images; data.town_images=true with another data.root renders them"
    return f"{source.root}: none of {scans} scans has an image that belongs to it"


def _read_ahead(source: Source, indices: Sequence[int], workers: int) -> Iterator[tuple[int, Frame, list[Shot]]]:
    """Scans in the order of `indices`, a few of them read before they are asked for."""

    def read(index: int) -> tuple[int, Frame, list[Shot]]:
        frame = source[index]
        return index, frame, read_shots(frame)

    if workers == 0:
        yield from map(read, indices)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[tuple[int, Frame, list[Shot]]]] = deque()
        try:
            for index in indices:
                waiting.append(pool.submit(read, index))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # What was not begun when something else failed is not begun at all.
            for job in waiting:
                job.cancel()
