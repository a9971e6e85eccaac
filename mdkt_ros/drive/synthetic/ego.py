"""The vehicle that carries the sensors: a way through the streets and its pose at any time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.synthetic.roads import Network

Points = npt.NDArray[np.float64]
STEP = 0.5
"""Metres between the way's points."""


def _leg(network: Network, road: int, q0: float, q1: float) -> Points:
    lane = network.roads[road].half_width / 2
    q = np.linspace(q0, q1, max(int(abs(q1 - q0) / STEP), 2))
    return network.roads[road].world(q, -lane if q1 > q0 else lane)


def choose_way(network: Network, rng: np.random.Generator, length: float) -> Points:
    """A way (P, 2) in the right-hand lanes that turns at random crossings, at least `length` metres long."""
    road = int(rng.integers(len(network.roads)))
    at = int(rng.integers(1, 3))
    ahead = bool(rng.random() < 0.5)
    crossings = network.crossings
    pieces: list[Points] = []
    total = 0.0
    q_start = crossings[road][at][0] + (1 if ahead else -1) * 12.0
    while total < length + 60:
        following = at + (1 if ahead else -1)
        q_end, other = crossings[road][following]
        back = next(i for i, (_, o) in enumerate(crossings[other]) if o == road)
        options = []
        if 0 <= following + (1 if ahead else -1) < len(crossings[road]):
            options += [(road, following, ahead)] * 2
        options += [(other, back, up) for up in (True, False) if 0 <= back + (1 if up else -1) < len(crossings[other])]
        next_road, next_at, next_ahead = options[int(rng.integers(len(options)))]
        if next_road == road:
            piece = _leg(network, road, q_start, q_end)
            q_start = q_end
        else:
            near = network.roads[other].half_width + 3.0
            leg = _leg(network, road, q_start, q_end - near if ahead else q_end + near)
            far = network.roads[road].half_width + 3.0
            q_start = crossings[other][back][0] + (far if next_ahead else -far)
            entry = _leg(network, other, q_start, q_start + (1 if next_ahead else -1))
            piece = np.concatenate([leg, _bend(leg[-1] - leg[-2], leg[-1], entry[0], entry[1] - entry[0])])
        pieces.append(piece)
        total += float(np.linalg.norm(np.diff(piece, axis=0), axis=1).sum())
        road, at, ahead = next_road, next_at, next_ahead
    way = np.concatenate(pieces)
    keep = np.r_[True, np.linalg.norm(np.diff(way, axis=0), axis=1) > 0.05]
    way = way[keep]
    along = np.r_[0, np.cumsum(np.linalg.norm(np.diff(way, axis=0), axis=1))]
    even = np.arange(0, along[-1], STEP)
    way = np.column_stack([np.interp(even, along, way[:, i]) for i in range(2)])
    kernel = np.hanning(13)[1:-1] / np.hanning(13).sum()
    return np.column_stack([np.convolve(way[:, i], kernel, mode="valid") for i in range(2)])


def _bend(leaving: Points, start: Points, end: Points, entering: Points) -> Points:
    """A quadratic curve between two straight legs; its control point is where they would meet."""
    a = np.column_stack([leaving, -entering])
    reach = np.linalg.solve(a, end - start)[0] if abs(np.linalg.det(a)) > 1e-6 else 0.5
    control = start + leaving * reach
    u = np.linspace(0, 1, 24)[1:-1, None]
    curve: Points = (1 - u) ** 2 * start + 2 * u * (1 - u) * control + u**2 * end
    return curve


class Ego:
    """Pose of the vehicle over time, driving at up to `speed` m/s and slower in bends."""

    def __init__(self, network: Network, rng: np.random.Generator, duration: float, speed: float) -> None:
        self._network = network
        self._way = choose_way(network, rng, duration * speed + 20)
        heading = np.unwrap(np.arctan2(np.gradient(self._way[:, 1]), np.gradient(self._way[:, 0])))
        self._heading = heading
        curvature = np.abs(np.gradient(heading)) / STEP
        limit = np.minimum(speed, np.sqrt(1.8 / np.maximum(curvature, 1e-6)))
        pace = np.maximum(limit, min(2.0, speed))
        for i in range(1, len(pace)):
            pace[i] = min(pace[i], np.sqrt(pace[i - 1] ** 2 + 2 * 1.5 * STEP))
        for i in range(len(pace) - 2, -1, -1):
            pace[i] = min(pace[i], np.sqrt(pace[i + 1] ** 2 + 2 * 2.0 * STEP))
        self._time = np.r_[0, np.cumsum(STEP / ((pace[1:] + pace[:-1]) / 2))]

    def position(self, time: npt.ArrayLike) -> Points:
        """Positions (..., 2) on the ground."""
        return np.stack([np.interp(np.asarray(time), self._time, self._way[:, i]) for i in range(2)], axis=-1)

    def yaw(self, time: npt.ArrayLike) -> Points:
        """Headings in radians, continuous."""
        return np.asarray(np.interp(np.asarray(time), self._time, self._heading))

    def pose(self, time: float) -> Points:
        """(4, 4) world-from-vehicle: origin on the ground below the rear axle, x forward, tilted as the street is."""
        xy, yaw = self.position(time), float(self.yaw(time))
        base = self._network.base
        reach = 1.4
        forward = np.array([np.cos(yaw), np.sin(yaw)])
        left = np.array([-forward[1], forward[0]])
        spots = np.array([xy, xy + reach * forward, xy - reach * forward, xy + 0.8 * left, xy - 0.8 * left])
        z = base(spots)
        x_axis = np.array([*(2 * reach * forward), z[1] - z[2]])
        x_axis /= np.linalg.norm(x_axis)
        y_axis = np.array([*(1.6 * left), z[3] - z[4]])
        z_axis = np.cross(x_axis, y_axis)
        z_axis /= np.linalg.norm(z_axis)
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1], pose[:3, 2] = x_axis, np.cross(z_axis, x_axis), z_axis
        pose[:3, 3] = [*xy, float(z[1:].mean())]
        return pose
