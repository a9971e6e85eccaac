"""Image-text scores for every part of an image, without training: MaskCLIP (arXiv 2112.01071).

An image tower describes a whole image, because its last layer mixes all places by attention. Left unmixed, each place
keeps its own value projection and comes out in the text model's space.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from mdkt_ros.device import fast_dtype
from mdkt_ros.errors import ConfigError
from mdkt_ros.image_text_model import ImageTextModel
from training.scheme.dense_towers import DenseTower, dense_tower
from training.scheme.text import ClassText

_PIXELS_AT_ONCE = 1 << 20
"""Pixels of windows that go through the tower together."""


@dataclass(frozen=True)
class DenseOptions:
    """How images are looked at.

    Attributes:
        scales: sizes of the image, as factors; their scores are averaged.
        window: pixels of a square window that slides over the image; None: the size that the model was trained at;
            0: the whole image at once.
        step: pixels from one window to the next; 0: half a window.
        last_block: what the last block of a vision transformer does, see `training.scheme.dense_towers.LAST_BLOCKS`.
        absent: a class is dropped from an image when nowhere its probability (softmax over the classes at the model's
            own logit scale) reaches this; 0 drops none. MaskCLIP calls it prompt denoising, and uses 0.5.
        half: compute in a half precision where the hardware does.
    """

    scales: tuple[float, ...] = (1.0,)
    window: int | None = None
    step: int = 0
    last_block: str = "auto"
    absent: float = 0.0
    half: bool = False

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= 8 for scale in self.scales):
            raise ConfigError(f"scales = {self.scales}: factors above 0, at most 8")
        if (self.window or 0) < 0:
            raise ConfigError(f"window = {self.window}: pixels, or 0 for the whole image")
        if self.step < 0 or (self.window and self.step > self.window):
            raise ConfigError(f"step = {self.step}: pixels, at most a window of {self.window}, or 0 for half of one")
        if not 0 <= self.absent < 1:
            raise ConfigError(f"absent = {self.absent}: a probability below 1, or 0")


@dataclass(frozen=True, eq=False)
class ScoreMaps:
    """Class scores of B images of one size.

    Attributes:
        scores: (B, C, h, w) float32 cosine of each place with the best word of each class, on the CPU; the h * w places
            tile the image.
        present: (B, C) bool, classes that are in the image.
        height, width: of the images in pixels.
    """

    scores: Tensor
    present: npt.NDArray[np.bool_]
    height: int
    width: int

    def at(self, image: int, pixels: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Scores (P, C) at pixels (P, 2), bilinear between places; NaN for classes that are not in the image.

        The centre of the top left pixel is (0, 0).
        """
        size = np.array([self.width, self.height])
        place = torch.from_numpy(((np.asarray(pixels, dtype=np.float64) + 0.5) / size * 2 - 1).astype(np.float32))
        sampled = F.grid_sample(
            self.scores[image][None], place[None, None], mode="bilinear", padding_mode="border", align_corners=False
        )
        values: npt.NDArray[np.float32] = sampled[0, :, 0].T.numpy().copy()
        values[:, ~self.present[image]] = np.nan
        return values


class DenseClip:
    """Dense class scores of images by an image-text model."""

    def __init__(self, model: ImageTextModel, text: ClassText, options: DenseOptions | None = None) -> None:
        """Raises ConfigError for an image tower that it does not know how to read densely."""
        self.model, self.text, self.options = model, text, options or DenseOptions()
        self.tower: DenseTower = dense_tower(model.network.visual, self.options.last_block, model.name)
        self._dtype = fast_dtype(torch.device(model.device)) if self.options.half else None
        self._words = text.embeddings.to(model.device)
        self._mean = torch.tensor(model.mean, device=model.device)[:, None, None]
        self._std = torch.tensor(model.std, device=model.device)[:, None, None]

    @property
    def settings(self) -> dict[str, Any]:
        """What the scores depend on besides model, text and image; of JSON types only."""
        sides = self.model.image_size if self.options.window is None else (self.options.window,) * 2
        resolved = {"window": list(sides), "last_block": getattr(self.tower, "last_block", "")}
        resolved["dtype"] = str(self._dtype or torch.float32).removeprefix("torch.")
        return {**asdict(self.options), "scales": list(self.options.scales), **resolved}

    @torch.no_grad()
    def features(self, images: Tensor, scale: float = 1.0) -> Tensor:
        """Unit features (B, D, h, w) float32 of the places of images (B, 3, H, W), RGB 0..1 of any size.

        The images are brought to `scale` of their size, rounded to whole places of the tower's stride.
        """
        stride = self.tower.stride
        grid = [max(1, round(size * scale / step)) for size, step in zip(images.shape[2:], stride, strict=True)]
        target = [cells * step for cells, step in zip(grid, stride, strict=True)]
        images = images.to(self.model.device)
        if list(images.shape[2:]) != target:
            # As CLIP's own preparation; bicubic overshoots.
            images = F.interpolate(images, size=target, mode="bicubic", antialias=True).clamp(0, 1)
        return self._slide((images - self._mean) / self._std, grid)

    def _slide(self, images: Tensor, grid: list[int]) -> Tensor:
        """Features of prepared images, in windows where they are larger than one; `grid`: places down and across."""
        stride, window = self.tower.stride, self.options.window
        sides = self.model.image_size if window is None else (window, window)
        if window == 0:
            return self._tower(images)
        size = [min(cells, max(1, side // step)) for cells, side, step in zip(grid, sides, stride, strict=True)]
        hops = [
            max(1, min(self.options.step // step, cells) or cells // 2)
            for cells, step in zip(size, stride, strict=True)
        ]
        corners = [
            (top, left) for top in _starts(grid[0], size[0], hops[0]) for left in _starts(grid[1], size[1], hops[1])
        ]
        windows = [
            images[:, :, y * stride[0] : (y + size[0]) * stride[0], x * stride[1] : (x + size[1]) * stride[1]]
            for y, x in corners
        ]
        some = max(1, _PIXELS_AT_ONCE // (len(images) * size[0] * stride[0] * size[1] * stride[1]))
        total: Tensor | None = None
        for first in range(0, len(corners), some):
            features = self._tower(torch.cat(windows[first : first + some]))
            if total is None:
                total = features.new_zeros(len(images), features.shape[1], *grid)
            for (y, x), part in zip(corners[first : first + some], torch.split(features, len(images)), strict=True):
                total[:, :, y : y + size[0], x : x + size[1]] += part
        assert total is not None
        # A sum of unit vectors: its direction is that of their mean.
        return F.normalize(total, dim=1)

    def _tower(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, self._dtype or torch.float16, enabled=self._dtype is not None):
            features = self.tower(images)
        return F.normalize(features.float(), dim=1)

    @torch.no_grad()
    def scores(self, images: Tensor) -> ScoreMaps:
        """Class scores of images (B, 3, H, W), uint8 or float 0..1, RGB of one size."""
        if images.dtype == torch.uint8:
            images = images.to(self.model.device).float() / 255
        maps = []
        for scale in self.options.scales:
            by_word = torch.einsum("bdhw,kd->bhwk", self.features(images, scale), self._words)
            maps.append(self.text.best(by_word).permute(0, 3, 1, 2))
        finest = max((tuple(part.shape[2:]) for part in maps), key=lambda size: size[0] * size[1])
        mean = torch.stack([_resize(part, finest) for part in maps]).mean(0)
        mean[:, torch.from_numpy(~self.text.known)] = -1
        surest = (mean * self.model.logit_scale).softmax(1).amax((2, 3))
        # An image in which no class is sure keeps its surest, so that every place has one to name.
        kept = (surest >= self.options.absent) | (surest == surest.amax(1, keepdim=True))
        present = kept.cpu().numpy() & self.text.known
        return ScoreMaps(mean.cpu(), present, *images.shape[2:])


def _resize(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(maps.shape[2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _starts(cells: int, width: int, hop: int) -> list[int]:
    """First cells of windows of `width`, `hop` apart, the last one flush with the end of `cells`."""
    return [*range(0, cells - width, hop), cells - width]
