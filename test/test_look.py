"""look.py: the picture shows places where they are, the table says how far, and what cannot be shown is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_drives import write_kitti
from tiny_drive import TINY

from mdkt_ros.errors import CameraError
from mdkt_ros.labels import IGNORE, LabelSpace
from training.data.source import open_source
from training.look import Seen, choose, look, main, picture, reach_table
from training.scheme.deformable import Look
from training.scheme.look_picture import CELL, close_up, head_colors, looks_picture
from training.state import load_state
from training.train import main as train

STRIDES = (4, 8)


def one_look(points: int, places: dict[tuple[int, int, int], tuple[float, float]]) -> Look:
    """Two heads, two levels, one place each; all attention on the places given by (head, level, place)."""
    offset, weight = torch.zeros(points, 2, 2, 1, 2), torch.zeros(points, 2, 2, 1)
    for place, where in places.items():
        offset[(slice(None), *place)] = torch.tensor(where)
        weight[(slice(None), *place)] = 1.0
    return Look(STRIDES, offset, weight)


def test_a_place_is_drawn_where_it_is():
    """A cell of 52 pixels: four of the picture to each."""
    seen = one_look(1, {(0, 0, 0): (3.0, -2.0), (1, 1, 0): (-2.0, 0.5)})
    image = Image.new("RGB", (200, 100), (90, 90, 90))
    cell = np.asarray(close_up(image, (100, 50), seen, ratio=0.5, reach=26))
    orange, other = head_colors(2)
    middle = CELL // 2
    # Head 1: (3, -2) * stride 4 * ratio 0.5 * 4; head 2: (-2, 0.5) * 8 * 0.5 * 4.
    assert tuple(cell[middle - 16, middle + 24]) == orange
    assert tuple(cell[middle + 8, middle - 32]) == other
    assert tuple(cell[middle + 30, middle + 30]) == (90, 90, 90)
    # At the corner of the image, the part outside it is dark.
    corner = np.asarray(close_up(image, (0, 0), seen, ratio=0.5, reach=26))
    assert tuple(corner[middle + 40, middle + 40]) == (90, 90, 90)
    assert corner[middle - 40, middle + 40].max() < 40


def test_the_picture_has_a_column_a_point_and_a_row_a_scale():
    looks = {stride: one_look(5, {(0, 0, 0): (1.0, 0.0)}) for stride in (8, 4)}
    image = np.full((50, 120, 3), 120, dtype=np.uint8)
    drawn = looks_picture(image, np.full((5, 2), 20.0), list("abcde"), looks, ratio=2.0, title="t")
    fewer = looks_picture(image, np.full((5, 2), 20.0), list("abcde"), {8: looks[8]}, ratio=2.0)
    assert drawn.width == fewer.width > 5 * CELL
    assert CELL <= drawn.height - fewer.height <= CELL + 8


def test_points_are_chosen_of_all_classes():
    class_id = np.array([3] * 90 + [5] * 2 + [IGNORE] * 8, dtype=np.uint8)
    rows = choose(class_id, 6)
    assert class_id[rows].tolist() == [3, 3, 3, 3, 5, 5]
    assert len(set(rows.tolist())) == 6
    assert np.array_equal(rows, choose(class_id, 6))
    assert not np.array_equal(rows, choose(class_id, 6, seed=1))
    assert len(choose(class_id, 500)) == 100


def test_the_table_is_in_pixels_of_the_recorded_image():
    space = LabelSpace.load("semantickitti")
    near, far = one_look(1, {(0, 0, 0): (3.0, 4.0)}), one_look(1, {(0, 1, 0): (0.0, 10.0)})
    both = Look(STRIDES, torch.cat([near.offset, far.offset]), torch.cat([near.weight, far.weight]))
    seen = Seen(
        cameras=("one",),
        camera=np.zeros(2, np.int64),
        pixel=np.zeros((2, 2)),
        class_id=np.array([0, 8], np.uint8),
        looks={8: both},
        start={8: 15.0},
        ratio=2.0,
    )
    table = reach_table(seen, space)
    columns = [list(column.cells) for column in table.columns]
    assert columns[0] == ["car", "road", "all", "before the first step"]
    assert columns[1] == ["1", "1", "2", ""]
    assert columns[2] == ["40.0", "160.0", "100.0", "30.0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on a small KITTI drive with two cameras."""
    folder = tmp_path_factory.mktemp("look")
    write_kitti(folder / "kitti", count=2)
    settings = [
        "data.kind=semantickitti",
        f"data.root={folder / 'kitti'}",
        f"data.draws={folder / 'draws'}",
        "image_network.name=test_resnet",
        "image_network.channels=16",
        "images.scale=0.5",
        "transfer.weight=0.1",
        "transfer.heads=2",
        "transfer.levels=3",
        "optim.steps=2",
        f"out={folder / 'run'}",
    ]
    assert train([*TINY, *settings]) == 0
    return folder / "run"


def test_a_run_is_looked_at(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "looks.png"
    assert main([str(run), str(out), "--scan", "1", "--points", "3"]) == 0
    assert "before the first step" in capsys.readouterr().out
    with Image.open(out) as drawn:
        assert drawn.height > 4 * CELL
    assert main([str(run), str(out)]) == 1
    assert "exists" in capsys.readouterr().err
    assert main([str(run), str(out), "--camera", "image_3", "--force"]) == 0


def test_points_look_from_their_pixel(run: Path):
    state = load_state(run / "state.safetensors")
    source = open_source(state.config.data)
    frame = source[0]
    seen = look(state, source, 0, frame)
    assert seen.cameras == ("image_2", "image_3")
    assert seen.ratio == 2
    assert all(one.offset.shape == (len(seen.camera), 2, 3, 4, 2) for one in seen.looks.values())
    for number, view in enumerate(frame.views):
        pixels = view.camera.project(frame.points).pixels
        for pixel, value in zip(seen.pixel[seen.camera == number], seen.class_id[seen.camera == number], strict=True):
            point = int(np.nanargmin(np.abs(pixels - pixel).sum(1)))
            assert np.abs(pixels[point] - pixel).max() < 1e-3
            assert frame.labels is not None
            assert frame.labels[point] == value
    with pytest.raises(CameraError, match="cameras that show points of the scan are image_2, image_3"):
        picture(seen, frame, source.labels, "image_9", 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scan", "2"], "--scan 2: the run has 2 scans"),
        (["--points", "0"], "--points 0: at least 1"),
        (["--camera", "front"], "--camera front: the cameras that show"),
        (["--root", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_shown(run, tmp_path, capsys, arguments, message):
    assert main([str(run), str(tmp_path / "looks.png"), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_other_files(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(run), str(tmp_path / "looks.pdf")]) == 1
    assert "a picture is written as .png or .jpg" in capsys.readouterr().err
    assert main([str(run / "model.safetensors"), str(tmp_path / "looks.png")]) == 1
    assert "its format is" in capsys.readouterr().err
    one_to_one = tmp_path / "run"
    config = ["data.kind=semantickitti", f"data.root={run.parent / 'kitti'}", f"data.draws={run.parent / 'draws'}"]
    assert train([*TINY, *config, "optim.steps=1", f"out={one_to_one}"]) == 0
    capsys.readouterr()
    assert main([str(one_to_one), str(tmp_path / "looks.png")]) == 1
    assert "its transfer is off (transfer.weight = 0)" in capsys.readouterr().err
