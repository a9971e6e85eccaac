"""KITTI's object benchmark: velodyne/, image_2/ and calib/, one file a scan each; boxes, but no point labels."""

from __future__ import annotations

from pathlib import Path

from mdkt_ros.drive.frame import Axes, Frame, View
from mdkt_ros.drive.images import image_size, image_view
from mdkt_ros.drive.kitti_calibration import Calibration
from mdkt_ros.drive.read_frame import read_frame
from mdkt_ros.drive.selection import Frames, select
from mdkt_ros.drive.semantickitti import IMAGE_FOLDERS, SCAN_PERIOD
from mdkt_ros.errors import DriveError
from mdkt_ros.labels import LabelSpace


class KittiObject:
    """The scans of one split (`training` or `testing`). They are no sequence: stamps only number them.

    Args:
        root: the folder that holds `velodyne/` and `calib/`, or the one that holds `training/`.
        frames: positions of the scans to keep.
        image_calibration_size: width and height that the calibrations belong to, where the images were scaled since;
            KITTI's own are recognised without it.

    Raises:
        DriveError: no scans below `root`.
    """

    axes: Axes = "x_forward"
    intensity_scale: float = 1.0
    labels: LabelSpace | None = None

    def __init__(
        self, root: Path | str, *, frames: Frames = None, image_calibration_size: tuple[int, int] | None = None
    ) -> None:
        root = Path(root)
        self.root = root if (root / "velodyne").is_dir() else root / "training"
        scans = sorted((self.root / "velodyne").glob("*.bin"))
        if not scans:
            raise DriveError(f"{self.root / 'velodyne'}: no .bin scans")
        self._scans = select(list(enumerate(scans)), frames, str(self.root))
        self._calibration_size = image_calibration_size
        self.name = root.name

    def __len__(self) -> int:
        return len(self._scans)

    def scan_path(self, index: int) -> Path:
        """The frame's .bin file."""
        return self._scans[index][1]

    def __getitem__(self, index: int) -> Frame:
        """Read one scan. Raises CloudError or DriveError that names the file, and the key that a calibration lacks."""
        position, path = self._scans[index]
        stamp = position * SCAN_PERIOD
        return read_frame(path, None, None, columns=4, name=path.stem, stamp=stamp, views=self._views(path.stem, stamp))

    def _views(self, stem: str, stamp: int) -> tuple[View, ...]:
        # Here every scan has its own calibration and its own image size.
        views: list[View] = []
        for name in IMAGE_FOLDERS:
            path = self.root / name / f"{stem}.png"
            if path.is_file():
                calibration = Calibration(self.root / "calib" / f"{stem}.txt")
                camera_from_lidar = calibration.rigid("Tr_velo_to_cam")
                camera_from_lidar[:3] = calibration.matrix("R0_rect", 3, 3) @ camera_from_lidar[:3]
                camera = calibration.camera(name, camera_from_lidar, image_size(path), self._calibration_size)
                views.append(image_view(path, camera, stamp))
        return tuple(views)
