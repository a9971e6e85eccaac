"""Some frames of a drive, by position."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from mdkt_ros.errors import DriveError

Frames = Sequence[int] | str | None
"""Positions to keep (a range, a list), text as `0-20` or `0-20,25` with both ends included, or None for all."""

T = TypeVar("T")


def select(items: list[T], frames: Frames, source: str) -> list[T]:
    """The items at the positions `frames`, in that order. Raises DriveError: a position that is not there."""
    if frames is None:
        return items
    spans = _spans(frames, source) if isinstance(frames, str) else [(i, i) for i in frames]
    if not spans:
        raise DriveError(f"{source}: the selection of frames is empty")
    for first, last in spans:
        if not 0 <= first <= last < len(items):
            asked = str(first) if first == last else f"{first}-{last}"
            raise DriveError(f"{source}: frames {asked} asked for, there are {len(items)} (0 to {len(items) - 1})")
    return [items[i] for first, last in spans for i in range(first, last + 1)]


def _spans(text: str, source: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part)
        if match is None:
            raise DriveError(f"{source}: frames {text!r} is not like 0-20 or 0-20,25")
        spans.append((int(match[1]), int(match[2] or match[1])))
    return spans
