"""Small frames for the report page's tests."""

from __future__ import annotations

import numpy as np

from mdkt_ros.camera import Camera
from mdkt_ros.labels import LabelSpace
from mdkt_ros.render.page import PageFrame

LABELS = LabelSpace.load("semantickitti")
CAR, ROAD, BUILDING, SIDEWALK = (LABELS.index(n) for n in ("car", "road", "building", "sidewalk"))
OPTICAL_FROM_KITTI = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=float)
EVIL = "<script>document.title='pwned'</script>\"'><img src=x onerror=\"document.title='pwned'\">&amp;</script>"


def wall(x, y, half=3.0, step=0.11):
    """Points of an upright square that faces the vehicle."""
    axis = np.arange(-half, half, step)
    left, up = (values.ravel() for values in np.meshgrid(axis, axis))
    return np.column_stack([np.full(len(left), x), left + y, up]).astype(np.float32)


def camera(width=320, height=160):
    matrix = np.array([[160, 0, width / 2], [0, 160, height / 2], [0, 0, 1]], dtype=float)
    return Camera("front", width, height, matrix, OPTICAL_FROM_KITTI)


def make_frame(name="first", classes=(CAR, ROAD), stamp=0, **changes):
    """Two upright squares ahead of the vehicle, left and right, with a grey image."""
    points = np.concatenate([wall(10, 4), wall(10, -4)])
    half = len(points) // 2
    prediction = np.repeat(np.array(classes, np.uint8), half)
    truth = prediction.copy()
    truth[:100] = BUILDING
    truth[100:110] = 255
    columns = {
        "class_id": prediction,
        "truth": truth,
        "probability": np.linspace(0, 1, len(points), dtype=np.float32),
        "intensity": np.linspace(0, 200, len(points), dtype=np.float32),
        "images": [("front", np.full((160, 320, 3), 128, np.uint8), camera())],
        "timings": {"preprocess": 10.0, "inference": 90.0},
    }
    return PageFrame(name, stamp, points, **{**columns, **changes})
