"""Trees, bushes and hedges: clouds of small leaves, so that a beam may pass between them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.synthetic.kinds import Kind
from mdkt_ros.drive.synthetic.materials import Material
from mdkt_ros.drive.synthetic.mesh import Array, Mesh, box, concatenate, ellipsoid, loft, surface, tube

GREENS = np.array(
    [
        [0.07, 0.16, 0.03],
        [0.10, 0.20, 0.05],
        [0.05, 0.12, 0.04],
        [0.16, 0.20, 0.05],
        [0.12, 0.17, 0.08],
        [0.20, 0.16, 0.05],
    ]
)


def leaves(rng: np.random.Generator, centers: npt.NDArray[np.floating], size: float) -> Array:
    """One triangle (L, 3, 3) of random attitude around each centre, about `size` metres across."""
    spread = rng.normal(size=(len(centers), 3, 3))
    spread /= np.linalg.norm(spread, axis=2, keepdims=True)
    return (centers[:, None] + spread * (size * rng.uniform(0.4, 0.9, (len(centers), 1, 1)))).astype(np.float32)


def _green(rng: np.random.Generator, count: int, base: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return np.clip(base * rng.uniform(0.6, 1.5, (count, 1)) * rng.uniform(0.9, 1.1, (count, 3)), 0.01, 0.6)


def _shell(rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """Points in the unit ball, most of them near its surface."""
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    points: npt.NDArray[np.float64] = direction * rng.uniform(0.15, 1.0, (count, 1)) ** 0.45
    return points


def _trunk(rng: np.random.Generator, height: float, radius: float) -> tuple[Mesh, npt.NDArray[np.float64]]:
    """A bent, tapering trunk and its top."""
    stations = np.linspace(-0.4, height, 5)
    lean = np.column_stack([np.cumsum(rng.normal(0, 0.05, (5, 2)), axis=0), stations])
    lean[:2, :2] = 0
    angle = np.arange(8) * (np.pi / 4)
    radii = radius * np.array([1.35, 1.0, 0.9, 0.82, 0.7])
    bark = 1 + 0.08 * rng.normal(size=(5, 8))
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(8)], axis=1)
    rings = lean[:, None] + ring * (radii[:, None] * bark)[..., None]
    color = np.array([0.16, 0.11, 0.07]) * rng.uniform(0.6, 1.6)
    return surface(loft(rings), Material.BARK, color, Kind.TRUNK), lean[-1]


def tree(rng: np.random.Generator) -> Mesh:
    """A broad-leaved tree, its foot at the origin: a trunk of kind TRUNK, branches and leaves of kind VEGETATION."""
    bole = rng.uniform(0.8, 2.3)
    radius = rng.uniform(0.10, 0.28)
    trunk, top = _trunk(rng, bole, radius)
    crown = np.array([rng.uniform(1.3, 2.8), rng.uniform(1.3, 2.8), rng.uniform(1.6, 3.4)])
    middle = top + np.array([0, 0, crown[2] * 0.72])
    clumps = _shell(rng, int(rng.integers(9, 15))) * crown * 0.75 + middle
    branches = [tube(top - [0, 0, 0.2], c, radius * 0.4, 0.02, sides=4) for c in clumps]
    count = int(190 * crown[0] * crown[1])
    owner = rng.integers(len(clumps), size=count)
    spots = clumps[owner] + _shell(rng, count) * crown.mean() * rng.uniform(0.35, 0.55, len(clumps))[owner, None]
    spots[:, 2] = np.maximum(spots[:, 2], bole * 0.75)
    base = GREENS[int(rng.integers(len(GREENS)))]
    wood = surface(np.concatenate(branches), Material.BARK, (0.14, 0.10, 0.07), Kind.VEGETATION)
    foliage = surface(leaves(rng, spots, 0.23), Material.LEAF, _green(rng, count, base), Kind.VEGETATION)
    return concatenate([trunk, wood, foliage])


def conifer(rng: np.random.Generator) -> Mesh:
    """A conifer: a cone of leaves around a trunk that shows at its foot only."""
    height, width = rng.uniform(4, 9), rng.uniform(1.0, 1.9)
    trunk, _ = _trunk(rng, 1.2, rng.uniform(0.1, 0.2))
    count = int(90 * height)
    up = 1 - np.sqrt(rng.uniform(0, 1, count))
    angle = rng.uniform(0, 2 * np.pi, count)
    out = width * (1 - up) * rng.uniform(0.2, 1, count) ** 0.4 * (0.8 + 0.2 * np.sin(up * height * 6))
    spots = np.column_stack([out * np.cos(angle), out * np.sin(angle), 0.6 + up * height])
    foliage = surface(leaves(rng, spots, 0.25), Material.LEAF, _green(rng, count, GREENS[2]), Kind.VEGETATION)
    return concatenate([trunk, foliage])


def bush(rng: np.random.Generator) -> Mesh:
    """A bush about 0.9 to 2.5 m high."""
    radii = np.array([rng.uniform(0.6, 1.5), rng.uniform(0.6, 1.5), rng.uniform(0.6, 1.6)])
    count = int(170 * radii.prod() ** 0.67) + 60
    lumps = _shell(rng, 6) * radii * 0.5
    spots = lumps[rng.integers(6, size=count)] + _shell(rng, count) * radii * 0.6 + np.array([0, 0, radii[2] * 0.7])
    spots[:, 2] = np.abs(spots[:, 2])
    base = GREENS[int(rng.integers(len(GREENS)))]
    core = ellipsoid((0, 0, radii[2] * 0.6), radii * 0.42, 6, 4)
    return concatenate(
        [
            surface(core, Material.LEAF, base * 0.5, Kind.VEGETATION),
            surface(leaves(rng, spots, 0.16), Material.LEAF, _green(rng, count, base), Kind.VEGETATION),
        ]
    )


def hedge(rng: np.random.Generator, length: float, height: float) -> Mesh:
    """A clipped hedge along x from 0 to `length`."""
    thick = rng.uniform(0.5, 0.8)
    base = GREENS[int(rng.integers(4))]
    count = int(length * height * 75)
    side = rng.choice([-1.0, 1.0], count)
    on_top = rng.random(count) < thick / (thick + 2 * height)
    spots = np.column_stack(
        [
            rng.uniform(0, length, count),
            np.where(on_top, rng.uniform(-0.5, 0.5, count) * thick, side * (thick / 2 - rng.exponential(0.06, count))),
            np.where(on_top, height, rng.uniform(0, 1, count) * height),
        ]
    )
    core = box((length / 2, 0, height / 2 - 0.25), (length, thick - 0.3, height + 0.2))
    return concatenate(
        [
            surface(core, Material.LEAF, base * 0.55, Kind.VEGETATION),
            surface(leaves(rng, spots, 0.17), Material.LEAF, _green(rng, count, base), Kind.VEGETATION),
        ]
    )


def tall_grass(rng: np.random.Generator) -> Mesh:
    """A tuft of grass and weeds about 0.3 m high."""
    count = 40
    foot = np.column_stack([rng.normal(0, 0.35, (count, 2)), np.full(count, -0.05)])
    tip = foot + np.column_stack([rng.normal(0, 0.1, (count, 2)), rng.uniform(0.15, 0.45, count)])
    wide = foot + np.column_stack([rng.normal(0, 0.04, (count, 2)), np.zeros(count)])
    return surface(np.stack([foot, wide, tip], axis=1), Material.LEAF, _green(rng, count, GREENS[3]), Kind.VEGETATION)
