"""PointCloud2 of any layout against a per-point reading with `struct`, or refused by what it says of its sizes."""

from __future__ import annotations

import array
import struct
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from cloud_messages import FORMATS, VALUES, XYZ, bits, message, messages
from hypothesis import given, settings
from hypothesis import strategies as st

from mdkt_ros.cloud import PointField, build_segmentation, build_subset, build_visualization, parse_pointcloud2
from mdkt_ros.errors import CloudError


def by_point(m) -> dict[str, list[tuple]]:
    """The slow and obvious reading."""
    columns = {f.name: [] for f in m.fields}
    for row in range(m.height):
        for column in range(m.width):
            start = row * m.row_step + column * m.point_step
            for f in m.fields:
                code = (">" if m.is_bigendian else "<") + str(f.count) + FORMATS[f.datatype]
                columns[f.name].append(struct.unpack_from(code, m.data, start + f.offset))
    return columns


@settings(deadline=None, max_examples=200)
@given(m=messages())
def test_every_layout_reads_as_point_by_point(m):
    cloud = parse_pointcloud2(m)
    assert (cloud.height, cloud.width, len(cloud), cloud.is_dense) == (m.height, m.width, m.height * m.width, False)
    expected = by_point(m)
    assert list(cloud.columns) == [f.name for f in m.fields]
    for f in m.fields:
        column = cloud.columns[f.name]
        assert column.dtype == np.dtype(FORMATS[f.datatype])
        assert column.dtype.isnative
        assert column.shape == ((len(cloud),) if f.count == 1 else (len(cloud), f.count))
        reference = np.array(expected[f.name], dtype=column.dtype).reshape(column.shape)
        np.testing.assert_array_equal(column, reference)


_SIZES = st.one_of(st.integers(-2, 40), st.sampled_from([2**31, 2**32 - 1, 2**32, 2**63, 10**30]))
_FIELDS = st.lists(
    st.builds(
        SimpleNamespace,
        name=st.sampled_from(["x", "y", "z", "intensity", "_", ""]) | st.text(max_size=3) | st.none() | st.integers(),
        offset=_SIZES,
        datatype=st.integers(-1, 12),
        count=_SIZES,
    ),
    max_size=5,
)


@settings(deadline=None, max_examples=200)
@given(
    fields=_FIELDS,
    height=_SIZES,
    width=_SIZES,
    point_step=_SIZES,
    row_step=_SIZES,
    data=st.binary(max_size=200),
    big=st.booleans(),
)
def test_any_message_is_read_or_refused_within_its_bytes(fields, height, width, point_step, row_step, data, big):
    m = message(
        fields,
        data,
        height=height,
        width=width,
        point_step=point_step,
        row_step=row_step,
        is_bigendian=big,
        is_dense=big,
    )
    tracemalloc.start()
    try:
        cloud = parse_pointcloud2(m)
        cloud.xyz(), cloud.intensity(), cloud.ring()
        zeros = np.zeros(len(cloud), dtype=np.uint8)
        build_segmentation(cloud, zeros, zeros, zeros, keep_input_fields=True)
        build_subset(cloud, zeros == 0)
    except CloudError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1_000_000


@settings(deadline=None, max_examples=50)
@given(
    key=st.sampled_from(["height", "fields", "data", "is_bigendian", "row_step"]),
    value=st.sampled_from([None, "a", 1.5, [], {}]),
)
def test_attributes_of_another_type_are_refused(key, value):
    m = message(data=bytes(24))
    setattr(m, key, value)
    try:
        parse_pointcloud2(m)
    except CloudError:
        return
    assert key in ("is_bigendian", "fields")
    assert key == "is_bigendian"


@pytest.mark.parametrize(
    "make",
    [
        bytes,
        bytearray,
        memoryview,
        lambda b: array.array("B", b),
        lambda b: array.array("b", b),
        lambda b: np.frombuffer(b, dtype=np.uint8),
        lambda b: np.frombuffer(b, dtype=np.int8),
        lambda b: np.repeat(np.frombuffer(b, dtype=np.uint8), 2)[::2],
    ],
)
def test_any_buffer_will_do(make):
    cloud = parse_pointcloud2(message(data=make(bits(VALUES)), width=4, row_step=48))
    np.testing.assert_array_equal(cloud.xyz(), VALUES)


@pytest.mark.parametrize("data", [None, "text", [1, 2, 3], 7, np.array([{}] * 2), memoryview(bytes(48))[::2]])
def test_data_that_is_no_buffer(data):
    with pytest.raises(CloudError, match=r"point cloud: data is .*, not bytes"):
        parse_pointcloud2(message(data=data, width=1, row_step=12))


def test_columns_share_the_messages_memory_and_xyz_does_not():
    data = np.frombuffer(bytearray(bits(VALUES)), dtype=np.uint8)
    cloud = parse_pointcloud2(message(data=data))
    assert np.shares_memory(cloud.columns["y"], data)
    points = cloud.xyz()
    assert points.flags.c_contiguous
    assert points.flags.writeable
    points[:] = 0
    assert cloud.columns["y"].tolist() == VALUES[:, 1].tolist()


def test_points_from_read_only_bytes_are_writable():
    cloud = parse_pointcloud2(message([*XYZ, PointField("i", 8, 7)], data=bits(VALUES)))
    assert cloud.xyz().flags.writeable
    assert cloud.intensity().flags.writeable


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"data": bytes(47), "width": 4}, "data holds 47 bytes, but height 1 * row_step 48 is 48"),
        (
            {"height": 2, "width": 2, "row_step": 30, "data": bytes(59)},
            "data holds 59 bytes, but height 2 * row_step 30 is 60",
        ),
        ({"row_step": 47, "width": 4}, "row_step is 47, but 4 points of 12 bytes take 48"),
        ({"point_step": 11, "width": 4}, "field 'z' ends at byte 12, but point_step is 11; fields present: x, y, z"),
        (
            {"fields": [PointField("_", 0, 1)], "point_step": 0, "width": 1},
            "field '_' ends at byte 1, but point_step is 0",
        ),
        ({"fields": [], "width": 4}, "point cloud of 4 points has no fields"),
        ({"fields": [], "point_step": 0, "width": 4}, "point_step is 0, for 1 x 4 points"),
        ({"width": -1}, "width is -1, outside 0..4294967295"),
        ({"height": 2**32}, "height is 4294967296, outside"),
        ({"height": 2**32 - 1, "width": 2**32 - 1, "row_step": 2**32 - 1}, "row_step is 4294967295, but"),
        ({"width": 1.0}, "width is 1.0, not an integer"),
        ({"fields": [PointField("x", -4, 7)]}, "field 'x': offset is -4, outside"),
        (
            {"fields": [PointField("x", 0, 7), PointField("t", 4, 9)]},
            "field 't': datatype 9 is not one of 1..8; fields present: x, t",
        ),
        ({"fields": [PointField("x", 0, 7, 2**31)]}, "field 'x' ends at byte 8589934592"),
        ({"fields": [*XYZ, PointField("x", 0, 7)]}, "field 'x' occurs twice; fields present: x, y, z, x"),
        ({"fields": [PointField(None, 0, 7)]}, "name is None, not text"),
        ({"fields": [7]}, "int has no attribute 'name'"),
        ({"fields": 7}, "fields is not a list of PointField"),
    ],
)
def test_sizes_that_cannot_be(changes, error):
    m = message(data=bits(VALUES), width=4)
    for key, value in changes.items():
        setattr(m, key, value)
    m.row_step = changes.get("row_step", 48)
    with pytest.raises(CloudError) as raised:
        parse_pointcloud2(m)
    assert error in str(raised.value)
    assert "\n" not in str(raised.value)


def test_object_that_is_no_message():
    with pytest.raises(CloudError, match="not a PointCloud2: dict has no attribute 'height'"):
        parse_pointcloud2({})


def test_what_drivers_send_in_spite_of_the_documentation():
    # row_step unset on one row, count 0 for a single value, gaps that PCL names.
    fields = [*(PointField(f.name, f.offset, 7, 0) for f in XYZ), PointField("_", 3, 2), PointField("_", 4, 2)]
    cloud = parse_pointcloud2(message(fields, bits(VALUES), row_step=0))
    assert list(cloud.columns) == ["x", "y", "z"]
    np.testing.assert_array_equal(cloud.xyz(), VALUES)
    # More data than the sizes say.
    cloud = parse_pointcloud2(message(data=bits(VALUES) + b"rest", width=4))
    np.testing.assert_array_equal(cloud.xyz(), VALUES)


@pytest.mark.parametrize("fields", [XYZ, []])
@pytest.mark.parametrize("shape", [(0, 0), (1, 0), (0, 7)])
def test_empty_cloud(fields, shape):
    step = 12 if fields else 0
    m = message(fields, height=shape[0], width=shape[1], point_step=step, row_step=step * shape[1])
    cloud = parse_pointcloud2(m)
    assert len(cloud) == 0
    assert cloud.xyz().shape == (0, 3)
    assert cloud.intensity() is None
    none = np.empty(0, dtype=np.uint8)
    for built in (build_segmentation(cloud, none, none, none), build_visualization(cloud, none.reshape(0, 3))):
        assert (built.height, built.width, len(built.data)) == (*shape, 0)
        assert parse_pointcloud2(built).xyz().shape == (0, 3)
    assert len(build_subset(cloud, none == 0).data) == 0


def test_points_that_are_not_finite_pass_through():
    values = np.array([[np.nan, 1, 2], [np.inf, -np.inf, 3]], dtype=np.float32)
    cloud = parse_pointcloud2(message(data=bits(values), is_dense=False))
    assert not cloud.is_dense
    np.testing.assert_array_equal(cloud.xyz(), values)
