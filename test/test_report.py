"""Tables and JSON of what a run came to: the figures that are in them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from mdkt_ros.benchmark.cases import Row
from mdkt_ros.benchmark.machine import Machine
from mdkt_ros.labels import LabelSpace
from mdkt_ros.report import class_table, print_description, print_engines, print_summary, summary_json
from mdkt_ros.segment_summary import SegmentSummary

LABELS = LabelSpace.load("semantickitti")
CAR, BICYCLE, ROAD = (LABELS.names.index(name) for name in ("car", "bicycle", "road"))


def summary(*, scored: bool = True, **more: object) -> SegmentSummary:
    """12 points: of 8 true cars 6 are found, 1 is called road, 1 is left; of 4 of road 3 are found, 1 is a bicycle."""
    confusion = np.zeros((19, 20), np.int64)
    confusion[CAR, [CAR, ROAD, 19]] = 6, 1, 1
    confusion[ROAD, [ROAD, BICYCLE]] = 3, 1
    return SegmentSummary(
        source=Path("in"),
        out=Path("out"),
        labels=LABELS,
        frames=2,
        points=12,
        class_points=confusion.sum(0)[:19],
        unlabelled=1,
        timings={"read": 1.04, "inference": 20.0, "total": 21.04},
        confusion=confusion if scored else None,
        **more,
    )


def printed(function, *arguments: object, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    function(console, *arguments)
    return console.file.getvalue()


def rows(table: Table) -> dict[str, list[str]]:
    """First cell, without its mark-up -> the others."""
    text = printed(lambda console: console.print(table)).splitlines()
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in text if line.startswith("│")]
    return {first.removeprefix("■ "): others for first, *others in cells}


def test_json_with_truth():
    document = json.loads(json.dumps(summary_json(summary()), allow_nan=False))
    assert (document["scans"], document["points"], document["not_labelled"]) == (2, 12, 1)
    assert document["median_ms"] == {"read": 1.04, "inference": 20.0, "total": 21.04}
    assert list(document["classes"]) == list(LABELS.names)
    assert document["classes"]["car"] == {
        "points": 6, "true_points": 8, "iou": 0.75, "precision": 1.0, "recall": 0.75,
    }  # fmt: skip
    assert document["classes"]["road"] == {
        "points": 4, "true_points": 4, "iou": 0.6, "precision": 0.75, "recall": 0.75,
    }  # fmt: skip
    # Predicted, but never true: no recall. Neither: nothing.
    assert document["classes"]["bicycle"] == {
        "points": 1, "true_points": 0, "iou": 0.0, "precision": 0.0, "recall": None,
    }  # fmt: skip
    assert document["classes"]["trunk"] == {
        "points": 0, "true_points": 0, "iou": None, "precision": None, "recall": None,
    }  # fmt: skip
    assert (document["miou"], document["accuracy"]) == (0.675, 0.75)


def test_json_without_truth():
    document = json.loads(json.dumps(summary_json(summary(scored=False, skipped={"bad": 3}, notes=("a", "b")))))
    assert document["classes"]["car"] == {"points": 6}
    assert not {"miou", "accuracy"} & document.keys()
    assert (document["skipped"], document["notes"]) == ({"bad": 3}, ["a", "b"])


def test_table_with_truth():
    table = rows(class_table(summary()))
    assert table["car"] == ["6", "50.0%", "75.0", "100.0", "75.0", "8"]
    assert table["road"] == ["4", "33.3%", "60.0", "75.0", "75.0", "4"]
    assert table["bicycle"] == ["1", "8.3%", "0.0", "0.0", "–", "0"]
    assert table["trunk"] == ["0", "0.0%", "–", "–", "–", "0"]
    assert table["not labelled"][:2] == ["1", "8.3%"]
    assert table["mean of the 2 classes present"] == ["", "", "67.5", "", "", "12"]
    assert list(table)[:19] == list(LABELS.names)


def test_table_without_truth():
    table = rows(class_table(summary(scored=False)))
    assert table["car"] == ["6", "50.0%"]
    assert len(table) == 20


def test_no_point_at_all():
    empty = SegmentSummary(Path("in"), Path("out"), LABELS, 1, 0, np.zeros(19, np.int64), 0, {"total": 0.1})
    assert rows(class_table(empty))["car"] == ["0", "0.0%"]
    scored = SegmentSummary(
        Path("in"), Path("out"), LABELS, 1, 0, np.zeros(19, np.int64), 0, {}, np.zeros((19, 20), np.int64)
    )
    assert rows(class_table(scored))["mean of the 0 classes present"][2] == "–"
    assert json.loads(json.dumps(summary_json(scored), allow_nan=False))["miou"] is None


def test_summary_says_what_was_skipped_and_why():
    skipped = {"000001.bin: 17 bytes are no multiple of 16 [x4]": 2}
    text = printed(print_summary, summary(skipped=skipped, notes=("not scored: [bold] 3 scans",)))
    assert "2 scans, 12 points" in text
    assert "│  1.0 │      20.0 │  21.0 │" in text
    # What looks like mark-up is part of the message.
    assert "skipped 2 scans: 000001.bin: 17 bytes are no multiple of 16 [x4]" in text
    assert "not scored: [bold] 3 scans" in text


def test_class_names_with_brackets_are_not_mark_up():
    labels = LabelSpace.from_dict(json.loads(json.dumps(LABELS.to_dict()).replace('"car"', '"car [red]"')))
    odd = SegmentSummary(Path("in"), Path("out"), labels, 1, 5, np.arange(19), 0, {"total": 1.0})
    assert "car [red]" in rows(class_table(odd))


def test_engines():
    base = Row(
        engine="torch",
        preset="minkunet18",
        width=0.5,
        voxel_size=0.1,
        points=121_600,
        voxels=84_000,
        scans=1,
        threads=1,
        dtype="float32",
        device="cpu",
        stage="forward",
        parameters=5_433_219,
        gflop=10.0,
        wall_ms=900.0,
        cpu_ms=600.0,
        spread=0.031,
        max_rel_error=2e-7,
    )
    fast = replace(base, engine="native", wall_ms=300.0, cpu_ms=200.0)
    maps = replace(base, stage="maps", max_rel_error=None)
    wide = replace(fast, threads=2, wall_ms=110.0)
    grown = replace(fast, scans=4, points=400_000, stage="maps_and_forward")
    machine = Machine("Some CPU", 1, 100.0, 12.34)
    text = printed(print_engines, machine, [base, fast, maps, wide], [grown])
    assert "Some CPU: SGEMM 100 GFLOP/s, copy 12.3 GB/s, 1 thread" in text
    title = "minkunet18 x 0.5: 5.43 M parameters, 10.0 GFLOP; 121,600 points, 84,000 voxels of 0.1 m; 1 thread, cpu"
    assert title in text.splitlines()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]
    assert rows[0] == ["forward", "torch", "600.0", "3%", "900.0", "1.00", "17%", "2e-07"]
    assert rows[1] == ["forward", "native", "200.0", "3%", "300.0", "3.00", "50%", "2e-07"]
    assert rows[2] == ["maps", "torch", "600.0", "3%", "900.0", "1.00", "", ""]
    assert rows[3] == ["forward", "native", "200.0", "3%", "110.0", "", "", "2e-07"]
    assert rows[4] == ["4", "400,000", "84,000", "native", "200.0"]


def test_description():
    text = printed(
        print_description,
        {
            "kind": "bag",
            "size": {"points": 3, "none": {}},
            "minimum": [1.5, -2],
            "topics": [{"name": "/a", "type": "x [y]"}, {"name": "/b" * 60}],
            "empty": [],
        },
        width=40,
    )
    assert text.splitlines() == [
        "kind: bag",
        "size:",
        "  points: 3",
        "  none: {}",
        "minimum: 1.5, -2",
        "topics:",
        "  - name: /a",
        "    type: x [y]",
        "  - name: " + "/b" * 60,
        "empty: ",
    ]


@pytest.mark.parametrize("labels", ["semantickitti", "nuscenes"])
def test_the_swatch_is_the_palettes_colour(labels):
    space = LabelSpace.load(labels)
    counts = np.ones(len(space), np.int64)
    result = SegmentSummary(Path("in"), Path("out"), space, 1, len(space), counts, 0, {"total": 1.0})
    console = Console(file=io.StringIO(), width=160, force_terminal=True, color_system="truecolor")
    console.print(class_table(result))
    for name, color in zip(space.names, space.palette, strict=True):
        red, green, blue = color
        assert f"\x1b[38;2;{red};{green};{blue}m■\x1b[0m {name}" in console.file.getvalue()
