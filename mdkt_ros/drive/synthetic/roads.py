"""The street network: gently curved streets along both axes, what lies beside them, and what the ground is."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
CORNER = 5.0
"""Metres over which two streets' kerbs blend at a crossing."""
FAR = 60.0
BORDER = 48.0
"""Metres of town beyond the outermost streets."""


@dataclass(frozen=True)
class Road:
    """A street y = offset + f(x) (axis 0) or x = offset + f(y) (axis 1), f a gentle sine.

    Street coordinates: q metres along the axis, t metres to the left of the direction of growing q.
    """

    axis: int
    offset: float
    amplitude: float
    wavelength: float
    phase: float
    half_width: float
    lanes_speed: float

    def _curve(self, q: Points) -> tuple[Points, Points]:
        k = 2 * np.pi / self.wavelength
        return self.amplitude * np.sin(k * q + self.phase), self.amplitude * k * np.cos(k * q + self.phase)

    def world(self, q: npt.ArrayLike, t: npt.ArrayLike = 0.0) -> Points:
        """Positions (..., 2) of street coordinates."""
        q, t = np.broadcast_arrays(np.asarray(q, dtype=np.float64), np.asarray(t, dtype=np.float64))
        f, slope = self._curve(q)
        norm = np.sqrt(1 + slope * slope)
        if self.axis == 0:
            return np.stack([q - t * slope / norm, self.offset + f + t / norm], axis=-1)
        return np.stack([self.offset + f - t / norm, q + t * slope / norm], axis=-1)

    def heading(self, q: npt.ArrayLike) -> Points:
        """Radians of the direction of growing q."""
        _, slope = self._curve(np.asarray(q, dtype=np.float64))
        return np.arctan(slope) if self.axis == 0 else np.pi / 2 - np.arctan(slope)

    def local(self, xy: Points) -> Points:
        """Street coordinates (..., 2) of positions; good within a few tens of metres of the street."""
        along = xy[..., self.axis]
        f, slope = self._curve(along)
        cross = xy[..., 1 - self.axis] - self.offset - f
        # One Newton step from the foot straight below the point.
        q = along + cross * slope / (1 + slope * slope)
        f, slope = self._curve(q)
        norm = np.sqrt(1 + slope * slope)
        t = ((xy[..., 1 - self.axis] - self.offset - f) - (along - q) * slope) / norm
        return np.stack([q, t if self.axis == 0 else -t], axis=-1)


class Stretch(NamedTuple):
    """One side of a street between two crossings.

    Attributes:
        road: index of the street. side: +1 left, -1 right.
        q0, q1: between the crossings' centres. margin0, margin1: half widths of the crossing streets there.
        parking: width of the parking strip, 0 for none. use: what the plots are (`terrace`, `detached`, ...).
    """

    road: int
    side: int
    q0: float
    q1: float
    margin0: float
    margin1: float
    parking: float
    use: str


class Ground(NamedTuple):
    """Signed distances in metres, negative inside: carriageway, carriageway with parking; and the nearest street."""

    road: Points
    paved: Points
    nearest: npt.NDArray[np.int64]


USES = ("terrace", "detached", "apartments", "park", "lot", "works")


@dataclass(frozen=True)
class Network:
    """All streets of a town."""

    roads: tuple[Road, ...]
    stretches: tuple[Stretch, ...]
    sidewalk: float
    kerb: float
    low: float
    high: float
    slopes: Points

    def crossing(self, a: int, b: int) -> tuple[float, float]:
        """Street coordinate q of two streets' crossing, on each."""
        return _crossing(self.roads[a], self.roads[b])

    @functools.cached_property
    def crossings(self) -> tuple[tuple[tuple[float, int], ...], ...]:
        """For each street its crossings (q, other street), by q."""
        return tuple(_crossings(self.roads, i) for i in range(len(self.roads)))

    @functools.cached_property
    def _parking(self) -> list[dict[int, tuple[Points, Points]]]:
        """For each street and side: where stretches end, and rows of the strips' width, first and last q."""
        table: list[dict[int, tuple[Points, Points]]] = []
        for index in range(len(self.roads)):
            sides = {}
            for side in (-1, 1):
                mine = [s for s in self.stretches if s.road == index and s.side == side]
                rows = [(s.parking, s.q0 + s.margin0 + 8 if s.parking else np.inf, s.q1 - s.margin1 - 8) for s in mine]
                sides[side] = np.array([s.q1 for s in mine[:-1]]), np.array(rows)
            table.append(sides)
        return table

    def ground(self, xy: Points) -> Ground:
        """What the ground is at positions (N, 2)."""
        distance = np.full((len(self.roads), len(xy)), FAR)
        parking = np.full(len(xy), FAR)
        # Most of ten thousand calls are for a few points next to each other, which most streets are far from.
        low, high = (xy.min(0).tolist(), xy.max(0).tolist()) if len(xy) else ([0, 0], [0, 0])
        for index, road in enumerate(self.roads):
            across, reach = 1 - road.axis, abs(road.amplitude) + 45
            if low[across] - road.offset >= reach or high[across] - road.offset <= -reach:
                continue
            near = np.flatnonzero(np.abs(xy[:, across] - road.offset) < reach)
            if not len(near):
                continue
            local = road.local(xy[near])
            distance[index, near] = np.abs(local[:, 1]) - road.half_width
            for side, (ends, strips) in self._parking[index].items():
                width, first, last = strips[np.searchsorted(ends, local[:, 0])].T
                t = local[:, 1] * side - road.half_width
                strip = np.maximum(np.maximum(t - width, -t - 1), np.maximum(first - local[:, 0], local[:, 0] - last))
                parking[near] = np.minimum(parking[near], strip)
        order = np.sort(distance, axis=0)
        gap = np.where(order[1] < FAR, np.clip(CORNER - (order[1] - order[0]), 0, None), 0)
        union = order[0] - gap * gap / (4 * CORNER)
        return Ground(union, np.minimum(union, parking), distance.argmin(0))

    def base(self, xy: Points) -> Points:
        """Height (N,) of the carriageway: long gentle slopes."""
        height = np.zeros(xy.shape[:-1])
        for amplitude, kx, ky, phase in self.slopes:
            height += amplitude * np.sin(kx * xy[..., 0] + ky * xy[..., 1] + phase)
        return height

    def height(self, xy: Points) -> Points:
        """Height (N,) of what one stands on."""
        paved = self.ground(xy.reshape(-1, 2)).paved.reshape(xy.shape[:-1])
        return self.base(xy) + np.where(paved < 0, 0.0, self.kerb + self.rise(xy, paved))

    def rise(self, xy: Points, paved: Points) -> Points:
        """How far unpaved ground rises above the pavement: humps, growing away from it."""
        beyond = np.clip((paved - self.sidewalk) / 4.0, 0, 1)
        x, y = xy[..., 0], xy[..., 1]
        humps = 0.25 * np.sin(0.31 * x + 0.9 * np.sin(0.11 * y)) + 0.22 * np.sin(0.37 * y + 1.3 * np.sin(0.13 * x))
        small = 0.035 * np.sin(1.7 * x + 0.8 * y) * np.sin(1.3 * y - 0.7 * x)
        rise: Points = beyond * (0.3 + humps + small)
        return rise


def _crossing(a: Road, b: Road) -> tuple[float, float]:
    if a.axis == b.axis:
        raise ValueError("streets along the same axis do not cross")
    qa, qb = b.offset, a.offset
    for _ in range(30):
        qa, qb = b.offset + float(b._curve(np.array(qb))[0]), a.offset + float(a._curve(np.array(qa))[0])
    return qa, qb


def _crossings(roads: tuple[Road, ...], index: int) -> tuple[tuple[float, int], ...]:
    others = [j for j, other in enumerate(roads) if other.axis != roads[index].axis]
    return tuple(sorted((_crossing(roads[index], roads[j])[0], j) for j in others))


def _roads(rng: np.random.Generator, axis: int, count: int, curved: float) -> list[Road]:
    offsets = np.cumsum(rng.uniform(58, 92, count))
    offsets -= offsets.mean()
    main = int(rng.integers(count))
    roads = []
    for i, offset in enumerate(offsets):
        half_width = rng.uniform(3.8, 5.2) if i == main else rng.uniform(2.5, 3.5)
        amplitude = rng.uniform(1.5, 6.0) if rng.random() < curved else 0.0
        roads.append(
            Road(
                axis,
                float(offset),
                float(amplitude),
                float(rng.uniform(130, 240)),
                float(rng.uniform(0, 2 * np.pi)),
                float(half_width),
                float(rng.uniform(6, 12)),
            )
        )
    return roads


def lay_out(rng: np.random.Generator) -> Network:
    """Draw a town's streets and what lies beside them."""
    curved = float(rng.choice([0.0, 0.5, 0.9]))
    roads = tuple(_roads(rng, 0, 4, curved) + _roads(rng, 1, 4, curved))
    extent = max(abs(r.offset) for r in roads) + BORDER
    weights = rng.dirichlet([1.9, 3.2, 1.6, 2.8, 0.4]) * 0.7 + 0.06
    stretches: list[Stretch] = []
    for index in range(len(roads)):
        crossings = _crossings(roads, index)
        ends = [(-extent, None), *crossings, (extent, None)]
        for (q0, other0), (q1, other1) in pairwise(ends):
            margin0, margin1 = (0.0 if o is None else roads[o].half_width for o in (other0, other1))
            for side in (1, -1):
                use = str(rng.choice(USES[:5], p=weights / weights.sum()))
                parking = float(rng.choice([0.0, 2.2, 4.9], p=[0.45, 0.4, 0.15]))
                stretches.append(Stretch(index, side, q0, q1, margin0, margin1, parking, use))
    works = int(rng.integers(len(stretches)))
    for wanted in ("park", "lot", "works"):
        if not any(s.use == wanted for s in stretches):
            stretches[works] = stretches[works]._replace(use=wanted)
        works = (works + 7) % len(stretches)
    k = 2 * np.pi / rng.uniform(140, 380, 4)
    direction = rng.uniform(0, 2 * np.pi, 4)
    amplitude = rng.uniform(0.1, 0.9, 4) / np.sqrt(k / 0.02)
    slopes = np.column_stack([amplitude, k * np.cos(direction), k * np.sin(direction), rng.uniform(0, 6, 4)])
    return Network(
        roads, tuple(stretches), float(rng.uniform(1.7, 3.0)), float(rng.uniform(0.09, 0.15)), -extent, extent, slopes
    )
