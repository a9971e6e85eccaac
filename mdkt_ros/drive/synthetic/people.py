"""People on foot and on two wheels, bicycles and motorcycles. All head along +x and stand on z = 0."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.synthetic.kinds import Kind
from mdkt_ros.drive.synthetic.materials import Material
from mdkt_ros.drive.synthetic.mesh import Array, Color, Mesh, box, concatenate, ellipsoid, loft, surface, tube
from mdkt_ros.drive.synthetic.vehicles import BLACK, draw_paint

Point = npt.NDArray[np.float64]


class Look(NamedTuple):
    """Build and clothes of a person; `height` in metres."""

    height: float
    girth: float
    top: Color
    legs: Color
    skin: Color
    hair: Color
    bag: bool


_CLOTHES = np.array(
    [[0.03, 0.03, 0.04], [0.05, 0.08, 0.2], [0.4, 0.04, 0.04], [0.6, 0.6, 0.58],
     [0.1, 0.2, 0.1], [0.5, 0.35, 0.08], [0.2, 0.2, 0.22], [0.1, 0.35, 0.5]]
)  # fmt: skip


def draw_look(rng: np.random.Generator) -> Look:
    """Draw a person."""

    def pick(table: npt.NDArray[np.floating]) -> Color:
        r, g, b = table[int(rng.integers(len(table)))] * rng.uniform(0.7, 1.3)
        return float(r), float(g), float(b)

    child = rng.random() < 0.12
    return Look(
        float(rng.uniform(1.1, 1.45) if child else rng.normal(1.72, 0.08)),
        float(rng.uniform(0.85, 1.25)),
        pick(_CLOTHES),
        pick(_CLOTHES[[0, 1, 6, 4]]),
        pick(np.array([[0.55, 0.36, 0.26], [0.3, 0.18, 0.11], [0.12, 0.07, 0.05]])),
        pick(np.array([[0.03, 0.02, 0.01], [0.15, 0.09, 0.04], [0.4, 0.3, 0.15], [0.3, 0.3, 0.3]])),
        bool(rng.random() < 0.3),
    )


def _limb(points: list[Point], radii: list[float]) -> Array:
    return np.concatenate(
        [tube(a, b, r0, r1, 6) for a, b, r0, r1 in zip(points, points[1:], radii, radii[1:], strict=False)]
    )


def _torso(hip: Point, neck: Point, look: Look) -> Array:
    up = neck - hip
    side = np.array([0, 1.0, 0])
    front = np.cross(side, up / np.linalg.norm(up))
    angle = np.arange(8) * (np.pi / 4)
    rings = []
    for share, wide, deep in (
        (-0.1, 0.15, 0.11),
        (0.1, 0.165, 0.12),
        (0.45, 0.15, 0.11),
        (0.8, 0.2, 0.12),
        (0.97, 0.15, 0.09),
        (1.02, 0.06, 0.06),
    ):
        ring = (
            np.cos(angle)[:, None] * front * deep * look.girth
            + np.sin(angle)[:, None] * side * wide * (look.girth + 1) / 2
        )
        rings.append(hip + share * up + ring)
    return loft(np.array(rings))


def _figure(
    look: Look, hip: Point, neck: Point, hands: tuple[Point, Point], feet: tuple[Point, Point], bend: float
) -> Mesh:
    """A body from its joints; knees bend forwards and elbows backwards by `bend` metres."""
    parts = [surface(_torso(hip, neck, look), Material.CLOTH, look.top)]
    scale = look.height / 1.75
    for side, hand, foot in ((-1, hands[0], feet[0]), (1, hands[1], feet[1])):
        socket = hip + np.array([0, side * 0.09, 0])
        knee = (socket + foot) / 2 + np.array([bend, side * 0.02, 0])
        leg = _limb([socket, knee, foot + np.array([0, 0, 0.06])], [0.09 * look.girth, 0.065, 0.045])
        shoe = box(tuple(foot + np.array([0.06, 0, 0.04])), (0.27 * scale, 0.1, 0.09))
        shoulder = neck + np.array([0, side * 0.2, -0.06])
        elbow = (shoulder + hand) / 2 + np.array([-0.05, side * 0.04, -0.03])
        arm = _limb([shoulder, elbow, hand], [0.06, 0.045, 0.035])
        parts += [
            surface(leg, Material.CLOTH, look.legs),
            surface(shoe, Material.RUBBER, BLACK),
            surface(arm, Material.CLOTH, look.top),
            surface(ellipsoid(tuple(hand), (0.045, 0.03, 0.05), 5, 3), Material.SKIN, look.skin),
        ]
    head = neck + np.array([0.03, 0, 0.17 * scale])
    parts.append(surface(ellipsoid(tuple(head), (0.095, 0.08, 0.13), 8, 5), Material.SKIN, look.skin))
    parts.append(
        surface(
            ellipsoid(tuple(head + np.array([-0.02, 0, 0.045])), (0.1, 0.09, 0.105), 8, 4), Material.CLOTH, look.hair
        )
    )
    if look.bag:
        parts.append(
            surface(box(tuple(neck + np.array([-0.2, 0, -0.25])), (0.18, 0.28, 0.4)), Material.CLOTH, (0.06, 0.07, 0.1))
        )
    return concatenate(parts)


def pedestrian(look: Look, phase: float, stride: float = 0.33) -> Mesh:
    """A person walking (`phase` radians of the gait; a stride of 0 stands)."""
    h = look.height
    swing = stride * np.sin(phase)
    lift = 0.1 * stride * np.array([max(np.cos(phase), 0), max(-np.cos(phase), 0)])
    hip = np.array([0, 0, 0.52 * h - 0.02 * abs(np.sin(phase))])
    neck = np.array([0.04, 0, 0.83 * h])
    feet = (np.array([swing, -0.09, lift[0]]), np.array([-swing, 0.09, lift[1]]))
    hands = (np.array([-swing * 0.8 + 0.05, -0.27, 0.47 * h]), np.array([swing * 0.8 + 0.05, 0.27, 0.47 * h]))
    return _figure(look, hip, neck, hands, feet, 0.05).of(Kind.PERSON)


def _hoop(x: float, radius: float, thick: float) -> Array:
    """A wheel's rim and tyre in the plane y = 0, touching the ground."""
    angle = np.arange(15) * (2 * np.pi / 14)
    section = np.array([[-thick, -thick * 0.7], [thick, -thick * 0.7], [thick, thick * 0.7], [-thick, thick * 0.7]])
    r = radius - thick + section[:, 0]
    rings = np.stack(
        [x + np.cos(angle)[:, None] * r, np.broadcast_to(section[:, 1], (15, 4)), radius + np.sin(angle)[:, None] * r],
        axis=2,
    )
    return loft(rings)


def bicycle(paint: npt.NDArray[np.floating], steer: float = 0.0) -> Mesh:
    """A bicycle 1.75 m long, upright."""
    tubes = [
        ((-0.52, 0, 0.34), (-0.12, 0, 0.30), 0.015), ((-0.52, 0, 0.34), (-0.2, 0, 0.82), 0.012),
        ((-0.12, 0, 0.30), (-0.24, 0, 0.92), 0.018),
        ((-0.12, 0, 0.30), (0.36, 0, 0.78), 0.02), ((-0.2, 0, 0.78), (0.36, 0, 0.86), 0.018),
        ((0.34, 0, 0.98), (0.53, 0, 0.34), 0.018),
    ]  # fmt: skip
    frame = np.concatenate([tube(a, b, r, sides=4) for a, b, r in tubes])
    spokes = []
    for x in (-0.52, 0.53):
        for a in np.arange(6) * np.pi / 6:
            axle, d = np.array([x, 0, 0.34]), 0.31 * np.array([np.cos(a), 0, np.sin(a)])
            spokes.append(tube(axle - d, axle + d, 0.004, sides=3))
    bar = tube((0.32, -0.3, 1.0 + steer), (0.32, 0.3, 1.0 - steer), 0.014, sides=4)
    return concatenate(
        [
            surface(frame, Material.STEEL, paint),
            surface(np.concatenate([_hoop(-0.52, 0.34, 0.022), _hoop(0.53, 0.34, 0.022)]), Material.RUBBER, BLACK),
            surface(np.concatenate([bar, *spokes]), Material.STEEL, (0.4, 0.4, 0.4)),
            surface(box((-0.25, 0, 0.95), (0.26, 0.15, 0.06)), Material.RUBBER, BLACK),
            surface(box((-0.1, 0, 0.3), (0.2, 0.3, 0.05)), Material.STEEL, (0.2, 0.2, 0.2)),
        ]
    ).of(Kind.BICYCLE)


def motorcycle(rng: np.random.Generator) -> Mesh:
    """A motorcycle or a scooter."""
    scooter = rng.random() < 0.4
    radius, reach = (0.24, 0.62) if scooter else (0.31, 0.70)
    paint = draw_paint(rng)
    body = [ellipsoid((0.12, 0, 0.75), (0.34, 0.17, 0.18), 8, 5), ellipsoid((-0.45, 0, 0.74), (0.42, 0.14, 0.11), 8, 4)]
    if scooter:
        body += [
            box((0.42, 0, 0.6), (0.1, 0.42, 0.75)),
            box((0.1, 0, 0.28), (0.6, 0.34, 0.1)),
            box((-0.4, 0, 0.5), (0.6, 0.32, 0.4)),
        ]
    engine = [box((0.0, 0, 0.42), (0.45, 0.32, 0.35)), tube((-0.1, -0.17, 0.3), (-0.75, -0.2, 0.38), 0.055)]
    fork = [tube((0.42, s * 0.09, 1.0), (reach, s * 0.09, radius), 0.028, sides=5) for s in (-1, 1)]
    bar = tube((0.36, -0.36, 1.06), (0.36, 0.36, 1.06), 0.018, sides=4)
    return concatenate(
        [
            surface(np.concatenate(body), Material.CAR_PAINT, paint),
            surface(box((-0.35, 0, 0.84), (0.7, 0.26, 0.08)), Material.RUBBER, BLACK),
            surface(np.concatenate([*engine, *fork, bar]), Material.STEEL, (0.2, 0.2, 0.21)),
            surface(np.concatenate([_hoop(-reach, radius, 0.06), _hoop(reach, radius, 0.055)]), Material.RUBBER, BLACK),
            surface(ellipsoid((0.52, 0, 0.92), (0.08, 0.11, 0.1), 6, 4), Material.REFLECTOR, (0.7, 0.7, 0.7)),
        ]
    ).of(Kind.MOTORCYCLE)


def bicyclist(look: Look, paint: npt.NDArray[np.floating], phase: float) -> Mesh:
    """A cyclist with the bicycle; `phase` radians of the cranks."""
    pedal = 0.16 * np.array([np.cos(phase), 0, np.sin(phase)])
    hub = np.array([-0.1, 0, 0.32])
    feet = (hub + pedal + np.array([0, -0.12, -0.05]), hub - pedal + np.array([0, 0.12, -0.05]))
    hands = (np.array([0.33, -0.28, 1.03]), np.array([0.33, 0.28, 1.03]))
    rider = _figure(look, np.array([-0.24, 0, 1.0]), np.array([0.04, 0, 1.0 + 0.30 * look.height]), hands, feet, 0.14)
    return concatenate([bicycle(paint), rider]).of(Kind.BICYCLIST)


def motorcyclist(machine: Mesh, look: Look) -> Mesh:
    """A motorcyclist with helmet on a machine."""
    hands = (np.array([0.36, -0.33, 1.06]), np.array([0.36, 0.33, 1.06]))
    feet = (np.array([-0.02, -0.24, 0.28]), np.array([-0.02, 0.24, 0.28]))
    neck = np.array([0.02, 0, 0.9 + 0.30 * look.height])
    rider = _figure(look, np.array([-0.3, 0, 0.92]), neck, hands, feet, 0.2)
    helmet = surface(
        ellipsoid(tuple(neck + np.array([0.04, 0, 0.17])), (0.15, 0.13, 0.16), 8, 6), Material.CAR_PAINT, look.hair
    )
    return concatenate([machine, rider, helmet]).of(Kind.MOTORCYCLIST)
