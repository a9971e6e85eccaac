"""Where the names of the classes stand in a 3D view."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_FIRST, _APART = (20.0, 29.0), (-2.0, -0.6)
"""Metres forward and to the left: of the first name, and from one to the next. Along the left edge of what
`config/segment.rviz` and `config/foxglove.json` show."""


def legend_places(names: int, axes: str) -> npt.NDArray[np.float64]:
    """(names, 3) metres in the LiDAR's frame: a column of text to the left of the vehicle, from its front to its back.

    Args:
        names: how many.
        axes: of the frame, `x_forward` or `y_forward`.
    """
    number = np.arange(names)[:, None]
    forward, left = (np.array(_FIRST) + number * np.array(_APART)).T
    x, y = (-left, forward) if axes == "y_forward" else (forward, left)
    return np.stack([x, y, np.zeros(names)], axis=1)
