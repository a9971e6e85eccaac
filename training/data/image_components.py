"""What a frozen image network sees at each point, in a few numbers: principal components of its features.

Text knows a class by its words, and where it does not, no calibration of its scores brings the class back. An image
network that was pre-trained elsewhere tells more things apart than it has words for, and the few drawn labels can say
which of them are which class (`training.scheme.calibration`, "probe").
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor
from torch.nn import functional as F

from mdkt_ros.errors import ConfigError
from mdkt_ros.image_text_model import weights_fingerprint
from mdkt_ros.output import atomic_output
from training.data.image_text_head import HEAD
from training.data.image_text_maker import Shot, read_shots
from training.data.pair_finder import scale_image
from training.data.source import Source
from training.scheme.calibration_map import COMPONENT_SCALE
from training.scheme.config import ImageNetworkConfig
from training.scheme.image_network import ImageNetwork, build_image_network

BASIS = "components.safetensors"
COMPONENTS = 32
"""As many as a few labels can use; each takes two bytes a point. Twice and four times as many were hardly better."""
_SCANS, _PIXELS = 20, 500
"""Scans, and pixels of each of their images, that the components are found from."""
_BOUND = 0.99
"""Of a component: below the scores' bounds, which mean that a class is absent."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Basis:
    """Directions in the space of all feature maps side by side.

    Attributes:
        mean: (D,) float32 of the features.
        matrix: (D, K) float32; (features - mean) @ matrix has a root mean square of 1 / `COMPONENT_SCALE`.
    """

    mean: Floats
    matrix: Floats


class ImageComponents:
    """Components of an image at pixels.

    Attributes:
        settings: what they depend on besides the images, of JSON types.
    """

    def __init__(self, network: ImageNetwork, scale: float, basis: Basis) -> None:
        """`network`: frozen. `scale`: of the images, as `images.scale`."""
        self.network, self.scale, self.basis = network.eval(), scale, basis

    @property
    def count(self) -> int:
        """K."""
        return len(self.basis.matrix.T)

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "network": self.network.name,
            "weights": weights_fingerprint(self.network.backbone),
            "scale": self.scale,
        }

    def at(self, image: npt.NDArray[np.uint8], pixels: npt.NDArray[np.floating]) -> Floats:
        """Components (P, K) of an image (H, W, 3) RGB at pixels (P, 2); the centre of the top left one is (0, 0)."""
        maps, grid = self._maps(image, pixels)
        first, out = 0, -torch.from_numpy(self.basis.mean @ self.basis.matrix)
        for each in maps:
            # Projected before they are sampled, which is linear, too, and a place has fewer pixels than points.
            some = torch.from_numpy(self.basis.matrix[first : first + each.shape[1]])
            out = out + _sample(torch.einsum("bdhw,dk->bkhw", each.cpu(), some), grid)
            first += each.shape[1]
        return out.clamp(-_BOUND, _BOUND).numpy()

    def features(self, image: npt.NDArray[np.uint8], pixels: npt.NDArray[np.floating]) -> Floats:
        """Features (P, D) of all maps side by side."""
        maps, grid = self._maps(image, pixels)
        return torch.cat([_sample(each.cpu(), grid) for each in maps], 1).numpy()

    @torch.no_grad()
    def _maps(self, image: npt.NDArray[np.uint8], pixels: npt.NDArray[np.floating]) -> tuple[list[Tensor], Tensor]:
        """Feature maps (1, d, h, w) float32, and the pixels as places (1, 1, P, 2) of them."""
        small, ratio = scale_image(image, self.scale)
        device = self.network.mean.device
        maps = self.network.maps(torch.from_numpy(small).to(device)[None].float() / 255)
        stride = self.network.strides[-1]
        # The maps are of an image that is padded at the right and the bottom.
        size = np.array([side + -side % stride for side in small.shape[:0:-1]])
        place = (np.asarray(pixels, dtype=np.float64) + 0.5) * ratio / size * 2 - 1
        return [each.float() for each in maps], torch.from_numpy(place.astype(np.float32))[None, None]


def _sample(maps: Tensor, grid: Tensor) -> Tensor:
    """Values (P, D) of maps (1, D, h, w), bilinear between places."""
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)[0, :, 0].T


def find_components(network: ImageNetwork, scale: float, source: Source, count: int) -> Basis:
    """Principal components of a network's features where points are, each feature of unit variance.

    Raises:
        ConfigError: the scans have no images, or fewer features than components. CloudError, DriveError: not readable.
    """
    rng = np.random.default_rng(0)
    width = sum(network.backbone.feature_info.channels()[stage] for stage in network.stages)
    if not 0 < count <= width:
        raise ConfigError(f"--components {count}: {network.name} has {width} features, of which they are made")
    plain = ImageComponents(network, scale, Basis(np.zeros(width, np.float32), np.zeros((width, 0), np.float32)))
    chosen = np.unique(np.linspace(0, len(source) - 1, _SCANS).astype(int)).tolist()
    found = [_some(plain, shot, rng) for index in chosen for shot in read_shots(source[index])]
    features = np.concatenate(found) if found else np.zeros((0, width), np.float32)
    if len(features) <= count:
        raise ConfigError(f"--components {count}: only {len(features)} points of {len(chosen)} scans are in an image")
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    unit = (features - mean) / deviation
    _, directions = np.linalg.eigh(unit.T @ unit)  # the largest last
    matrix = directions[:, : -count - 1 : -1] / deviation[:, None]
    matrix *= np.sign(matrix[np.abs(matrix).argmax(0), np.arange(count)])  # of either sign: the same on any machine
    size = np.sqrt((((features - mean) @ matrix) ** 2).mean())
    return Basis(mean, (matrix / (COMPONENT_SCALE * size)).astype(np.float32))


def _some(components: ImageComponents, shot: Shot, rng: np.random.Generator) -> Floats:
    some = rng.permutation(len(shot.pixels))[:_PIXELS]
    return components.features(shot.image, shot.pixels[some])


def open_components(
    folder: Path | None, config: ImageNetworkConfig, scale: float, source: Source, count: int, device: torch.device
) -> ImageComponents:
    """The components of a cache, as they were found when it was begun; of one that is not there, or None, found now.

    Raises ConfigError and CheckpointError.
    """
    network = build_image_network(config).to(device)
    begun = folder is not None and (folder / HEAD).is_file() and (folder / BASIS).is_file()
    basis = _read(folder / BASIS) if folder is not None and begun else None
    if basis is None or basis.matrix.shape[1] != count:
        basis = find_components(network, scale, source, count)
    return ImageComponents(network, scale, basis)


def save_basis(folder: Path, basis: Basis) -> None:
    """Store the basis of a cache. Raises OutputError."""
    with atomic_output(folder / BASIS, force=True) as temporary:
        temporary.write_bytes(save({"mean": basis.mean, "matrix": basis.matrix}))


def _read(path: Path) -> Basis:
    try:
        with safe_open(path, framework="numpy") as file:
            return Basis(file.get_tensor("mean"), file.get_tensor("matrix"))
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: damaged ({error}); remove {path.parent} and make the scores again") from error
