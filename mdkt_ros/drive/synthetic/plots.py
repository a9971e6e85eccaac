"""What is built behind the pavement: terraces, detached houses with gardens, apartments, parks, car parks, works."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import numpy as np

from mdkt_ros.drive.synthetic import buildings, furniture, plants
from mdkt_ros.drive.synthetic.kinds import Kind
from mdkt_ros.drive.synthetic.materials import Material
from mdkt_ros.drive.synthetic.mesh import Mesh
from mdkt_ros.drive.synthetic.plot import Site
from mdkt_ros.drive.synthetic.roads import Stretch

Rng = np.random.Generator
_PLANTS: tuple[Literal["tree", "bush", "tuft"], ...] = ("tree", "bush", "tuft")


def plant(site: Site, rng: Rng, sort: Literal["tree", "bush", "tuft"], xy: np.ndarray, margin: float = 0.3) -> None:
    """Plant something, unless a building stands there."""
    mesh = site.stock.pick(rng, sort)
    scale, yaw = float(rng.uniform(0.8, 1.6 if sort == "bush" else 1.3)), float(rng.uniform(0, 2 * np.pi))
    if site.free(xy, margin):
        site.add(mesh.placed((0, 0, 0), 0, scale), xy, yaw)


def _span(site: Site, stretch: Stretch) -> tuple[float, float]:
    inset = site.network.sidewalk + 0.8
    return stretch.q0 + stretch.margin0 + inset, stretch.q1 - stretch.margin1 - inset


def _boundary(site: Site, rng: Rng, stretch: Stretch, q0: float, q1: float, choice: str) -> None:
    """A fence, wall or hedge along the back of the pavement, in pieces that follow the street."""
    makers: dict[str, Callable[[Rng, float], Mesh]] = {
        "picket": furniture.picket_fence,
        "wire": furniture.wire_fence,
        "wall": furniture.garden_wall,
        "board": furniture.board_fence,
        "hedge": lambda r, length: plants.hedge(r, length, float(r.uniform(0.8, 2.0))),
    }
    state = rng.integers(2**31)
    pieces = max(int((q1 - q0) / 9), 1)
    edges = np.linspace(q0, q1, pieces + 1)
    out = site.network.sidewalk + 0.4
    for a, b in pairwise(edges):
        pa, pb = site.spot(stretch, a, out)[0], site.spot(stretch, b, out)[0]
        direction = pb - pa
        length = float(np.linalg.norm(direction))
        if (
            min(site.paved(pa), site.paved(pb)) < site.network.sidewalk + 0.1
            or length < 0.8
            or not site.free((pa + pb) / 2, 0.3)
        ):
            continue
        # The same fence in each piece: every piece draws from the same state.
        mesh = makers[choice](np.random.Generator(np.random.PCG64(int(state))), length)
        site.add(mesh, pa, float(np.arctan2(direction[1], direction[0])))


def _garden(site: Site, rng: Rng, stretch: Stretch, q0: float, q1: float, depth: float) -> None:
    inner = site.network.sidewalk + 1.0
    for _ in range(int((q1 - q0) * depth / 6.5)):
        xy, _ = site.spot(stretch, rng.uniform(q0, q1), inner + rng.uniform(0, depth))
        sort = _PLANTS[int(rng.choice(3, p=[0.16, 0.74, 0.1]))]
        if site.paved(xy) > site.network.sidewalk + (1.2 if sort == "tree" else 0.7):
            plant(site, rng, sort, xy)


def _terrace(site: Site, rng: Rng, stretch: Stretch) -> None:
    q, end = _span(site, stretch)
    setback = 0.25 if rng.random() < 0.45 else float(rng.uniform(1.8, 3.8))
    floors = int(rng.integers(2, 5))
    start, choice = q, str(rng.choice(["picket", "wall", "hedge"]))
    while q < end - 6:
        width = float(min(rng.uniform(7, 14), end - q))
        depth = float(rng.uniform(9, 12))
        storeys = int(np.clip(floors + rng.integers(-1, 2), 2, 6))
        out = site.network.sidewalk + setback + depth / 2
        xy, yaw = site.spot(stretch, q + width / 2, out)
        if site.claim(xy, yaw, (width - 0.05, depth)):
            site.add(buildings.building(rng, width, depth, storeys, "terrace"), xy, yaw)
        q += width + (rng.uniform(1.5, 4) if rng.random() < 0.12 else 0.02)
    if setback > 1:
        gap = rng.uniform(start + 3, max(end - 3, start + 3.1))
        _boundary(site, rng, stretch, start, gap - 1.2, choice)
        _boundary(site, rng, stretch, gap + 1.2, end, choice)
        _garden(site, rng, stretch, start, end, setback - 0.8)


def _detached(site: Site, rng: Rng, stretch: Stretch) -> None:
    q, end = _span(site, stretch)
    setback = float(rng.uniform(2.5, 5.5))
    while q < end - 12:
        plot = float(rng.uniform(15, 21))
        width, depth = float(rng.uniform(8, 11)), float(rng.uniform(8, 11))
        xy, yaw = site.spot(stretch, q + 1.5 + width / 2, site.network.sidewalk + setback + depth / 2)
        if site.claim(xy, yaw, (width, depth)):
            site.add(buildings.building(rng, width, depth, int(rng.integers(1, 4)), "detached"), xy, yaw)
        drive0 = q + 2.2 + width
        drive1 = min(drive0 + 3.0, q + plot)
        xy, yaw = site.spot(stretch, drive0 + 1.6, site.network.sidewalk + setback + 5.0)
        if rng.random() < 0.5 and site.claim(xy, yaw, (3.1, 5.6)):
            site.add(buildings.garage(rng), xy, yaw)
        _driveway(site, rng, stretch, drive0, drive1, setback)
        choice = str(rng.choice(["picket", "wire", "wall", "board", "hedge", "hedge", "hedge"]))
        _boundary(site, rng, stretch, q, q + 2.0, choice)
        _boundary(site, rng, stretch, q + 3.3, drive0 - 0.2, choice)
        _boundary(site, rng, stretch, drive1 + 0.2, min(q + plot, end), choice)
        _garden(site, rng, stretch, q, q + 1.5 + width, setback - 1.5)
        _garden(site, rng, stretch, drive1 + 0.5, q + plot, setback + 8)
        q += plot


def _driveway(site: Site, rng: Rng, stretch: Stretch, q0: float, q1: float, depth: float) -> None:
    near = site.network.sidewalk
    corners = np.array(
        [
            site.spot(stretch, q, out)[0]
            for q, out in ((q0, near), (q1, near), (q1, near + depth + 2), (q0, near + depth + 2))
        ]
    )
    if min(site.paved(c) for c in corners) < near - 0.2:
        return
    site.drape(corners, Material.COBBLE, (0.30, 0.27, 0.25), Kind.PARKING, 0.06)
    if rng.random() < 0.45 and depth > 4.2:
        xy, yaw = site.spot(stretch, (q0 + q1) / 2, near + depth / 2 + 0.8)
        if site.free(xy, 1.0):
            site.add(site.stock.pick(rng, "car"), xy, yaw + np.pi / 2 * (1 if rng.random() < 0.5 else -1), lift=0.06)


def _apartments(site: Site, rng: Rng, stretch: Stretch) -> None:
    q, end = _span(site, stretch)
    setback = float(rng.uniform(2.5, 7))
    while q < end - 16:
        width = float(min(rng.uniform(16, 28), end - q))
        depth = float(rng.uniform(10, 13))
        xy, yaw = site.spot(stretch, q + width / 2, site.network.sidewalk + setback + depth / 2)
        if site.claim(xy, yaw, (width, depth)):
            site.add(buildings.building(rng, width, depth, int(rng.integers(3, 7)), "apartments"), xy, yaw)
        if rng.random() < 0.8:
            choice = "hedge" if rng.random() < 0.8 else "wall"
            _boundary(site, rng, stretch, q + 0.5, q + width / 2 - 1.5, choice)
            _boundary(site, rng, stretch, q + width / 2 + 5.0, q + width, choice)
        _bicycles(site, rng, stretch, q + width / 2 + 2, site.network.sidewalk + 1.6)
        _garden(site, rng, stretch, q, q + width, setback - 1.0)
        q += width + rng.uniform(3, 9)


def _bicycles(site: Site, rng: Rng, stretch: Stretch, q: float, out: float) -> None:
    """A rack with some bicycles, across the street's direction."""
    for i in range(int(rng.integers(3, 7))):
        xy, yaw = site.spot(stretch, q + 0.75 * i, out)
        if site.paved(xy) < 0.8 or not site.free(xy, 0.9):
            continue
        site.add(site.stock.pick(rng, "hoop"), xy, yaw + np.pi / 2)
        if rng.random() < 0.75:
            side, _ = site.spot(stretch, q + 0.75 * i + 0.2, out)
            site.add(site.stock.pick(rng, "bicycle"), side, yaw + np.pi / 2 * (1 if rng.random() < 0.5 else -1))


def _park(site: Site, rng: Rng, stretch: Stretch) -> None:
    q0, q1 = _span(site, stretch)
    near = site.network.sidewalk
    path = rng.uniform(4, 7)
    for a in np.arange(q0 + 2, q1 - 6, 4.0):
        corners = np.array(
            [
                site.spot(stretch, q, near + out)[0]
                for q, out in ((a, path), (a + 4, path), (a + 4, path + 1.8), (a, path + 1.8))
            ]
        )
        if min(site.paved(c) for c in corners) > near + 0.3 and site.free(corners, 0.2):
            site.drape(corners, Material.GRAVEL, (0.36, 0.31, 0.24), Kind.OTHER_GROUND, 0.06)
    for _ in range(int((q1 - q0) * 0.9)):
        out = near + rng.uniform(0.9, 22)
        xy, yaw = site.spot(stretch, rng.uniform(q0, q1), out)
        if site.paved(xy) < near + 0.9 or path - 0.4 < out - near < path + 2.2:
            continue
        if rng.random() < 0.08:
            if site.free(xy, 1.0):
                site.add(site.stock.pick(rng, "bench"), xy, yaw)
        else:
            plant(site, rng, _PLANTS[int(rng.choice(3, p=[0.42, 0.38, 0.2]))], xy, 0.8)
    if rng.random() < 0.4:
        _boundary(site, rng, stretch, q0, q1, str(rng.choice(["hedge", "hedge", "picket"])))
    else:
        _shrubs(site, rng, stretch, q0, q1)


def _shrubs(site: Site, rng: Rng, stretch: Stretch, q0: float, q1: float) -> None:
    """A dense belt of bushes, here and there a tree, along the back of the pavement."""
    near = site.network.sidewalk
    for q in np.arange(q0, q1, 1.3):
        for out in (1.3, 2.6):
            xy, _ = site.spot(stretch, q + rng.normal(0, 0.3), near + out + rng.normal(0, 0.2))
            if site.paved(xy) > near + 0.9 and rng.random() < 0.8:
                plant(site, rng, "bush" if rng.random() < 0.93 else "tree", xy)


def _lot(site: Site, rng: Rng, stretch: Stretch) -> None:
    q0, q1 = _span(site, stretch)
    near, deep = site.network.sidewalk, 15.0
    asphalt = rng.random() < 0.5
    color = (0.13, 0.13, 0.135) if asphalt else (0.28, 0.26, 0.25)
    for a in np.arange(q0 + 1, q1 - 5, 5.0):
        corners = np.array(
            [site.spot(stretch, q, near + out)[0] for q, out in ((a, 0), (a + 5, 0), (a + 5, deep), (a, deep))]
        )
        middle = corners.mean(0)
        if min(site.paved(c) for c in corners) < near - 0.1 or not site.claim(
            middle, site.spot(stretch, a + 2.5, 0)[1], (4.6, deep - 0.8)
        ):
            continue
        site.drape(corners, Material.ASPHALT if asphalt else Material.COBBLE, color, Kind.PARKING, 0.06)
        for row, turn in ((3.2, 0.0), (12.0, np.pi)):
            for offset in (1.25, 3.75):
                if rng.random() < 0.6:
                    xy, yaw = site.spot(stretch, a + offset, near + row)
                    thing = site.stock.pick(rng, "car") if rng.random() < 0.92 else site.stock.pick(rng, "trailer")
                    site.add(thing, xy, yaw + np.pi / 2 + (turn if rng.random() < 0.6 else turn + np.pi), lift=0.06)
    if rng.random() < 0.5:
        _boundary(site, rng, stretch, q0, q1, "hedge")


def _works(site: Site, rng: Rng, stretch: Stretch) -> None:
    q0, q1 = _span(site, stretch)
    near = site.network.sidewalk
    for a in np.arange(q0 + 2, q1 - 6, 4.0):
        corners = np.array(
            [site.spot(stretch, q, near + out)[0] for q, out in ((a, 0.1), (a + 4, 0.1), (a + 4, 9), (a, 9))]
        )
        if min(site.paved(c) for c in corners) > near - 0.1 and site.free(corners, 0.2):
            site.drape(corners, Material.GRAVEL, (0.30, 0.24, 0.17), Kind.OTHER_GROUND, 0.06)
    for q in np.arange(q0 + 2, q1 - 2, 2.4):
        xy, yaw = site.spot(stretch, q, near - 0.3)
        if site.paved(xy) > 0.5:
            site.add(site.stock.pick(rng, "barrier"), xy, yaw)
    for _ in range(14):
        xy, _ = site.spot(stretch, rng.uniform(q0, q1), rng.uniform(0.3, near + 4))
        if site.paved(xy) > 0.2 and site.free(xy, 0.3):
            site.add(site.stock.pick(rng, "cone"), xy, float(rng.uniform(0, 6)))
    for share in (0.3, 0.7):
        xy, yaw = site.spot(stretch, q0 + share * (q1 - q0), near + 4.5)
        if site.claim(xy, yaw, (6.0, 4.5)):
            site.add(site.stock.pick(rng, "excavator"), xy, yaw)
    _garden(site, rng, stretch, q0, q1, 2.0)


BUILDERS: dict[str, Callable[[Site, Rng, Stretch], None]] = {
    "terrace": _terrace,
    "detached": _detached,
    "apartments": _apartments,
    "park": _park,
    "lot": _lot,
    "works": _works,
}
"""Use of a stretch -> what builds it."""
