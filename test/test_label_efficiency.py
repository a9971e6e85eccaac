"""The label efficiency experiment: which runs, that none is made twice, and what the table says of the rows."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tiny_drive import write_semantickitti

from bench.label_efficiency import Experiment, main, missing, perform, scored_towns, write_report
from bench.label_table import markdown, mean_and_spread, paired
from bench.methods import METHODS, RECIPE, Run, method_named, plan, settings_digests
from bench.rows import put_row, read_rows
from mdkt_ros.drive.synthetic import TEST_SEEDS, VALIDATION_SEEDS
from mdkt_ros.errors import ConfigError, OutputError
from training.config import flatten, load_config
from training.losses import TrainingError
from training.state import load_state

ROOT = Path(__file__).resolve().parents[1]


def row(method: str, budget: float, seed: int, miou: float, **more: object) -> dict:
    figures = {"miou_in_view": miou + 0.01, "miou_out_of_view": miou - 0.01, "iou": {"car": miou, "bus": None}}
    figures["support"] = {"car": 1234, "bus": 0}
    return {"method": method, "budget": budget, "seed": seed, "miou": miou, "step_ms": 100.0 + seed, "minutes": 2.0} | {
        **figures,
        "image_text_model": None,
        "image_weights": None,
        "machine": "a machine",
        "date": "2026-01-02",
        "settings": {"labels": "abc"},
        **more,
    }


def test_the_plan_has_every_method_and_budget_of_the_table():
    runs = plan([], [], [0, 1, 2])
    assert len(runs) == len({run.key for run in runs}) == 39
    assert {run.budget for run in runs if run.method.name in ("labels_only", "ema")} == {0.01, 0.1, 1.0}
    assert {run.budget for run in runs if run.method.name == "full_supervision"} == {100.0}
    assert {run.budget for run in runs if run.method.name == "contrast"} == {0.1}
    assert [str(run) for run in plan(["ema"], [0.01], [7])] == ["ema at 0.01 %, seed 7"]
    # A budget alone takes the methods that have it; a method by name takes any budget.
    assert {run.method.name for run in plan([], [1.0], [0])} == {"labels_only", "ema"}
    assert plan(["contrast"], [10.0], [0])[0].budget == 10.0
    with pytest.raises(ConfigError, match=r"no method all; there are labels_only, one_to_one, .*full_supervision"):
        plan(["all"], [], [0])


def test_each_method_is_the_one_before_it_and_one_part_more():
    by_name = {m.name: flatten(Run(m, 0.1, 0).config()) for m in METHODS}
    weights = ["transfer.weight", "pseudo.weight", "contrast.weight", "teacher.weight"]
    on = {name: [key for key in weights if config[key] > 0] for name, config in by_name.items()}
    assert on["labels_only"] == on["full_supervision"] == []
    for name in ("one_to_one", "deformable_single_scale", "deformable_multi_scale"):
        assert on[name] == weights[:1]
    assert (on["image_text"], on["contrast"], on["ema"]) == (weights[:2], weights[:3], weights)
    changed = {
        name: {key for key, value in config.items() if value != by_name["ema"][key]} for name, config in by_name.items()
    }
    assert changed["ema"] == set()
    assert changed["contrast"] == {"teacher.weight"}
    assert changed["spread_labels"] - changed["image_text"] == {"pseudo.cache"}
    assert on["spread_labels"] == weights[:2]
    assert by_name["spread_labels"]["pseudo.spread"] > 0
    assert changed["one_to_one"] - changed["deformable_multi_scale"] == {"transfer.offsets"}
    single = changed["deformable_single_scale"] - changed["deformable_multi_scale"]
    assert single == {"transfer.scales", "transfer.levels"}
    # Whatever is no part of the scheme is the same for all, the running mean of the weights too.
    every = set().union(*changed.values())
    assert every <= {*weights, "transfer.offsets", "transfer.scales", "transfer.levels", "pseudo.cache"}


def test_a_seed_is_that_of_weights_and_labels():
    config = Run(method_named("labels_only"), 0.01, 5).config(["optim.steps=7"])
    assert (config.seed, config.data.draw_seed, config.data.percent, config.optim.steps) == (5, 5, 0.01, 7)
    with pytest.raises(ConfigError, match=r"unknown key optim\.stepps"):
        Run(method_named("ema"), 0.1, 0).config(["optim.stepps=7"])


def test_settings_for_all_runs_do_not_undo_what_makes_a_method():
    more = ["transfer.offsets=2", "transfer.weight=16", "data.percent=50"]
    found = {name: Run(method_named(name), 0.1, 0).config(more) for name in ("labels_only", "one_to_one", "ema")}
    assert [config.transfer.weight for config in found.values()] == [0, 16, 16]
    assert [config.transfer.offsets for config in found.values()] == [2, 0, 2]
    assert {config.data.percent for config in found.values()} == {0.1}


def test_scored_towns_are_never_trained_in():
    config = Run(method_named("ema"), 0.1, 0).config()
    for split, seeds in (("test", TEST_SEEDS), ("validation", VALIDATION_SEEDS)):
        data = scored_towns(config, split)
        assert set(range(data.town_first, data.town_first + data.towns)) <= set(seeds)
        assert data.root != config.data.root
        assert data.town_format == config.data.town_format
        assert data.town_images


def test_settings_that_matter_change_the_digests():
    whole, labels = (Run(method_named(name), 0.1, 0) for name in ("ema", "labels_only"))
    digests = settings_digests(whole)
    assert list(digests) == ["labels", "images", "pseudo", "contrast", "teacher"]
    assert settings_digests(whole, ["out=elsewhere", "device=cuda", "data.root=x"]) == digests

    def changed(setting: str) -> set[str]:
        return {part for part, digest in settings_digests(whole, [setting]).items() if digest != digests[part]}

    assert changed("optim.steps=3") == {"labels"}
    assert changed("transfer.temperature=2") == changed("images.scale=1") == {"images"}
    assert changed("schedule.ramp=0") == changed("pseudo.balance=1") == {"pseudo"}
    # A row stands while what its method does not have changes.
    assert settings_digests(labels) == {"labels": digests["labels"]}
    assert settings_digests(labels, ["transfer.temperature=2", "schedule.ramp=0"]) == settings_digests(labels)
    # The method's own changes, budget and seed are no other recipe.
    assert settings_digests(Run(method_named("one_to_one"), 1.0, 5)).items() < digests.items()


def test_rows_are_put_in_their_place(tmp_path: Path):
    path = tmp_path / "rows.json"
    assert read_rows(path) == []

    def put(seed: int, value: int) -> None:
        put_row(path, {"seed": seed, "value": value}, lambda old: old["seed"] == seed, lambda r: r["seed"])

    put(2, 1)
    put(0, 1)
    put(2, 5)
    assert read_rows(path) == [{"seed": 0, "value": 1}, {"seed": 2, "value": 5}]
    assert [p.name for p in tmp_path.iterdir()] == ["rows.json"]
    for damaged in ("", "[]", '{"rows": 3}', '{"rows": [1]}', "{"):
        path.write_text(damaged)
        with pytest.raises(OutputError, match=r"rows\.json: not a file of results"):
            put(1, 1)
        assert path.read_text() == damaged


def _put_many(path: Path, first: int) -> None:
    for seed in range(first, first + 15):
        put_row(path, {"seed": seed}, lambda old, seed=seed: old["seed"] == seed, lambda r: r["seed"])


def test_rows_of_several_processes_are_all_kept(tmp_path: Path):
    path = tmp_path / "rows.json"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_put_many, args=(path, 15 * k)) for k in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [r["seed"] for r in read_rows(path)] == list(range(30))


def test_mean_spread_and_differences_by_hand():
    assert mean_and_spread([]) == "-"
    assert mean_and_spread([0.5]) == "50.0"
    assert mean_and_spread([0.5, 0.52, 0.54]) == "52.0 ± 2.0"
    assert mean_and_spread([0.03, 0.05], sign="+") == "+4.0 ± 1.4"
    rows = [row("labels_only", 0.1, s, 0.40 + s / 100) for s in range(3)]
    rows += [row("one_to_one", 0.1, s, m) for s, m in ((0, 0.43), (2, 0.47), (9, 0.99))]
    # Seed by seed, and only where both have the seed.
    assert paired(rows, "one_to_one", 0.1, "labels_only", 0.1) == pytest.approx([0.03, 0.05])


def test_the_table(tmp_path: Path):
    rows = [row("labels_only", 0.1, s, 0.40 + s / 100) for s in range(3)]
    rows += [row("one_to_one", 0.1, s, 0.42 + s / 100, image_weights="resnet18, w.safetensors") for s in range(3)]
    rows += [row("ema", 0.1, 0, 0.50, image_text_model="tiny, t.safetensors"), row("ema", 0.01, 0, 0.30)]
    rows += [row("full_supervision", 100.0, s, 0.60) for s in range(2)]
    text = markdown(rows, split="test")
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "| labels only | 0.1 | 3 | 41.0 ± 1.0 |  | 68.3 | 42.0 ± 1.0 | 40.0 ± 1.0 | 101 | 2.0 |" in text
    assert "| + one-to-one transfer | 0.1 | 3 | 43.0 ± 1.0 | +2.0 ± 0.0 | 71.7 |" in text
    assert "| full supervision, labels only | 100 | 2 | 60.0 ± 0.0 |  | 100.0 |" in text
    assert "The whole scheme over labels only at 0.1 %: +10.0 mIoU." in text
    assert lines["car"] == "| car | 1,234 | 41.0 | 43.0 | 50.0 | 60.0 |"
    assert lines["bus"] == "| bus | 0 | - | - | - | - |"
    assert text.index("Other budgets") < text.index("| 0.01 | 1 | 30.0 |")
    assert "- Image-text model: tiny, t.safetensors" in text
    assert "Not comparable" not in text
    rows += [row("ema", 1.0, 0, 0.5, settings={"labels": "abc", "teacher": "x"})]
    assert "Not comparable" not in markdown(rows, split="test")
    rows += [row("ema", 1.0, 1, 0.5, settings={"labels": "x"})]
    said = "Not comparable: the rows come from 2 versions of the recipe's labels (abc, x)"
    assert said in markdown(rows, split="test")
    assert markdown([], split="test").startswith("# Label efficiency")


def test_table_and_plots_come_from_the_rows_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("matplotlib")
    results = tmp_path / "out" / "label_efficiency.json"
    results.parent.mkdir()
    rows = [row(m.name, b, s, 0.4 + s / 50) for m in METHODS for b in m.budgets for s in range(2)]
    results.write_text(json.dumps({"rows": rows}))
    assert main(["--table", "--results", str(results)]) == 0
    names = {"label_efficiency.json", "label_efficiency.md"}
    names |= {"label_efficiency_methods.svg", "label_efficiency_budgets.svg"}
    assert {path.name for path in results.parent.iterdir()} == names
    before = {path.name: path.read_bytes() for path in results.parent.iterdir()}
    assert b"+ contrast" in before["label_efficiency_methods.svg"]
    assert main(["--table", "--results", str(results)]) == 0
    assert before == {path.name: path.read_bytes() for path in results.parent.iterdir()}
    results.write_text("{}")
    capsys.readouterr()
    assert main(["--table", "--results", str(results)]) == 1
    assert "label_efficiency.json: not a file of results" in capsys.readouterr().err


def test_rows_that_are_there_are_skipped(tmp_path: Path):
    results = tmp_path / "rows.json"
    experiment = Experiment("test", results, tmp_path)
    runs = plan([], [], [0])
    settings = experiment.settings(runs[0])
    assert runs[0].key == ("labels_only", 0.1, 0)
    there = [row("labels_only", 0.1, seed, 0.5, settings=settings) for seed in (0, 1)]
    results.write_text(json.dumps({"rows": there}))
    todo = missing(runs, experiment, force=False)
    assert todo == runs[1:]
    assert missing(runs, experiment, force=True) == runs
    assert missing(runs, Experiment("test", results, tmp_path, ("contrast.align=0.1",)), force=False) == todo
    with pytest.raises(
        ConfigError, match=r"its row of labels_only at 0\.1 %, seed 0 is of settings {'labels': .* now at .*; --force"
    ):
        missing(runs, Experiment("test", results, tmp_path, ("optim.steps=3",)), force=False)


@pytest.fixture
def small(tmp_path: Path) -> Experiment:
    """The experiment's recipe on a few hundred points, with towns that are there already."""
    root = tmp_path / "towns"
    write_semantickitti(root, ("00", "01"))
    write_semantickitti(tmp_path / "towns_test", tuple(str(TEST_SEEDS[0] + k) for k in range(12)), scans=1)
    recipe = yaml.safe_load(RECIPE.read_text())
    recipe["data"] |= {"root": str(root), "towns": 2, "draws": str(tmp_path / "draws"), "town_format": "semantickitti"}
    recipe["model"] |= {"voxel_size": 0.5, "width": 0.25}
    recipe["optim"] |= {"steps": 3, "batch_size": 2}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    results = tmp_path / "results" / "rows.json"
    results.parent.mkdir()
    return Experiment("test", results, tmp_path / "runs", ("device=cpu",), recipe=path)


@pytest.mark.slow
def test_a_run_from_recipe_to_row(small: Experiment, tmp_path: Path):
    # Neither of the two may reach the training: the run's own come last.
    small = replace(small, more=(*small.more, "data.percent=50", "transfer.weight=2"))
    run = Run(method_named("labels_only"), 10, 3)
    result = perform(run, small)
    assert set(result) > {"method", "budget", "seed", "miou", "miou_in_view", "miou_out_of_view", "iou", "step_ms"}
    assert (result["method"], result["budget"], result["seed"], result["split"]) == ("labels_only", 10, 3, "test")
    assert (result["scans"], result["points"]) == (12, 12 * 270)
    assert 0 <= result["miou"] <= 1
    assert result["image_text_model"] is result["image_weights"] is result["miou_in_view"] is None
    assert result["cpu_minutes"] > 0
    out = small.folder(run)
    trained = load_config(out / "config.yaml")
    assert trained == replace(run.config(small.more, small.recipe), out=str(out))
    assert (trained.seed, trained.data.draw_seed, trained.data.percent, trained.transfer.weight) == (3, 3, 10, 0)
    # Again: what is trained is only scored.
    log = (out / "log.csv").read_bytes()
    again = perform(run, small)
    assert (out / "log.csv").read_bytes() == log
    assert {k: again[k] for k in ("miou", "iou", "step_ms")} == {k: result[k] for k in ("miou", "iou", "step_ms")}
    # By force it is trained anew; what stopped on the way would go on.
    anew = perform(run, replace(small, force=True))
    assert anew["cpu_minutes"] > 0
    assert (out / "log.csv").read_bytes() != log
    assert anew["iou"] == result["iou"]
    put_row(small.results, result, lambda old: False, lambda r: r["seed"])
    write_report(small, plots=False)
    assert "| labels only | 10 | 1 |" in small.results.with_suffix(".md").read_text()


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_goes_on(small: Experiment, tmp_path: Path):
    command = [sys.executable, str(ROOT / "bench" / "label_efficiency.py"), "--recipe", str(small.recipe), "--no-plots"]
    command += ["--results", str(small.results), "--runs", str(small.runs), "--only", "labels_only", "--seed", "0", "1"]
    command += ["--budget", "10", "--set", "device=cpu", "optim.steps=400"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    logs: list[Path] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment) as run:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (logs and logs[0].read_text().count("\n") > 3):
            logs = [*small.runs.glob("*/*/log.csv")]
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGINT)
        error = run.communicate(timeout=120)[1]
    assert run.returncode == 130, error
    assert "the runs go on where they were" in error
    assert "Traceback" not in error
    assert read_rows(small.results) == []
    # The one that ran has a state, the other was not begun.
    (state,) = small.runs.glob("*/*/state.safetensors")
    step = load_state(state).step
    assert 3 <= step == logs[0].read_text().count("\n") - 1 < 400


@pytest.mark.slow
def test_a_run_that_fails_says_why_and_the_others_go_on(small: Experiment, tmp_path: Path, capsys):
    broken = Experiment("test", small.results, small.runs, ("device=cpu", "optim.lr=1e30"), recipe=small.recipe)
    with pytest.raises(TrainingError, match=r"labels_only at 10 %, seed 0: step \d: the loss \w+ is (nan|inf) on"):
        perform(Run(method_named("labels_only"), 10, 0), broken)
