"""Cars in several body shapes, vans, trucks, buses, trailers, an excavator. All head along +x and stand on z = 0."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.synthetic.kinds import Kind
from mdkt_ros.drive.synthetic.materials import Material
from mdkt_ros.drive.synthetic.mesh import Array, Color, Mesh, box, concatenate, disc, loft, quads, surface, tube

# Stations from the tail (0) to the nose (1): share of the length, shoulder height, top height, and what lies up to the
# next station: b body, r rear window, s side windows, f windscreen.
_BODIES: dict[str, tuple[tuple[float, float, float, str], ...]] = {
    "sedan": (
        (0.00, 0.70, 0.74, "b"), (0.03, 0.92, 0.99, "b"), (0.15, 0.95, 1.04, "r"), (0.28, 0.95, 1.38, "b"),
        (0.33, 0.95, 1.43, "s"), (0.47, 0.93, 1.45, "b"), (0.49, 0.93, 1.45, "s"), (0.61, 0.92, 1.40, "f"),
        (0.73, 0.90, 0.99, "b"), (0.93, 0.76, 0.83, "b"), (1.00, 0.56, 0.62, "b"),
    ),
    "hatchback": (
        (0.00, 0.68, 0.72, "b"), (0.02, 0.95, 1.02, "r"), (0.11, 0.97, 1.40, "b"), (0.15, 0.97, 1.44, "s"),
        (0.33, 0.95, 1.48, "b"), (0.36, 0.95, 1.48, "s"), (0.56, 0.93, 1.43, "f"), (0.72, 0.90, 1.00, "b"),
        (0.93, 0.76, 0.84, "b"), (1.00, 0.55, 0.62, "b"),
    ),
    "estate": (
        (0.00, 0.68, 0.74, "b"), (0.02, 0.95, 1.03, "r"), (0.08, 0.97, 1.40, "b"), (0.11, 0.97, 1.45, "s"),
        (0.27, 0.96, 1.47, "b"), (0.29, 0.96, 1.47, "s"), (0.44, 0.95, 1.47, "b"), (0.46, 0.95, 1.47, "s"),
        (0.60, 0.93, 1.42, "f"), (0.73, 0.91, 1.00, "b"), (0.93, 0.78, 0.85, "b"), (1.00, 0.56, 0.62, "b"),
    ),
    "suv": (
        (0.00, 0.80, 0.86, "b"), (0.02, 1.08, 1.15, "r"), (0.09, 1.10, 1.62, "b"), (0.13, 1.10, 1.68, "s"),
        (0.32, 1.08, 1.71, "b"), (0.35, 1.08, 1.71, "s"), (0.56, 1.06, 1.66, "f"), (0.70, 1.04, 1.14, "b"),
        (0.94, 0.94, 1.03, "b"), (1.00, 0.62, 0.70, "b"),
    ),
    "van": (
        (0.00, 0.90, 1.85, "b"), (0.01, 1.10, 1.95, "b"), (0.10, 1.12, 1.97, "b"), (0.58, 1.12, 1.97, "b"),
        (0.62, 1.10, 1.95, "s"), (0.78, 1.08, 1.86, "f"), (0.90, 1.02, 1.14, "b"), (0.97, 0.85, 0.93, "b"),
        (1.00, 0.60, 0.66, "b"),
    ),
    "minibus": (
        (0.00, 0.90, 1.80, "b"), (0.01, 1.08, 1.92, "b"), (0.05, 1.10, 1.95, "s"), (0.30, 1.10, 1.97, "b"),
        (0.32, 1.10, 1.97, "s"), (0.58, 1.10, 1.96, "b"), (0.60, 1.10, 1.95, "s"), (0.77, 1.08, 1.86, "f"),
        (0.90, 1.02, 1.12, "b"), (0.97, 0.84, 0.92, "b"), (1.00, 0.60, 0.66, "b"),
    ),
    "pickup": (
        (0.00, 0.90, 0.96, "b"), (0.02, 1.02, 1.06, "b"), (0.36, 1.04, 1.10, "r"), (0.39, 1.04, 1.66, "b"),
        (0.41, 1.04, 1.70, "s"), (0.50, 1.03, 1.72, "b"), (0.52, 1.03, 1.72, "s"), (0.62, 1.02, 1.66, "f"),
        (0.72, 1.00, 1.10, "b"), (0.95, 0.92, 1.00, "b"), (1.00, 0.62, 0.70, "b"),
    ),
}  # fmt: skip
_SIZES = {
    "sedan": (4.3, 4.9, 1.74, 1.86), "hatchback": (3.6, 4.3, 1.62, 1.78), "estate": (4.4, 4.9, 1.74, 1.86),
    "suv": (4.2, 4.8, 1.80, 1.94), "van": (4.8, 5.9, 1.90, 2.05),
    "minibus": (4.6, 5.2, 1.86, 1.98), "pickup": (5.0, 5.4, 1.82, 1.94),
}  # fmt: skip
_PAINTS = np.array(
    [[0.02, 0.02, 0.02], [0.05, 0.05, 0.06], [0.55, 0.56, 0.57], [0.80, 0.80, 0.79], [0.25, 0.26, 0.27],
     [0.03, 0.06, 0.20], [0.35, 0.02, 0.02], [0.03, 0.12, 0.06],
     [0.55, 0.45, 0.30], [0.06, 0.20, 0.38], [0.6, 0.35, 0.03]]
)  # fmt: skip
_PAINT_WEIGHTS = np.array([0.2, 0.1, 0.2, 0.16, 0.12, 0.07, 0.05, 0.02, 0.03, 0.03, 0.02])
BLACK: Color = (0.02, 0.02, 0.02)


def draw_paint(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A car colour, as common as on the road."""
    paint: npt.NDArray[np.float64] = _PAINTS[int(rng.choice(len(_PAINTS), p=_PAINT_WEIGHTS))] * rng.uniform(0.8, 1.2)
    return paint


def wheels(axles: list[float], half_width: float, radius: float) -> Mesh:
    """Wheels with arches at x positions on both sides, the outer faces at y = +-half_width."""
    parts = []
    for x in axles:
        for side in (-1, 1):
            outer = side * half_width
            tyre = tube((x, outer - side * 0.22, radius), (x, outer, radius), radius, sides=14)
            arch = disc((x, outer - side * 0.012, radius * 1.05), radius * 1.2, (0, 1, 0), 14)
            parts.append(surface(np.concatenate([tyre, arch]), Material.RUBBER, BLACK))
            hub = disc((x, outer + side * 0.006, radius), radius * 0.62, (0, 1, 0), 10)
            parts.append(surface(hub, Material.STEEL, (0.38, 0.38, 0.39)))
    return concatenate(parts)


def _fan(ring: npt.NDArray[np.floating]) -> Array:
    middle = np.broadcast_to(ring.mean(0), ring.shape)
    return np.stack([middle, ring, np.roll(ring, -1, 0)], axis=1).astype(np.float32)


def _lights(length: float, half: float, height: float) -> Mesh:
    def plate(x: float, y: float, z: float, w: float, h: float) -> Array:
        return quads([[[x, y - w, z - h], [x, y + w, z - h], [x, y + w, z + h], [x, y - w, z + h]]])

    front, rear = length / 2 + 0.015, -length / 2 - 0.015
    lamps = np.concatenate([plate(front - 0.02, s * half * 0.72, height, 0.17, 0.07) for s in (-1, 1)])
    tails = np.concatenate([plate(rear, s * half * 0.78, height + 0.12, 0.11, 0.1) for s in (-1, 1)])
    plates = np.concatenate([plate(front, 0, 0.45, 0.26, 0.055), plate(rear, 0, 0.55, 0.26, 0.055)])
    return concatenate(
        [
            surface(lamps, Material.REFLECTOR, (0.75, 0.75, 0.72)),
            surface(tails, Material.REFLECTOR, (0.45, 0.02, 0.02)),
            surface(plates, Material.REFLECTOR, (0.75, 0.75, 0.72)),
        ]
    )


def car(rng: np.random.Generator) -> Mesh:
    """A car of a random body shape, size and colour."""
    names = tuple(_BODIES)
    name = names[int(rng.choice(len(names), p=[0.2, 0.3, 0.16, 0.16, 0.08, 0.06, 0.04]))]
    low, high, narrow, wide = _SIZES[name]
    length, half, stretch = rng.uniform(low, high), rng.uniform(narrow, wide) / 2, rng.uniform(0.96, 1.05)
    stations = _BODIES[name]
    share, belt, top = (np.array([s[i] for s in stations], dtype=np.float64) for i in range(3))
    belt, top = belt * stretch, top * stretch
    x = (share - 0.5) * length
    # Seen from above the ends are round; the roof is narrower than the shoulders.
    width = half * np.clip(1 - 2.6 * (np.abs(share - 0.5) - 0.33).clip(0) ** 1.6, 0.6, 1)
    cabin = np.clip((top - belt) / 0.45, 0, 1)
    roof = width * (0.93 - 0.20 * cabin)
    bottom = 0.24 + 0.1 * (np.abs(share - 0.5) > 0.47)
    middle = bottom + 0.45 * (belt - bottom)
    half_ring = [(0.93 * width, bottom), (width, middle), (0.97 * width, belt), (roof, top - 0.03), (roof * 0.8, top)]
    points = [(-y, z) for y, z in half_ring] + [(y, z) for y, z in reversed(half_ring)]
    rings = np.stack([np.column_stack([x, y, z]) for y, z in points], axis=1)
    body = loft(rings, closed=False).reshape(len(stations) - 1, len(points) - 1, 2, 3, 3)
    glass = np.zeros(body.shape[:2], dtype=bool)
    for i, station in enumerate(stations[:-1]):
        if station[3] == "s":
            glass[i, [2, 6]] = True
        elif station[3] in "rf":
            glass[i, 3:6] = True
    return concatenate(
        [
            surface(body[~glass].reshape(-1, 3, 3), Material.CAR_PAINT, paint := draw_paint(rng)),
            surface(body[glass].reshape(-1, 3, 3), Material.CAR_GLASS, (0.03, 0.035, 0.04)),
            surface(np.concatenate([_fan(rings[0]), _fan(rings[-1])]), Material.CAR_PAINT, paint),
            surface(box((0, 0, 0.27), (length * 0.94, half * 1.6, 0.16)), Material.RUBBER, BLACK),
            surface(
                np.concatenate(
                    [box((x[-1] - length * 0.33, s * (half + 0.07), belt.max()), (0.16, 0.14, 0.13)) for s in (-1, 1)]
                ),
                Material.PLASTIC,
                BLACK,
            ),
            wheels([-0.30 * length, 0.31 * length], half + 0.01, 0.31 if name != "suv" else 0.36),
            _lights(length, half, float(belt[-2]) - 0.1),
        ]
    ).of(Kind.CAR)


def _side_windows(x0: float, x1: float, z0: float, z1: float, half: float, pitch: float) -> Array:
    count = max(int((x1 - x0) / pitch), 1)
    edges = np.linspace(x0, x1, count + 1)
    panes = []
    for side in (-1, 1):
        y = side * (half + 0.012)
        panes += [
            [[a + 0.06, y, z0], [b - 0.06, y, z0], [b - 0.06, y, z1], [a + 0.06, y, z1]] for a, b in pairwise(edges)
        ]
    return quads(panes)


def _upright(x: float, half: float, z0: float, z1: float) -> Array:
    return quads([[[x, -half, z0], [x, half, z0], [x, half, z1], [x, -half, z1]]])


def truck(rng: np.random.Generator) -> Mesh:
    """A lorry: a cab and a box, tipper or flat load body."""
    length, half = rng.uniform(6.0, 9.5), rng.uniform(1.1, 1.25)
    cab, cab_high = rng.uniform(1.7, 2.2), rng.uniform(2.4, 3.0)
    load_high = rng.uniform(2.6, 3.6) if rng.random() < 0.7 else rng.uniform(1.5, 1.9)
    front, load = length / 2, length - cab - 0.35
    paint, box_paint = draw_paint(rng), np.full(3, rng.uniform(0.4, 0.8)) if rng.random() < 0.6 else draw_paint(rng)
    body = box(
        (front - cab / 2, 0, 0.5 + cab_high / 2 - 0.25), (cab, 2 * half, cab_high - 0.5), taper=0.97, bottom=True
    )
    return concatenate(
        [
            surface(body, Material.CAR_PAINT, paint),
            surface(box((front - 0.1, 0, 0.5), (0.25, 2 * half, 0.5)), Material.PLASTIC, (0.06, 0.06, 0.06)),
            surface(
                _upright(front + 0.012, half * 0.88, 1.45, cab_high - 0.25), Material.CAR_GLASS, (0.03, 0.03, 0.04)
            ),
            surface(
                _side_windows(front - 1.2, front - 0.15, 1.5, cab_high - 0.4, half, 1.2),
                Material.CAR_GLASS,
                (0.03, 0.03, 0.04),
            ),
            surface(
                box(
                    (-length / 2 + load / 2, 0, 0.95 + (load_high - 0.95) / 2),
                    (load, 2 * half + 0.1, load_high - 0.95),
                    bottom=True,
                ),
                Material.PLASTER if rng.random() < 0.5 else Material.PLASTIC,
                box_paint,
            ),
            surface(box((-0.2, 0, 0.75), (length - 0.6, 0.9, 0.3)), Material.STEEL, (0.05, 0.05, 0.05)),
            surface(box((0.2, 0, 0.65), (1.4, 2 * half * 0.95, 0.5)), Material.STEEL, (0.07, 0.07, 0.07)),
            wheels(
                [front - 1.1, -front + 1.4, -front + 2.6] if length > 8 else [front - 1.1, -front + 1.6], half, 0.48
            ),
            _lights(length, half, 0.75),
        ]
    ).of(Kind.TRUCK)


def bus(rng: np.random.Generator) -> Mesh:
    """A city bus."""
    length, half, high = rng.uniform(10.5, 12.5), 1.27, rng.uniform(2.9, 3.2)
    paint = np.array([[0.7, 0.55, 0.05], [0.6, 0.05, 0.04], [0.75, 0.75, 0.75], [0.05, 0.2, 0.4]])[int(rng.integers(4))]
    glass = [
        _side_windows(-length / 2 + 0.6, length / 2 - 0.4, 1.35, 2.45, half, 1.5),
        _upright(length / 2 + 0.012, half * 0.92, 1.1, 2.5),
        _upright(-length / 2 - 0.012, half * 0.8, 1.5, 2.3),
        _side_windows(length / 2 - 1.7, length / 2 - 0.5, 0.45, 2.4, half + 0.002, 1.2),
    ]
    return concatenate(
        [
            surface(
                box((0, 0, 0.35 + (high - 0.35) / 2), (length, 2 * half, high - 0.35), taper=0.985, bottom=True),
                Material.CAR_PAINT,
                paint,
            ),
            surface(box((-0.5, 0, high + 0.12), (length * 0.4, 1.6, 0.24)), Material.PLASTIC, (0.5, 0.5, 0.5)),
            surface(np.concatenate(glass), Material.CAR_GLASS, (0.03, 0.035, 0.04)),
            wheels([length / 2 - 2.6, -length / 2 + 3.2], half, 0.5),
            _lights(length, half, 0.7),
        ]
    ).of(Kind.BUS)


def trailer(rng: np.random.Generator) -> Mesh:
    """A caravan or a box trailer, standing on its own."""
    length, half, high = rng.uniform(3.6, 5.8), rng.uniform(0.95, 1.15), rng.uniform(1.9, 2.6)
    caravan = rng.random() < 0.5
    paint = np.full(3, rng.uniform(0.6, 0.8)) if caravan else draw_paint(rng)
    parts = [
        surface(
            box((0, 0, 0.45 + (high - 0.45) / 2), (length, 2 * half, high - 0.45), taper=0.94, bottom=True),
            Material.PLASTIC,
            paint,
        ),
        surface(tube((length / 2, 0, 0.45), (length / 2 + 1.2, 0, 0.45), 0.05), Material.STEEL, (0.2, 0.2, 0.2)),
        surface(tube((length / 2 + 1.1, 0, 0), (length / 2 + 1.1, 0, 0.5), 0.04), Material.STEEL, (0.2, 0.2, 0.2)),
        wheels([-0.2], half + 0.03, 0.33),
        _lights(length, half, 0.6),
    ]
    if caravan:
        panes = _side_windows(-length / 2 + 0.4, length / 2 - 0.4, 1.2, 1.75, half * 0.985, 1.4)
        parts.append(surface(panes, Material.CAR_GLASS, (0.04, 0.04, 0.05)))
    return concatenate(parts).of(Kind.TRAILER)


def excavator(rng: np.random.Generator) -> Mesh:
    """A tracked excavator."""
    paint = np.array([0.75, 0.45, 0.02]) * rng.uniform(0.8, 1.1)
    turn = rng.uniform(0, 2 * np.pi)
    tracks = [box((0, s * 1.0, 0.4), (3.2, 0.5, 0.8), taper=0.85) for s in (-1, 1)]
    house = np.concatenate([box((-0.5, 0, 1.5), (2.6, 2.3, 1.0), bottom=True), box((0.7, 0.65, 2.0), (1.3, 1.0, 1.9))])
    boom = [
        ((0.9, -0.3, 1.5), (3.0, -0.3, 4.0)),
        ((3.0, -0.3, 4.0), (5.0, -0.3, 3.0)),
        ((5.0, -0.3, 3.0), (5.2, -0.3, 1.0)),
    ]
    arm = np.concatenate([tube(a, b, 0.22, 0.16, 5) for a, b in boom])
    upper = concatenate(
        [
            surface(house, Material.CAR_PAINT, paint),
            surface(_side_windows(0.2, 1.2, 1.7, 2.7, 1.15, 1.1), Material.CAR_GLASS, (0.03, 0.03, 0.04)),
            surface(arm, Material.CAR_PAINT, paint),
            surface(box((5.0, -0.3, 0.8), (0.7, 0.9, 0.7)), Material.STEEL, (0.1, 0.1, 0.1)),
        ]
    ).placed((0, 0, 0), turn)
    return concatenate([surface(np.concatenate(tracks), Material.STEEL, (0.06, 0.06, 0.06)), upper]).of(
        Kind.CONSTRUCTION_VEHICLE
    )
