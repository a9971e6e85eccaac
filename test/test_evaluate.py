"""evaluate.py against a count of its own, point by point."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_drive import write_folder, write_semantickitti

from mdkt_ros.camera import Camera
from mdkt_ros.checkpoint import save_checkpoint
from mdkt_ros.checkpoint_meta import CheckpointMeta
from mdkt_ros.drive.folder import ScanFolder
from mdkt_ros.drive.frame import Frame, View
from mdkt_ros.drive.sight import seen_by_cameras
from mdkt_ros.errors import LabelError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.network import build_network
from mdkt_ros.segmenter import Segmenter
from mdkt_ros.voxel_grid import VoxelGrid
from training.evaluate import evaluate, main

KITTI = LabelSpace.load("semantickitti")


def checkpoint(path: Path, labels: LabelSpace = KITTI) -> Path:
    """A network of random weights on a grid that does not reach all points."""
    torch.manual_seed(0)
    network = build_network("minkunet14s", in_channels=4, classes=len(labels), width=0.25)
    with torch.no_grad():  # otherwise it says the same everywhere
        network.classifier[0].weight *= 100
    grid = VoxelGrid(0.5, (-12.0, -12.0, -4.0), (12.0, 14.0, 4.0))
    save_checkpoint(path, network, CheckpointMeta("minkunet14s", 0.25, grid, labels))
    return path


def count_by_hand(pairs: list[tuple[int, int]]) -> dict[int, tuple[float, float, float, int]]:
    """class -> IoU, precision, recall, points; from (truth, prediction) of single points."""
    pairs = [(truth, said) for truth, said in pairs if truth != 255]
    figures = {}
    for c in sorted({truth for truth, _ in pairs}):
        hit = sum(1 for truth, said in pairs if truth == c and said == c)
        is_c = sum(1 for truth, _ in pairs if truth == c)
        said_c = sum(1 for _, said in pairs if said == c)
        either = sum(1 for truth, said in pairs if c in (truth, said))
        figures[c] = (hit / either, hit / said_c if said_c else float("nan"), hit / is_c, is_c)
    return figures


def test_figures_are_those_of_a_count_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, model = write_folder(tmp_path / "scans", scans=3), checkpoint(tmp_path / "model.safetensors")
    written = tmp_path / "scores.json"
    assert (
        main(["--checkpoint", str(model), "--data", f"folder:{folder}", "--frames", "1-2", "--json", str(written)]) == 0
    )
    segmenter, pairs = Segmenter.load(model, "cpu"), []
    for number in (1, 2):
        cloud = np.fromfile(folder / f"{number:02}.bin", np.float32).reshape(-1, 4)
        truth = KITTI.from_raw(np.fromfile(folder / f"{number:02}.label", np.uint32) & 0xFFFF, "here")
        said = segmenter.segment(cloud[:, :3], cloud[:, 3]).class_id
        inside = ((cloud[:, :3] >= (-12, -12, -4)) & (cloud[:, :3] < (12, 14, 4))).all(1)
        assert ((said == 255) == ~inside).all()
        assert 0 < inside.sum() < 300
        pairs += zip(truth.tolist(), said.tolist(), strict=True)
    expected, found = count_by_hand(pairs), json.loads(written.read_text(encoding="utf-8"))
    assert found["miou"] == pytest.approx(np.mean([iou for iou, *_ in expected.values()]), abs=1e-12)
    assert len({said for _, said in pairs}) > 2
    assert found["accuracy"] == pytest.approx(np.mean([t == s for t, s in pairs if t != 255]), abs=1e-12)
    assert (found["scans"], found["points"], found["labelled_points"]) == (2, 600, 540)
    assert found["unlabelled_predictions"] == sum(1 for t, s in pairs if t != 255 and s == 255)
    assert found["classes_present"] == len(expected) == 3
    for c, (iou, precision, recall, points) in expected.items():
        entry = found["classes"][KITTI.names[c]]
        assert entry["iou"] == pytest.approx(iou, abs=1e-12)
        assert entry["precision"] == (None if np.isnan(precision) else pytest.approx(precision, abs=1e-12))
        assert entry["recall"] == pytest.approx(recall, abs=1e-12)
        assert entry["points"] == points
    assert found["classes"]["bicycle"]["recall"] is None
    assert "inside_view" not in found
    shown = capsys.readouterr().out
    assert f"{100 * found['miou']:.1f}" in shown
    assert "mean of 3" in shown


def camera() -> Camera:
    """Looks along x over half of the points."""
    pose = np.eye(4)
    pose[:3, :3] = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
    return Camera("front", 200, 100, np.array([[80.0, 0, 100], [0, 80, 50], [0, 0, 1]]), pose)


class _Viewed:
    """A folder whose frames have a camera."""

    def __init__(self, folder: Path) -> None:
        self._drive = ScanFolder(folder)
        self.name, self.axes, self.labels, self.intensity_scale = "viewed", "x_forward", KITTI, 1.0

    def __len__(self) -> int:
        return len(self._drive)

    def __getitem__(self, index: int) -> Frame:
        return dataclasses.replace(
            self._drive[index], views=(View(camera(), 0, lambda: np.zeros((1, 1, 3), np.uint8)),)
        )


def test_inside_and_outside_the_view_add_up(tmp_path: Path):
    drive = _Viewed(write_folder(tmp_path / "scans"))
    segmenter = Segmenter.load(checkpoint(tmp_path / "model.safetensors"), "cpu")
    progress: list[tuple[int, int]] = []
    result = evaluate(segmenter, drive, progress=lambda done, total: progress.append((done, total)))
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert result.inside.sum() > 50
    assert result.outside.sum() > 50
    np.testing.assert_array_equal(result.inside + result.outside, result.confusion)
    figures = result.to_dict()
    assert figures["inside_view"]["points"] + figures["outside_view"]["points"] == figures["labelled_points"]
    frame = drive[0]
    seen = seen_by_cameras(frame)
    assert not seen[frame.points[:, 0] < 0.5].any()
    slope = np.abs(frame.points[:, 1] / frame.points[:, 0])
    assert not seen[slope > 1.26].any()  # 100 px / 80 px, and half a pixel
    assert (
        seen[(frame.points[:, 0] > 1) & (slope < 0.6) & (np.abs(frame.points[:, 2] / frame.points[:, 0]) < 0.2)].mean()
        > 0.5
    )


def test_predictions_for_the_server_and_scans_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root, model = write_semantickitti(tmp_path / "kitti"), checkpoint(tmp_path / "model.safetensors")
    out = tmp_path / "predictions"
    command = [
        "--checkpoint",
        str(model),
        "--data",
        f"semantickitti:{root}",
        "--sequences",
        "1",
        "--predictions",
        str(out),
    ]
    assert main(command) == 0
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.label"))
    assert files == [f"sequences/01/predictions/{n:06}.label" for n in range(2)]
    segmenter = Segmenter.load(model, "cpu")
    for number, name in enumerate(files):
        cloud = np.fromfile(root / "sequences/01/velodyne" / f"{number:06}.bin", np.float32).reshape(-1, 4)
        said = KITTI.to_submission(segmenter.segment(cloud[:, :3], cloud[:, 3]).class_id)
        np.testing.assert_array_equal(np.fromfile(out / name, np.uint32), said)
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err
    for path in (root / "sequences/01/labels").iterdir():
        path.unlink()
    assert main([*command, "--force"]) == 0
    assert "mean of" not in capsys.readouterr().out
    assert main(command[:-2]) == 1
    assert "has no labels to score against" in capsys.readouterr().err


def test_classes_that_do_not_match_are_named(tmp_path: Path):
    segmenter = Segmenter.load(checkpoint(tmp_path / "model.safetensors", LabelSpace.load("nuscenes")), "cpu")
    with pytest.raises(LabelError, match=r"scans: its classes are those of semantickitti .*knows those of nuscenes"):
        evaluate(segmenter, ScanFolder(write_folder(tmp_path / "scans")))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("scans", "--data scans: write kind:folder, the kind one of"),
        ("kitti:scans", "--data kitti:scans: write kind:folder"),
        ("folder:/nonexistent", "/nonexistent: no such folder"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str, message: str):
    assert main(["--checkpoint", str(tmp_path / "none.safetensors"), "--data", data]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    written = tmp_path / "scores.json"
    written.write_text("mine", encoding="utf-8")
    assert main(["--data", f"folder:{tmp_path}", "--json", str(written)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert written.read_text(encoding="utf-8") == "mine"
