"""What the cameras of a frame see of its scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mdkt_ros.beams import beam_spacing
from mdkt_ros.camera import Projection, visible
from mdkt_ros.drive.frame import Frame, View

Mask = npt.NDArray[np.bool_]


class Sight(NamedTuple):
    """The points of a scan in one camera.

    Attributes:
        projection: where they fall in the image.
        visible: (N,) bool, in view and not hidden behind what the LiDAR looks past.
    """

    projection: Projection
    visible: Mask


def sights(frame: Frame, views: Sequence[View] | None = None) -> list[Sight]:
    """The points of the frame in each of its views, in their order; of some of them where `views` are given."""
    views = frame.views if views is None else views
    if not views:
        return []
    spacing, seen = beam_spacing(frame.points), []
    for view in views:
        projection = view.camera.project(frame.points)
        seen.append(Sight(projection, visible(projection, view.camera, beam_spacing=spacing)))
    return seen


def seen_by_cameras(frame: Frame) -> Mask:
    """Mask (N,) of the points that at least one camera of the frame sees."""
    seen = np.zeros(len(frame.points), dtype=np.bool_)
    for sight in sights(frame):
        seen |= sight.visible
    return seen


def shares(frame: Frame) -> tuple[float, float]:
    """Share of the frame's points that fall into at least one image, and share that a camera really sees; 0..1."""
    if not len(frame.points):
        return 0.0, 0.0
    found = sights(frame)
    masks = [[sight.projection.in_view for sight in found], [sight.visible for sight in found]]
    in_view, seen = (np.any(mask, axis=0).mean() if mask else 0.0 for mask in masks)
    return float(in_view), float(seen)
