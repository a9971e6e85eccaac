"""Roadworks: a pit in the parking strip or the pavement behind barriers and cones, perhaps with a machine."""

from __future__ import annotations

import numpy as np

from mdkt_ros.drive.synthetic.kinds import Kind
from mdkt_ros.drive.synthetic.materials import Material
from mdkt_ros.drive.synthetic.plot import Site
from mdkt_ros.drive.synthetic.roads import Stretch
from mdkt_ros.drive.synthetic.stock import Sort

Rng = np.random.Generator
_MACHINES: tuple[Sort, ...] = ("excavator", "excavator", "truck")


def plan_roadworks(rng: Rng, stretch: Stretch, share: float) -> tuple[float, float] | None:
    """From where to where along a stretch the street is dug up, in metres of its q; None for most."""
    if rng.random() >= share:
        return None
    start, end = stretch.q0 + stretch.margin0 + 10, stretch.q1 - stretch.margin1 - 10
    length = float(rng.uniform(12, 26))
    if end - start < length:
        return None
    q = float(rng.uniform(start, end - length))
    return q, q + length


def dig_up(site: Site, rng: Rng, stretch: Stretch, works: tuple[float, float]) -> None:
    """Build the roadworks: the carriageway stays free."""
    low, high = works
    # Metres outwards from the kerb; the parking strip lies on its other side.
    inner, outer = (-stretch.parking + 0.35, -0.3) if stretch.parking > 1.5 else (0.25, site.network.sidewalk - 0.7)
    corners = np.array(
        [
            site.spot(stretch, q, out)[0]
            for q, out in ((low + 2, inner + 0.3), (high - 2, inner + 0.3), (high - 2, outer), (low + 2, outer))
        ]
    )
    site.drape(corners, Material.GRAVEL, (0.30, 0.24, 0.17), Kind.OTHER_GROUND, 0.03)
    closed = rng.random() < 0.5
    for q in np.arange(low, high, 2.4 if closed else 1.9):
        xy, yaw = site.spot(stretch, q, inner)
        site.add(site.stock.pick(rng, "barrier" if closed else "cone"), xy, yaw)
    for q in (low - 0.8, high + 0.8):
        xy, yaw = site.spot(stretch, q, (inner + outer) / 2)
        site.add(site.stock.pick(rng, "barrier"), xy, yaw + np.pi / 2)
        for out in (inner, outer):
            site.add(site.stock.pick(rng, "cone"), site.spot(stretch, q + np.sign(q - low) * 0.9, out)[0])
    if stretch.parking > 1.5 and high - low > 15 and rng.random() < 0.7:
        machine = _MACHINES[int(rng.integers(len(_MACHINES)))]
        xy, yaw = site.spot(stretch, (low + high) / 2, (inner + outer) / 2)
        # A vehicle's length lies along the street.
        site.add(site.stock.pick(rng, machine), xy, yaw if rng.random() < 0.5 else yaw + np.pi)
    for _ in range(int(rng.integers(0, 3))):
        xy, _ = site.spot(stretch, rng.uniform(low + 2, high - 2), rng.uniform(inner + 0.6, max(outer, inner + 0.7)))
        site.add(site.stock.pick(rng, "person"), xy, float(rng.uniform(0, 6)))
