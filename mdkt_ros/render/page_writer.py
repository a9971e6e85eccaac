"""The report page: one HTML file with clouds in 3D, their images and the table, that opens from disk."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.frame import Axes
from mdkt_ros.errors import ConfigError, DriveError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.output import atomic_output
from mdkt_ros.render.page_data import PageFrame, PageStatistics, pack_frame
from mdkt_ros.render.page_tables import classes_html, facts_html, palette_css, timings_html
from mdkt_ros.render.style import display_palette

__all__ = ["PageFrame", "write_page"]

_FOLDER = Path(__file__).resolve().parent
_SCRIPTS = ("data.js", "camera.js", "renderer.js", "images.js", "legend.js", "viewer.js")
POINT_LIMIT = 60_000
"""Points of a frame on a page; with one image a frame, 20 frames of 120 k points make about 21 MB."""


def write_page(
    out: str | os.PathLike[str],
    frames: Iterable[PageFrame],
    *,
    title: str,
    labels: LabelSpace,
    axes: Axes = "x_forward",
    facts: Sequence[tuple[str, str]] = (),
    confusion: npt.NDArray[np.int64] | None = None,
    timings: Mapping[str, Sequence[float]] | None = None,
    note: str | None = None,
    remarks: Sequence[str] = (),
    point_limit: int = POINT_LIMIT,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PageStatistics:
    """Write a self-contained HTML page of labelled scans. Frames are packed as they come, one in memory at a time.

    Args:
        out: the HTML file.
        frames: at least one. Points over `point_limit` are thinned evenly in space, for the picture alone: every count
            and figure is of all points.
        title: heading of the page; any text.
        labels: names, palette and groups of the class ids.
        axes: axis convention of the points.
        facts: (term, text) shown under the heading: checkpoint, device, drive, ...
        confusion: (C, C + 1) int64 of the whole drive for the table, where the page shows a part of it.
        timings: stage -> milliseconds of each scan; None takes the frames' own.
        note: what the table's figures were counted on; None says the frames of this page.
        remarks: sentences for the foot of the page; read when the frames are through, so that they can add to it.
        point_limit: points of a frame that are drawn, at least 1.
        force: replace an existing `out`.
        progress: called with (done, total), total 0 where the number of frames is not known beforehand.

    Returns:
        The counts that the page's table shows.

    Raises:
        OutputError: `out` exists and `force` is false, or cannot be written.
        DriveError: no frame. ConfigError: `point_limit` is out of range. CameraError, LabelError: a frame does not fit.
    """
    if point_limit < 1:
        raise ConfigError(f"point_limit is {point_limit}: needs at least one point a frame")
    total = len(frames) if isinstance(frames, Sequence) else 0
    statistics = PageStatistics(labels)
    script = _script()
    palette = display_palette(labels)
    css = (_FOLDER / "style.css").read_text(encoding="utf-8") + palette_css(labels, palette)
    page = Template((_FOLDER / "page.html").read_text(encoding="utf-8"))
    start, middle, end = page.template.split("<!-- split -->")
    policy = f"default-src 'none'; img-src data:; style-src {_hash(css)}; script-src {_hash(script)}; base-uri 'none'"
    with (
        atomic_output(out, force=force) as temporary,
        temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as file,
    ):
        head = {"title": escape(title), "policy": policy, "style": css, "facts": facts_html(facts)}
        file.write(Template(start).substitute(head))
        for done, frame in enumerate(frames, 1):
            many = len(frame.images) > 2
            packed = pack_frame(frame, axes=axes, limit=point_limit, image_width=800 if many else 1242)
            statistics.add(frame)
            statistics.shown += packed["n"]
            file.write(_frame_html(packed))
            if progress is not None:
                progress(done, max(total, done) if total else 0)
        if not statistics.frames:
            raise DriveError(f"{os.fspath(out)}: there is no scan to show")
        counted = note or f"Counted over every point of {_these(statistics.frames)}."
        stages = {s: list(v) for s, v in timings.items()} if timings is not None else statistics.timings
        file.write(
            Template(middle).substitute(
                classes=classes_html(statistics, confusion, counted),
                timings=timings_html(stages),
                reduced=escape(" ".join([_reduced(statistics), *remarks])),
                meta=_json(_meta(labels, palette)),
            )
        )
        file.write(f"<script>{script}</script>{end}")
    return statistics


def _frame_html(packed: dict[str, Any]) -> str:
    counts = escape(_json(_either(packed)))
    return f'<script type="application/json" class="frame" data-counts="{counts}">{_json(packed)}</script>\n'


def _script() -> str:
    parts = [(_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "\n})();\n"


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _json(value: Any) -> str:
    """JSON that cannot close its script element nor open a comment in it, whatever the text inside."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")


def _either(packed: dict[str, Any]) -> dict[str, int]:
    """Points by class id in the prediction and the truth together: what the legend lists before a frame is decoded."""
    both: dict[str, int] = {}
    for counts in (packed.get("predictionCounts", {}), packed.get("truthCounts", {})):
        for class_id, count in counts.items():
            both[class_id] = both.get(class_id, 0) + count
    return both


def _meta(labels: LabelSpace, palette: npt.NDArray[np.uint8]) -> dict[str, Any]:
    groups = {name: [labels.names.index(member) for member in members] for name, members in labels.groups.items()}
    return {"names": list(labels.names), "palette": palette.tolist(), "groups": groups}


def _these(count: int) -> str:
    return "this scan" if count == 1 else f"the {count} scans on this page"


def _frames(count: int) -> str:
    return f"{count} scan" + ("s" if count != 1 else "")


def _reduced(statistics: PageStatistics) -> str:
    if statistics.shown == statistics.points:
        return f"{_frames(statistics.frames)}, all {statistics.points:,} points shown."
    return (
        f"{_frames(statistics.frames)}; {statistics.shown:,} of {statistics.points:,} points drawn, "
        "thinned where they are densest. Figures are of all points."
    )
