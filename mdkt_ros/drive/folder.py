"""A plain folder of scans, with label files beside them or in labels/; or one scan alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mdkt_ros.drive.frame import Axes, Frame
from mdkt_ros.drive.read_frame import read_frame
from mdkt_ros.drive.selection import Frames, select
from mdkt_ros.errors import DriveError
from mdkt_ros.labels import LabelSpace

SCAN_PERIOD = 100_000_000
"""Nanoseconds between scans: a plain folder holds no times, and most LiDARs turn at 10 Hz."""


@dataclass(frozen=True)
class ScanKind:
    """What the name of a scan file tells about it."""

    suffix: str
    label_suffix: str
    label_space: str
    axes: Axes
    intensity_scale: float


KINDS = (
    ScanKind(".pcd.bin", "_lidarseg.bin", "nuscenes", "y_forward", 1 / 255),
    ScanKind(".bin", ".label", "semantickitti", "x_forward", 1.0),
    ScanKind(".pcd", ".label", "semantickitti", "x_forward", 1.0),
)


def kind_of(path: Path) -> ScanKind | None:
    """The kind of a scan file by its name; None for other files, label files among them."""
    if path.name.endswith("_lidarseg.bin"):
        return None
    return next((kind for kind in KINDS if path.name.endswith(kind.suffix) and path.name != kind.suffix), None)


class ScanFolder:
    """Scans by name: `NN.pcd.bin` with `NN_lidarseg.bin` (nuScenes), `NN.bin` or `NN.pcd` with `NN.label`.

    Label files are looked for beside the scans, then in `labels/`. A scan without one has no labels.

    Args:
        path: a folder, or one scan.
        labels: label space of the label files; by default the one of the data set that the names belong to.
        frames: positions of the scans to keep, `0-20` for instance.
        label_folder: folder of the label files below `path`, instead of looking for them.
        axes: axis convention, instead of the one that the names tell.
        intensity_scale: factor that brings the intensity to 0..1, instead of the one that the names tell.

    Raises:
        DriveError: no scans, or scans of several kinds.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        labels: LabelSpace | None = None,
        frames: Frames = None,
        label_folder: str | None = None,
        axes: Axes | None = None,
        intensity_scale: float | None = None,
    ) -> None:
        path = Path(path)
        scans = sorted(p for p in path.iterdir() if kind_of(p)) if path.is_dir() else [path]
        kinds = list(dict.fromkeys(kind_of(scan) for scan in scans))
        if not scans or not path.exists():
            raise DriveError(f"{path}: no scans ({', '.join(kind.suffix for kind in KINDS)})")
        kind = kinds[0]
        if kind is None:
            raise DriveError(f"{path}: not a scan ({', '.join(kind.suffix for kind in KINDS)})")
        if len(kinds) > 1:
            found = " and ".join(kind.suffix for kind in kinds if kind)
            raise DriveError(f"{path}: holds {found} scans; a folder is one drive, keep one kind in it")
        self.root = path
        self.kind = kind
        self.name = path.name if path.is_dir() else path.name.removesuffix(kind.suffix)
        self.axes: Axes = axes or kind.axes
        self.intensity_scale: float = kind.intensity_scale if intensity_scale is None else intensity_scale
        self._label_folder = label_folder
        self._scans = select(list(enumerate(scans)), frames, str(path))
        self._space = labels or LabelSpace.load(kind.label_space)
        has_labels = any(self._label_path(scan) for _, scan in self._scans)
        self.labels: LabelSpace | None = self._space if has_labels else None

    def __len__(self) -> int:
        return len(self._scans)

    def scan_path(self, index: int) -> Path:
        """The frame's scan file."""
        return self._scans[index][1]

    def stem(self, index: int) -> str:
        """The scan's name without its suffix."""
        return self.scan_path(index).name.removesuffix(self.kind.suffix)

    def __getitem__(self, index: int) -> Frame:
        """Read one scan. Raises CloudError or LabelError that names the file."""
        position, path = self._scans[index]
        columns = {".pcd.bin": 5, ".bin": 4}.get(self.kind.suffix)
        stamp = position * SCAN_PERIOD
        return read_frame(
            path, self._label_path(path), self._space, columns=columns, name=self.stem(index), stamp=stamp
        )

    def _label_path(self, scan: Path) -> Path | None:
        name = scan.name.removesuffix(self.kind.suffix) + self.kind.label_suffix
        folders = (".", "labels") if self._label_folder is None else (self._label_folder,)
        return next((path for folder in folders if (path := scan.parent / folder / name).is_file()), None)
