"""Table and plots of the label efficiency experiment, from its rows alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.methods import METHODS, PARTS, Method
from bench.rows import Row
from mdkt_ros.errors import ConfigError
from mdkt_ros.output import atomic_output

FULL = "full_supervision"
_COLORS = {"labels_only": "#8a8f98", "ema": "#1f6feb", FULL: "#2f9e44"}


def select(rows: Sequence[Row], method: str, budget: float) -> list[Row]:
    """The rows of a method at a budget, by seed."""
    return sorted((r for r in rows if r["method"] == method and r["budget"] == budget), key=lambda r: int(r["seed"]))


def mean_and_spread(values: Sequence[float], *, digits: int = 1, sign: str = "") -> str:
    """`52.3 ± 0.8` of fractions in percent; the spread is the sample's standard deviation, left out of one value."""
    if not values:
        return "-"
    text = f"{100 * statistics.fmean(values):{sign}.{digits}f}"
    return f"{text} ± {100 * statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def _figures(rows: Sequence[Row], key: str) -> list[float]:
    return [float(row[key]) for row in rows if row[key] is not None]


def paired(rows: Sequence[Row], method: str, budget: float, other: str, other_budget: float) -> list[float]:
    """Differences in mIoU from the other method, one for each seed that both have: they share the label draw."""
    before = {row["seed"]: float(row["miou"]) for row in select(rows, other, other_budget)}
    own = select(rows, method, budget)
    return [float(row["miou"]) - before[row["seed"]] for row in own if row["seed"] in before]


def _line(rows: Sequence[Row], method: Method, budget: float, full: float) -> list[str]:
    own = select(rows, method.name, budget)
    mious = _figures(own, "miou")
    share = f"{100 * statistics.fmean(mious) / full:.1f}" if mious and full > 0 else "-"
    delta = mean_and_spread(paired(rows, method.name, budget, method.adds, budget), sign="+") if method.adds else ""
    return [
        method.title,
        f"{budget:g}",
        str(len(own)),
        mean_and_spread(mious),
        delta,
        share,
        mean_and_spread(_figures(own, "miou_in_view")),
        mean_and_spread(_figures(own, "miou_out_of_view")),
        f"{statistics.median(_figures(own, 'step_ms')):.0f}",
        f"{statistics.median(_figures(own, 'minutes')):.1f}",
    ]


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]], text: int) -> list[str]:
    """A table whose first `text` columns are words, the others figures."""
    rule = ["---" if i < text else "---:" for i in range(len(head))]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *lines)]


def markdown(rows: Sequence[Row], *, split: str) -> str:
    """The whole report."""
    full_rows = _figures(select(rows, FULL, 100.0), "miou")
    full = statistics.fmean(full_rows) if full_rows else 0.0
    head = ["method", "labels %", "seeds", "mIoU %", "to the row it adds to", "% of full supervision"]
    head += ["in view", "out of view", "step ms", "minutes"]
    main: list[list[str]] = []
    other: list[list[str]] = []
    for method in METHODS:
        for budget in sorted({float(r["budget"]) for r in rows if r["method"] == method.name}):
            (main if budget in (0.1, 100.0) else other).append(_line(rows, method, budget, full))
    out = [
        "# Label efficiency",
        "",
        f"mIoU over every labelled point of the {split} towns, which training never saw; mean ± standard deviation "
        "over the seeds, of weights and label draw alike. Differences are taken seed by seed. The last checkpoint, no "
        "test-time augmentation. Written by `python bench/label_efficiency.py --table`.",
        "",
        *_markdown(head, main, 1),
        "",
    ]
    if other:
        out += ["Other budgets:", "", *_markdown(head, other, 1), ""]
    gain = paired(rows, "ema", 0.1, "labels_only", 0.1)
    if gain:
        out += [f"The whole scheme over labels only at 0.1 %: {mean_and_spread(gain, sign='+')} mIoU.", ""]
    out += [*_by_class(rows), "", *_facts(rows)]
    return "\n".join(out).rstrip() + "\n"


def _by_class(rows: Sequence[Row]) -> list[str]:
    """IoU of each class, mean over the seeds, of the methods at 0.1 % and of full supervision."""
    shown = [(m, b) for m in METHODS for b in (0.1, 100.0) if select(rows, m.name, b)]
    if not shown:
        return []
    points: dict[str, int] = {}
    for row in rows:
        points |= row.get("support") or dict.fromkeys(row["iou"], 0)
    lines = []
    for name, support in points.items():
        cells = [name, f"{support:,}"]
        for method, budget in shown:
            values = [v for r in select(rows, method.name, budget) if (v := r["iou"].get(name)) is not None]
            cells.append(mean_and_spread(values).split(" ")[0])
        lines.append(cells)
    return ["IoU % by class:", "", *_markdown(["class", "points scored", *(m.title for m, _ in shown)], lines, 1)]


def _facts(rows: Sequence[Row]) -> list[str]:
    """What the rows say about where they come from; several answers stand side by side."""
    out = []
    for key, title in (
        ("image_text_model", "Image-text model"),
        ("image_weights", "Image network's first weights"),
        ("machine", "Machine"),
        ("engine", "Engine of the convolutions, where it is told"),
        ("date", "Date"),
    ):
        found = sorted({str(row[key]) for row in rows if row.get(key)})
        if key == "date" and len(found) > 1:
            found = [f"{found[0]} to {found[-1]}"]
        if found:
            out.append(f"- {title}: {'; '.join(found)}")
    for part in PARTS:
        versions = sorted({row["settings"][part] for row in rows if part in row["settings"]})
        if len(versions) > 1:
            out.append(
                f"- Not comparable: the rows come from {len(versions)} versions of the recipe's {part} "
                f"({', '.join(versions)})"
            )
    return out


def plot(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write `label_efficiency_methods.svg` and `..._budgets.svg`. Raises ConfigError without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("the plots need matplotlib: pip install 'mdkt_ros[bench]', or give --no-plots") from None
    # The same rows give the same file.
    matplotlib.use("svg")
    style: dict[Any, Any] = {
        "svg.hashsalt": "mdkt",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        return [
            _save(_methods_figure(rows), folder / "label_efficiency_methods.svg"),
            _save(_budgets_figure(rows), folder / "label_efficiency_budgets.svg"),
        ]


def _save(figure: Any, path: Path) -> Path:
    with atomic_output(path, force=True) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return path


def _methods_figure(rows: Sequence[Row]) -> Any:
    """A bar a method at 0.1 %, a dot a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.6))
    axes = figure.subplots()
    shown = [(m, b) for m in METHODS for b in (0.1, 100.0) if _figures(select(rows, m.name, b), "miou")]
    for place, (method, budget) in enumerate(shown):
        values = [100 * v for v in _figures(select(rows, method.name, budget), "miou")]
        axes.barh(place, statistics.fmean(values), color=_COLORS.get(method.name, "#9ec1f7"), height=0.65)
        axes.plot(values, [place] * len(values), "o", color="black", markersize=3)
    axes.set_yticks(range(len(shown)), [f"{m.title} ({b:g} %)" for m, b in shown])
    axes.invert_yaxis()
    axes.set_xlabel("mIoU %, every point of unseen towns; dots are seeds")
    return figure


def _budgets_figure(rows: Sequence[Row]) -> Any:
    """mIoU over the share of labelled points, with and without the scheme."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6))
    axes = figure.subplots()
    for name, title in (("labels_only", "labels only"), ("ema", "the whole scheme")):
        budgets = sorted({float(r["budget"]) for r in rows if r["method"] == name})
        values = [[100 * v for v in _figures(select(rows, name, b), "miou")] for b in budgets]
        means = [statistics.fmean(v) if v else math.nan for v in values]
        spread = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
        if budgets:
            axes.errorbar(budgets, means, yerr=spread, marker="o", capsize=3, color=_COLORS[name], label=title)
    full = _figures(select(rows, FULL, 100.0), "miou")
    if full:
        mean = 100 * statistics.fmean(full)
        axes.axhline(mean, color=_COLORS[FULL], linestyle="--", label="full supervision, labels only")
    axes.set_xscale("log")
    axes.set_xlabel("labelled points, %")
    axes.set_ylabel("mIoU %")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    return figure
