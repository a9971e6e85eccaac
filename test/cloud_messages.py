"""PointCloud2 messages of any layout, without ROS."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import numpy as np
from hypothesis import strategies as st

from mdkt_ros.cloud import Cloud, PointField, parse_pointcloud2

FORMATS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 8: "d"}
XYZ = [PointField("x", 0, 7), PointField("y", 4, 7), PointField("z", 8, 7)]
VALUES = np.arange(12, dtype=np.float32).reshape(4, 3)


def message(fields=XYZ, data=b"", **changes):
    """A message of one row, with tight rows, changed."""
    step = changes.get("point_step", 12)
    width = changes["width"] if "width" in changes else len(data) // step
    values = {"height": 1, "width": width, "fields": list(fields), "is_bigendian": False, "point_step": step}
    return SimpleNamespace(**{**values, "row_step": step * width, "data": data, "is_dense": True, **changes})


def bits(values) -> bytes:
    return np.ascontiguousarray(values).tobytes()


@st.composite
def messages(draw):
    """Valid messages: any order, types, counts, gaps, overlaps, row padding, height and byte order."""
    names = draw(
        st.lists(st.text(max_size=4).filter(lambda n: n not in ("", "_")), min_size=1, max_size=6, unique=True)
    )
    fields, end = [], 0
    for name in names:
        datatype, count = draw(st.integers(1, 8)), draw(st.integers(1, 3))
        offset = draw(st.integers(0, 24))
        fields.append(PointField(name, offset, datatype, count))
        end = max(end, offset + count * struct.calcsize("<" + FORMATS[datatype]))
    step = end + draw(st.integers(0, 9))
    height, width = draw(st.integers(0, 4)), draw(st.integers(0, 6))
    row_step = step * width + draw(st.integers(0, 9))
    data = draw(st.binary(min_size=row_step * height, max_size=row_step * height + 3))
    big = draw(st.booleans())
    return message(
        fields, data, height=height, width=width, point_step=step, row_step=row_step, is_bigendian=big, is_dense=False
    )


def organised() -> Cloud:
    """2 x 3, big-endian, padded rows, double coordinates, with fields of its own; one is called as an output."""
    rng = np.random.default_rng(1)
    dtype = np.dtype(
        {
            "names": ["ring", "z", "x", "y", "normal", "Probability", "entropy"],
            "formats": [">u2", ">f8", ">f8", ">f8", (">f4", 2), ">f4", ">f8"],
            "offsets": [1, 8, 16, 24, 32, 44, 48],
            "itemsize": 60,
        }
    )
    points = np.frombuffer(rng.integers(0, 60, (2, 3, 60), dtype=np.uint8).tobytes(), dtype).reshape(2, 3).copy()
    for name in ("x", "y", "z"):
        points[name] = rng.normal(size=(2, 3))
    rows = np.concatenate([points.view(np.uint8).reshape(2, 180), np.full((2, 7), 255, np.uint8)], axis=1)
    kinds = {"f8": 8, "f4": 7, "u2": 4}
    fields = [
        PointField(n, dtype.fields[n][1], kinds[dtype[n].base.str[1:]], 2 if n == "normal" else 1) for n in dtype.names
    ]
    return parse_pointcloud2(
        message(
            fields, rows.tobytes(), height=2, width=3, point_step=60, row_step=187, is_bigendian=True, is_dense=False
        )
    )
