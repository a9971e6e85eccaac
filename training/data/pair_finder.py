"""Finds what the images of a recorded scan show of it: camera images made ready, and the pixel of every point seen."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from mdkt_ros.drive.frame import Frame, View
from mdkt_ros.drive.sight import Sight, sights
from mdkt_ros.errors import DriveError
from training.data.source import Source
from training.scheme.config import ImagesConfig

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ImagePairs:
    """Some images of one recorded scan, and its points in them.

    Attributes:
        cameras: names of the cameras, one an image.
        images: (I, 3, H, W) uint8 RGB; smaller images are padded with zeros at the right and the bottom. Without an
            image (0, 3, 1, 1).
        point: (P,) int64 row of the point in the recorded scan.
        image: (P,) int64 number of the image, ascending.
        pixel: (P, 2) float32 (u, v) in pixels of `images`; the centre of the top left pixel is (0, 0).
        origin: (I, 2) int64 number of the scan in the source and of the view in the scan.
    """

    cameras: tuple[str, ...]
    images: Pixels
    point: npt.NDArray[np.int64]
    image: npt.NDArray[np.int64]
    pixel: npt.NDArray[np.float32]
    origin: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.point)


@dataclass(frozen=True)
class _Shown:
    """Image of a frame's view `number`, scaled (3, H, W), and the points (P,) that it shows at `pixel` (P, 2)."""

    number: int
    camera: str
    image: Pixels
    point: npt.NDArray[np.int32]
    pixel: npt.NDArray[np.float32]


class PairFinder:
    """The image pairs of a source's scans, for every step of training anew.

    Args:
        source: the scans.
        images: how many images, how large, and how much they are changed.
        train: draw cameras, colours and mirrors at random. Otherwise the first cameras, as they are.
        cache: keep what was read of a scan (uint8 images as scaled, and pairs) for the next time.
    """

    def __init__(self, source: Source, images: ImagesConfig, *, train: bool = True, cache: bool = False) -> None:
        self.source, self.images, self.train, self.cache = source, images, train, cache
        self._kept: dict[int, tuple[_Shown, ...]] = {}

    def prepare(self, index: int, frame: Frame) -> None:
        """Read the images of a frame that is at hand into the cache, so that `find` need not read the scan again."""
        if self.cache and index not in self._kept:
            self._kept[index] = self._read(frame, list(range(len(frame.views))))

    def find(self, index: int, rng: np.random.Generator, frame: Frame | None = None) -> ImagePairs:
        """Images of scan `index` of the source, and the points that they show.

        An image that cannot be read is left out with a warning. Points that are not finite are never paired.

        Args:
            index: position in the source.
            rng: chooses cameras, colours and mirrors.
            frame: the scan itself, where it was read already.

        Raises:
            CloudError, LabelError: the scan cannot be read; the message names the file.
        """
        if self.cache:
            if index not in self._kept:
                self.prepare(index, self.source[index] if frame is None else frame)
            kept = self._kept[index]
            return self._join(index, tuple(kept[number] for number in self._choose(len(kept), rng)), rng)
        frame = self.source[index] if frame is None else frame
        chosen = self._choose(len(frame.views), rng)
        return self._join(index, self._read(frame, chosen), rng)

    def _choose(self, views: int, rng: np.random.Generator) -> list[int]:
        wanted = self.images.cameras
        if not self.train or wanted >= views:
            return list(range(min(wanted, views)))
        return sorted(rng.choice(views, wanted, replace=False).tolist())

    def _read(self, frame: Frame, chosen: list[int]) -> tuple[_Shown, ...]:
        chosen_views = tuple(frame.views[number] for number in chosen)
        shown = []
        for number, view, sight in zip(chosen, chosen_views, sights(frame, chosen_views), strict=True):
            try:
                shown.append(_shown(number, view, sight, self.images.scale))
            except DriveError as error:
                warnings.warn(f"scan {frame.name} is used without an image: {error}", stacklevel=2)
        return tuple(shown)

    def _join(self, index: int, chosen: tuple[_Shown, ...], rng: np.random.Generator) -> ImagePairs:
        height = max((shown.image.shape[1] for shown in chosen), default=1)
        width = max((shown.image.shape[2] for shown in chosen), default=1)
        images = np.zeros((len(chosen), 3, height, width), dtype=np.uint8)
        pixels = [np.zeros((0, 2), dtype=np.float32)]
        for number, shown in enumerate(chosen):
            image, pixel = shown.image, shown.pixel
            if self.train:
                image = change_color(image, self.images.color, rng)
                if rng.random() < self.images.flip:
                    image = image[:, :, ::-1]
                    pixel = np.stack([image.shape[2] - 1 - pixel[:, 0], pixel[:, 1]], axis=1)
            images[number, :, : image.shape[1], : image.shape[2]] = image
            pixels.append(pixel)
        counts = [len(shown.point) for shown in chosen]
        return ImagePairs(
            cameras=tuple(shown.camera for shown in chosen),
            images=images,
            point=np.concatenate([shown.point for shown in chosen]).astype(np.int64)
            if chosen
            else np.zeros(0, np.int64),
            image=np.repeat(np.arange(len(chosen), dtype=np.int64), counts),
            pixel=np.concatenate(pixels),
            origin=np.array([(index, shown.number) for shown in chosen], dtype=np.int64).reshape(-1, 2),
        )


def _shown(number: int, view: View, sight: Sight, scale: float) -> _Shown:
    """Decode and scale the image of a view, the points' pixels with it. Raises DriveError."""
    image, ratio = scale_image(view.load(), scale)
    point = np.flatnonzero(sight.visible)
    # Scaling keeps the corner of the first pixel, (-0.5, -0.5), not its centre.
    pixel = (sight.projection.pixels[point] + 0.5) * ratio - 0.5
    return _Shown(number, view.camera.name, image, point.astype(np.int32), pixel.astype(np.float32))


def scale_image(image: Pixels, scale: float) -> tuple[Pixels, npt.NDArray[np.float64]]:
    """An image (H, W, 3) in another size, (3, h, w), and the ratio (2,) of its width and height to those before."""
    picture = Image.fromarray(image)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    ratio = np.array([size[0] / picture.width, size[1] / picture.height])
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1)), ratio


def change_color(image: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    """Brightness, contrast and saturation of an image (3, H, W) uint8, each times a factor uniform in 1 +- `amount`."""
    if amount <= 0 or not image.size:
        return image
    brightness, contrast, saturation = rng.uniform(1 - amount, 1 + amount, 3)
    gray = np.array([0.299, 0.587, 0.114])
    mean = float(gray @ image[:, ::4, ::4].reshape(3, -1).mean(axis=1))
    # Three affine maps of a pixel's colour, in one.
    matrix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * gray)
    offset = brightness * (1 - contrast) * mean
    changed = matrix.astype(np.float32) @ image.reshape(3, -1).astype(np.float32)
    changed += np.float32(offset + 0.5)
    np.clip(changed, 0, 255, out=changed)
    out: Pixels = changed.astype(np.uint8).reshape(image.shape)
    return out
