"""What stands on and beside the carriageway: markings, islands, parked vehicles, lamps, signs, trees, people."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from mdkt_ros.drive.synthetic import furniture
from mdkt_ros.drive.synthetic.kinds import Kind
from mdkt_ros.drive.synthetic.mesh import Mesh
from mdkt_ros.drive.synthetic.plot import Site
from mdkt_ros.drive.synthetic.plots import plant
from mdkt_ros.drive.synthetic.roads import Stretch
from mdkt_ros.drive.synthetic.stock import Sort

Rng = np.random.Generator
_CLUTTER: tuple[Sort, ...] = ("bin", "bin", "cabinet", "bollard")


def mark_road(site: Site, rng: Rng, index: int) -> None:
    """Centre line, stop lines, zebra crossings and traffic islands of one street."""
    network, road = site.network, site.network.roads[index]
    crossings = network.crossings[index]
    ends = [(network.low, 0.0), *((q, network.roads[o].half_width) for q, o in crossings), (network.high, 0.0)]
    zebra = rng.random() < 0.6
    for (q0, m0), (q1, m1) in pairwise(ends):
        a, b = q0 + m0 + 9, q1 - m1 - 9
        if b - a < 12:
            continue
        if road.half_width > 3.2:
            site.strip(index, np.arange(a, b, 6.0), 0.0, (3.0, 0.12), Kind.LANE_MARKING)
        if road.half_width > 4.0:
            for side in (-1, 1):
                site.strip(index, np.arange(a, b, 2.0), side * (road.half_width - 0.3), (2.0, 0.10), Kind.LANE_MARKING)
            for q in (a + 1.0, b - 1.0):
                if rng.random() < 0.7:
                    xy = road.world(q, 0.0)
                    site.add(furniture.island(float(rng.uniform(4, 7)), 0.75), xy, float(road.heading(q)))
                    site.add(
                        site.stock.pick(rng, "sign"), road.world(q, 0.0), float(road.heading(q)) + np.pi / 2, lift=0.14
                    )
        for q, inward in ((q0 + m0 + 6.2, -1), (q1 - m1 - 6.2, 1)):
            site.strip(index, q, inward * -road.half_width / 2, (0.35, road.half_width - 0.3), Kind.LANE_MARKING)
            if zebra:
                t = np.arange(-road.half_width + 0.5, road.half_width - 0.3, 1.0)
                site.strip(index, q + inward * 2.0, t, (2.6, 0.5), Kind.LANE_MARKING)


def park_vehicles(
    site: Site, rng: Rng, stretch: Stretch, large: float, closed: tuple[float, float] | None = None
) -> None:
    """Vehicles in the parking strip, and the lines between its bays.

    Args:
        large: share of the vehicles parked along a street that are trucks, trailers or buses.
        closed: from where to where there is no parking.
    """
    if not stretch.parking:
        return
    start, end = stretch.q0 + stretch.margin0 + 10, stretch.q1 - stretch.margin1 - 10
    along = stretch.parking < 3
    pitch = 6.2 if along else 2.6
    busy = rng.uniform(0.25, 0.85)
    road = site.network.roads[stretch.road]
    q = start + pitch / 2
    center = stretch.side * (road.half_width + stretch.parking / 2)
    while q < end - pitch / 2:
        if closed is not None and closed[0] - 8 < q < closed[1] + 8:
            q += pitch
            continue
        site.strip(stretch.road, q - pitch / 2, center, (0.1, stretch.parking - 0.2), Kind.PARKING)
        step = 1.0
        if rng.random() < busy:
            heading = float(road.heading(q)) + (0 if stretch.side < 0 else np.pi)
            draw = rng.random()
            xy = road.world(q, center + rng.normal(0, 0.08))
            if along and draw < large:
                sort: Sort = "truck" if draw < large / 2 else "trailer" if draw < large * 5 / 6 else "bus"
                step = 3.0 if sort == "bus" else 2.0
                if q + pitch * step < end:
                    site.add(site.stock.pick(rng, sort), road.world(q + pitch * (step - 1) / 2, center), heading)
            elif draw < large + 0.02:
                site.add(site.stock.pick(rng, "rider"), xy, heading + float(rng.normal(0, 0.1)))
            elif draw < large + 0.07:
                for i in (-0.8, 0.2, 1.0):
                    machine = site.stock.pick(rng, "motorcycle")
                    site.add(machine, road.world(q + i, center), heading + np.pi / 2 + float(rng.normal(0, 0.1)))
            else:
                yaw = heading if along else heading + np.pi / 2 * (1 if rng.random() < 0.6 else -1)
                site.add(site.stock.pick(rng, "car"), xy, yaw + float(rng.normal(0, 0.025)))
        q += pitch * step


def furnish(site: Site, rng: Rng, stretch: Stretch, standing: int) -> None:
    """Lamp posts, signs, traffic lights, bins, bollards, street trees and at most `standing` people on the pavement."""
    start, end = stretch.q0 + stretch.margin0 + 4, stretch.q1 - stretch.margin1 - 4
    wide = site.network.sidewalk

    def put(thing: Mesh, q: float, out: float, turn: float = 0.0) -> None:
        xy, yaw = site.spot(stretch, q, out)
        if site.paved(xy) > 0.2 and site.free(xy, 0.2):
            site.add(thing, xy, yaw + turn)

    lamp_gap = rng.uniform(20, 34)
    lamp = site.stock.pick(rng, "lamp")
    for q in np.arange(start + rng.uniform(0, 12), end, lamp_gap):
        put(lamp, q, 0.35)
    if rng.random() < 0.65 and wide > 1.8:
        for q in np.arange(start + 4, end - 4, rng.uniform(7, 13)):
            xy, _ = site.spot(stretch, q, 0.75)
            if site.paved(xy) > 0.4:
                plant(site, rng, "tree", xy, 1.0)
    facing = np.pi / 2 if stretch.side > 0 else -np.pi / 2
    put(site.stock.pick(rng, "sign"), start + rng.uniform(0, 2), 0.4, facing + np.pi)
    put(site.stock.pick(rng, "sign"), end - rng.uniform(0, 2), 0.4, facing)
    if rng.random() < 0.4:
        put(site.stock.pick(rng, "light"), end + 0.5, 0.4, facing)
    for _ in range(int(rng.integers(1, 4))):
        put(site.stock.pick(rng, "sign"), rng.uniform(start, end), 0.4, facing * float(rng.choice([-1, 1])))
    for _ in range(int(rng.integers(0, 5))):
        sort = _CLUTTER[int(rng.integers(len(_CLUTTER)))]
        put(site.stock.pick(rng, sort), rng.uniform(start, end), wide - 0.35, float(rng.normal(0, 0.1)))
    if rng.random() < 0.12:
        put(site.stock.pick(rng, "shelter"), rng.uniform(start + 3, max(end - 3, start + 4)), max(wide - 0.5, 1.4))
    if rng.random() < 0.15:
        for q in np.arange(start + 2, min(start + 14, end), 1.6):
            put(site.stock.pick(rng, "bollard"), q, 0.3)
    for _ in range(int(rng.integers(0, standing + 1))):
        put(
            site.stock.pick(rng, "person"),
            rng.uniform(start, end),
            rng.uniform(0.5, wide - 0.3),
            float(rng.uniform(0, 6)),
        )
    if rng.random() < 0.12:
        put(site.stock.pick(rng, "rider"), rng.uniform(start, end), 0.8, float(rng.normal(0, 0.3)))
    if rng.random() < 0.3:
        q = rng.uniform(start, end)
        for i in range(int(rng.integers(1, 5))):
            put(site.stock.pick(rng, "bicycle"), q + 0.8 * i, wide - 0.5, float(rng.normal(0, 0.2)))
    if rng.random() < 0.12:
        put(site.stock.pick(rng, "motorcycle"), rng.uniform(start, end), wide - 0.5, float(rng.normal(0, 0.2)))
