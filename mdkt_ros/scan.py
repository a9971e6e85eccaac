"""One scan a file: KITTI `.bin`, nuScenes `.pcd.bin`, `.pcd`; and the label files that belong to them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mdkt_ros.cloud import Cloud, pack_rgb
from mdkt_ros.errors import CloudError, LabelError
from mdkt_ros.pcd import read_pcd, write_pcd

_BIN_COLUMNS = {4: ("x", "y", "z", "intensity"), 5: ("x", "y", "z", "intensity", "ring")}
_LAYOUT = {4: "x y z intensity, as KITTI has it", 5: "x y z intensity ring, as nuScenes has it"}


def _read_bytes(path: Path, error_class: type[CloudError] | type[LabelError]) -> npt.NDArray[np.uint8]:
    # Reading a pipe or a device would wait for ever.
    if path.exists() and not path.is_file():
        raise error_class(f"{path}: not a file")
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise error_class(f"{path}: {error.strerror or error}") from error


def _read_bin(path: Path, columns: int) -> Cloud:
    data = _read_bytes(path, CloudError)
    size = 4 * columns
    if len(data) % size:
        other = 9 - columns
        hint = f"; it would fit {other} columns ({_LAYOUT[other]})" if len(data) % (4 * other) == 0 else ""
        whole = len(data) // size
        raise CloudError(
            f"{path}: {len(data)} bytes are not a whole number of points of {columns} float32 ({_LAYOUT[columns]}): "
            f"{whole} points are {whole * size} bytes; truncated?{hint}"
        )
    values = data.view("<f4").reshape(-1, columns)
    named = {name: values[:, i] for i, name in enumerate(_BIN_COLUMNS[columns])}
    return Cloud(named, 1, len(values), is_dense=False, source=str(path))


def read_scan(path: str | os.PathLike[str], *, columns: int | None = None) -> Cloud:
    """Read a scan file.

    Args:
        path: `.bin`: float32 x y z intensity (KITTI); `.pcd.bin`: float32 x y z intensity ring (nuScenes);
            `.pcd`: ascii, binary or binary_compressed.
        columns: 4 or 5 values a point of a `.bin`, where the name does not tell.

    Returns:
        Cloud without a message layout; points may be NaN (`is_dense` is false).

    Raises:
        CloudError: the file is missing, of another kind, truncated or malformed; the message names it.
    """
    path = Path(path)
    name = path.name.lower()
    if columns is not None and columns not in _BIN_COLUMNS:
        raise CloudError(f"{path}: {columns} columns; a .bin has 4 ({_LAYOUT[4]}) or 5 ({_LAYOUT[5]})")
    if name.endswith(".bin"):
        return _read_bin(path, columns or (5 if name.endswith(".pcd.bin") else 4))
    if name.endswith(".pcd"):
        if path.exists() and not path.is_file():
            raise CloudError(f"{path}: not a file")
        values, height, width = read_pcd(path)
        return Cloud(values, height, width, is_dense=False, source=str(path))
    raise CloudError(f"{path}: not a scan file; known are .bin (KITTI), .pcd.bin (nuScenes) and .pcd")


def read_labels(path: str | os.PathLike[str], points: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Read a label file, one unsigned integer a point.

    Args:
        path: SemanticKITTI `.label` (uint32: low 16 bits raw class, high 16 instance) or lidarseg `.bin` (uint8).
        points: N of the scan that the labels belong to.
        dtype: `np.uint32` or `np.uint8`; little-endian in the file.

    Returns:
        (N,) of `dtype`, raw ids as in the file.

    Raises:
        LabelError: the file is missing, truncated, or has another number of labels than the scan has points.
    """
    path = Path(path)
    data = _read_bytes(path, LabelError)
    native = np.dtype(dtype)
    if len(data) != points * native.itemsize:
        if len(data) % native.itemsize:
            raise LabelError(
                f"{path}: {len(data)} bytes are not a whole number of {native} labels; "
                f"{points} points need {points * native.itemsize} bytes; truncated?"
            )
        raise LabelError(f"{path}: {len(data) // native.itemsize} {native} labels, but the scan has {points} points")
    return data.view(native.newbyteorder("<")).astype(native, copy=False)


def write_scan(
    path: str | os.PathLike[str],
    cloud: Cloud,
    class_id: npt.NDArray[np.uint8],
    probability: npt.NDArray[np.float32],
    entropy: npt.NDArray[np.float32],
    colors: npt.NDArray[np.uint8],
    *,
    more: Mapping[str, npt.NDArray[np.float32]] | None = None,
    force: bool = False,
) -> None:
    """Write a labelled scan as a binary `.pcd`: x y z [intensity] f32, class_id u8, probability, entropy f32, rgb f32.

    Args:
        path: ends in `.pcd`.
        cloud: the scan; order and number of its points are kept.
        class_id, probability, entropy: (N,) uint8, float32, float32.
        colors: (N, 3) uint8 RGB, packed as PCL does (0x00RRGGBB in a float32's bits).
        more: further fields (N,) float32 by name, after these.
        force: replace an existing file.

    Raises:
        CloudError: the name does not end in `.pcd`, or an array is not N long.
        OutputError: `path` exists and `force` is false, or it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".pcd":
        raise CloudError(f"{path}: labelled scans are written as .pcd")
    points, intensity = cloud.xyz(), cloud.intensity()
    columns: dict[str, npt.NDArray[Any]] = {axis: points[:, i] for i, axis in enumerate("xyz")}
    if intensity is not None:
        columns["intensity"] = intensity
    columns["class_id"] = np.asarray(class_id, dtype=np.uint8)
    columns["probability"] = np.asarray(probability, dtype=np.float32)
    columns["entropy"] = np.asarray(entropy, dtype=np.float32)
    columns["rgb"] = pack_rgb(colors)
    columns.update({name: np.asarray(values, dtype=np.float32) for name, values in (more or {}).items()})
    write_pcd(path, columns, force=force)
