"""Any `sensor_msgs/PointCloud2` layout to named numpy columns and back, without a Python loop over points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mdkt_ros.errors import CloudError
from mdkt_ros.pointcloud2 import (
    DATATYPES,
    PADDING_NAMES,
    CloudMessage,
    PointField,
    build_pointcloud2,
    list_names,
    read_attribute,
    read_fields,
    read_records,
    read_uint32,
)

__all__ = [
    "INTENSITY_NAMES",
    "RING_NAMES",
    "Cloud",
    "CloudMessage",
    "Layout",
    "PointField",
    "build_pointcloud2",
    "build_segmentation",
    "build_subset",
    "build_visualization",
    "cloud_from_columns",
    "pack_rgb",
    "parse_pointcloud2",
]

INTENSITY_NAMES = ("intensity", "i", "reflectivity", "remission")
RING_NAMES = ("ring", "channel")


@dataclass(frozen=True, eq=False)
class Layout:
    """The bytes that a cloud was parsed from, for outputs in the input's own layout.

    Attributes:
        fields: all fields of the message, padding included.
        is_bigendian: byte order of `records`.
        records: (N, point_step) uint8, rows without padding; shares the message's memory where it can.
    """

    fields: tuple[PointField, ...]
    is_bigendian: bool
    records: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Cloud:
    """A point cloud as named columns, N = height * width points in the order of the message (row by row).

    Attributes:
        columns: field name -> (N,), or (N, count) where the field's count is above 1, in the machine's byte order.
            Columns share the message's memory where they can: strided, perhaps unaligned, perhaps read-only. `xyz`,
            `intensity` and `ring` return arrays of their own.
        height, width: 2-D structure of an organised cloud; height is 1 for an unorganised one.
        is_dense: the sender promises that no point is NaN or infinite.
        layout: the bytes of the message, None for a cloud that never was one.
        source: the file that it was read from, for messages; empty where whoever has the cloud knows better.
    """

    columns: dict[str, npt.NDArray[Any]]
    height: int
    width: int
    is_dense: bool
    layout: Layout | None = None
    source: str = ""

    def __len__(self) -> int:
        return self.height * self.width

    @property
    def _named(self) -> str:
        return f"{self.source}: " if self.source else ""

    def find(self, *names: str) -> str | None:
        """Name of the first column called one of `names`; exact spelling goes before other upper/lower case."""
        for name in names:
            if name in self.columns:
                return name
        folded = {name.lower(): name for name in reversed(self.columns)}
        return next((folded[name.lower()] for name in names if name.lower() in folded), None)

    def coordinates(self) -> list[npt.NDArray[Any]]:
        """The columns x, y and z as they are. Raises CloudError that names the missing one and those present."""
        found = []
        for name in ("x", "y", "z"):
            column = self.find(name)
            if column is None:
                raise CloudError(
                    f"{self._named}point cloud has no field {name!r}; fields present: {list_names(self.columns)}"
                )
            found.append(self._scalar(column))
        return found

    def _scalar(self, name: str) -> npt.NDArray[Any]:
        values = self.columns[name]
        if values.ndim != 1:
            raise CloudError(
                f"{self._named}point cloud field {name!r} holds {values.shape[1]} values a point, where one is expected"
            )
        return values

    def xyz(self) -> npt.NDArray[np.float32]:
        """Points (N, 3) float32, metres, contiguous and writable.

        Raises:
            CloudError: no field x, y or z (an empty cloud without any field is just empty).
        """
        if not self.columns and not len(self):
            return np.empty((0, 3), dtype=np.float32)
        points = np.empty((len(self), 3), dtype=np.float32)
        # A float64 beyond float32's range becomes infinite, and is treated as such downstream.
        with np.errstate(over="ignore", invalid="ignore"):
            for axis, values in enumerate(self.coordinates()):
                points[:, axis] = values
        return points

    def intensity(self) -> npt.NDArray[np.float32] | None:
        """Intensity (N,) float32 as the sensor gives it, None without such a field (`INTENSITY_NAMES`)."""
        name = self.find(*INTENSITY_NAMES)
        if name is None:
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            return np.array(self._scalar(name), dtype=np.float32)

    def ring(self) -> npt.NDArray[np.uint16] | None:
        """Beam index (N,) uint16, None without such a field (`RING_NAMES`). 0 where a float field holds NaN.

        Raises:
            CloudError: the field holds what is no beam index.
        """
        name = self.find(*RING_NAMES)
        if name is None:
            return None
        values = self._scalar(name)
        if values.dtype.kind == "f":
            values = np.where(np.isnan(values), 0, values)
        if values.size and not (values.min() >= 0 and values.max() <= 65535):
            raise CloudError(
                f"{self._named}point cloud field {name!r} reaches from {values.min()} to {values.max()}: "
                "not a beam index"
            )
        return values.astype(np.uint16)


def parse_pointcloud2(message: Any) -> Cloud:
    """Read a message of any layout: field order, types, offsets, padding of points and rows, height, byte order.

    Args:
        message: has the attributes of `sensor_msgs/PointCloud2`; `data` is anything with the buffer protocol.

    Returns:
        Columns of all fields but PCL's padding (`_`). Their memory is the message's: keep it unchanged as long as they
        are in use.

    Raises:
        CloudError: a field or size that cannot be; the message names it and the fields present.
    """
    height, width = (read_uint32(message, name, "point cloud") for name in ("height", "width"))
    point_step = read_uint32(message, "point_step", "point cloud")
    is_bigendian = bool(read_attribute(message, "is_bigendian"))
    fields = read_fields(message, point_step)
    records = read_records(message, height, width, point_step)
    if len(records) and not fields:
        raise CloudError(f"point cloud of {len(records)} points has no fields")
    columns: dict[str, npt.NDArray[Any]] = {}
    for field in fields:
        if field.name in PADDING_NAMES:
            continue
        dtype = np.dtype((">" if is_bigendian else "<") + DATATYPES[field.datatype])
        shape = (len(records),) if field.count == 1 else (len(records), field.count)
        if not len(records):
            column: npt.NDArray[Any] = np.empty(shape, dtype=dtype)
        else:
            strides = (point_step, dtype.itemsize)[: len(shape)]
            column = np.ndarray(shape, dtype, buffer=records.data, offset=field.offset, strides=strides)
        columns[field.name] = column.astype(dtype.newbyteorder("="), copy=False)
    is_dense = bool(read_attribute(message, "is_dense"))
    return Cloud(columns, height, width, is_dense, Layout(fields, is_bigendian, records))


def _coordinates_f32(cloud: Cloud) -> dict[str, npt.NDArray[Any]]:
    if not cloud.columns and not len(cloud):
        return {name: np.empty(0, dtype=np.float32) for name in "xyz"}
    with np.errstate(over="ignore", invalid="ignore"):
        return {n: v.astype(np.float32, copy=False) for n, v in zip("xyz", cloud.coordinates(), strict=True)}


def build_segmentation(
    cloud: Cloud,
    class_id: npt.NDArray[np.uint8],
    probability: npt.NDArray[np.float32],
    entropy: npt.NDArray[np.float32],
    *,
    keep_input_fields: bool = False,
    more: Mapping[str, npt.NDArray[np.float32]] | None = None,
    records: npt.NDArray[np.uint8] | None = None,
) -> CloudMessage:
    """Autoware's PointXYZCPE: x y z f32 @0 4 8, class_id u8 @12, probability f32 @16, entropy f32 @20, point_step 24.

    Args:
        cloud: the input; its points, order, height, width and is_dense are kept.
        class_id, probability, entropy: (N,) uint8, float32, float32.
        keep_input_fields: append the input's other fields, with their types, from byte 24 on. One that is called as one
            of the six above, or in `more`, is left out.
        records: (N, 24) uint8, the points and these labels laid out so already. They become the message's memory, if
            nothing is to be appended.
        more: further fields (N,) float32 by name, from byte 24 on, before the input's.

    Raises:
        CloudError: no x, y or z, or arrays that are not N long.
    """
    if records is not None and not keep_input_fields and not more:
        if records.shape != (len(cloud), _RECORD.point_step):
            raise CloudError(f"records have shape {records.shape} for {len(cloud)} points")
        data = records.reshape(-1)
        return replace(
            _RECORD, height=cloud.height, width=cloud.width, row_step=_RECORD.point_step * cloud.width, data=data,
            is_dense=cloud.is_dense,
        )  # fmt: skip
    columns = _coordinates_f32(cloud)
    columns["class_id"] = np.asarray(class_id, dtype=np.uint8)
    columns["probability"] = np.asarray(probability, dtype=np.float32)
    columns["entropy"] = np.asarray(entropy, dtype=np.float32)
    columns.update({name: np.asarray(values, dtype=np.float32) for name, values in (more or {}).items()})
    if keep_input_fields:
        taken = {*columns, *(cloud.find(name) for name in "xyz")}
        columns.update({name: values for name, values in cloud.columns.items() if name not in taken})
    return build_pointcloud2(columns, height=cloud.height, width=cloud.width, is_dense=cloud.is_dense)


def pack_rgb(colors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Colours (N, 3) uint8 RGB as (N,) float32 whose bits are 0x00RRGGBB, PCL's and RViz's `rgb`."""
    packed = np.zeros((len(colors), 4), dtype=np.uint8)
    packed[:, :3] = colors[:, ::-1]
    return packed.view("<f4")[:, 0]


def build_visualization(cloud: Cloud, colors: npt.NDArray[np.uint8]) -> CloudMessage:
    """x y z f32 @0 4 8 and `rgb` f32 @12, for RViz; colours (N, 3) uint8 RGB. Raises CloudError."""
    columns = {**_coordinates_f32(cloud), "rgb": pack_rgb(colors)}
    return build_pointcloud2(columns, height=cloud.height, width=cloud.width, is_dense=cloud.is_dense)


def build_subset(cloud: Cloud, mask: npt.NDArray[np.bool_]) -> CloudMessage:
    """The points of `mask` (N,) bool in the input's own layout: fields, offsets, padding and byte order; height 1.

    Raises:
        CloudError: the mask is not N long.
    """
    if mask.shape != (len(cloud),):
        raise CloudError(f"mask has shape {mask.shape} for {len(cloud)} points")
    if cloud.layout is None:
        return build_pointcloud2(
            {name: values[mask] for name, values in cloud.columns.items()}, is_dense=cloud.is_dense
        )
    layout = cloud.layout
    chosen = layout.records[mask]
    count, step = chosen.shape
    return CloudMessage(
        1, count, layout.fields, layout.is_bigendian, step, step * count, chosen.reshape(-1), cloud.is_dense
    )


def cloud_from_columns(columns: Mapping[str, npt.NDArray[Any]], *, is_dense: bool = True) -> Cloud:
    """An unorganised cloud that never was a message. Raises CloudError when the columns differ in length."""
    lengths = [len(values) for values in columns.values()]
    if len(set(lengths)) > 1:
        raise CloudError(f"columns of different lengths: {', '.join(f'{n} {len(v)}' for n, v in columns.items())}")
    return Cloud(dict(columns), 1, lengths[0] if lengths else 0, is_dense)


_RECORD = build_segmentation(
    cloud_from_columns({name: np.empty(0, np.float32) for name in "xyz"}),
    np.empty(0, np.uint8),
    np.empty(0, np.float32),
    np.empty(0, np.float32),
)
"""A labelled cloud without points: the layout of those that are laid out elsewhere."""
