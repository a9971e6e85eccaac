"""Show where points look in the images: what the deformable transfer of a run has learnt.

    python training/look.py runs/mdkt looks.png --scan 3 --points 12

The picture holds the camera's image and, for each chosen point, close-ups of what each scale looks at. The table says
how far: the mean length of the offsets in pixels of the recorded image, weighted by attention, by scale and by class,
over every point that a camera sees; its last row is where all points began, before the first step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from mdkt_ros.drive.frame import Frame
from mdkt_ros.errors import CameraError, CheckpointError, ConfigError, DriveError, OutputError
from mdkt_ros.labels import IGNORE, LabelSpace
from mdkt_ros.network import PointNetwork
from mdkt_ros.output import atomic_output
from mdkt_ros.sparse import SparseTensor
from mdkt_ros.voxels import collate, voxelize
from training.command import exit_code
from training.config import TrainConfig
from training.data.pair_finder import PairFinder
from training.data.scan import make_scan
from training.data.source import Source, open_source
from training.export import make_grid, make_network
from training.scheme.deformable import DeformableTransfer, Look
from training.scheme.image_network import STRIDES
from training.scheme.look_picture import looks_picture
from training.scheme.transfer import coarse_rows
from training.state import RunState, load_state


@dataclass(frozen=True)
class Seen:
    """The points of a scan that images show, and where they look; a point that two cameras see counts twice.

    Attributes:
        cameras: names of the cameras.
        camera: (P,) int64 number of the camera.
        pixel: (P, 2) in the recorded image.
        class_id: (P,) uint8 of the scan's labels, of the network where it has none.
        looks: by stride.
        start: by stride, how far every point looked before the first step, as `Look.reach`.
        ratio: pixels of the recorded image in one of the images that the network sees.
    """

    cameras: tuple[str, ...]
    camera: npt.NDArray[np.int64]
    pixel: npt.NDArray[np.float64]
    class_id: npt.NDArray[np.uint8]
    looks: dict[int, Look]
    start: dict[int, float]
    ratio: float


def load_transfers(state: RunState, network: PointNetwork) -> dict[int, DeformableTransfer]:
    """The deformable transfer of each scale, with the run's weights; the image network is not needed to ask them.

    Raises:
        ConfigError: the run's transfer is one-to-one, or off. CheckpointError: the state does not hold its weights.
    """
    config = state.config
    transfer = config.transfer
    if transfer.weight <= 0 or not transfer.offsets:
        how = "is off (transfer.weight = 0)" if transfer.weight <= 0 else "is one-to-one (transfer.offsets = 0)"
        raise ConfigError(f"{state.path}: its transfer {how}, so points look nowhere but at their own pixel")
    out = {}
    for stride in transfer.scales:
        module = make_transfer(config, network, stride)
        try:
            module.load_state_dict(state.part(f"scheme.transfer.scales.{stride}.deformable"))
        except RuntimeError as error:
            raise CheckpointError(f"{state.path}: lacks its transfer: {' '.join(str(error).split())}") from error
        out[stride] = module.eval()
    return out


def make_transfer(config: TrainConfig, network: PointNetwork, stride: int) -> DeformableTransfer:
    """The deformable transfer of one scale with fresh weights."""
    transfer = config.transfer
    return DeformableTransfer(
        stride,
        network.feature_channels[stride],
        config.image_network.channels,
        STRIDES,
        heads=transfer.heads,
        levels=transfer.levels,
        offsets=transfer.offsets,
    )


@torch.no_grad()
def look(state: RunState, source: Source, index: int, frame: Frame) -> Seen:
    """Where the points of scan `index` of a run's data, `frame`, look in all its cameras.

    Raises:
        CheckpointError, ConfigError: as `load_transfers`. DriveError: no camera shows a point of the scan.
    """
    config = state.config
    network = make_network(config, len(source.labels))
    try:
        network.load_state_dict(state.part("network"))
    except RuntimeError as error:
        raise CheckpointError(f"{state.path}: not a whole network: {' '.join(str(error).split())}") from error
    network.eval()
    transfers = load_transfers(state, network)
    unknown = np.full(len(frame.points), IGNORE, dtype=np.uint8)
    scan = make_scan(source.names[index], frame, unknown, source.intensity_scale)
    voxels = voxelize(scan.points, scan.intensity, make_grid(config), config.model.features)
    finder = PairFinder(source, replace(config.images, cameras=max(len(frame.views), 1)), train=False)
    found = finder.find(index, np.random.default_rng(0), frame)
    row = voxels.point_to_voxel[scan.find(0, found.point)]
    there = row >= 0
    if not there.any():
        raise DriveError(f"{source.names[index]}: no camera shows any of its points")
    tensor: SparseTensor = collate([voxels])[0]
    output, rows = network(tensor), torch.from_numpy(row[there])
    looks, start = {}, {}
    for stride, module in transfers.items():
        features = output.features[stride]
        looks[stride] = module.look(features.features.index_select(0, coarse_rows(tensor, features, rows)))
        fresh = make_transfer(config, network, stride).look(features.features[:1])
        start[stride] = float(fresh.reach())
    ratio = 1 / config.images.scale
    known = output.logits.argmax(1)[rows].to(torch.uint8).numpy() if frame.labels is None else frame.labels
    return Seen(
        cameras=found.cameras,
        camera=found.image[there],
        pixel=(found.pixel[there].astype(np.float64) + 0.5) * ratio - 0.5,
        class_id=known if frame.labels is None else known[found.point[there]],
        looks=looks,
        start=start,
        ratio=ratio,
    )


def choose(class_id: npt.NDArray[np.uint8], count: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Rows of `count` points (fewer where there are fewer), of all classes in turn; points without a class last."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(class_id))
    turn = np.zeros(len(class_id), dtype=np.int64)
    for value in np.unique(class_id):
        mine = order[class_id[order] == value]
        turn[mine] = np.arange(len(mine)) + (len(class_id) if value == IGNORE else 0)
    rows = np.sort(order[np.argsort(turn[order], kind="stable")][:count])
    return rows[np.argsort(class_id[rows], kind="stable")]


def reach_table(seen: Seen, labels: LabelSpace) -> Table:
    """How far points look, in pixels of the recorded image: a row a class, a column a scale."""
    table = Table("class", "points", *(f"stride {stride}" for stride in seen.looks))
    for column in table.columns[1:]:
        column.justify = "right"
    reach = {stride: one.reach().numpy() * seen.ratio for stride, one in seen.looks.items()}

    def add(name: str, mine: npt.NDArray[np.bool_], style: str | None = None) -> None:
        table.add_row(name, f"{mine.sum():,}", *(f"{far[mine].mean():.1f}" for far in reach.values()), style=style)

    for value in np.unique(seen.class_id):
        add(labels.names[value] if value < len(labels) else "(none)", seen.class_id == value)
    table.add_section()
    add("all", np.ones(len(seen.class_id), dtype=np.bool_), "bold")
    table.add_row("before the first step", "", *(f"{far * seen.ratio:.1f}" for far in seen.start.values()))
    return table


def picture(seen: Seen, frame: Frame, labels: LabelSpace, camera: str, points: int, seed: int = 0) -> Image.Image:
    """The picture of one camera, the first that shows something where `camera` is empty. Raises CameraError."""
    shown = [seen.cameras[number] for number in np.unique(seen.camera)]
    name = camera or shown[0]
    if name not in shown:
        raise CameraError(f"--camera {camera}: the cameras that show points of the scan are {', '.join(shown)}")
    mine = np.flatnonzero(seen.camera == seen.cameras.index(name))
    rows = mine[choose(seen.class_id[mine], points, seed)]
    view = next(view for view in frame.views if view.camera.name == name)
    classes = [labels.names[value] if value < len(labels) else "" for value in seen.class_id[rows]]
    looks = {stride: one[torch.from_numpy(rows)] for stride, one in seen.looks.items()}
    return looks_picture(view.load(), seen.pixel[rows], classes, looks, seen.ratio, f"{frame.name}, {name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0, or 1 with the error on one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run with images, or its state.safetensors")
    parser.add_argument("out", type=Path, help="picture to write, .png or .jpg")
    parser.add_argument("--scan", type=int, default=0, help="position in the data that the run was trained on")
    parser.add_argument("--points", type=int, default=12, help="how many to draw, of all classes in turn")
    parser.add_argument("--camera", default="", help="name of the camera to draw; the first by default")
    parser.add_argument("--root", default="", help="folder of the data, where it is no longer the run's data.root")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of points")
    parser.add_argument("--force", action="store_true", help="replace an existing picture")
    options = parser.parse_args(arguments)
    return exit_code(lambda: draw(options), out=options.out)


def draw(options: argparse.Namespace) -> None:
    """Draw what the command line asks for. Raises MdktError."""
    if options.points < 1:
        raise ConfigError(f"--points {options.points}: at least 1")
    if options.out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise OutputError(f"{options.out}: a picture is written as .png or .jpg")
    state = load_state(options.run / "state.safetensors" if options.run.is_dir() else options.run)
    source = open_source(replace(state.config.data, root=options.root or state.config.data.root))
    if not 0 <= options.scan < len(source):
        raise DriveError(f"--scan {options.scan}: the run has {len(source)} scans, from 0")
    with atomic_output(options.out, force=options.force) as temporary:
        frame = source[options.scan]
        seen = look(state, source, options.scan, frame)
        picture(seen, frame, source.labels, options.camera, options.points, options.seed).save(temporary)
    Console().print(reach_table(seen, source.labels))


if __name__ == "__main__":
    sys.exit(main())
