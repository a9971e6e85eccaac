"""What a caller gives as points, as the arrays that the rest expects."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mdkt_ros.errors import CloudError


def check_points(
    points: npt.ArrayLike, intensity: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Points (N, 3) and intensity (N,) or None as float32 arrays, not copied where they are that already.

    Raises:
        CloudError: another shape, another length, or values that are not real numbers.
    """
    xyz = _as_float32(points, "points")
    if xyz.ndim != 2 or xyz.shape[1] != 3:
        raise CloudError(f"points: shape {xyz.shape} is not (N, 3), x y z in metres")
    if intensity is None:
        return xyz, None
    values = _as_float32(intensity, "intensity")
    if values.shape != (len(xyz),):
        raise CloudError(f"intensity: shape {values.shape} is not ({len(xyz)},), one value per point")
    return xyz, values


def _as_float32(values: npt.ArrayLike, name: str) -> npt.NDArray[np.float32]:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise CloudError(f"{name}: not an array of numbers: {error}") from error
    if array.dtype.kind not in "fiub":
        raise CloudError(f"{name}: dtype {array.dtype} is not a real number type; float32 is expected")
    with np.errstate(over="ignore"):  # 1e300 becomes infinite, which is out of range like any other far point
        return array.astype(np.float32, copy=False)
