"""What stands on and beside the carriageway: markings, islands, parked vehicles, lamps, signs, trees, people who stand."""

from __future__ import annotations

import numpy as np

from mdkt_ros.drive.synthetic import furniture, people, vehicles
from mdkt_ros.drive.synthetic.kinds import Kind
from mdkt_ros.drive.synthetic.plot import Site
from mdkt_ros.drive.synthetic.plots import Nursery
from mdkt_ros.drive.synthetic.roads import Stretch

Rng = np.random.Generator


def mark_road(site: Site, rng: Rng, index: int) -> None:
    """Centre line, stop lines, zebra crossings and traffic islands of one street."""
    network, road = site.network, site.network.roads[index]
    crossings = network.crossings[index]
    ends = [(network.low, 0.0), *((q, network.roads[o].half_width) for q, o in crossings), (network.high, 0.0)]
    zebra = rng.random() < 0.6
    for (q0, m0), (q1, m1) in zip(ends[:-1], ends[1:], strict=True):
        a, b = q0 + m0 + 9, q1 - m1 - 9
        if b - a < 12:
            continue
        if road.half_width > 3.2:
            site.strip(index, np.arange(a, b, 6.0), 0.0, (3.0, 0.12), Kind.LANE_MARKING)
        if road.half_width > 4.4:
            for side in (-1, 1):
                site.strip(index, np.arange(a, b, 2.0), side * (road.half_width - 0.3), (2.0, 0.10), Kind.LANE_MARKING)
            for q in (a + 1.0, b - 1.0):
                if rng.random() < 0.7:
                    xy = road.world(q, 0.0)
                    site.add(furniture.island(float(rng.uniform(4, 7)), 0.75), xy, float(road.heading(q)))
                    site.add(furniture.sign_post(rng), road.world(q, 0.0), float(road.heading(q)) + np.pi / 2, lift=0.14)
        for q, inward in ((q0 + m0 + 6.2, -1), (q1 - m1 - 6.2, 1)):
            site.strip(index, q, inward * -road.half_width / 2, (0.35, road.half_width - 0.3), Kind.LANE_MARKING)
            if zebra:
                t = np.arange(-road.half_width + 0.5, road.half_width - 0.3, 1.0)
                site.strip(index, q + inward * 2.0, t, (2.6, 0.5), Kind.LANE_MARKING)


def park_vehicles(site: Site, rng: Rng, stretch: Stretch) -> None:
    """Vehicles in the parking strip, and the lines between its bays."""
    if not stretch.parking:
        return
    start, end = stretch.q0 + stretch.margin0 + 10, stretch.q1 - stretch.margin1 - 10
    along = stretch.parking < 3
    pitch = 6.2 if along else 2.6
    busy = rng.uniform(0.45, 0.95)
    road = site.network.roads[stretch.road]
    q = start + pitch / 2
    center = stretch.side * (road.half_width + stretch.parking / 2)
    while q < end - pitch / 2:
        site.strip(stretch.road, q - pitch / 2, center, (0.1, stretch.parking - 0.2), Kind.PARKING)
        step = 1.0
        if rng.random() < busy:
            heading = float(road.heading(q)) + (0 if stretch.side < 0 else np.pi)
            draw = rng.random()
            xy = road.world(q, center + rng.normal(0, 0.08))
            if along and draw < 0.07:
                big = vehicles.truck(rng) if draw < 0.04 else vehicles.trailer(rng)
                site.add(big, road.world(q + pitch / 2, center), heading)
                step = 2.0
            elif draw < 0.15:
                for i in (-0.8, 0.2, 1.0):
                    machine = people.motorcycle(rng)
                    site.add(machine, road.world(q + i, center), heading + np.pi / 2 + float(rng.normal(0, 0.1)))
            else:
                yaw = heading if along else heading + np.pi / 2 * (1 if rng.random() < 0.6 else -1)
                site.add(vehicles.car(rng), xy, yaw + float(rng.normal(0, 0.025)))
        q += pitch * step


def furnish(site: Site, rng: Rng, nursery: Nursery, stretch: Stretch) -> None:
    """Lamp posts, signs, traffic lights, bins, bollards, street trees and people standing about on the pavement."""
    start, end = stretch.q0 + stretch.margin0 + 4, stretch.q1 - stretch.margin1 - 4
    wide = site.network.sidewalk

    def put(make: object, q: float, out: float, turn: float = 0.0) -> None:
        xy, yaw = site.spot(stretch, q, out)
        if site.paved(xy) > 0.2 and site.free(xy, 0.2):
            site.add(make, xy, yaw + turn)  # type: ignore[arg-type]

    lamp_gap = rng.uniform(20, 34)
    lamp = furniture.lamp_post(rng)
    for q in np.arange(start + rng.uniform(0, 12), end, lamp_gap):
        put(lamp, q, 0.35)
    if rng.random() < 0.4 and wide > 1.9:
        for q in np.arange(start + 4, end - 4, rng.uniform(7, 13)):
            xy, _ = site.spot(stretch, q, 0.75)
            if site.paved(xy) > 0.4:
                nursery.plant(site, "tree", xy, 1.0)
    facing = np.pi / 2 if stretch.side > 0 else -np.pi / 2
    put(furniture.sign_post(rng), start + rng.uniform(0, 2), 0.4, facing + np.pi)
    put(furniture.sign_post(rng), end - rng.uniform(0, 2), 0.4, facing)
    if rng.random() < 0.4:
        put(furniture.traffic_light(rng), end + 0.5, 0.4, facing)
    for _ in range(int(rng.integers(1, 4))):
        put(furniture.sign_post(rng), rng.uniform(start, end), 0.4, facing * float(rng.choice([-1, 1])))
    for _ in range(int(rng.integers(0, 5))):
        thing = (furniture.bin_, furniture.bin_, furniture.cabinet, furniture.bollard)[int(rng.integers(4))]
        put(thing(rng), rng.uniform(start, end), wide - 0.35, float(rng.normal(0, 0.1)))
    if rng.random() < 0.12:
        put(furniture.shelter(rng), rng.uniform(start + 3, max(end - 3, start + 4)), max(wide - 0.5, 1.4))
    if rng.random() < 0.15:
        for q in np.arange(start + 2, min(start + 14, end), 1.6):
            put(furniture.bollard(rng), q, 0.3)
    for _ in range(int(rng.integers(0, 3))):
        person = people.pedestrian(people.draw_look(rng), 0.6, 0.08)
        put(person, rng.uniform(start, end), rng.uniform(0.5, wide - 0.3), float(rng.uniform(0, 6)))
    if rng.random() < 0.3:
        q = rng.uniform(start, end)
        for i in range(int(rng.integers(1, 5))):
            bike = people.bicycle(vehicles.draw_paint(rng) * 1.5, float(rng.normal(0, 0.03)))
            put(bike, q + 0.8 * i, wide - 0.5, float(rng.normal(0, 0.2)))
    if rng.random() < 0.12:
        put(people.motorcycle(rng), rng.uniform(start, end), wide - 0.5, float(rng.normal(0, 0.2)))
