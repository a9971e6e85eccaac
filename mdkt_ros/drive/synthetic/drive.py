"""A drive through a made-up town, frame by frame, as if it had been recorded."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mdkt_ros.camera import Camera
from mdkt_ros.drive.frame import Axes, Frame, View
from mdkt_ros.drive.pose import inverse
from mdkt_ros.drive.synthetic.camera_image import Renderer
from mdkt_ros.drive.synthetic.ego import Ego
from mdkt_ros.drive.synthetic.kinds import raw_nuscenes, raw_semantickitti
from mdkt_ros.drive.synthetic.lidar import Scan, beam_directions, scan, with_beams
from mdkt_ros.drive.synthetic.light import draw_light
from mdkt_ros.drive.synthetic.mix import CITY, SUBURB, Mix
from mdkt_ros.drive.synthetic.rig import RIGS, Format, Rig
from mdkt_ros.drive.synthetic.scene import Moment
from mdkt_ros.drive.synthetic.textures import Textures
from mdkt_ros.drive.synthetic.thing import Thing
from mdkt_ros.drive.synthetic.town import Town, build_town, stream
from mdkt_ros.drive.synthetic.traffic import Traffic
from mdkt_ros.errors import ConfigError
from mdkt_ros.labels import LabelSpace

EPOCH = 1_600_000_000 * 10**9
"""Nanoseconds: when every drive begins."""
_DEFAULT_RATE = {"semantickitti": 10.0, "nuscenes": 2.0}
MIXES: dict[Format, Mix] = {"semantickitti": SUBURB, "nuscenes": CITY}
"""What is in the streets that each data set drove through."""


class SyntheticDrive:
    """A drive (see `mdkt_ros.drive.frame.Drive`) through the town of a seed.

    Frames are made when they are asked for, in any order; the same arguments give the same frames, bit for bit.
    Scans are as if taken in an instant, as KITTI's are corrected for motion, unless `motion_distortion` is set: then
    each point is in the sensor's axes at its own time, and `Frame.point_time` says when that was.

    Args:
        seed: of the town and all that happens in it; see `TRAIN_SEEDS` and its siblings.
        format: whose sensors, axes, raw ids and streets (`MIXES`).
        scans: number of frames. rate_hz: frames a second; 10 (semantickitti) or 2 (nuscenes) by default. A low rate
            gives scans that have little in common.
        speed: of the vehicle in m/s; it slows down in bends.
        images: whether frames have views. beams: of the LiDAR; 64 or 32 by default.
        town: that of the seed, where it is built already (`build_town`), which saves seconds; with its own mix.

    Raises:
        ConfigError: an argument out of range.
    """

    def __init__(
        self,
        seed: int,
        *,
        format: Format = "semantickitti",
        scans: int = 20,
        rate_hz: float | None = None,
        speed: float = 8.0,
        images: bool = True,
        beams: int | None = None,
        motion_distortion: bool = False,
        town: Town | None = None,
    ) -> None:
        if format not in RIGS:
            raise ConfigError(f"format {format!r} is not one of {', '.join(RIGS)}")
        rate = _DEFAULT_RATE[format] if rate_hz is None else rate_hz
        for name, value, low, high in (
            ("seed", seed, 0, 2**31 - 1),
            ("scans", scans, 1, 100_000),
            ("rate_hz", rate, 0.01, 100),
            ("speed", speed, 0.5, 25),
            ("scans / rate_hz", scans / rate if rate > 0 else np.nan, 0, 10_000),
            ("beams", 64 if beams is None else beams, 2, 256),
        ):
            if not low <= value <= high:
                raise ConfigError(f"{name} {value} is not in {low} to {high}")
        self.seed, self.format, self.images, self.distorted = int(seed), format, images, motion_distortion
        self.rig: Rig = RIGS[format]
        self.lidar = self.rig.lidar if beams is None else with_beams(self.rig.lidar, beams)
        self._scans, self._rate = scans, rate
        self._labels = LabelSpace.load(format)
        if town is not None and town.seed != self.seed:
            raise ConfigError(f"the town is that of seed {town.seed}, the drive has seed {self.seed}")
        self.town = build_town(self.seed, MIXES[format]) if town is None else town
        duration = scans / rate
        self.ego = Ego(self.town.network, stream(self.seed, 20), duration + 1, speed)
        self.traffic = Traffic(
            self.town.network, stream(self.seed, 21), self.ego, duration, self.town.instances, self.town.mix
        )

    @functools.cached_property
    def renderer(self) -> Renderer:
        """Renders this drive's images."""
        return Renderer(Textures(stream(self.seed, 25)), draw_light(stream(self.seed, 26)))

    @property
    def name(self) -> str:
        return f"synthetic-{self.seed:04d}"

    @property
    def axes(self) -> Axes:
        return self.rig.axes

    @property
    def intensity_scale(self) -> float:
        return 1.0 if self.lidar.scale == 0 else 1 / 255

    @property
    def labels(self) -> LabelSpace:
        return self._labels

    def __len__(self) -> int:
        return self._scans

    def __iter__(self) -> Iterator[Frame]:
        return (self[i] for i in range(len(self)))

    def time(self, index: int) -> float:
        """Seconds after the drive's begin of a frame; not zero, since cameras may fire a little earlier."""
        return 0.2 + index / self._rate

    def stamp(self, time: float) -> int:
        """Nanoseconds, whole microseconds as nuScenes keeps them."""
        return EPOCH + round(time * 1e6) * 1000

    def world_from_lidar(self, time: float) -> npt.NDArray[np.float64]:
        """(4, 4) pose of the LiDAR at a time."""
        pose: npt.NDArray[np.float64] = self.ego.pose(time) @ self.rig.ego_from_lidar
        return pose

    def things(self, index: int, reach: float = 75.0) -> list[Thing]:
        """Boxes of the countable things within `reach` metres of the vehicle at a frame."""
        time = self.time(index)
        around = self.ego.position(time)
        everything = [*self.town.parked, *self.traffic.things(time, around)]
        return [t for t in everything if np.hypot(t.center[0] - around[0], t.center[1] - around[1]) < reach]

    def moment(self, time: float) -> Moment:
        """The scene at a time."""
        return self.town.scene.at(self.traffic.mesh(time, self.ego.position(time)))

    def __getitem__(self, index: int) -> Frame:
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        index %= len(self)
        time = self.time(index)
        taken = self._scan(index, time)
        if self.format == "semantickitti":
            raw = raw_semantickitti(taken.kind, taken.moving)
        else:
            raw = raw_nuscenes(taken.kind)
        return Frame(
            name=f"{index:06d}",
            stamp=self.stamp(time),
            points=self._in_lidar_axes(taken.points),
            intensity=taken.intensity,
            ring=taken.ring,
            labels=self._labels.from_raw(raw, self.name),
            instance=taken.instance,
            raw_labels=raw,
            point_time=taken.time if self.distorted else None,
            world_from_lidar=self.world_from_lidar(time),
            views=tuple(self._view(number, index, time) for number in range(len(self.rig.cameras)))
            if self.images
            else (),
        )

    def _in_lidar_axes(self, points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self.axes == "x_forward":
            return points
        return np.stack([-points[:, 1], points[:, 0], points[:, 2]], axis=1)

    def _scan(self, index: int, time: float) -> Scan:
        rng = stream(self.seed, 22, index)
        beams = beam_directions(self.lidar, rng, stream(self.seed, 23))
        # Beams point in axes with x forward; turned back where the set's own axes differ.
        turn = np.eye(4)
        if self.axes == "y_forward":
            turn[:2, :2] = [[0, -1], [1, 0]]
        if not self.distorted:
            poses = (self.world_from_lidar(time) @ turn)[None]
        else:
            # The revolution begins at the stamp; poses at a few times, the beams between take the nearest.
            steps = 64
            grid = [self.world_from_lidar(time + s * self.lidar.period / steps) @ turn for s in range(steps + 1)]
            poses = np.array(grid)[np.round(beams.share * steps).astype(np.int64)]
        return scan(
            self.moment(time),
            self.lidar,
            poses[:, :3, 3].astype(np.float32),
            poses[:, :3, :3].astype(np.float32),
            beams,
            rng,
        )

    def _view(self, number: int, index: int, time: float) -> View:
        mount = self.rig.cameras[number]
        fired = time + mount.delay
        world_from_camera = self.ego.pose(fired) @ mount.ego_from_camera
        # One constant matrix where the camera fires with the scan: a KITTI sequence has one calibration.
        if mount.delay == 0:
            camera_from_lidar = inverse(mount.ego_from_camera) @ self.rig.ego_from_lidar
        else:
            camera_from_lidar = inverse(world_from_camera) @ self.world_from_lidar(time)
        camera = Camera(
            mount.name, mount.width, mount.height, mount.matrix, camera_from_lidar, projection_offset=mount.offset
        )

        def load() -> npt.NDArray[np.uint8]:
            rng = stream(self.seed, 24, index, number)
            return self.renderer.render(self.moment(fired), mount, world_from_camera, rng)

        return View(camera, self.stamp(fired), load)
