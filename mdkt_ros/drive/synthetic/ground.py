"""The ground's triangles: carriageway, parking, kerbs, pavement and terrain, cut exactly along their borders."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.synthetic.kinds import Kind
from mdkt_ros.drive.synthetic.materials import Material
from mdkt_ros.drive.synthetic.mesh import Color, Mesh, concatenate, quads, surface
from mdkt_ros.drive.synthetic.roads import Network

CELL = 1.6
"""Metres of the ground's grid."""
KERBSTONE = 0.16

Points = npt.NDArray[np.float64]


def split(triangles: Points, column: int) -> tuple[Points, Points, Points]:
    """Cut triangles where a field that is linear on each crosses zero.

    Args:
        triangles: (T, 3, F) per corner: x, y, then fields. column: which column is the field.

    Returns:
        Triangles where the field is negative, those where it is not, and the cuts (S, 2, F).
    """
    negative = triangles[..., column] < 0
    count = negative.sum(1)
    below, above = [triangles[count == 3]], [triangles[count == 0]]
    cuts = []
    for lone_is_negative in (True, False):
        chosen = count == (1 if lone_is_negative else 2)
        t = triangles[chosen]
        lone = np.argmax(negative[chosen] == lone_is_negative, axis=1)
        rows = np.arange(len(t))
        a, b, c = t[rows, lone], t[rows, (lone + 1) % 3], t[rows, (lone + 2) % 3]
        ab = a + (b - a) * (a[:, column] / (a[:, column] - b[:, column]))[:, None]
        ac = a + (c - a) * (a[:, column] / (a[:, column] - c[:, column]))[:, None]
        tip = np.stack([a, ab, ac], axis=1)
        rest = np.concatenate([np.stack([ab, b, c], axis=1), np.stack([ab, c, ac], axis=1)])
        (below if lone_is_negative else above).append(tip)
        (above if lone_is_negative else below).append(rest)
        cuts.append(np.stack([ab, ac], axis=1))
    return np.concatenate(below), np.concatenate(above), np.concatenate(cuts)


def _grid(network: Network) -> Points:
    """(T, 3, 4) triangles of x, y and the fields road, paved."""
    axis = np.arange(network.low, network.high + CELL, CELL)
    n = len(axis)
    xy = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    ground = network.ground(xy)
    nodes = np.column_stack([xy, ground.road, ground.paved])
    corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    triangles = np.concatenate([corner[:, None] + [0, n, n + 1], corner[:, None] + [0, n + 1, 1]])
    grid: Points = nodes[triangles]
    return grid


def street_uv(network: Network, xy: Points) -> npt.NDArray[np.float32]:
    """Texture coordinates (T, 3, 2) of flat triangles (T, 3, 2) along the street nearest to each."""
    nearest = network.ground(xy.mean(1)).nearest
    uv = np.empty(xy.shape, dtype=np.float32)
    for index, road in enumerate(network.roads):
        mine = nearest == index
        uv[mine] = road.local(xy[mine])
    return uv


def build_ground(network: Network, palette: dict[str, Color]) -> Mesh:
    """The whole ground. `palette` names colours for asphalt, parking, kerb, pavement, terrain."""
    paved, raised, cut = split(_grid(network), 3)
    road, parking, _ = split(paved, 2)
    raised[..., 3] -= KERBSTONE
    stone, raised, _ = split(raised, 3)
    raised[..., 3] -= network.sidewalk - KERBSTONE
    pavement, terrain, _ = split(raised, 3)

    def flat(t: Points, lift: float, material: Material, color: Color, kind: Kind) -> Mesh:
        xy = t[..., :2]
        z = network.base(xy) + lift
        return surface(np.concatenate([xy, z[..., None]], axis=2), material, color, kind, uv=street_uv(network, xy))

    base = network.base(cut[..., :2])
    low = np.concatenate([cut[..., :2], base[..., None]], axis=2)
    high = low + np.array([0, 0, network.kerb])
    kerb = quads(np.stack([low[:, 0], low[:, 1], high[:, 1], high[:, 0]], axis=1))
    xy = terrain[..., :2]
    z = network.base(xy) + network.kerb + network.rise(xy, terrain[..., 3] + network.sidewalk)
    grass = surface(np.concatenate([xy, z[..., None]], axis=2), Material.GRASS, palette["terrain"], Kind.TERRAIN, uv=xy)
    paving = Material.COBBLE if palette["cobbled"][0] > 0.5 else Material.ASPHALT
    return concatenate(
        [
            flat(road, 0.0, Material.ASPHALT, palette["asphalt"], Kind.ROAD),
            flat(parking, 0.0, paving, palette["parking"], Kind.PARKING),
            flat(stone, network.kerb, Material.CONCRETE, palette["kerb"], Kind.SIDEWALK),
            surface(kerb, Material.CONCRETE, palette["kerb"], Kind.SIDEWALK),
            flat(pavement, network.kerb, Material.PAVING, palette["pavement"], Kind.SIDEWALK),
            grass,
        ]
    )
