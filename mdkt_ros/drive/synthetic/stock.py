"""Things that a town has many of: a few of each are built, then picked, and repainted where paint is what differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from mdkt_ros.drive.synthetic import furniture, people, plants, vehicles
from mdkt_ros.drive.synthetic.materials import Material
from mdkt_ros.drive.synthetic.mesh import Mesh

Rng = np.random.Generator
Sort = Literal[
    "car", "truck", "bus", "trailer", "rider", "excavator", "motorcycle", "bicycle",
    "person", "sign", "lamp", "light", "bin", "cabinet",
    "bollard", "bench", "shelter", "hoop", "cone", "barrier", "tree", "bush", "tuft",
]  # fmt: skip


def _bicycle(rng: Rng) -> Mesh:
    return people.bicycle(vehicles.draw_paint(rng) * 1.5, float(rng.normal(0, 0.03)))


def _person(rng: Rng) -> Mesh:
    return people.pedestrian(people.draw_look(rng), 0.6, 0.08)


def _rider(rng: Rng) -> Mesh:
    """Someone who stands still on a bicycle or a motorcycle."""
    if rng.random() < 0.5:
        return people.bicyclist(people.draw_look(rng), vehicles.draw_paint(rng), float(rng.uniform(0, 6)))
    return people.motorcyclist(people.motorcycle(rng), people.draw_look(rng))


def _tree(rng: Rng) -> Mesh:
    return plants.tree(rng) if rng.random() < 0.85 else plants.conifer(rng)


# Sort: how one is made, how many a town has to choose from.
_MAKERS: dict[Sort, tuple[Callable[[Rng], Mesh], int]] = {
    "car": (vehicles.car, 28),
    "bus": (vehicles.bus, 2),
    "rider": (_rider, 6),
    "truck": (vehicles.truck, 4),
    "trailer": (vehicles.trailer, 4),
    "excavator": (vehicles.excavator, 2),
    "motorcycle": (people.motorcycle, 10),
    "bicycle": (_bicycle, 10),
    "person": (_person, 14),
    "sign": (furniture.sign_post, 18),
    "lamp": (furniture.lamp_post, 4),
    "light": (furniture.traffic_light, 4),
    "bin": (furniture.bin_, 5),
    "cabinet": (furniture.cabinet, 3),
    "bollard": (furniture.bollard, 2),
    "bench": (furniture.bench, 3),
    "shelter": (furniture.shelter, 1),
    "hoop": (lambda rng: furniture.bicycle_hoop(), 1),
    "cone": (lambda rng: furniture.cone(), 1),
    "barrier": (furniture.barrier, 4),
    "tree": (_tree, 12),
    "bush": (plants.bush, 10),
    "tuft": (plants.tall_grass, 5),
}


class Stock:
    """What a town chooses from; `rng` draws it all at once, so that picking never disturbs what is built."""

    def __init__(self, rng: Rng) -> None:
        self._shelves = {sort: [make(rng) for _ in range(count)] for sort, (make, count) in _MAKERS.items()}

    def pick(self, rng: Rng, sort: Sort) -> Mesh:
        """One of a sort."""
        shelf = self._shelves[sort]
        mesh = shelf[int(rng.integers(len(shelf)))]
        return repainted(mesh, rng) if sort in ("car", "motorcycle") else mesh


def repainted(mesh: Mesh, rng: Rng) -> Mesh:
    """The same vehicle in another colour."""
    paint = vehicles.draw_paint(rng).astype(np.float32)
    coated = (mesh.material == Material.CAR_PAINT)[:, None]
    return replace(mesh, color=np.where(coated, paint, mesh.color))
