"""Writes frames as a SemanticKITTI sequence, file for file as the real set has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mdkt_ros.camera import Camera
from mdkt_ros.drive.frame import Frame
from mdkt_ros.drive.pose import inverse
from mdkt_ros.drive.write_frame import image_bytes, raw_labels, scan_bytes
from mdkt_ros.errors import DriveError, LabelError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.output import atomic_output

# KITTI's camera axes (x right, y down, z forward) from its LiDAR's (x forward, y left), where no camera says more.
_NOMINAL_TR = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def write_semantickitti(
    root: Path | str,
    frames: Iterable[Frame],
    *,
    sequence: str,
    labels: LabelSpace | None = None,
    intensity_scale: float = 1.0,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    total: int = 0,
) -> None:
    """Write `root/sequences/<sequence>`; frames are read one at a time and numbered from 000000.

    velodyne/*.bin float32 x y z remission; labels/*.label uint32, raw class id in the low and instance in the high 16
    bits; image_2/*.png and image_3/*.png; calib.txt P0..P3 and Tr; poses.txt of camera 0 relative to the first frame
    and times.txt in seconds after it, as KITTI has them. Frames without labels, poses or views leave those out.

    Args:
        root: data set folder, made when it is not there; other sequences in it stay.
        frames: their cameras are called `image_2` and `image_3`, have no distortion and stay the same all along.
        sequence: its folder's name, such as `08`.
        labels: label space of the frames; turns class ids into raw ids where a frame has no `raw_labels`.
        intensity_scale: factor that brings the frames' intensity to KITTI's 0..1.
        force: replace the sequence where it exists.
        progress: called with (frames done, `total`).

    Raises:
        OutputError: the sequence exists and `force` is false, or cannot be written; nothing is left half-written.
        DriveError: no frames, or frames that do not form one sequence: the message says why.
        LabelError: an instance id above 65535, or class ids without a label space.
    """
    root = Path(root)
    # The whole root appears at once where it is new, the sequence's folder where others are there already.
    fresh = not root.exists()
    target = root if fresh else root / "sequences" / sequence
    if not fresh:
        target.parent.mkdir(exist_ok=True)
    with atomic_output(target, force=force) as temporary:
        folder = temporary / "sequences" / sequence if fresh else temporary
        folder.mkdir(parents=True)
        writer = _SequenceWriter(folder, labels, intensity_scale)
        for frame in frames:
            writer.add(frame)
            if progress is not None:
                progress(len(writer.stamps), total)
        writer.finish()


class _SequenceWriter:
    def __init__(self, folder: Path, labels: LabelSpace | None, intensity_scale: float) -> None:
        self.folder = folder
        self.labels = labels
        self.intensity_scale = intensity_scale
        self.cameras: dict[str, Camera] = {}
        self.poses: list[npt.NDArray[np.float64]] = []
        self.stamps: list[int] = []

    def add(self, frame: Frame) -> None:
        number = len(self.stamps)
        self._check(frame, number)
        self._file("velodyne", f"{number:06d}.bin").write_bytes(scan_bytes(frame, 4, self.intensity_scale))
        raw = raw_labels(frame, self.labels, 0xFFFF)
        if raw is not None:
            packed = raw | (_instances(frame) << np.uint32(16))
            self._file("labels", f"{number:06d}.label").write_bytes(packed.astype("<u4").tobytes())
        for view in frame.views:
            self._file(view.camera.name, f"{number:06d}.png").write_bytes(image_bytes(view, "PNG"))
        self.stamps.append(frame.stamp)
        if frame.world_from_lidar is not None:
            self.poses.append(frame.world_from_lidar)

    def finish(self) -> None:
        if not self.stamps:
            raise DriveError("a SemanticKITTI sequence needs at least one frame")
        first = next(iter(self.cameras.values()), None)
        tr = _NOMINAL_TR if first is None else first.camera_from_lidar
        plain = np.hstack([np.eye(3) if first is None else first.matrix, np.zeros((3, 1))])
        lines = []
        for index in range(4):
            camera = self.cameras.get(f"image_{index}")
            projection = plain if camera is None else np.column_stack([camera.matrix, camera.projection_offset])
            lines.append(f"P{index}: {_row(projection)}")
        lines.append(f"Tr: {_row(tr[:3])}")
        self._text("calib.txt", lines)
        self._text("times.txt", [f"{(stamp - self.stamps[0]) / 1e9:.12e}" for stamp in self.stamps])
        if self.poses:
            start = tr @ inverse(self.poses[0])
            self._text("poses.txt", [_row((start @ pose @ np.linalg.inv(tr))[:3]) for pose in self.poses])

    def _check(self, frame: Frame, number: int) -> None:
        """One calibration and poses for all or none: the format has no place for anything else."""
        cameras = {view.camera.name: view.camera for view in frame.views}
        if number == 0:
            for name, camera in cameras.items():
                if name not in ("image_2", "image_3") or camera.distortion != "none":
                    raise DriveError(
                        f"frame {frame.name}: camera {name} must be image_2 or image_3, and without distortion"
                    )
            self.cameras = cameras
        elif cameras.keys() != self.cameras.keys():
            raise DriveError(
                f"frame {frame.name}: has the cameras {sorted(cameras)}, the first frame {sorted(self.cameras)}"
            )
        for name, camera in cameras.items():
            first, tr = self.cameras[name], next(iter(self.cameras.values())).camera_from_lidar
            same = np.array_equal(first.matrix, camera.matrix) and np.array_equal(tr, camera.camera_from_lidar)
            if not same or not np.array_equal(first.projection_offset, camera.projection_offset):
                raise DriveError(
                    f"frame {frame.name}: camera {name} differs; a sequence has one calibration and one Tr"
                )
        if len(self.poses) != (0 if frame.world_from_lidar is None else number):
            raise DriveError(f"frame {frame.name}: all frames of a sequence have a pose, or none")

    def _file(self, folder: str, name: str) -> Path:
        (self.folder / folder).mkdir(exist_ok=True)
        return self.folder / folder / name

    def _text(self, name: str, lines: list[str]) -> None:
        (self.folder / name).write_text("\n".join(lines) + "\n", encoding="ascii", newline="\n")


def _instances(frame: Frame) -> npt.NDArray[np.uint32]:
    count = len(frame.points)
    instance = np.zeros(count, dtype=np.uint32) if frame.instance is None else frame.instance
    if len(instance) != count:
        raise LabelError(f"frame {frame.name}: {count} points, {len(instance)} instances")
    if count and int(instance.max()) > 0xFFFF:
        raise LabelError(f"frame {frame.name}: instance {int(instance.max())}; the format has 0 to {0xFFFF}")
    return instance.astype(np.uint32)


def _row(values: npt.NDArray[Any]) -> str:
    return " ".join(f"{value:.12e}" for value in values.ravel())
