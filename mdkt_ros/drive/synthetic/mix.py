"""What the streets of a town are full of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mix:
    """Shares and rates that distinguish a suburb from a city.

    Attributes:
        vehicles: of the traffic, shares of cars, trucks, buses, motorcyclists and cyclists.
        walkers: mean number of pedestrians on the move along a stretch of street.
        standing: people who stand about on the pavement of a stretch, at most.
        large: share of the parking bays along a street that hold a truck, a trailer or a bus.
        roadworks: share of the stretches whose parking strip or pavement is dug up.
    """

    vehicles: tuple[float, float, float, float, float] = (0.54, 0.07, 0.05, 0.16, 0.18)
    walkers: float = 1.3
    standing: int = 2
    large: float = 0.09
    roadworks: float = 0.0


SUBURB = Mix()
"""Streets as KITTI drives them: hardly a cone, a bus now and then."""
CITY = Mix((0.42, 0.14, 0.12, 0.16, 0.16), walkers=4.0, standing=4, large=0.26, roadworks=0.5)
"""Streets as nuScenes drives them: delivery trucks, buses, people, and roadworks round the corner."""
