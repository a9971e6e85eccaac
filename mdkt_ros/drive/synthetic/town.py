"""A town from a seed: ground, buildings, plants, furniture and everything that stands still."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from mdkt_ros.drive.synthetic.ground import build_ground
from mdkt_ros.drive.synthetic.mesh import Color, Mesh, concatenate
from mdkt_ros.drive.synthetic.mix import SUBURB, Mix
from mdkt_ros.drive.synthetic.plot import Site
from mdkt_ros.drive.synthetic.plots import BUILDERS
from mdkt_ros.drive.synthetic.roads import Network, lay_out
from mdkt_ros.drive.synthetic.roadworks import dig_up, plan_roadworks
from mdkt_ros.drive.synthetic.scene import Scene
from mdkt_ros.drive.synthetic.stock import Stock
from mdkt_ros.drive.synthetic.streets import furnish, mark_road, park_vehicles
from mdkt_ros.drive.synthetic.thing import Thing


def stream(seed: int, *path: int) -> np.random.Generator:
    """The random stream of one part of a town: independent of all others, so that parts can change alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *path])))


@dataclass(frozen=True)
class Town:
    """What does not move.

    Attributes:
        seed, mix: what it was built from. network: streets and ground.
        static: every triangle.
        parked: boxes of countable things.
        instances: how many instance ids are taken (1..instances).
    """

    seed: int
    mix: Mix
    network: Network
    static: Mesh
    parked: tuple[Thing, ...]
    instances: int

    @functools.cached_property
    def scene(self) -> Scene:
        """Ready for ray casting."""
        return Scene(self.static)


def _palette(rng: np.random.Generator) -> dict[str, Color]:
    def tone(red: float, green: float, blue: float, spread: float = 0.15) -> Color:
        gain = rng.uniform(1 - spread, 1 + spread)
        return red * gain, green * gain, blue * gain

    warm = rng.uniform(0.9, 1.1)
    pavement = ((0.34, 0.33, 0.31), (0.36, 0.29, 0.24), (0.26, 0.26, 0.27))[int(rng.integers(3))]
    parking = ((0.25, 0.23, 0.22), (0.30, 0.20, 0.16), (0.17, 0.17, 0.18))[int(rng.integers(3))]
    grass = ((0.12, 0.19, 0.05), (0.18, 0.20, 0.08), (0.09, 0.16, 0.04))[int(rng.integers(3))]
    return {
        "asphalt": tone(0.115 * warm, 0.113, 0.112 / warm, 0.35),
        "parking": tone(*parking),
        "kerb": tone(0.40, 0.39, 0.37),
        "pavement": tone(*pavement),
        "terrain": tone(*grass),
        "cobbled": (float(rng.random() < 0.7), 0.0, 0.0),
    }


def build_town(seed: int, mix: Mix = SUBURB) -> Town:
    """Build the town of a seed; the same seed and mix give the same town, triangle for triangle."""
    network = lay_out(stream(seed, 1))
    site = Site(network, Stock(stream(seed, 3)))
    site.meshes.append(build_ground(network, _palette(stream(seed, 2))))
    for index, stretch in enumerate(network.stretches):
        BUILDERS[stretch.use](site, stream(seed, 4, index), stretch)
    for index in range(len(network.roads)):
        mark_road(site, stream(seed, 5, index), index)
    for index, stretch in enumerate(network.stretches):
        rng = stream(seed, 8, index)
        works = plan_roadworks(rng, stretch, mix.roadworks)
        if works is not None:
            dig_up(site, rng, stretch, works)
        park_vehicles(site, stream(seed, 6, index), stretch, mix.large, works)
        furnish(site, stream(seed, 7, index), stretch, mix.standing)
    return Town(seed, mix, network, concatenate(site.meshes), tuple(site.parked), site.instances)
