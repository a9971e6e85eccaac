"""PCD files of any encoding as PCL writes them, and what a scan file is refused with."""

from __future__ import annotations

import struct
from pathlib import Path

import lzf
import numpy as np
import pytest

from mdkt_ros.errors import CloudError
from mdkt_ros.scan import read_scan

ENCODINGS = ["ascii", "binary", "binary_compressed"]
RNG = np.random.default_rng(0)
# A layout as PCL writes it: padding fields, a field of several values, integers of each size.
FIELDS = [("x", "f4", 1), ("y", "f4", 1), ("z", "f4", 1), ("_", "u1", 4), ("intensity", "f4", 1), ("normal", "f4", 3)]
FIELDS += [("_", "u1", 1), ("ring", "u2", 1), ("flag", "i1", 2), ("t", "f8", 1), ("id", "i4", 1), ("big", "u8", 1)]
XYZ = [("x", "f4", 1), ("y", "f4", 1), ("z", "f4", 1)]


def records(fields, n: int, rng: np.random.Generator = RNG) -> np.ndarray:
    dtype = np.dtype([(f"c{i}", code, (count,) if count > 1 else ()) for i, (_, code, count) in enumerate(fields)])
    points = np.zeros(n, dtype)
    for i, (_, code, count) in enumerate(fields):
        shape = (n, count) if count > 1 else n
        if code[0] == "f":
            points[f"c{i}"] = rng.normal(size=shape) * 50
        else:
            limits = np.iinfo(code)
            points[f"c{i}"] = rng.integers(limits.min, limits.max, shape, dtype=code)
    return points


def header(fields, width: int, encoding: str, height: int = 1, **lines: str) -> bytes:
    entries = {
        "VERSION": "0.7",
        "FIELDS": " ".join(name for name, _, _ in fields),
        "SIZE": " ".join(code[1] for _, code, _ in fields),
        "TYPE": " ".join(code[0].upper() for _, code, _ in fields),
        "COUNT": " ".join(str(count) for _, _, count in fields),
        "WIDTH": str(width),
        "HEIGHT": str(height),
        "VIEWPOINT": "0 0 0 1 0 0 0",
        "POINTS": str(width * height),
        "DATA": encoding,
        **lines,
    }
    text = "".join(f"{key} {value}\n" for key, value in entries.items() if value)
    return b"# .PCD v0.7 - Point Cloud Data file format\n" + text.encode()


def body(points: np.ndarray, encoding: str) -> bytes:
    """As pcl::PCDWriter writes it."""
    if encoding == "binary":
        return points.tobytes()
    if encoding == "ascii":
        rows = (" ".join(repr(v.item()) for c in p for v in np.atleast_1d(c)) for p in points)
        return "".join(row + "\n" for row in rows).encode()
    by_field = b"".join(points[name].tobytes() for name in points.dtype.names)
    compressed = lzf.compress(by_field, 2 * len(by_field) + 64)
    return struct.pack("<II", len(compressed), len(by_field)) + compressed


def pcd(fields, points: np.ndarray, encoding: str) -> bytes:
    return header(fields, len(points), encoding) + body(points, encoding)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def refused(path: Path, **options) -> str:
    with pytest.raises(CloudError) as raised:
        read_scan(path, **options)
    text = str(raised.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")
