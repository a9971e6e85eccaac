"""Placing things: where along a stretch of street, on what ground, and not into each other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.synthetic.kinds import THINGS, Kind
from mdkt_ros.drive.synthetic.materials import Material
from mdkt_ros.drive.synthetic.mesh import Color, Mesh, quads, surface
from mdkt_ros.drive.synthetic.roads import Network, Stretch
from mdkt_ros.drive.synthetic.stock import Stock
from mdkt_ros.drive.synthetic.thing import Thing, bounding_box, boxed

Points = npt.NDArray[np.float64]


class Site:
    """A town under construction: collects meshes, footprints and instances."""

    def __init__(self, network: Network, stock: Stock) -> None:
        self.network, self.stock = network, stock
        self.meshes: list[Mesh] = []
        self.parked: list[Thing] = []
        self.instances = 0
        # Rows of x, y, half length, half width, yaw.
        self._footprints = np.zeros((0, 5))

    def spot(self, stretch: Stretch, q: float, out: float) -> tuple[Points, float]:
        """Position (2,) `out` metres outwards from the kerb, and the yaw that turns a front (-y) to the street."""
        road = self.network.roads[stretch.road]
        xy = road.world(q, stretch.side * (road.half_width + stretch.parking + out))
        heading = float(road.heading(q))
        return xy, heading if stretch.side > 0 else heading - np.pi

    def ground(self, xy: Points) -> float:
        """Height of the ground at a position (2,)."""
        return float(self.network.height(np.asarray(xy)[None])[0])

    def paved(self, xy: Points) -> float:
        """Signed distance of a position (2,) to the carriageway's edge, parking included."""
        return float(self.network.ground(np.asarray(xy)[None]).paved[0])

    def add(self, mesh: Mesh, xy: Points, yaw: float = 0.0, *, lift: float = 0.0) -> None:
        """Put a mesh on the ground."""
        z = self.ground(xy) + lift
        if mesh.kind[0] in THINGS:
            self.instances += 1
            foot = (float(xy[0]), float(xy[1]), z)
            self.parked.append(boxed(Kind(int(mesh.kind[0])), self.instances, bounding_box(mesh), foot, yaw))
            mesh = mesh.numbered(self.instances)
        self.meshes.append(mesh.placed((float(xy[0]), float(xy[1]), z), yaw))

    def claim(self, xy: Points, yaw: float, size: tuple[float, float], clearance: float = 0.15) -> bool:
        """Reserve a rectangle behind the pavement; False when it is taken or reaches over the pavement."""
        grid = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 7), np.linspace(-0.5, 0.5, 7)), axis=-1).reshape(-1, 2)
        c, s = np.cos(yaw), np.sin(yaw)
        points = grid * size @ np.array([[c, s], [-s, c]]) + xy
        if (self.network.ground(points).paved < self.network.sidewalk + clearance).any() or not self.free(points, 0.0):
            return False
        mine = np.array([[xy[0], xy[1], size[0] / 2, size[1] / 2, yaw]])
        if not _outside(self._footprints[:, :2], mine, 0.0).all():
            return False
        self._footprints = np.concatenate([self._footprints, mine])
        return True

    def free(self, points: Points, margin: float) -> bool:
        """Whether no reserved rectangle is within `margin` metres of any of the points (N, 2)."""
        points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        return bool(_outside(points, self._footprints, margin).all())

    def drape(self, corners: Points, material: Material, color: Color, kind: Kind, lift: float) -> None:
        """Lay a quadrilateral (4, 2) over the ground, in pieces that follow it."""
        u_count = max(int(np.linalg.norm(corners[1] - corners[0]) / 0.9), 1)
        v_count = max(int(np.linalg.norm(corners[3] - corners[0]) / 0.9), 1)
        u, v = np.linspace(0, 1, u_count + 1)[:, None, None], np.linspace(0, 1, v_count + 1)[None, :, None]
        xy = (corners[0] * (1 - u) + corners[1] * u) * (1 - v) + (corners[3] * (1 - u) + corners[2] * u) * v
        p = np.concatenate([xy, self.network.height(xy)[..., None] + lift], axis=2)
        cells = np.stack([p[:-1, :-1], p[1:, :-1], p[1:, 1:], p[:-1, 1:]], axis=2)
        self.meshes.append(surface(quads(cells), material, color, kind))

    def strip(
        self, road: int, q: npt.ArrayLike, t: npt.ArrayLike, size: tuple[float, float], kind: Kind, lift: float = 0.006
    ) -> None:
        """Paint rectangles (length along the street, width) centred at street coordinates q, t on the carriageway."""
        q, t = np.broadcast_arrays(np.asarray(q, dtype=np.float64), np.asarray(t, dtype=np.float64))
        dq, dt = size[0] / 2, size[1] / 2
        cq = np.stack([q - dq, q + dq, q + dq, q - dq], axis=-1).reshape(-1, 4)
        ct = np.stack([t - dt, t - dt, t + dt, t + dt], axis=-1).reshape(-1, 4)
        xy = self.network.roads[road].world(cq, ct)
        z = self.network.base(xy) + lift
        self.meshes.append(
            surface(quads(np.concatenate([xy, z[..., None]], axis=2)), Material.PAINT, (0.6, 0.6, 0.57), kind)
        )


def _outside(points: Points, footprints: Points, margin: float) -> npt.NDArray[np.bool_]:
    """(N, F) whether points (N, 2) are outside rectangles (F, 5)."""
    x, y, half_length, half_width, yaw = footprints.T
    dx, dy = points[:, :1] - x, points[:, 1:] - y
    c, s = np.cos(yaw), np.sin(yaw)
    outside: npt.NDArray[np.bool_] = (np.abs(dx * c + dy * s) > half_length + margin) | (
        np.abs(dy * c - dx * s) > half_width + margin
    )
    return outside
