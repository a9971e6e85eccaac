"""The static parts of the report page, readable without WebGL: facts, per-class table, timings. All text is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

import numpy as np
import numpy.typing as npt

from mdkt_ros.labels import LabelSpace
from mdkt_ros.metrics import scores
from mdkt_ros.render.page_data import PageStatistics


def facts_html(facts: Iterable[tuple[str, str]]) -> str:
    """A description list of (term, text)."""
    rows = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(str(text))}</dd></div>" for term, text in facts)
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def classes_html(statistics: PageStatistics, confusion: npt.NDArray[np.int64] | None, note: str) -> str:
    """Section with a row a class: points, and IoU, precision, recall where truth and prediction are there.

    Args:
        statistics: of the page's frames.
        confusion: (C, C + 1) of the whole drive, to report instead of the page's frames; None takes the page's.
        note: what the figures were counted on.
    """
    labels = statistics.labels
    matrix = statistics.confusion if confusion is None else confusion
    scored = bool(matrix.sum())
    predicted = statistics.predicted if confusion is None else _padded(matrix.sum(0))
    true = statistics.true if confusion is None else _padded(matrix.sum(1))
    has_prediction = statistics.has_prediction or confusion is not None
    has_truth = statistics.has_truth or confusion is not None
    if not has_prediction and not has_truth:
        return '<section id="classes"><h2>Classes</h2><p class="note">These scans carry no labels.</p></section>'
    figures = scores(matrix)
    heads = ["Class"]
    heads += ["Predicted points"] if has_prediction else []
    heads += ["True points"] if has_truth else []
    heads += ["IoU", "Precision", "Recall"] if scored else []
    rows = []
    order = np.argsort(-(true + predicted)[: len(labels)], kind="stable")
    for c in (int(c) for c in order if true[c] or predicted[c]):
        cells = [f'<th scope="row"><i class="swatch c{c}"></i>{escape(labels.names[c])}</th>']
        cells += [f"<td>{predicted[c]:,}</td>"] if has_prediction else []
        cells += [f"<td>{true[c]:,}</td>"] if has_truth else []
        if scored:
            cells += [f'<td class="bar">{_meter(figures.iou[c], labels.names[c])}</td>']
            cells += [f"<td>{_percent(figures.precision[c])}</td>", f"<td>{_percent(figures.recall[c])}</td>"]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    rest = [
        f"<td>{int(column[len(labels) :].sum()):,}</td>"
        for column in _columns(has_prediction, predicted, has_truth, true)
    ]
    if statistics.predicted[len(labels) :].any() or statistics.true[len(labels) :].any():
        rows.append(
            '<tr><th scope="row"><i class="swatch c255"></i>not labelled</th>'
            + "".join(rest)
            + ("<td></td>" * 3 if scored else "")
            + "</tr>"
        )
    headline = (
        f'<p class="headline"><strong>{figures.miou * 100:.1f} %</strong> mIoU over the '
        f"{int((figures.support > 0).sum())} classes present <span>·</span> "
        f"<strong>{figures.accuracy * 100:.1f} %</strong> of points right</p>"
        if scored
        else ""
    )
    head = "".join(f'<th scope="col">{h}</th>' for h in heads)
    return (
        f'<section id="classes"><h2>Classes</h2>{headline}<p class="note">{escape(note)}</p><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _columns(
    has_prediction: bool, predicted: npt.NDArray[np.int64], has_truth: bool, true: npt.NDArray[np.int64]
) -> list[npt.NDArray[np.int64]]:
    return ([predicted] if has_prediction else []) + ([true] if has_truth else [])


def _padded(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    padded = np.zeros(256, dtype=np.int64)
    padded[: len(counts)] = counts
    return padded


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value * 100:.1f} %"


def _meter(value: float, name: str) -> str:
    if math.isnan(value):
        return "–"
    return f'<meter min="0" max="1" value="{value:.4f}" aria-label="IoU of {escape(name)}"></meter>{_percent(value)}'


def timings_html(timings: dict[str, list[float]]) -> str:
    """Section with a row a stage: median and, of several scans, the longest; empty text without timings."""
    if not timings:
        return ""
    several = any(len(values) > 1 for values in timings.values())
    rows = "".join(
        f'<tr><th scope="row">{escape(stage)}</th><td>{float(np.median(values)):.1f} ms</td>'
        + (f"<td>{max(values):.1f} ms</td>" if several else "")
        + "</tr>"
        for stage, values in timings.items()
    )
    longest = '<th scope="col">Longest</th>' if several else ""
    return (
        '<section id="timings"><h2>Time a scan</h2><div class="scroll"><table><thead><tr><th scope="col">Stage</th>'
        f'<th scope="col">Median</th>{longest}</tr></thead><tbody>{rows}</tbody></table></div></section>'
    )


def palette_css(labels: LabelSpace, palette: npt.NDArray[np.uint8]) -> str:
    """One CSS class a label id, since the page's content security policy forbids style attributes."""
    ids = [*range(len(labels)), 255]
    return "".join(f".c{c}{{--c:rgb({palette[c][0]},{palette[c][1]},{palette[c][2]})}}" for c in ids)
