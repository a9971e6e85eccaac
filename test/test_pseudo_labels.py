"""The command: scores of a small drive against a slow computation, resumed, reported and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_clip import VIT, write_clip
from small_drives import write_kitti
from test_evaluate import count_by_hand

from mdkt_ros.camera import visible
from mdkt_ros.drive.semantickitti import SemanticKitti
from mdkt_ros.image_text_model import load_image_text
from mdkt_ros.labels import LabelSpace
from training.config import load_config
from training.data.draw import load_draw
from training.data.image_text import ImageTextCache, calibrate
from training.data.source import open_source
from training.data.superpoints import Superpoints
from training.pseudo_labels import main
from training.scheme.config import PseudoConfig
from training.scheme.dense_clip import DenseClip, DenseOptions
from training.scheme.text import class_text

KITTI = LabelSpace.load("semantickitti")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A drive of four scans with two cameras, and the arguments that score it."""
    root = tmp_path_factory.mktemp("pseudo")
    write_kitti(root / "data", count=4)
    name = write_clip(root / "clip", VIT)
    data = ["data.kind=semantickitti", f"data.root={root / 'data'}", f"data.draws={root / 'draws'}", "data.percent=40"]
    arguments = ["--model", name, "--device", "cpu", "--full-precision", "--window", "0", "--no-shape", *data]
    assert (
        main(["--out", str(root / "cache"), "--pictures", str(root / "pictures"), "--picture-scans", "2", *arguments])
        == 0
    )
    return root, arguments


def sources(root: Path):
    config = load_config(None, ["data.kind=semantickitti", f"data.root={root / 'data'}", "data.percent=40"])
    return open_source(config.data)


def test_scores_are_those_of_the_pixels_that_show_the_points(made: tuple[Path, list[str]]):
    root, _ = made
    cache, drive = ImageTextCache.open(root / "cache", sources(root)), SemanticKitti(root / "data")
    model = load_image_text(f"local-dir:{root / 'clip'}")
    dense = DenseClip(model, class_text(model, KITTI), DenseOptions(window=0))
    seen = 0
    for index in range(4):
        frame, by_point = drive[index], {}
        for shot in frame.views:
            projection = shot.camera.project(frame.points)
            scores = dense.scores(torch.from_numpy(shot.load().copy()).permute(2, 0, 1)[None])
            for row in np.flatnonzero(visible(projection, shot.camera)):
                by_point.setdefault(int(row), []).append(scores.at(0, projection.pixels[row][None])[0])
        rows, values = cache.scan(index)
        assert rows.tolist() == sorted(by_point)
        seen_alone = np.stack([np.mean(by_point[row], axis=0) for row in rows.tolist()]).astype(np.float32)
        np.testing.assert_allclose(values, Superpoints().average(frame.points[rows], seen_alone), atol=1e-3)
        seen += len(rows)
    assert seen > 8


def test_figures_are_those_of_a_count_by_hand(made: tuple[Path, list[str]]):
    root, _ = made
    report = json.loads((root / "cache" / "report.json").read_text())
    source = sources(root)
    cache = ImageTextCache.open(root / "cache", source)
    draw = load_draw(next((root / "draws").iterdir()))
    calibration = calibrate(cache, draw, PseudoConfig())
    assert report["calibration"] == json.loads(json.dumps(calibration.to_dict()))
    pairs: dict[str, list[tuple[int, int]]] = {"raw": [], "calibrated": [], "sure": []}
    for index in range(4):
        truth = source[index].labels
        for row, score in zip(*cache.scan(index), strict=True):
            probability, weight = calibration.apply(score[None])
            named = int(probability.argmax()) if weight[0] > 0 else 255
            pairs["raw"].append((int(truth[row]), int(score.argmax())))
            pairs["calibrated"].append((int(truth[row]), named))
            pairs["sure"].append((int(truth[row]), named if probability.max() >= 0.9 else 255))
    for part, listed in pairs.items():
        expected = count_by_hand(listed)
        for c, (iou, precision, recall, support) in expected.items():
            row = report["classes"][KITTI.names[c]]
            assert row["points"] == support
            assert row[part]["iou"] == pytest.approx(iou)
            assert row[part]["recall"] == pytest.approx(recall)
            assert row[part]["precision"] == (None if np.isnan(precision) else pytest.approx(precision))
        assert report[part]["miou"] == pytest.approx(np.mean([row[0] for row in expected.values()]))
    assert report["scans"] == 4
    assert report["model"] == f"local-dir:{root / 'clip'}"
    assert report["budget"]["percent"] == 40


def test_pictures_show_every_camera_twice(made: tuple[Path, list[str]]):
    root, _ = made
    names = sorted(path.name for path in (root / "pictures").iterdir())
    assert names == [f"sequences_00_velodyne_{number}.png" for number in ("000000", "000003")]
    with Image.open(root / "pictures" / names[0]) as picture:
        assert picture.size == (80, 48)


def test_a_run_goes_on_where_it_was(made: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]):
    root, arguments = made
    scans = sorted((root / "cache" / "scans").rglob("*.safetensors"))
    assert len(scans) == 4
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in scans}
    scans[2].unlink()
    assert main(["--out", str(root / "cache"), *arguments]) == 0
    assert "1 scans scored, 3 were there" in capsys.readouterr().err
    for path in scans:
        assert path.read_bytes() == before[path][0]
        assert (path.stat().st_mtime_ns == before[path][1]) == (path != scans[2])


def test_other_settings_need_another_folder_or_force(made: tuple[Path, list[str]], tmp_path: Path, capsys):
    root, arguments = made
    out = tmp_path / "cache"
    assert main(["--out", str(out), "--workers", "0", *arguments]) == 0
    first = {path.name: path.read_bytes() for path in (out / "scans").rglob("*.safetensors")}
    assert first == {path.name: path.read_bytes() for path in (root / "cache" / "scans").rglob("*.safetensors")}
    capsys.readouterr()
    assert main(["--out", str(out), "--last-block", "residual", *arguments]) == 1
    error = capsys.readouterr().err
    assert error == (
        f'{out}: holds scores made with other settings (last_block: "value"); '
        "take another --out, or --force to replace\n"
    )
    assert main(["--out", str(out), "--last-block", "residual", "--force", *arguments]) == 0
    second = {path.name: path.read_bytes() for path in (out / "scans").rglob("*.safetensors")}
    assert second.keys() == first.keys()
    assert all(second[name] != first[name] for name in first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "--out is not given, and the recipe has no pseudo.cache"),
        (["--out", "x", "--window", "wide"], "--scales 1 --window wide: invalid literal"),
        (["--out", "x", "--absent", "2"], "absent = 2.0: a probability below 1"),
        (["--out", "x", "--prompts", "gone.yaml"], "gone.yaml: No such file or directory"),
        (["--out", "x", "data.percent=0"], "data.percent = 0.0: must be above 0"),
        (["--out", "x", "--model", "ViT-B16"], "--model ViT-B16: no such model in open_clip"),
    ],
)
def test_mistakes_are_one_line(
    made: tuple[Path, list[str]], change: list[str], message: str, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    _, arguments = made
    model, rest = (["--model", arguments[1]], arguments[2:])
    window = [] if "--window" in change else ["--window", "0"]
    rest = [part for part in rest if part not in ("--window", "0")]
    if "--model" in change:
        model = []
    assert main([*model, *window, *rest, *change]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_data_set_without_images(made: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _, arguments = made
    write_kitti(tmp_path / "data", count=2)
    for folder in ("image_2", "image_3"):
        for path in (tmp_path / "data" / "sequences" / "00" / folder).iterdir():
            path.unlink()
    assert main([*arguments, "--out", str(tmp_path / "out"), f"data.root={tmp_path / 'data'}"]) == 1
    assert "data: none of 2 scans has an image that belongs to it" in capsys.readouterr().err
