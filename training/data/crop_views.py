"""Views of a town for `crops`: as the vehicle's camera sees it, and from anywhere at things that people look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.synthetic.camera_image import Renderer, look
from mdkt_ros.drive.synthetic.drive import SyntheticDrive
from mdkt_ros.drive.synthetic.kinds import THINGS, Kind
from mdkt_ros.drive.synthetic.light import draw_light
from mdkt_ros.drive.synthetic.mix import CITY
from mdkt_ros.drive.synthetic.rig import Mount
from mdkt_ros.drive.synthetic.scene import Moment
from mdkt_ros.drive.synthetic.town import Town, build_town, stream
from training.data.captions import SKY

Array = npt.NDArray[np.float64]
_SCANS, _RATE = 60, 0.5
# How often a camera is pointed at a kind, relative to one another.
_POINTED: dict[Kind, float] = {
    Kind.CAR: 1.5, Kind.TRUCK: 1.5, Kind.BUS: 1, Kind.TRAILER: 1, Kind.CONSTRUCTION_VEHICLE: 0.7, Kind.PERSON: 2,
    Kind.BICYCLE: 1.5, Kind.MOTORCYCLE: 1.5, Kind.BICYCLIST: 2, Kind.MOTORCYCLIST: 2, Kind.BARRIER: 1, Kind.CONE: 1,
    Kind.SIGN: 2, Kind.POLE: 2, Kind.TRUNK: 1, Kind.FENCE: 1.5, Kind.OTHER_GROUND: 1, Kind.PARKING: 1,
    Kind.TERRAIN: 0.5, Kind.OTHER_OBJECT: 0.5,
}  # fmt: skip
_PHOTOGRAPHED = tuple(_POINTED)
_SHARE = np.array(list(_POINTED.values())) / sum(_POINTED.values())
_STANDING = frozenset(_POINTED) - THINGS
_SEEN, _TRIES = 6, 8


@dataclass(frozen=True)
class ViewSettings:
    """How many views of either sort, and the pixels of those of things."""

    drive: int
    things: int
    width: int = 288
    height: int = 224


class View(NamedTuple):
    """One picture and, for who writes its captions, what is on it.

    Attributes:
        image: (H, W, 3) uint8 RGB. kind: (H, W) uint8 `Kind` or `SKY`. instance: (H, W) uint16.
        material: (H, W) uint8. color: (H, W, 3) float32 linear RGB of the paint. drive: taken by the vehicle's camera.
    """

    image: npt.NDArray[np.uint8]
    kind: npt.NDArray[np.uint8]
    instance: npt.NDArray[np.uint16]
    material: npt.NDArray[np.uint8]
    color: npt.NDArray[np.float32]
    drive: bool


class Views:
    """Iterates over the views of the town of a seed."""

    def __init__(self, seed: int, settings: ViewSettings, town: Town | None = None) -> None:
        self.settings, self.rng = settings, stream(seed, 40)
        town = build_town(seed, CITY) if town is None else town
        self._drive = SyntheticDrive(seed, scans=_SCANS, rate_hz=_RATE, images=False, town=town)
        static = self._drive.town.static
        self._standing = {kind: np.flatnonzero(static.kind == kind) for kind in sorted(_STANDING)}

    def __iter__(self) -> Iterator[View]:
        drive = self._drive
        textures = drive.renderer.textures
        for _ in range(self.settings.drive):
            time = drive.time(int(self.rng.integers(_SCANS)))
            mount = drive.rig.cameras[0]
            yield self._take(
                Renderer(textures, draw_light(self.rng)),
                drive.moment(time),
                mount,
                drive.ego.pose(time) @ mount.ego_from_camera,
                True,
            )
        for _ in range(self.settings.things):
            time = drive.time(int(self.rng.integers(_SCANS)))
            kind = _PHOTOGRAPHED[int(self.rng.choice(len(_PHOTOGRAPHED), p=_SHARE))]
            for _ in range(_TRIES):
                if kind in _STANDING or len(self._places(kind, time)):
                    break
                time = drive.time(int(self.rng.integers(_SCANS)))
            moment = drive.moment(time)
            placed = self._point(moment, kind, time)
            if placed is not None:
                yield self._take(Renderer(textures, draw_light(self.rng)), moment, *placed, False)

    def _take(self, renderer: Renderer, moment: Moment, mount: Mount, pose: Array, drive: bool) -> View:
        hits = look(moment, mount, pose)
        shape = mount.height, mount.width
        kind = np.where(hits.triangle < 0, SKY, moment.of("kind", hits.triangle)).astype(np.uint8)
        instance = np.where(hits.triangle < 0, 0, moment.of("instance", hits.triangle)).astype(np.uint16)
        return View(
            renderer.render(moment, mount, pose, self.rng),
            kind.reshape(shape),
            instance.reshape(shape),
            moment.of("material", hits.triangle).reshape(shape),
            moment.of("color", hits.triangle).reshape(*shape, 3),
            drive,
        )

    def _places(self, kind: Kind, time: float) -> Array:
        """Where things of a kind that can be counted are at a time, (N, 3)."""
        around = self._drive.ego.position(time)
        things = [*self._drive.town.parked, *self._drive.traffic.things(time, around)]
        return np.array([thing.center for thing in things if thing.kind == kind], dtype=np.float64).reshape(-1, 3)

    def _point(self, moment: Moment, kind: Kind, time: float) -> tuple[Mount, Array] | None:
        """A camera that sees something of a kind, or None where there is no good place for one."""
        rng = self.rng
        standing = self._standing.get(kind)
        places = self._places(kind, time) if standing is None else self._drive.town.static.corners[standing].mean(1)
        for _ in range(_TRIES if len(places) else 0):
            mount, pose = self._aim(places[int(rng.integers(len(places)))].astype(np.float64))
            seen = look(moment, mount, pose, _SEEN)
            shape = mount.height // _SEEN, mount.width // _SEEN
            rows, columns = (slice(size // 4, size - size // 4) for size in shape)
            middle = moment.of("kind", seen.triangle).reshape(shape)[rows, columns]
            if (middle == kind).any() and (seen.distance < 1.0).mean() < 0.05:
                return mount, pose
        return None

    def _aim(self, target: Array) -> tuple[Mount, Array]:
        """A camera around a place, turned towards it by and large."""
        rng, settings = self.rng, self.settings
        distance = np.exp(rng.uniform(np.log(4), np.log(28)))
        turn = rng.uniform(0, 2 * np.pi)
        xy = target[:2] + distance * np.array([np.cos(turn), np.sin(turn)])
        height = float(self._drive.town.network.height(xy[None])[0])
        eye = np.array([*xy, height + (rng.uniform(1.2, 2.2) if rng.random() < 0.7 else rng.uniform(0.6, 4.0))])
        ahead = target + rng.normal(0, 0.03 * distance, 3) - eye
        ahead /= np.linalg.norm(ahead)
        right = np.cross(ahead, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, np.cross(ahead, right), ahead, eye
        focal = 718.0 * float(np.exp(rng.uniform(np.log(0.5), np.log(1.6))))
        matrix = np.array([[focal, 0, settings.width / 2], [0, focal, settings.height / 2], [0, 0, 1]])
        return Mount("photo", settings.width, settings.height, matrix, np.zeros(3), np.eye(4), 0.0, 1), pose
