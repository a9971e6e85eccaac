"""What moves: vehicles that follow their lanes, people who walk up and down the pavements."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.synthetic import people, vehicles
from mdkt_ros.drive.synthetic.ego import Ego
from mdkt_ros.drive.synthetic.kinds import Kind
from mdkt_ros.drive.synthetic.mesh import Mesh, concatenate
from mdkt_ros.drive.synthetic.mix import Mix
from mdkt_ros.drive.synthetic.roads import Network, Stretch
from mdkt_ros.drive.synthetic.thing import Thing, bounding_box, boxed

Points = npt.NDArray[np.float64]
REACH = 105.0
"""Metres around the vehicle within which things that move are shown."""
PHASES = 8


class Stock(NamedTuple):
    """Something that may move: its shape in each phase of its gait, the first's box, metres a cycle."""

    kind: Kind
    phases: list[Mesh]
    center: Points
    size: Points
    stride: float


class Mover(NamedTuple):
    """One thing on its way. Vehicles run along a street once; people go to and fro along one stretch.

    Attributes:
        stock: index. instance: id. road, lane: street and its lateral coordinate. direction: +1 or -1 along q.
        start: seconds when it enters at `q0`. speed: m/s. q0, q1: where it enters and leaves (or turns round).
        walks: whether it turns round at the ends.
    """

    stock: int
    instance: int
    road: int
    lane: float
    direction: int
    start: float
    speed: float
    q0: float
    q1: float
    walks: bool


class Pose(NamedTuple):
    """Position (2,) and yaw of a mover, and how far it went."""

    xy: Points
    yaw: float
    travelled: float


def _stock(rng: np.random.Generator) -> list[Stock]:
    stock: list[Stock] = []

    def add(kind: Kind, shapes: list[Mesh], stride: float) -> None:
        center, size = bounding_box(shapes[0])
        stock.append(Stock(kind, shapes, center, size, stride))

    for _ in range(12):
        add(Kind.CAR, [vehicles.car(rng)], 1.0)
    for _ in range(2):
        add(Kind.TRUCK, [vehicles.truck(rng)], 1.0)
        add(Kind.BUS, [vehicles.bus(rng)], 1.0)
    for _ in range(4):
        look, paint = people.draw_look(rng), vehicles.draw_paint(rng)
        add(Kind.BICYCLIST, [people.bicyclist(look, paint, -i * 2 * np.pi / PHASES) for i in range(PHASES)], 5.0)
        add(Kind.MOTORCYCLIST, [people.motorcyclist(people.motorcycle(rng), people.draw_look(rng))], 1.0)
    for _ in range(8):
        look = people.draw_look(rng)
        add(Kind.PERSON, [people.pedestrian(look, i * 2 * np.pi / PHASES) for i in range(PHASES)], 1.35)
    return stock


class Traffic:
    """Everything that moves in a town during a drive, less what would run into the ego vehicle or another."""

    def __init__(
        self, network: Network, rng: np.random.Generator, ego: Ego, duration: float, first_instance: int, mix: Mix
    ) -> None:
        self._network, self._mix = network, mix
        self.stock = _stock(rng)
        self._by_kind = {
            kind: [i for i, s in enumerate(self.stock) if s.kind == kind] for kind in {s.kind for s in self.stock}
        }
        drawn = self._vehicles(rng, duration) + self._walkers(rng)
        clear = [m for m in drawn if m.walks or not self._meets(m, ego, duration)]
        self.movers = tuple(
            m._replace(instance=first_instance + 1 + i) for i, m in enumerate(_without_collisions(self, clear))
        )

        # From when to when each is in town.
        times = [(-np.inf, np.inf) if m.walks else (m.start, m.start + abs(m.q1 - m.q0) / m.speed) for m in self.movers]
        self._span = np.array(times).reshape(-1, 2)

    def _pick(self, rng: np.random.Generator, kind: Kind) -> int:
        return int(rng.choice(self._by_kind[kind]))

    def _vehicles(self, rng: np.random.Generator, duration: float) -> list[Mover]:
        kinds = [Kind.CAR, Kind.TRUCK, Kind.BUS, Kind.MOTORCYCLIST, Kind.BICYCLIST]
        weights = np.array(self._mix.vehicles)
        movers = []
        for index, road in enumerate(self._network.roads):
            for direction in (1, -1):
                q0, q1 = (self._network.low, self._network.high)[:: 1 if direction > 0 else -1]
                span = abs(q1 - q0)
                clock = -span / road.lanes_speed + rng.uniform(0, 5)
                while clock < duration:
                    kind = kinds[int(rng.choice(5, p=weights))]
                    lane, speed, start = road.half_width / 2, road.lanes_speed, clock
                    if kind == Kind.BICYCLIST:
                        lane, speed = road.half_width - 0.55, min(4.5, road.lanes_speed)
                        start = clock - (span / speed - span / road.lanes_speed) * rng.random()
                    movers.append(
                        Mover(
                            self._pick(rng, kind), 0, index, -direction * lane, direction, start, speed, q0, q1, False
                        )
                    )
                    clock += rng.uniform(14, 26) / road.lanes_speed + rng.exponential(25.0) / road.lanes_speed
        return movers

    def _walkers(self, rng: np.random.Generator) -> list[Mover]:
        movers = []
        for stretch in self._network.stretches:
            for _ in range(int(rng.poisson(self._mix.walkers))):
                movers.append(self._walker(rng, stretch))
        return [m for m in movers if abs(m.q1 - m.q0) > 8]

    def _walker(self, rng: np.random.Generator, stretch: Stretch) -> Mover:
        road = self._network.roads[stretch.road]
        out = road.half_width + stretch.parking + self._network.sidewalk * rng.uniform(0.4, 0.75)
        low, high = stretch.q0 + stretch.margin0 + 10, stretch.q1 - stretch.margin1 - 10
        speed = float(rng.uniform(0.9, 1.7))
        start = -float(rng.uniform(0, 2 * max(high - low, 1.0) / speed))
        return Mover(
            self._pick(rng, Kind.PERSON), 0, stretch.road, stretch.side * out, 1, start, speed, low, high, True
        )

    def pose(self, mover: Mover, time: npt.ArrayLike) -> tuple[Points, Points, Points]:
        """Positions (..., 2), headings and street coordinate q at times; q is NaN while the mover is not in town."""
        went = (np.asarray(time, dtype=np.float64) - mover.start) * mover.speed
        span = abs(mover.q1 - mover.q0)
        road = self._network.roads[mover.road]
        if mover.walks:
            turn = went % (2 * span)
            q = mover.q0 + np.where(turn < span, turn, 2 * span - turn)
            sense = np.where(turn < span, 0.0, np.pi)
        else:
            q = mover.q0 + mover.direction * went
            sense = np.full(q.shape, 0.0 if mover.direction > 0 else np.pi)
            q = np.where((went < 0) | (went > span), np.nan, q)
        return road.world(q, mover.lane), road.heading(q) + sense, q

    def _meets(self, mover: Mover, ego: Ego, duration: float) -> bool:
        end = mover.start + abs(mover.q1 - mover.q0) / mover.speed
        times = np.arange(max(mover.start, -0.2), min(end, duration + 0.5), 0.2)
        xy, _, _ = self.pose(mover, times)
        gap = xy - ego.position(times)
        yaw = ego.yaw(times)
        ahead = gap[:, 0] * np.cos(yaw) + gap[:, 1] * np.sin(yaw)
        beside = -gap[:, 0] * np.sin(yaw) + gap[:, 1] * np.cos(yaw)
        size = self.stock[mover.stock].size
        # The vehicle's origin is its rear axle: more of it lies ahead.
        return bool(((np.abs(ahead - 1.4) < size[0] / 2 + 4.0) & (np.abs(beside) < size[1] / 2 + 1.15)).any())

    def near(self, time: float, around: Points) -> list[tuple[Mover, Pose]]:
        """Movers within reach of a position (2,) and their poses."""
        found = []
        for index in np.flatnonzero((self._span[:, 0] <= time) & (time <= self._span[:, 1])):
            mover = self.movers[index]
            xy, yaw, q = self.pose(mover, time)
            if np.isfinite(q) and np.hypot(*(xy - around)) < REACH:
                found.append((mover, Pose(xy, float(yaw), float((time - mover.start) * mover.speed))))
        return found

    def mesh(self, time: float, around: Points) -> Mesh:
        """The triangles of everything that moves near a position (2,)."""
        parts = []
        for mover, pose in self.near(time, around):
            stock = self.stock[mover.stock]
            shape = stock.phases[int(pose.travelled / stock.stride * PHASES) % len(stock.phases)]
            parts.append(shape.numbered(mover.instance).placed((*pose.xy, self.ground(pose.xy)), pose.yaw))
        return concatenate(parts)

    def things(self, time: float, around: Points) -> list[Thing]:
        """Boxes of everything that moves near a position (2,)."""
        found = []
        for mover, pose in self.near(time, around):
            stock = self.stock[mover.stock]
            foot = (float(pose.xy[0]), float(pose.xy[1]), self.ground(pose.xy))
            found.append(boxed(stock.kind, mover.instance, (stock.center, stock.size), foot, pose.yaw, mover.speed))
        return found

    def ground(self, xy: Points) -> float:
        """Height of the ground at a position (2,)."""
        return float(self._network.height(xy[None])[0])


def _without_collisions(traffic: Traffic, movers: list[Mover]) -> list[Mover]:
    """Leave out vehicles that cross another's path within 5 m; those in lanes along one axis never do."""
    kept: list[Mover] = []
    for mover in movers:
        if mover.walks:
            kept.append(mover)
            continue
        end = mover.start + abs(mover.q1 - mover.q0) / mover.speed
        times = np.arange(mover.start, end, 0.4)
        mine = traffic.pose(mover, times)[0]
        axis = traffic._network.roads[mover.road].axis
        clear = True
        for other in kept:
            if other.walks or traffic._network.roads[other.road].axis == axis or other.start > end:
                continue
            if other.start + abs(other.q1 - other.q0) / other.speed < mover.start:
                continue
            gap = traffic.pose(other, times)[0] - mine
            if (np.nan_to_num(gap[:, 0] ** 2 + gap[:, 1] ** 2, nan=1e9) < 5.0**2).any():
                clear = False
                break
        if clear:
            kept.append(mover)
    return kept
