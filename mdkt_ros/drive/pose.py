"""Rigid poses: quaternions (w, x, y, z) to 4x4 matrices and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def pose_from_quaternion(
    rotation: Sequence[float] | npt.NDArray[np.floating[Any]],
    translation: Sequence[float] | npt.NDArray[np.floating[Any]],
) -> npt.NDArray[np.float64]:
    """Pose (4, 4) of a quaternion (w, x, y, z), normalised here, and a translation (3,) in metres.

    Raises:
        ValueError: wrong sizes, a value that is not finite, or a quaternion of length zero.
    """
    q = np.asarray(rotation, dtype=np.float64)
    t = np.asarray(translation, dtype=np.float64)
    if q.shape != (4,) or t.shape != (3,) or not (np.isfinite(q).all() and np.isfinite(t).all()):
        raise ValueError("a pose needs a rotation of 4 and a translation of 3 finite numbers")
    length = float(np.linalg.norm(q))
    if length < 1e-9:
        raise ValueError("the rotation is a quaternion of length zero")
    w, x, y, z = q / length
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = t
    return pose


def quaternion_from_matrix(matrix: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Unit quaternion (w, x, y, z) with w >= 0 of the rotation in the upper left of `matrix` (3, 3) or (4, 4).

    Divides by the largest of the four components, so it is accurate for every angle (Shepperd 1978).
    """
    r = np.asarray(matrix, dtype=np.float64)[:3, :3]
    trace = float(np.trace(r))
    choice = int(np.argmax([trace, r[0, 0], r[1, 1], r[2, 2]]))
    q = np.empty(4)
    if choice == 0:
        q[:] = 1 + trace, r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    else:
        i = choice - 1
        j, k = (i + 1) % 3, (i + 2) % 3
        q[0] = r[k, j] - r[j, k]
        q[1 + i] = 1 + 2 * r[i, i] - trace
        q[1 + j] = r[i, j] + r[j, i]
        q[1 + k] = r[i, k] + r[k, i]
    q /= np.linalg.norm(q)
    return q if q[0] >= 0 else -q


def inverse(pose: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Inverse (4, 4) of a rigid pose (4, 4), by transposing its rotation."""
    result = np.eye(4)
    result[:3, :3] = pose[:3, :3].T
    result[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return result
