"""The wire format of `sensor_msgs/PointCloud2`: checked layout and bytes, and columns to bytes.

Nothing here needs ROS: a message is any object with PointCloud2's attributes, be it of rclpy, of `rosbags`, or a
`CloudMessage` of this module. Most users want `mdkt_ros.cloud`.
"""

from __future__ import annotations

import array
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mdkt_ros.errors import CloudError

DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_CODES = {np.dtype(code): datatype for datatype, code in DATATYPES.items()}
_UINT32_MAX = 2**32 - 1
PADDING_NAMES = ("", "_")
"""What PCL calls the gaps of a structure: any number of fields may have these names, and none of them is a column."""


@dataclass(frozen=True)
class PointField:
    """One entry of a point's layout, with the attributes of `sensor_msgs/PointField`."""

    name: str
    offset: int
    datatype: int
    count: int = 1


@dataclass(frozen=True, eq=False)
class CloudMessage:
    """All of a `sensor_msgs/PointCloud2` but its header; `parse_pointcloud2` reads it like a message.

    Attributes:
        data: (row_step * height,) uint8.
    """

    height: int
    width: int
    fields: tuple[PointField, ...]
    is_bigendian: bool
    point_step: int
    row_step: int
    data: npt.NDArray[np.uint8]
    is_dense: bool

    def data_array(self) -> array.array[int]:
        """`data` as `array.array("B")`, the only form that rclpy takes without a check of every byte.

        The memory of `data` itself where it is one already.
        """
        owner: Any = self.data
        while isinstance(owner, np.ndarray):
            owner = owner.base
        if isinstance(owner, memoryview) and isinstance(owner.obj, array.array):
            whole = owner.obj.buffer_info() == (self.data.ctypes.data, self.data.size)
            if whole and self.data.flags.c_contiguous:
                return owner.obj
        values = array.array("B")
        values.frombytes(self.data.data)
        return values

    def to_message(
        self, point_cloud2: Callable[..., Any], point_field: Callable[..., Any], header: Any, *, rclpy: bool = False
    ) -> Any:
        """The message, made with the classes PointCloud2 and PointField of rclpy (`rclpy=True`) or of `rosbags`."""
        return point_cloud2(
            header=header,
            height=self.height,
            width=self.width,
            fields=[point_field(name=f.name, offset=f.offset, datatype=f.datatype, count=f.count) for f in self.fields],
            is_bigendian=self.is_bigendian,
            point_step=self.point_step,
            row_step=self.row_step,
            data=self.data_array() if rclpy else self.data,
            is_dense=self.is_dense,
        )


def publishable(size: int) -> npt.NDArray[np.uint8]:
    """`size` zeros in memory that rclpy publishes without a copy."""
    return np.frombuffer(array.array("B", bytes(1)) * size, dtype=np.uint8)


def read_attribute(message: Any, name: str) -> Any:
    """An attribute that every PointCloud2 has. Raises CloudError that names it."""
    try:
        return getattr(message, name)
    except AttributeError:
        raise CloudError(f"not a PointCloud2: {type(message).__name__} has no attribute {name!r}") from None


def read_uint32(owner: Any, name: str, whose: str) -> int:
    """An attribute that is a uint32 in the message's definition. Raises CloudError that begins with `whose`."""
    value = read_attribute(owner, name)
    try:
        number = operator.index(value)
    except TypeError:
        raise CloudError(f"{whose}: {name} is {value!r}, not an integer") from None
    if not 0 <= number <= _UINT32_MAX:
        raise CloudError(f"{whose}: {name} is {number}, outside 0..{_UINT32_MAX}")
    return number


def list_names(names: Iterable[Any]) -> str:
    """Field names for a message on one line, whatever they hold."""
    return ", ".join(n if isinstance(n, str) and n.isprintable() else repr(n) for n in names) or "none"


def read_fields(message: Any, point_step: int) -> tuple[PointField, ...]:
    """The checked fields of a message. Raises CloudError that names the field and lists those present."""
    try:
        entries = list(read_attribute(message, "fields"))
    except TypeError:
        raise CloudError("point cloud: fields is not a list of PointField") from None
    names = [read_attribute(entry, "name") for entry in entries]
    present = list_names(names)
    fields: list[PointField] = []
    seen: set[str] = set()
    for entry, name in zip(entries, names, strict=True):
        if not isinstance(name, str):
            raise CloudError(f"point cloud: a field's name is {name!r}, not text; fields present: {present}")
        whose = f"point cloud field {name!r}"
        offset, datatype = read_uint32(entry, "offset", whose), read_uint32(entry, "datatype", whose)
        # Count 0 is what old drivers send for a single value; PCL reads it so, too.
        count = read_uint32(entry, "count", whose) or 1
        if datatype not in DATATYPES:
            raise CloudError(f"{whose}: datatype {datatype} is not one of 1..8; fields present: {present}")
        if name in seen and name not in PADDING_NAMES:
            raise CloudError(f"{whose} occurs twice; fields present: {present}")
        end = offset + count * np.dtype(DATATYPES[datatype]).itemsize
        if end > point_step:
            raise CloudError(f"{whose} ends at byte {end}, but point_step is {point_step}; fields present: {present}")
        seen.add(name)
        fields.append(PointField(name, offset, datatype, count))
    return tuple(fields)


def _bytes_of(data: Any) -> npt.NDArray[np.uint8]:
    is_array = isinstance(data, np.ndarray)
    try:
        if is_array and data.size == 0:
            return np.empty(0, dtype=np.uint8)
        contiguous: Any = np.ascontiguousarray(data) if is_array else data
        view = memoryview(contiguous)
        if "O" in view.format:
            raise TypeError("pointers")
        return np.frombuffer(view.cast("B"), dtype=np.uint8)
    except (TypeError, ValueError, BufferError):
        kind = f"{type(data).__name__} of {data.dtype}" if is_array else type(data).__name__
        raise CloudError(f"point cloud: data is {kind}, not bytes") from None


def read_records(message: Any, height: int, width: int, point_step: int) -> npt.NDArray[np.uint8]:
    """The points' bytes (N, point_step) uint8: a view, or a copy where rows are padded. Raises CloudError."""
    row_step = read_uint32(message, "row_step", "point cloud")
    data = _bytes_of(read_attribute(message, "data"))
    if not height * width:
        return np.empty((0, point_step), dtype=np.uint8)
    if height == 1 and row_step == 0:
        row_step = width * point_step  # some drivers leave it unset, and one row needs none
    if point_step == 0:
        raise CloudError(f"point cloud: point_step is 0, for {height} x {width} points")
    if row_step < width * point_step:
        raise CloudError(
            f"point cloud: row_step is {row_step}, but {width} points of {point_step} bytes take {width * point_step}"
        )
    if len(data) < height * row_step:
        raise CloudError(
            f"point cloud: data holds {len(data)} bytes, but height {height} * row_step {row_step} "
            f"is {height * row_step}"
        )
    rows = data[: height * row_step].reshape(height, row_step)
    return np.ascontiguousarray(rows[:, : width * point_step]).reshape(height * width, point_step)


def build_pointcloud2(
    columns: Mapping[str, npt.NDArray[Any]], *, height: int = 1, width: int | None = None, is_dense: bool = True
) -> CloudMessage:
    """Lay out columns as a C compiler would a struct: in order, each aligned to its size; little-endian.

    Args:
        columns: field name -> (N,) or (N, count) of a type that PointField knows ((u)int8..32, float32/64).
        height, width: structure of an organised cloud; width is N / height unless given.
        is_dense: no point is NaN or infinite.

    Raises:
        CloudError: columns of different lengths, of a type that PointField lacks, or a structure that does not hold N.
    """
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    points = max((len(values) for values in arrays.values()), default=0)
    width = (points // height if height else 0) if width is None else width
    if height * width != points:
        raise CloudError(f"point cloud of {points} points cannot be {height} rows of {width}")
    fields, step, alignment = [], 0, 1
    for name, values in arrays.items():
        datatype = _CODES.get(values.dtype.newbyteorder("="))
        if datatype is None or values.ndim not in (1, 2):
            raise CloudError(f"column {name!r} of {values.dtype} {values.shape} fits no PointField")
        if len(values) != points:
            raise CloudError(f"column {name!r} has {len(values)} values for {points} points")
        size, count = values.dtype.itemsize, 1 if values.ndim == 1 else values.shape[1]
        offset = -(-step // size) * size
        fields.append(PointField(name, offset, datatype, count))
        step, alignment = offset + size * count, max(alignment, size)
    step = -(-step // alignment) * alignment
    data = publishable(points * step)
    if points:
        for field, values in zip(fields, arrays.values(), strict=True):
            dtype = values.dtype.newbyteorder("<")
            strides = (step, dtype.itemsize)[: values.ndim]
            target: npt.NDArray[Any] = np.ndarray(
                values.shape, dtype, buffer=data.data, offset=field.offset, strides=strides
            )
            target[...] = values
    return CloudMessage(height, width, tuple(fields), False, step, step * width, data, is_dense)
