"""PCD files through pypcd4, with the header checked first: a header's claims are held against the bytes that follow it.

Format: https://pointclouds.org/documentation/tutorials/pcd_file_format.html
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pypcd4.pypcd4 import Encoding, PointCloud

from mdkt_ros.errors import CloudError
from mdkt_ros.output import atomic_output
from mdkt_ros.pointcloud2 import PADDING_NAMES

_MAX_HEADER = 64 * 1024
_MAX_POINT = 16 * 1024
"""Bytes a point: the longest feature histograms of PCL take a third of it."""
_LZF_MAX_RATIO = 88
"""LZF's longest back reference: 3 bytes that become 264."""

_TYPES = {("F", 4), ("F", 8), *((kind, size) for kind in "UI" for size in (1, 2, 4, 8))}


@dataclass(frozen=True)
class PcdHeader:
    """A header that makes sense, and where the data begin.

    Attributes:
        names, types, counts: of each field, padding included; types are numpy codes (`f4`, `u1`, ...).
        width, height: points are width * height.
        encoding: `ascii`, `binary` or `binary_compressed`.
        data_offset: byte at which the data begin.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    counts: tuple[int, ...]
    width: int
    height: int
    encoding: str
    data_offset: int

    @property
    def points(self) -> int:
        """Number of points."""
        return self.width * self.height

    @property
    def point_bytes(self) -> int:
        """Bytes of one point in the binary encodings."""
        return sum(np.dtype(t).itemsize * c for t, c in zip(self.types, self.counts, strict=True))


def _header_lines(content: bytes, source: str) -> tuple[dict[str, list[str]], int]:
    entries: dict[str, list[str]] = {}
    offset = 0
    while offset < min(len(content), _MAX_HEADER):
        end = content.find(b"\n", offset, offset + _MAX_HEADER)
        line, offset = (content[offset:], len(content)) if end < 0 else (content[offset:end], end + 1)
        if len(line) > _MAX_HEADER:
            break
        try:
            words = line.decode("utf-8").split()
        except UnicodeDecodeError:
            break
        if not words or words[0].startswith("#"):
            continue
        key = {"COLUMNS": "FIELDS"}.get(words[0].upper(), words[0].upper())
        entries[key] = words[1:]
        if key == "DATA":
            return entries, offset
    raise CloudError(f"{source}: not a PCD file: no DATA line in its header")


def read_header(content: bytes, source: str) -> PcdHeader:
    """Parse and check the header of a PCD file's content; `source` names the file in errors.

    Raises:
        CloudError: what is missing, malformed, or claims more than the bytes that follow can hold.
    """
    entries, offset = _header_lines(content, source)

    def words(key: str) -> list[str]:
        if not entries.get(key):
            raise CloudError(f"{source}: PCD header has no {key}; it has {', '.join(entries)}")
        return entries[key]

    def integers(key: str) -> list[int]:
        for word in words(key):
            if not re.fullmatch(r"[0-9]{1,18}", word):
                raise CloudError(f"{source}: PCD header: {key} {word[:40]!r} is not a count")
        return [int(word) for word in entries[key]]

    names = tuple(words("FIELDS"))
    sizes, kinds = integers("SIZE"), [kind.upper() for kind in words("TYPE")]
    counts = integers("COUNT") if "COUNT" in entries else [1] * len(names)
    for key, values in (("SIZE", sizes), ("TYPE", kinds), ("COUNT", counts)):
        if len(values) != len(names):
            raise CloudError(f"{source}: PCD header: {len(names)} FIELDS, but {len(values)} values of {key}")
    for name, kind, size, count in zip(names, kinds, sizes, counts, strict=True):
        if (kind, size) not in _TYPES:
            raise CloudError(f"{source}: PCD field {name!r}: TYPE {kind[:40]} of SIZE {size} is not known")
        if count < 1 or size * count > _MAX_POINT:
            raise CloudError(f"{source}: PCD field {name!r}: COUNT is {count}")
    repeated = [name for name, times in Counter(names).items() if times > 1 and name not in PADDING_NAMES]
    if repeated:
        raise CloudError(f"{source}: PCD field {repeated[0]!r} occurs twice; fields present: {', '.join(names)}")
    encoding = words("DATA")[0].lower()
    if encoding not in ("ascii", "binary", "binary_compressed"):
        raise CloudError(f"{source}: PCD DATA {encoding[:40]!r} is not ascii, binary or binary_compressed")
    height = integers("HEIGHT")[0] if "HEIGHT" in entries else 1
    width = integers("WIDTH")[0] if "WIDTH" in entries else integers("POINTS")[0] // max(height, 1)
    if "POINTS" in entries and integers("POINTS")[0] != width * height:
        raise CloudError(f"{source}: PCD header: POINTS {entries['POINTS'][0]} is not WIDTH {width} * HEIGHT {height}")
    types = tuple(f"{kind.lower()}{size}" for kind, size in zip(kinds, sizes, strict=True))
    header = PcdHeader(names, types, tuple(counts), width, height, encoding, offset)
    _check_size(header, content, source)
    return header


def _check_size(header: PcdHeader, content: bytes, source: str) -> None:
    """Raise CloudError unless the data after the header can hold the points that it claims."""
    available = len(content) - header.data_offset
    if header.point_bytes > _MAX_POINT:
        raise CloudError(f"{source}: PCD header: a point of {header.point_bytes} bytes is more than {_MAX_POINT}")
    needed = header.points * header.point_bytes
    claim = f"{source}: PCD header claims {header.points} points"
    if header.encoding == "ascii":
        needed = header.points * sum(header.counts) * 2 - 1  # a digit and a separator each
        if header.points and available < needed:
            raise CloudError(f"{claim}, at least {needed} bytes of text; {available} follow")
    elif header.encoding == "binary":
        if available < needed:
            raise CloudError(f"{claim} of {header.point_bytes} bytes, {needed} in all; {available} follow")
    elif header.points:
        if available < 8:
            raise CloudError(f"{source}: PCD data are truncated: {available} bytes follow the header")
        compressed, uncompressed = struct.unpack_from("<II", content, header.data_offset)
        if compressed > available - 8:
            raise CloudError(
                f"{source}: PCD data are truncated: {compressed} compressed bytes stated, {available - 8} follow"
            )
        if uncompressed != needed:
            raise CloudError(f"{claim} of {header.point_bytes} bytes, {needed} in all; its data state {uncompressed}")
        if uncompressed > compressed * _LZF_MAX_RATIO:
            raise CloudError(f"{source}: PCD data: {compressed} bytes cannot hold {uncompressed} compressed ones")


def _decode_types(header: PcdHeader) -> list[str]:
    """A type for every single value. Text goes through float64, since some write `3.0` into integer fields."""
    expanded = [t for t, count in zip(header.types, header.counts, strict=True) for _ in range(count)]
    if header.encoding != "ascii":
        return expanded
    return [t if t in ("u8", "i8") else "f8" for t in expanded]


def _decode(header: PcdHeader, content: bytes, source: str) -> npt.NDArray[np.void]:
    """Structured array (points,) with fields c0, c1, ..., decoded by pypcd4 under a header rewritten in its dialect."""
    types = _decode_types(header)
    lines = [
        "VERSION 0.7",
        "FIELDS " + " ".join(f"c{i}" for i in range(len(types))),
        "SIZE " + " ".join(t[1] for t in types),
        "TYPE " + " ".join(t[0].upper() for t in types),
        "COUNT " + " ".join("1" for _ in types),
        f"WIDTH {header.points}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {header.points}\nDATA {header.encoding}\n",
    ]
    data = content[header.data_offset :]
    if header.encoding == "ascii":
        rows = [b" ".join(row.split()) for row in data.split(b"\n")]
        rows = [row for row in rows if row]
        if len(rows) != header.points:
            raise CloudError(f"{source}: PCD header claims {header.points} points, {len(rows)} lines of data follow")
        data = b"\n".join(rows)
    try:
        with warnings.catch_warnings():
            # Older NumPy warns about 3.0 as the text of a 64-bit integer and reads 3, newer refuses it.
            warnings.simplefilter("ignore", DeprecationWarning)
            stream: Any = io.BufferedReader(io.BytesIO("\n".join(lines).encode() + data))
            decoded = PointCloud.from_fileobj(stream).pc_data
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CloudError(f"{source}: PCD data cannot be read as {header.encoding}: {reason}") from error
    decoded = np.atleast_1d(decoded)
    if len(decoded) != header.points:
        raise CloudError(f"{source}: PCD header claims {header.points} points, its data hold {len(decoded)}")
    return decoded


def _cast(values: npt.NDArray[Any], code: str, name: str, source: str) -> npt.NDArray[Any]:
    dtype = np.dtype(code)
    if values.dtype == dtype:
        return values
    if dtype.kind in "ui":
        limits = np.iinfo(dtype)
        if not ((values >= limits.min) & (values <= limits.max)).all():
            raise CloudError(f"{source}: PCD field {name!r} of type {dtype} holds a value that is no such number")
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def read_pcd(path: Path) -> tuple[dict[str, npt.NDArray[Any]], int, int]:
    """Read a PCD file (ascii, binary, binary_compressed).

    Returns:
        Columns by field name, (N,) or (N, count), without padding fields (`_`); height; width.

    Raises:
        CloudError: the file cannot be read, or its header or data are malformed; the message names the file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CloudError(f"{path}: {error.strerror}") from error
    header = read_header(content, str(path))
    decoded = _decode(header, content, str(path))
    columns: dict[str, npt.NDArray[Any]] = {}
    start = 0
    for name, code, count in zip(header.names, header.types, header.counts, strict=True):
        values = [decoded[f"c{i}"] for i in range(start, start + count)]
        start += count
        if name in PADDING_NAMES:
            continue
        if count == 1:
            merged = values[0]
        elif header.encoding == "binary_compressed":
            # Compressed data are ordered by field, and within a field by point (pcl::PCDWriter), not by value.
            merged = np.concatenate(values).reshape(header.points, count)
        else:
            merged = np.stack(values, axis=1)
        columns[name] = _cast(merged, code, name, str(path))
    return columns, header.height, header.width


def write_pcd(path: Path, columns: Mapping[str, npt.NDArray[Any]], *, force: bool = False) -> None:
    """Write columns (N,) as a binary PCD file, in order.

    Raises:
        CloudError: columns of different lengths or of a type that PCD lacks.
        OutputError: `path` exists and `force` is false, or it cannot be written.
    """
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise CloudError(f"{path}: columns of different lengths: {lengths}")
    for name, values in columns.items():
        if values.ndim != 1 or (values.dtype.kind.upper(), values.dtype.itemsize) not in _TYPES:
            raise CloudError(f"{path}: column {name!r} of {values.dtype} {values.shape} fits no PCD field")
    cloud = PointCloud.from_points(list(columns.values()), list(columns), [v.dtype for v in columns.values()])
    with atomic_output(path, force=force) as temporary:
        cloud.save(temporary, encoding=Encoding.BINARY)
