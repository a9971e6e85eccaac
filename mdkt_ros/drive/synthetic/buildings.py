"""Buildings: walls with recessed windows, doors and balconies under flat or pitched roofs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.synthetic.kinds import Kind
from mdkt_ros.drive.synthetic.materials import Material
from mdkt_ros.drive.synthetic.mesh import Array, Color, Mesh, box, concatenate, quads, surface, tube


class Style(NamedTuple):
    """How a building looks: wall material and colour, roof, storeys and window sizes in metres."""

    wall: Material
    color: Color
    trim: Color
    roof: Color
    pitched: bool
    storey: float
    window: tuple[float, float]
    pitch: float
    recess: float
    balconies: bool


_WALL_COLORS: tuple[Color, ...] = (
    (0.72, 0.68, 0.58),
    (0.78, 0.75, 0.70),
    (0.66, 0.52, 0.34),
    (0.60, 0.45, 0.38),
    (0.50, 0.55, 0.60),
    (0.75, 0.66, 0.42),
    (0.42, 0.46, 0.40),
    (0.62, 0.62, 0.62),
)


def draw_style(rng: np.random.Generator, use: str) -> Style:
    """Draw the looks of one building."""
    wall = Material(int(rng.choice([Material.PLASTER, Material.BRICK, Material.CONCRETE], p=[0.6, 0.28, 0.12])))
    color = np.array(_WALL_COLORS[int(rng.integers(len(_WALL_COLORS)))]) * rng.uniform(0.75, 1.1)
    if wall == Material.BRICK:
        color = np.array([0.46, 0.22, 0.15]) * rng.uniform(0.7, 1.5) * rng.uniform(0.9, 1.1, 3)
    elif wall == Material.CONCRETE:
        color = np.full(3, rng.uniform(0.3, 0.5))
    roof = np.array([0.36, 0.14, 0.09]) if rng.random() < 0.6 else np.array([0.12, 0.12, 0.13])
    trim = np.full(3, rng.uniform(0.55, 0.85)) if rng.random() < 0.7 else color * 0.5
    apartments = use == "apartments"
    return Style(
        wall,
        _rgb(color),
        _rgb(trim),
        _rgb(roof * rng.uniform(0.7, 1.3)),
        bool(rng.random() < (0.15 if apartments else 0.8)),
        float(rng.uniform(2.7, 3.3)),
        (float(rng.uniform(0.9, 1.5)), float(rng.uniform(1.2, 1.7))),
        float(rng.uniform(2.2, 3.6)),
        float(rng.uniform(0.08, 0.22)),
        bool(rng.random() < (0.7 if apartments else 0.15)),
    )


def _rgb(color: npt.NDArray[np.floating]) -> Color:
    r, g, b = np.clip(color, 0.02, 0.9)
    return float(r), float(g), float(b)


def _panel(y: float, x0: npt.ArrayLike, x1: npt.ArrayLike, z0: npt.ArrayLike, z1: npt.ArrayLike) -> Array:
    """Upright rectangles (Q, 4, 3) in the wall's own plane: x along it, y outwards, z up."""
    x0, x1, z0, z1 = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, dtype=np.float32)) for v in (x0, x1, z0, z1)))
    depth = np.full(x0.shape, y, dtype=np.float32)
    corners = [[x0, depth, z0], [x1, depth, z0], [x1, depth, z1], [x0, depth, z1]]
    return np.array(corners, dtype=np.float32).transpose(2, 0, 1)


def _reveals(depth: float, x0: Array, x1: Array, z0: Array, z1: Array) -> Array:
    """The four sides (4Q, 4, 3) of recesses."""
    front, back = _panel(0.0, x0, x1, z0, z1), _panel(-depth, x0, x1, z0, z1)
    sides = [
        np.stack([front[:, i], front[:, j], back[:, j], back[:, i]], axis=1)
        for i, j in ((0, 1), (1, 2), (2, 3), (3, 0))
    ]
    return np.concatenate(sides)


def wall(rng: np.random.Generator, width: float, floors: int, style: Style, *, detailed: bool, door: bool) -> Mesh:
    """One wall in its own plane, x from 0 to `width`, outside towards +y, z from 0 up."""
    count = max(int((width - 0.8) / style.pitch), 1)
    centers = (np.arange(count) + 0.5) * (width / count)
    w, h = style.window
    x0, x1 = centers - w / 2, centers + w / 2
    plain: list[Array] = []
    windows: list[Array] = []
    door_at = int(rng.integers(count)) if door else -1
    parts: list[Mesh] = []
    for floor in range(floors):
        low = floor * style.storey + (0.4 if floor == 0 else 0.0)
        sill, head = low + 0.85, low + 0.85 + h
        top = (floor + 1) * style.storey + 0.4
        plain.append(_panel(0.0, 0, width, low, sill))
        plain.append(_panel(0.0, 0, width, head, top))
        plain.append(_panel(0.0, np.r_[0, x1], np.r_[x0, width], sill, head))
        windows.append(np.column_stack([x0, x1, np.full(count, sill), np.full(count, head)]).astype(np.float32))
        if floor == 0 and door:
            # A door stands in front of the wall by a hand's breadth, with its frame: cheaper than cutting it out.
            cx = float(np.clip(centers[door_at] + style.pitch / 2, 0.8, width - 0.8))
            parts.append(surface(box((cx, 0.02, 1.1), (1.3, 0.16, 2.2)), style.wall, style.trim))
            parts.append(surface(quads(_panel(0.11, cx - 0.5, cx + 0.5, 0.05, 2.1)), Material.WOOD, (0.25, 0.13, 0.07)))
            parts.append(surface(box((cx, 0.4, 0.09), (1.5, 0.8, 0.18)), Material.CONCRETE, (0.35, 0.35, 0.34)))
    holes = np.concatenate(windows)
    depth = style.recess if detailed else 0.02
    glass = quads(_panel(-depth, *holes.T))
    plain.append(_panel(0.03, 0, width, -1.5, 0.4))
    walls = surface(quads(np.concatenate(plain)), style.wall, style.color)
    parts += [walls, surface(glass, Material.WINDOW, (0.06, 0.07, 0.08))]
    if detailed:
        parts.append(surface(quads(_reveals(depth, *holes.T)), style.wall, style.trim))
        middle = (holes[:, 0] + holes[:, 1]) / 2
        bars = _panel(0.03 - depth, middle - 0.03, middle + 0.03, *holes.T[2:])
        parts.append(surface(quads(bars), Material.WOOD, style.trim))
        sills = [
            box(((a + b) / 2, 0.04, z - 0.04), (b - a + 0.2, 0.12, 0.07))
            for a, b, z, _ in holes[: count * min(floors, 2)]
        ]
        parts.append(surface(np.concatenate(sills), style.wall, style.trim))
        if style.balconies and floors > 1 and count > 1:
            parts += [
                _balcony(float(c), floor * style.storey + 0.3) for floor in range(1, floors) for c in centers[::2]
            ]
    return concatenate(parts)


def _balcony(center: float, z: float) -> Mesh:
    slab = box((center, 0.6, z), (2.4, 1.2, 0.16), bottom=True)
    rails = [
        tube((center + dx, 1.17, z), (center + dx, 1.17, z + 1.0), 0.012, sides=3)
        for dx in np.linspace(-1.17, 1.17, 14)
    ]
    rails += [tube((center - 1.17, 1.17, z + 1.0), (center + 1.17, 1.17, z + 1.0), 0.025, sides=4)]
    rails += [
        tube((center + s * 1.17, 0, z + 1.0), (center + s * 1.17, 1.17, z + 1.0), 0.025, sides=4) for s in (-1, 1)
    ]
    return concatenate(
        [
            surface(slab, Material.CONCRETE, (0.45, 0.45, 0.44)),
            surface(np.concatenate(rails), Material.STEEL, (0.15, 0.15, 0.16)),
        ]
    )


def _roof(width: float, depth: float, top: float, style: Style, steep: float) -> Mesh:
    if not style.pitched:
        slab = box((0, 0, top + 0.2), (width + 0.1, depth + 0.1, 0.5), bottom=True)
        return surface(slab, Material.CONCRETE, style.trim)
    eaves, ridge = 0.35, depth / 2 * steep
    x, y = width / 2 + eaves, depth / 2 + eaves
    low, high = top - eaves * steep, top + ridge
    slopes = [
        [[-x, -y, low], [x, -y, low], [x, 0, high], [-x, 0, high]],
        [[x, y, low], [-x, y, low], [-x, 0, high], [x, 0, high]],
    ]
    gable = [
        [[s * width / 2, -depth / 2, top], [s * width / 2, depth / 2, top], [s * width / 2, 0, high]] for s in (-1, 1)
    ]
    chimney = box((width * 0.2, depth * 0.15, high), (0.7, 0.7, 1.8))
    return concatenate(
        [
            surface(quads(slopes), Material.ROOF, style.roof),
            surface(np.array(gable), style.wall, style.color),
            surface(chimney, Material.BRICK, (0.35, 0.2, 0.15)),
        ]
    )


def building(rng: np.random.Generator, width: float, depth: float, floors: int, use: str) -> Mesh:
    """A building centred on the origin, front towards -y, ground at z = 0 (with a skirt below for sloping plots)."""
    style = draw_style(rng, use)
    front = wall(rng, width, floors, style, detailed=True, door=True)
    side = wall(rng, depth, floors, style, detailed=True, door=False)
    back = wall(rng, width, floors, style, detailed=False, door=False)
    parts = [
        front.placed((width / 2, -depth / 2, 0), np.pi),
        side.placed((width / 2, depth / 2, 0), -np.pi / 2),
        side.placed((-width / 2, -depth / 2, 0), np.pi / 2),
        back.placed((-width / 2, depth / 2, 0), 0.0),
        _roof(width, depth, floors * style.storey + 0.4, style, float(rng.uniform(0.5, 1.1))),
    ]
    if rng.random() < 0.5:
        pipe = tube(
            (width / 2 - 0.25, -depth / 2 - 0.08, 0), (width / 2 - 0.25, -depth / 2 - 0.08, floors * style.storey), 0.05
        )
        parts.append(surface(pipe, Material.STEEL, (0.35, 0.35, 0.35)))
    return concatenate(parts).of(Kind.BUILDING)


def garage(rng: np.random.Generator) -> Mesh:
    """A garage 3 m wide and 5.5 m deep, front towards -y."""
    color = _rgb(np.array(_WALL_COLORS[int(rng.integers(len(_WALL_COLORS)))]) * 0.9)
    gate = quads(_panel(0.0, -1.2, 1.2, 0.05, 2.1))
    gate[..., 1] -= 2.72
    return concatenate(
        [
            surface(box((0, 0, 0.8), (3.0, 5.5, 3.6)), Material.PLASTER, color),
            surface(gate, Material.STEEL, (0.5, 0.5, 0.5)),
        ]
    ).of(Kind.BUILDING)
