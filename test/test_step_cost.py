"""What a step costs: the parts are those of the experiment, and the figures those of the steps taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file
from small_drives import write_kitti

from bench.step_cost import PARTS, Cost, Part, _take, configs, main, markdown, ratios, to_rows
from mdkt_ros.errors import ConfigError
from training.config import flatten
from training.processes import join_processes
from training.scheme.backbone import make_backbone
from training.scheme.image_network import STRIDES

RECIPE = """
data: {kind: semantickitti, percent: 50}
model: {width: 0.25, voxel_size: 2.0}
optim: {batch_size: 2, average: 0.9}
images: {scale: 1.0}
image_network: {channels: 8}
transfer: {weight: 0.2, every: 2}
pseudo: {weight: 0.5}
contrast: {weight: 0.1, dim: 8}
teacher: {weight: 0.5}
"""


def test_ratios_are_within_a_turn():
    """Whatever slows a turn down slows all parts of it."""
    costs = [
        Cost("a", [0.01] * 3, [0.1, 0.2, 0.4], 100_000_000),
        Cost("b", [0.02, 0.04, 0.03], [0.2, 0.4, 0.8], 250_000_000),
        Cost("c", [0.0] * 3, [0.1, 0.6, 0.8], 100_000_000),
    ]
    assert ratios(costs) == [(1, 1, 1), (2, 2, 2), (1.5, 2, 2.5)]
    rows = to_rows(costs)
    assert rows[1] == {
        "part": "b",
        "step_ms": 400.0,
        "ratio": 2.0,
        "ratio_quartiles": [2.0, 2.0],
        "prepare_ms": 30.0,
        "peak_mb": 250,
        "memory_ratio": 2.5,
        "turns": 3,
        "first_sight_ms": None,
        "kept_mb_an_image": None,
    }
    facts = {"recipe": "r.yaml", "image text": "", "machine": "m", "date": "d", "cuda": False, "turn": 1}
    text = markdown(rows, facts)
    assert "| b | 400 | 2.00 (2.00 - 2.00) | 30 | 250 | 2.50 |" in text
    assert "processor time, one thread" in text
    assert "image text" not in text
    assert "Medians of 3 steps (" in text
    assert "Medians of 3 turns of 2 steps, of which one looks at images (" in markdown(rows, {**facts, "turn": 2})
    remembered = to_rows([costs[0], Cost("b", [0.1] * 3, [0.2] * 3, 1, [0.3, 0.5, 0.4], 1_250_000)])
    assert "not in the peaks" not in text
    assert "at 1.25 MB an image" in (text := markdown(remembered, facts))
    assert "first sight of a batch's images costs 400 ms more" in text
    assert ratios([Cost("a", [1.0], [2.0]), Cost("b", [1.0], [3.0])]) == [(1, 1, 1), (1.5, 1.5, 1.5)]


def test_parts_add_up_to_the_scheme(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    parts = {title: flatten(config) for title, config in configs(path, ["data.root=x"]).items()}
    assert len(parts) == len(PARTS) == 7
    weights = ("transfer.weight", "pseudo.weight", "contrast.weight", "teacher.weight")
    on = [sum(config[key] > 0 for key in weights) for config in parts.values()]
    assert on == [0, 1, 1, 2, 2, 3, 4]
    assert {config["data.percent"] for config in parts.values()} == {50}
    with pytest.raises(ConfigError, match=r"unknown key data\.roots"):
        configs(path, ["data.roots=x"])


def test_images_that_are_remembered_are_seen_before_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_kitti(tmp_path / "data", count=3)
    weights = tmp_path / "weights.safetensors"
    save_file(make_backbone("resnet18", STRIDES).state_dict(), weights, {"name": "resnet18"})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    data = [f"data.root={tmp_path / 'data'}", f"data.draws={tmp_path / 'draws'}", f"image_network.weights={weights}"]
    more = [*data, "image_network.lr=0", "images.color=0", "images.flip=0", "transfer.every=1"]
    with join_processes("cpu") as processes:
        for keep in (False, True):
            config = configs(recipe, [*more, f"image_network.keep={keep}"])["+ one-to-one transfer"]
            part = Part(config, processes)
            transfer = part.learner.student.scheme.transfer
            assert transfer is not None
            looked: list[str] = []
            taken = "bench.step_cost._take"
            monkeypatch.setattr(taken, lambda *a, take=_take, looked=looked: (looked.append("step"), take(*a)))
            network = transfer.image_network
            network.backbone.register_forward_hook(lambda *_, looked=looked: looked.append("backbone"))
            _, step, sight = part.step(0)
            assert step > 0
            assert (sight is not None) == keep
            order = [looked[0], looked[-1]]
            assert order == (["backbone", "step"] if keep else ["step", "backbone"])
            assert (part.kept() > 0) == keep


@pytest.mark.slow
def test_every_part_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Of the least, of one that looks at images, and of all; each is a process of its own that imports everything."""
    chosen = PARTS[0], PARTS[3], PARTS[-1]
    monkeypatch.setattr("bench.step_cost.PARTS", chosen)
    write_kitti(tmp_path / "data", count=3)
    recipe, results = tmp_path / "recipe.yaml", tmp_path / "results" / "cost.json"
    recipe.write_text(RECIPE)
    arguments = ["--recipe", str(recipe), "--rounds", "2", "--results", str(results)]
    data = ["--set", f"data.root={tmp_path / 'data'}", f"data.draws={tmp_path / 'draws'}"]
    assert main([*arguments, *data]) == 0
    found = json.loads(results.read_text())
    assert [row["part"] for row in found["rows"]] == [part.title for part in chosen]
    assert found["rows"][0]["ratio"] == 1
    for row in found["rows"]:
        assert row["turns"] == 2
        assert row["step_ms"] > 0
        assert row["peak_mb"] > 50
        low, high = row["ratio_quartiles"]
        assert low <= row["ratio"] <= high
    assert found["facts"]["turn"] == 2
    assert "| labels only |" in results.with_suffix(".md").read_text()
    assert "the teacher alone" in results.with_suffix(".md").read_text()
    capsys.readouterr()
    assert main([*arguments, "--set", f"data.root={tmp_path / 'nowhere'}"]) == 1
    assert capsys.readouterr().err.strip().endswith("nowhere: no such folder (data.root)")
    assert main(["--rounds", "0"]) == 1
