"""What surfaces look like up close: tileable textures with mipmaps, in one table that a whole image samples at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.synthetic.materials import Material

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.float64]
SIZE = 256
LEVELS = 9


def noise(rng: np.random.Generator, slope: float, stretch: tuple[float, float] = (1.0, 1.0)) -> Image:
    """Tileable noise (SIZE, SIZE), mean 0, deviation 1; its amplitude falls with frequency to the power of `slope`."""
    fy = np.fft.fftfreq(SIZE)[:, None] * stretch[0]
    fx = np.fft.fftfreq(SIZE)[None, :] * stretch[1]
    radius = np.sqrt(fx * fx + fy * fy)
    radius[0, 0] = 1.0
    spectrum = np.fft.fft2(rng.standard_normal((SIZE, SIZE))) / radius**slope
    spectrum[0, 0] = 0
    image: Image = np.fft.ifft2(spectrum).real
    image /= image.std()
    return image


def blocks(
    rng: np.random.Generator, rows: int, columns: int, joint: int, bond: bool, contrast: float, dark: float
) -> Image:
    """Slabs, cobbles or bricks (SIZE, SIZE), each of its own tone; between them `joint` texels of the tone `dark`."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    height, width = SIZE // rows, SIZE // columns
    row = y // height
    shifted = (x + (row % 2) * (width // 2 if bond else 0)) % SIZE
    tone = 1 + contrast * rng.standard_normal((rows, columns))
    image = tone[row, shifted // width]
    gap = (y % height < joint) | (shifted % width < joint)
    result: Image = np.where(gap, dark, image)
    return result


def _gray(image: Image) -> Image:
    return np.repeat(image[..., None], 3, axis=2)


def _asphalt(rng: np.random.Generator) -> Image:
    grain, patches = noise(rng, 0.1), noise(rng, 1.6)
    crack = np.exp(-((noise(rng, 1.5) / 0.02) ** 2)) * rng.uniform(0, 0.45)
    return _gray(1 + rng.uniform(0.10, 0.2) * grain + rng.uniform(0.04, 0.12) * patches - crack)


def _grass(rng: np.random.Generator) -> Image:
    tuft, fine, dry = noise(rng, 1.0), noise(rng, 0.3), noise(rng, 1.7)
    image = _gray(1 + 0.28 * tuft + 0.3 * fine)
    image[..., 0] *= 1 + 0.22 * dry
    image[..., 2] *= 1 - 0.1 * dry
    return image


def _gravel(rng: np.random.Generator) -> Image:
    image = _gray(1 + 0.3 * noise(rng, 0.5) + 0.1 * noise(rng, 1.6))
    return image * (1 + 0.08 * rng.standard_normal((SIZE, SIZE, 3)))


def _paving(rng: np.random.Generator) -> Image:
    rows, columns = ((4, 4), (4, 8), (8, 8))[int(rng.integers(3))]
    slabs = blocks(rng, rows, columns, 3, bool(rng.random() < 0.6), 0.08, 0.55)
    return _gray(slabs * (1 + 0.06 * noise(rng, 0.3) + 0.05 * noise(rng, 1.5)))


def _cobble(rng: np.random.Generator) -> Image:
    stones = blocks(rng, 16, 16, 3, True, 0.15, 0.45)
    image = _gray(stones * (1 + 0.08 * noise(rng, 0.3)))
    return image * (1 + 0.03 * rng.standard_normal(3))


def _brick(rng: np.random.Generator) -> Image:
    image = _gray(blocks(rng, 16, 4, 2, True, 0.14, 0.0))
    mortar = np.array([1.25, 1.7, 1.9]) * rng.uniform(0.6, 1.1)
    image = np.where(image == 0, mortar, image)
    return image * (1 + 0.07 * noise(rng, 0.4))[..., None]


def _plaster(rng: np.random.Generator) -> Image:
    return _gray(1 + 0.05 * noise(rng, 0.2) + 0.05 * noise(rng, 1.7) + 0.03 * noise(rng, 1.2, (0.15, 1.0)))


def _concrete(rng: np.random.Generator) -> Image:
    return _gray(1 + 0.06 * noise(rng, 0.4) + 0.08 * noise(rng, 1.6))


def _wood(rng: np.random.Generator) -> Image:
    boards = blocks(rng, 1, 8, 2, False, 0.12, 0.5)
    return _gray(boards * (1 + 0.12 * noise(rng, 1.0, (0.05, 1.0))))


def _bark(rng: np.random.Generator) -> Image:
    ridges = noise(rng, 1.0, (0.2, 1.0))
    return _gray(1 + 0.4 * ridges + 0.15 * noise(rng, 0.4))


def _roof(rng: np.random.Generator) -> Image:
    rows = (np.arange(SIZE) % 16) / 16
    wave = 0.08 * np.sin(np.arange(SIZE) * 2 * np.pi / 13)
    tiles = blocks(rng, 16, 16, 1, True, 0.12, 0.6) * (0.8 + 0.35 * rows[:, None] + wave)
    return _gray(tiles)


def _leaf(rng: np.random.Generator) -> Image:
    return _gray(1 + 0.35 * noise(rng, 0.5))


def _wear(rng: np.random.Generator) -> Image:
    return _gray(1 - 0.25 * np.clip(noise(rng, 1.0), 0, 2) * rng.uniform(0.2, 1) + 0.05 * noise(rng, 0.1))


def _cloth(rng: np.random.Generator) -> Image:
    return _gray(1 + 0.15 * noise(rng, 1.2))


# Material: metres that a tile covers, and how it is made. What is not here is plain.
_RECIPES: dict[Material, tuple[float, Callable[[np.random.Generator], Image]]] = {
    Material.ASPHALT: (4.0, _asphalt),
    Material.PAINT: (2.0, _wear),
    Material.PAVING: (2.0, _paving),
    Material.COBBLE: (2.0, _cobble),
    Material.CONCRETE: (3.0, _concrete),
    Material.GRASS: (4.0, _grass),
    Material.SOIL: (3.0, _gravel),
    Material.GRAVEL: (3.0, _gravel),
    Material.PLASTER: (5.0, _plaster),
    Material.BRICK: (1.0, _brick),
    Material.ROOF: (4.0, _roof),
    Material.WOOD: (1.0, _wood),
    Material.LEAF: (0.8, _leaf),
    Material.BARK: (0.8, _bark),
    Material.CLOTH: (0.5, _cloth),
}


class Textures:
    """All textures of a town, drawn from `rng`: factors on a surface's own colour, one on average."""

    def __init__(self, rng: np.random.Generator) -> None:
        pyramids: list[npt.NDArray[np.uint8]] = [np.full((1, 3), 64, dtype=np.uint8)]
        self._start = np.zeros(len(Material), dtype=np.int64)
        self._tile = np.full(len(Material), np.inf, dtype=np.float32)
        sizes = SIZE >> np.arange(LEVELS)
        self._level_start = np.r_[0, np.cumsum(sizes * sizes)[:-1]]
        offset = 1
        for material, (tile, make) in _RECIPES.items():
            image = np.clip(make(rng), 0, 3.9)
            image /= image.mean()
            self._start[material], self._tile[material] = offset, tile
            for _ in range(LEVELS):
                pyramids.append(np.clip(image * 64, 0, 255).astype(np.uint8).reshape(-1, 3))
                offset += len(pyramids[-1])
                if len(image) > 1:
                    image = (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4
        self._texels = np.concatenate(pyramids)

    def sample(self, material: npt.NDArray[np.uint8], uv: Array, footprint: Array) -> Array:
        """Factors (N, 3) at texture coordinates (N, 2) in metres, for pixels that cover `footprint` metres (N,)."""
        tile = self._tile[material]
        plain = np.isinf(tile)
        tile = np.where(plain, np.float32(1), tile)
        level = np.clip(np.log2(np.maximum(footprint * (SIZE / tile), 1e-3)) + 0.3, 0, LEVELS - 1).astype(np.int64)
        size = SIZE >> level
        scaled = uv * (size / tile)[:, None].astype(np.float32)
        cell = np.floor(scaled).astype(np.int64) & (size - 1)[:, None]
        index = self._start[material] + self._level_start[level] + cell[:, 1] * size + cell[:, 0]
        index[plain] = 0
        result: Array = self._texels[index].astype(np.float32) * np.float32(1 / 64)
        return result
