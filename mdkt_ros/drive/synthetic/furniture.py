"""What stands along a street: fences, walls, lamp posts, signs, traffic lights, bins, benches, racks, cones."""

from __future__ import annotations

import numpy as np

from mdkt_ros.drive.synthetic.kinds import Kind
from mdkt_ros.drive.synthetic.materials import Material
from mdkt_ros.drive.synthetic.mesh import Color, Mesh, box, concatenate, disc, prism, quads, surface, tube

GALVANISED: Color = (0.36, 0.37, 0.38)


def picket_fence(rng: np.random.Generator, length: float) -> Mesh:
    """Upright pales on two rails, along x from 0 to `length`."""
    height, pitch, width = rng.uniform(0.8, 1.4), rng.uniform(0.11, 0.2), rng.uniform(0.04, 0.08)
    wooden = rng.random() < 0.6
    color = np.array([0.28, 0.18, 0.11]) if wooden else np.full(3, rng.uniform(0.04, 0.5))
    x = np.arange(0, length, pitch)
    count = len(x)
    face = np.array([[-0.5, 0], [0.5, 0], [0.5, 1], [-0.5, 1]])
    pale = np.zeros((count, 4, 3))
    pale[..., 0] = x[:, None] + face[:, 0] * width
    pale[..., 2] = face[:, 1] * (height + rng.normal(0, 0.01, (count, 1)))
    back = pale + np.array([0, 0.03, 0])
    rails = [box((length / 2, 0.04, z * height), (length, 0.05, 0.06), bottom=True) for z in (0.2, 0.8)]
    posts = [box((p, 0.05, height / 2 - 0.1), (0.09, 0.09, height + 0.3)) for p in np.arange(0, length + 0.1, 2.5)]
    shape = np.concatenate([quads(pale), quads(back), *rails, *posts])
    return surface(shape, Material.WOOD if wooden else Material.STEEL, color).of(Kind.FENCE)


def wire_fence(rng: np.random.Generator, length: float) -> Mesh:
    """Wire mesh between posts: rays pass through most of it."""
    height = rng.uniform(1.2, 2.0)
    sheet = quads([[[0, 0, 0], [length, 0, 0], [length, 0, height], [0, 0, height]]])
    posts = np.concatenate([tube((p, 0, -0.3), (p, 0, height), 0.03) for p in np.arange(0, length + 0.1, 2.4)])
    return concatenate(
        [surface(sheet, Material.WIRE_MESH, (0.2, 0.28, 0.22)), surface(posts, Material.STEEL, (0.2, 0.28, 0.22))]
    ).of(Kind.FENCE)


def garden_wall(rng: np.random.Generator, length: float) -> Mesh:
    """A low wall with a coping."""
    height = rng.uniform(0.5, 1.6)
    brick = rng.random() < 0.5
    color = (0.42, 0.22, 0.15) if brick else (0.55, 0.53, 0.48)
    body = box((length / 2, 0, height / 2 - 0.3), (length, 0.24, height + 0.6))
    coping = box((length / 2, 0, height + 0.04), (length + 0.06, 0.32, 0.08))
    return concatenate(
        [
            surface(body, Material.BRICK if brick else Material.PLASTER, color),
            surface(coping, Material.CONCRETE, (0.4, 0.4, 0.38)),
        ]
    ).of(Kind.FENCE)


def board_fence(rng: np.random.Generator, length: float) -> Mesh:
    """Closed wooden panels between posts."""
    height = rng.uniform(1.3, 1.9)
    color = np.array([0.30, 0.20, 0.12]) * rng.uniform(0.6, 1.3)
    panel = box((length / 2, 0, height / 2), (length, 0.04, height))
    posts = [box((p, 0.0, height / 2), (0.1, 0.1, height + 0.3)) for p in np.arange(0, length + 0.1, 1.8)]
    return surface(np.concatenate([panel, *posts]), Material.WOOD, color).of(Kind.FENCE)


def lamp_post(rng: np.random.Generator) -> Mesh:
    """A lamp post 4.5 to 8 m high, its arm towards -y."""
    height, reach = rng.uniform(4.5, 8.0), rng.uniform(0.2, 1.6)
    shaft = [tube((0, 0, -0.2), (0, 0, 1.0), 0.09, sides=8), tube((0, 0, 1.0), (0, 0, height), 0.07, 0.045, sides=8)]
    arm = tube((0, 0, height), (0, -reach, height + 0.25), 0.035, sides=5)
    head = box((0, -reach - 0.2, height + 0.25), (0.25, 0.6, 0.12), bottom=True)
    color = GALVANISED if rng.random() < 0.6 else (0.05, 0.09, 0.07)
    return concatenate([surface(np.concatenate([*shaft, arm, head]), Material.STEEL, color)]).of(Kind.POLE)


_SIGN_COLORS: tuple[Color, ...] = ((0.65, 0.04, 0.04), (0.03, 0.10, 0.50), (0.80, 0.62, 0.05), (0.75, 0.75, 0.75))


def sign_post(rng: np.random.Generator) -> Mesh:
    """A post with one or two traffic signs that face -y."""
    height = rng.uniform(2.3, 2.9)
    parts = [surface(tube((0, 0, -0.2), (0, 0, height + 0.3), 0.032), Material.STEEL, GALVANISED, Kind.POLE)]
    z = height
    for _ in range(int(rng.integers(1, 3))):
        shape, color = int(rng.integers(5)), _SIGN_COLORS[int(rng.integers(4))]
        radius = rng.uniform(0.3, 0.42)
        front, back = (0, -0.06, z), (0, -0.045, z)
        if shape == 4:
            half = rng.uniform(0.25, 0.5)
            plate = quads(
                [[[-half, -0.06, z - 0.3], [half, -0.06, z - 0.3], [half, -0.06, z + 0.3], [-half, -0.06, z + 0.3]]]
            )
            parts.append(surface(plate, Material.SIGN_FACE, color, Kind.SIGN))
            rear = plate + np.array([0, 0.015, 0], dtype=np.float32)
        else:
            sides = (3, 4, 8, 16)[shape]
            turn = {3: np.pi, 4: np.pi / 2, 8: np.pi / 8, 16: 0.0}[sides]
            parts.append(surface(disc(front, radius, (0, 1, 0), sides, turn), Material.SIGN_FACE, color, Kind.SIGN))
            inner = disc((0, -0.066, z), radius * 0.68, (0, 1, 0), sides, turn)
            parts.append(surface(inner, Material.SIGN_FACE, (0.8, 0.8, 0.8), Kind.SIGN))
            rear = disc(back, radius, (0, 1, 0), sides, turn)
        parts.append(surface(rear, Material.STEEL, GALVANISED, Kind.SIGN))
        z -= 0.75
    return concatenate(parts)


def traffic_light(rng: np.random.Generator) -> Mesh:
    """A traffic light that faces -y, on its pole."""
    pole = tube((0, 0, -0.2), (0, 0, 3.4), 0.06, sides=8)
    parts = [surface(pole, Material.STEEL, (0.25, 0.26, 0.26))]
    parts.append(surface(box((0, -0.16, 2.75), (0.3, 0.22, 0.9), bottom=True), Material.PLASTIC, (0.03, 0.03, 0.03)))
    lit = int(rng.integers(3))
    for i, color in enumerate(((0.9, 0.05, 0.03), (0.9, 0.5, 0.03), (0.05, 0.8, 0.3))):
        shade = np.array(color) * (1.0 if i == lit else 0.15)
        parts.append(surface(disc((0, -0.28, 3.05 - 0.3 * i), 0.1, (0, 1, 0)), Material.PLASTIC, shade))
    return concatenate(parts).of(Kind.POLE)


def bollard(rng: np.random.Generator) -> Mesh:
    """A bollard about a metre high."""
    return surface(
        tube((0, 0, -0.1), (0, 0, rng.uniform(0.8, 1.1)), 0.06, 0.055, 8), Material.STEEL, (0.2, 0.05, 0.04)
    ).of(Kind.POLE)


def bin_(rng: np.random.Generator) -> Mesh:
    """A wheeled rubbish bin."""
    color = ((0.03, 0.10, 0.04), (0.06, 0.06, 0.07), (0.03, 0.07, 0.22), (0.4, 0.32, 0.04))[int(rng.integers(4))]
    body = box((0, 0, 0.5), (0.5, 0.55, 1.0), taper=1.2)
    lid = box((0, 0, 1.04), (0.64, 0.7, 0.08))
    return surface(np.concatenate([body, lid]), Material.PLASTIC, color).of(Kind.OTHER_OBJECT)


def bench(rng: np.random.Generator) -> Mesh:
    """A park bench."""
    seat = [box((0, y, 0.45), (1.7, 0.1, 0.04), bottom=True) for y in (-0.15, 0.0, 0.15)]
    back = [box((0, 0.24, z), (1.7, 0.04, 0.09), bottom=True) for z in (0.62, 0.78)]
    legs = [box((x, 0.05, 0.3), (0.06, 0.4, 0.6)) for x in (-0.7, 0.7)]
    color = np.array([0.3, 0.19, 0.1]) * rng.uniform(0.7, 1.3)
    return surface(np.concatenate([*seat, *back, *legs]), Material.WOOD, color).of(Kind.OTHER_OBJECT)


def cabinet(rng: np.random.Generator) -> Mesh:
    """A switch cabinet on the pavement."""
    size = (rng.uniform(0.6, 1.4), 0.35, rng.uniform(0.9, 1.4))
    return surface(box((0, 0, size[2] / 2), size), Material.PLASTIC, (0.42, 0.44, 0.42)).of(Kind.OTHER_OBJECT)


def shelter(rng: np.random.Generator) -> Mesh:
    """A bus shelter, open towards -y."""
    posts = [tube((x, y, -0.1), (x, y, 2.4), 0.04) for x in (-1.7, 1.7) for y in (-0.6, 0.6)]
    roof = box((0, 0, 2.45), (3.8, 1.6, 0.1), bottom=True)
    glass = quads([[[-1.7, 0.6, 0.2], [1.7, 0.6, 0.2], [1.7, 0.6, 2.3], [-1.7, 0.6, 2.3]]])
    return concatenate(
        [
            surface(np.concatenate([*posts, roof]), Material.STEEL, (0.2, 0.22, 0.24)),
            surface(glass, Material.WINDOW, (0.08, 0.1, 0.1)),
            surface(box((0, 0.35, 0.45), (2.4, 0.35, 0.05), bottom=True), Material.WOOD, (0.3, 0.2, 0.12)),
        ]
    ).of(Kind.OTHER_STRUCTURE)


def bicycle_hoop() -> Mesh:
    """A hoop to lean a bicycle on, along x."""
    tubes = [tube((-0.4, 0, -0.1), (-0.4, 0, 0.75), 0.025), tube((0.4, 0, -0.1), (0.4, 0, 0.75), 0.025)]
    tubes.append(tube((-0.4, 0, 0.75), (0.4, 0, 0.75), 0.025))
    return surface(np.concatenate(tubes), Material.STEEL, GALVANISED).of(Kind.BICYCLE_RACK)


def cone() -> Mesh:
    """A traffic cone."""
    foot = surface(box((0, 0, 0.02), (0.4, 0.4, 0.04)), Material.RUBBER, (0.05, 0.05, 0.05))
    body = surface(tube((0, 0, 0.04), (0, 0, 0.72), 0.14, 0.025, 10), Material.PLASTIC, (0.8, 0.16, 0.03))
    band = surface(tube((0, 0, 0.36), (0, 0, 0.52), 0.088, 0.062, 10), Material.REFLECTOR, (0.85, 0.85, 0.85))
    return concatenate([foot, body, band]).of(Kind.CONE)


def barrier(rng: np.random.Generator) -> Mesh:
    """A site barrier 2 m long, along x."""
    if rng.random() < 0.5:
        outline = np.array([[-0.3, 0], [0.3, 0], [0.1, 0.35], [0.08, 0.85], [-0.08, 0.85], [-0.1, 0.35]])
        rings = np.stack([np.column_stack([np.full(6, x), outline]) for x in (-1.0, 1.0)])
        side = quads(np.stack([rings[0], np.roll(rings[0], -1, 0), np.roll(rings[1], -1, 0), rings[1]], axis=1))
        return surface(side, Material.CONCRETE, (0.5, 0.49, 0.46)).of(Kind.BARRIER)
    stripes: tuple[tuple[Material, Color], ...]
    stripes = (Material.PLASTIC, (0.7, 0.04, 0.03)), (Material.REFLECTOR, (0.85, 0.85, 0.85))
    planks = [
        surface(box((-0.875 + 0.25 * i, 0, 0.85), (0.25, 0.03, 0.25), bottom=True), *stripes[i % 2]) for i in range(8)
    ]
    legs = [box((x, 0, 0.4), (0.06, 0.5, 0.8), taper=0.3) for x in (-0.9, 0.9)]
    return concatenate([*planks, surface(np.concatenate(legs), Material.PLASTIC, (0.05, 0.05, 0.05))]).of(Kind.BARRIER)


def island(length: float, half_width: float) -> Mesh:
    """A traffic island along x, 14 cm high, rounded ends."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 7)
    end = np.column_stack([np.cos(angle), np.sin(angle)]) * half_width
    outline = np.concatenate([end + np.array([length / 2, 0]), -end - [length / 2, 0]])
    return surface(prism(outline, -0.1, 0.14), Material.GRAVEL, (0.32, 0.28, 0.24)).of(Kind.OTHER_GROUND)
