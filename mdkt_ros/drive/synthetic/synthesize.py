"""Writes a synthetic drive as a data set on disk, file for file as the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mdkt_ros.drive.frame import Frame
from mdkt_ros.drive.nuscenes_schema import CATEGORIES
from mdkt_ros.drive.synthetic.drive import SyntheticDrive
from mdkt_ros.drive.synthetic.kinds import Kind, raw_nuscenes
from mdkt_ros.drive.synthetic.rig import Format
from mdkt_ros.drive.synthetic.thing import Thing
from mdkt_ros.drive.synthetic.town import Town
from mdkt_ros.drive.write_nuscenes import Box, Scene, write_nuscenes
from mdkt_ros.drive.write_semantickitti import write_semantickitti
from mdkt_ros.output import refuse_existing

_RIDDEN = {Kind.BICYCLIST, Kind.MOTORCYCLIST}
_CYCLES = {Kind.BICYCLE, Kind.MOTORCYCLE} | _RIDDEN
_VEHICLES = {Kind.CAR, Kind.TRUCK, Kind.BUS, Kind.TRAILER, Kind.CONSTRUCTION_VEHICLE}


def synthesize(
    out: Path,
    *,
    format: Format = "semantickitti",
    seed: int,
    scans: int,
    images: bool = True,
    beams: int | None = None,
    rate_hz: float | None = None,
    speed: float = 8.0,
    motion_distortion: bool = False,
    sequence: str = "08",
    town: Town | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the drive of `SyntheticDrive`'s arguments; the same arguments give the same bytes.

    `semantickitti` writes `out/sequences/<sequence>` (velodyne, labels, image_2, calib.txt, poses.txt, times.txt);
    `nuscenes` writes key frames with six images each, lidarseg labels and boxes, version `v1.0-mini`.

    Args:
        sequence: of SemanticKITTI; ignored otherwise.
        progress: called with (scans done, scans).

    Raises:
        OutputError: `out` exists and `force` is false, or cannot be written; nothing is left half-written.
        ConfigError: an argument out of range.
    """
    out = Path(out)
    if format == "nuscenes" or not (out / "sequences").is_dir():
        # Before the town is built, which takes seconds.
        refuse_existing(out, force)
    drive = SyntheticDrive(
        seed,
        format=format,
        scans=scans,
        rate_hz=rate_hz,
        speed=speed,
        images=images,
        beams=beams,
        motion_distortion=motion_distortion,
        town=town,
    )
    if format == "semantickitti":
        write_semantickitti(
            out, drive, sequence=sequence, labels=drive.labels, force=force, progress=progress, total=scans
        )
        return
    scene = Scene(
        name=f"scene-{seed:04d}",
        frames=_annotated(drive),
        ego_from_lidar=drive.rig.ego_from_lidar,
        ego_from_camera={mount.name: mount.ego_from_camera for mount in drive.rig.cameras},
        description=f"Synthetic town {seed}",
    )
    write_nuscenes(out, [scene], labels=drive.labels, force=force, progress=progress, total=scans)


def _annotated(drive: SyntheticDrive) -> Iterator[tuple[Frame, list[Box]]]:
    for index in range(len(drive)):
        yield drive[index], [_box(thing) for thing in drive.things(index)]


def _box(thing: Thing) -> Box:
    length, width, height = thing.size
    category = int(raw_nuscenes(np.array([thing.kind], dtype=np.uint8))[0])
    return Box(
        instance=f"{thing.kind.name.lower()}-{thing.instance}",
        category=CATEGORIES[category],
        center=thing.center,
        size=(width, length, height),
        rotation=(float(np.cos(thing.yaw / 2)), 0.0, 0.0, float(np.sin(thing.yaw / 2))),
        attribute=_attribute(thing),
    )


def _attribute(thing: Thing) -> str | None:
    moving = thing.speed > 0
    if thing.kind in _CYCLES:
        return "cycle.with_rider" if thing.kind in _RIDDEN else "cycle.without_rider"
    if thing.kind in _VEHICLES:
        return "vehicle.moving" if moving else "vehicle.parked"
    if thing.kind == Kind.PERSON:
        return "pedestrian.moving" if moving else "pedestrian.standing"
    return None
