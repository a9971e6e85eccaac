"""PointCloud2 of any layout against a per-point reading with `struct`; what is built against its documented bytes."""

from __future__ import annotations

import array
import struct
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from mdkt_ros.cloud import (
    INTENSITY_NAMES,
    RING_NAMES,
    Cloud,
    PointField,
    build_pointcloud2,
    build_segmentation,
    build_subset,
    build_visualization,
    cloud_from_columns,
    pack_rgb,
    parse_pointcloud2,
)
from mdkt_ros.errors import CloudError

FORMATS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 8: "d"}
XYZ = [PointField("x", 0, 7), PointField("y", 4, 7), PointField("z", 8, 7)]


def message(fields=XYZ, data=b"", **changes):
    """A message of one row, with tight rows, changed."""
    step = changes.get("point_step", 12)
    width = changes["width"] if "width" in changes else len(data) // step
    values = {"height": 1, "width": width, "fields": list(fields), "is_bigendian": False, "point_step": step}
    return SimpleNamespace(**{**values, "row_step": step * width, "data": data, "is_dense": True, **changes})


def bits(values) -> bytes:
    return np.ascontiguousarray(values).tobytes()


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


@settings(deadline=None, max_examples=100)
@given(m=messages(), seed=st.integers(0, 99))
def test_subset_keeps_the_layout_to_the_byte(m, seed):
    cloud = parse_pointcloud2(m)
    mask = np.random.default_rng(seed).random(len(cloud)) < 0.5
    subset = build_subset(cloud, mask)
    assert list(subset.fields) == m.fields
    assert (subset.point_step, subset.is_bigendian) == (m.point_step, m.is_bigendian)
    assert (subset.height, subset.width, subset.row_step) == (1, mask.sum(), mask.sum() * m.point_step)
    points = [
        m.data[r * m.row_step :][c * m.point_step :][: m.point_step] for r in range(m.height) for c in range(m.width)
    ]
    assert subset.data.tobytes() == b"".join(p for p, kept in zip(points, mask, strict=True) if kept)


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


VALUES = np.arange(12, dtype=np.float32).reshape(4, 3)


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


def test_missing_coordinate_names_the_field_and_those_present():
    cloud = parse_pointcloud2(message([PointField("x", 0, 7), PointField("height", 4, 7)], bytes(24)))
    with pytest.raises(CloudError, match=r"^point cloud has no field 'y'; fields present: x, height$"):
        cloud.xyz()


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


def test_float64_beyond_float32_becomes_infinite():
    cloud = cloud_from_columns({"x": np.array([1e300]), "y": np.array([-1e300]), "z": np.array([np.nan])})
    np.testing.assert_array_equal(cloud.xyz(), np.array([[np.inf, -np.inf, np.nan]], dtype=np.float32))
    none = np.zeros(1, dtype=np.uint8)
    built = parse_pointcloud2(build_segmentation(cloud, none, none, none))
    np.testing.assert_array_equal(built.xyz(), cloud.xyz())


def test_coordinates_of_any_type():
    cloud = cloud_from_columns({"X": np.array([-3], "i1"), "Y": np.array([7], "u4"), "Z": np.array([0.5], "f8")})
    assert cloud.xyz().tolist() == [[-3, 7, 0.5]]
    assert cloud.xyz().dtype == np.float32


@pytest.mark.parametrize("name", [*INTENSITY_NAMES, "Intensity", "REFLECTIVITY", "I"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "f8"])
def test_intensity_by_alias(name, dtype):
    cloud = cloud_from_columns({"other": np.zeros(2), name: np.array([3, 200], dtype)})
    assert cloud.intensity().tolist() == [3, 200]
    assert cloud.intensity().dtype == np.float32


def test_alias_order_and_exact_spelling():
    one, two = np.array([1.0]), np.array([2.0])
    assert cloud_from_columns({"reflectivity": one, "intensity": two}).intensity().tolist() == [2]
    assert cloud_from_columns({"INTENSITY": one, "intensity": two}).intensity().tolist() == [2]
    assert cloud_from_columns({"Intensity": one, "remission": two}).find("intensity") == "Intensity"
    assert cloud_from_columns({"a": one}).intensity() is None
    assert cloud_from_columns({"a": one}).ring() is None


@pytest.mark.parametrize("name", [*RING_NAMES, "Ring"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "f4"])
def test_ring_by_alias(name, dtype):
    ring = cloud_from_columns({name: np.array([0, 127], dtype)}).ring()
    assert ring.tolist() == [0, 127]
    assert ring.dtype == np.uint16


def test_ring_that_is_none():
    assert cloud_from_columns({"ring": np.array([np.nan, 3])}).ring().tolist() == [0, 3]
    for values in ([-1.0, 2], [70_000.0], [np.inf]):
        with pytest.raises(CloudError, match=r"field 'ring' reaches from .*: not a beam index"):
            cloud_from_columns({"ring": np.array(values)}).ring()


def test_field_of_several_values_is_no_coordinate():
    cloud = cloud_from_columns(
        {"x": np.zeros((2, 3)), "y": np.zeros(2), "z": np.zeros(2), "intensity": np.zeros((2, 2))}
    )
    with pytest.raises(CloudError, match="field 'x' holds 3 values a point"):
        cloud.xyz()
    with pytest.raises(CloudError, match="field 'intensity' holds 2 values a point"):
        cloud.intensity()


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


def outputs(n: int):
    rng = np.random.default_rng(n)
    return rng.integers(0, 19, n).astype(np.uint8), rng.random(n).astype(np.float32), rng.random(n).astype(np.float32)


def test_segmentation_is_autowares_point_xyzcpe():
    cloud = organised()
    class_id, probability, entropy = outputs(6)
    built = build_segmentation(cloud, class_id, probability, entropy)
    layout = [(f.name, f.offset, f.datatype, f.count) for f in built.fields]
    assert layout == [
        *[("x", 0, 7, 1), ("y", 4, 7, 1), ("z", 8, 7, 1)],
        *[("class_id", 12, 2, 1), ("probability", 16, 7, 1), ("entropy", 20, 7, 1)],
    ]
    assert (built.point_step, built.row_step, built.height, built.width) == (24, 72, 2, 3)
    assert not built.is_bigendian
    assert not built.is_dense
    expected = [
        struct.pack("<fffBxxxff", *xyz, c, p, e)
        for xyz, c, p, e in zip(cloud.xyz(), class_id, probability, entropy, strict=True)
    ]
    assert built.data.tobytes() == b"".join(expected)


def test_keep_input_fields_appends_the_others_from_byte_24():
    cloud = organised()
    class_id, probability, entropy = outputs(6)
    built = build_segmentation(cloud, class_id, probability, entropy, keep_input_fields=True)
    plain = build_segmentation(cloud, class_id, probability, entropy)
    assert built.fields[:6] == plain.fields
    # The input's own entropy gives way to the output's; `Probability` is another name.
    assert [(f.name, f.offset, f.datatype, f.count) for f in built.fields[6:]] == [
        ("ring", 24, 4, 1),
        ("normal", 28, 7, 2),
        ("Probability", 36, 7, 1),
    ]
    assert built.point_step == 40
    again = parse_pointcloud2(built)
    for name in ("ring", "normal", "Probability"):
        np.testing.assert_array_equal(again.columns[name], cloud.columns[name])
    np.testing.assert_array_equal(again.columns["entropy"], entropy)
    np.testing.assert_array_equal(again.xyz(), cloud.xyz())


def test_visualization_packs_rgb_as_pcl_does():
    cloud = organised()
    colors = np.arange(18, dtype=np.uint8).reshape(6, 3) * 14
    built = build_visualization(cloud, colors)
    assert [(f.name, f.offset, f.datatype) for f in built.fields] == [
        ("x", 0, 7),
        ("y", 4, 7),
        ("z", 8, 7),
        ("rgb", 12, 7),
    ]
    assert (built.point_step, built.height, built.width) == (16, 2, 3)
    packed = np.ascontiguousarray(parse_pointcloud2(built).columns["rgb"]).view("<u4")
    assert packed.tolist() == [r << 16 | g << 8 | b for r, g, b in colors.tolist()]


def test_pack_rgb():
    assert pack_rgb(np.array([[0x12, 0x34, 0x56]], np.uint8)).view("<u4").tolist() == [0x123456]
    assert pack_rgb(np.empty((0, 3), np.uint8)).shape == (0,)


def test_subset_of_a_cloud_that_never_was_a_message():
    cloud = cloud_from_columns(
        {"x": VALUES[:, 0], "y": VALUES[:, 1], "z": VALUES[:, 2], "ring": np.arange(4, dtype="u2")}
    )
    built = parse_pointcloud2(build_subset(cloud, np.array([True, False, False, True])))
    np.testing.assert_array_equal(built.xyz(), VALUES[[0, 3]])
    assert built.columns["ring"].tolist() == [0, 3]


@settings(deadline=None, max_examples=100)
@given(
    types=st.lists(
        st.tuples(st.sampled_from(["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8", ">f4"]), st.integers(1, 3)),
        max_size=6,
    ),
    shape=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    seed=st.integers(0, 99),
)
def test_build_and_parse_are_inverse(types, shape, seed):
    rng, n = np.random.default_rng(seed), shape[0] * shape[1]
    if not types:
        shape, n = (0, 0), 0
    columns = {
        f"c{i}": (rng.random((n, count) if count > 1 else n) * 100).astype(dtype)
        for i, (dtype, count) in enumerate(types)
    }
    built = build_pointcloud2(columns, height=shape[0], width=shape[1], is_dense=False)
    again = parse_pointcloud2(built)
    assert (again.height, again.width, again.is_dense) == (*shape, False)
    assert list(again.columns) == list(columns)
    for f in built.fields:
        np.testing.assert_array_equal(again.columns[f.name], columns[f.name])
        assert f.offset % struct.calcsize("<" + FORMATS[f.datatype]) == 0


@pytest.mark.parametrize(
    ("columns", "sizes", "error"),
    [
        ({"x": np.zeros(3), "y": np.zeros(4)}, {}, "column 'x' has 3 values for 4 points"),
        ({"x": np.zeros(3, dtype=np.int64)}, {}, "column 'x' of int64 (3,) fits no PointField"),
        ({"x": np.zeros(3, dtype=bool)}, {}, "column 'x' of bool"),
        ({"x": np.zeros((3, 1, 1))}, {}, "column 'x' of float64 (3, 1, 1)"),
        ({"x": np.zeros(3)}, {"height": 2}, "3 points cannot be 2 rows of 1"),
        ({"x": np.zeros(3)}, {"width": 2}, "3 points cannot be 1 rows of 2"),
    ],
)
def test_columns_that_form_no_cloud(columns, sizes, error):
    with pytest.raises(CloudError) as raised:
        build_pointcloud2(columns, **sizes)
    assert error in str(raised.value)


def test_outputs_of_another_length_are_refused():
    cloud = organised()
    class_id, probability, entropy = outputs(5)
    with pytest.raises(CloudError, match="'class_id' has 5 values for 6 points"):
        build_segmentation(cloud, class_id, probability, entropy)
    with pytest.raises(CloudError, match=r"mask has shape \(5,\) for 6 points"):
        build_subset(cloud, class_id > 0)
    with pytest.raises(CloudError, match="columns of different lengths: a 1, b 2"):
        cloud_from_columns({"a": np.zeros(1), "b": np.zeros(2)})


def test_message_of_rosbags_survives_serialisation():
    store = get_typestore(Stores.ROS2_HUMBLE)
    types = store.types
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](1, 2), "lidar")
    built = build_segmentation(organised(), *outputs(6), keep_input_fields=True)
    sent = built.to_message(types["sensor_msgs/msg/PointCloud2"], types["sensor_msgs/msg/PointField"], header)
    raw = store.serialize_cdr(sent, "sensor_msgs/msg/PointCloud2")
    received = parse_pointcloud2(store.deserialize_cdr(raw, "sensor_msgs/msg/PointCloud2"))
    for name, column in parse_pointcloud2(built).columns.items():
        np.testing.assert_array_equal(received.columns[name], column)
    assert (received.height, received.width, received.is_dense) == (2, 3, False)


def test_message_for_rclpy_gets_its_data_as_an_array_of_bytes():
    built = build_visualization(organised(), np.zeros((6, 3), np.uint8))
    sent = built.to_message(SimpleNamespace, SimpleNamespace, "header", rclpy=True)
    assert isinstance(sent.data, array.array)
    assert sent.data.typecode == "B"
    assert sent.data.tobytes() == built.data.tobytes()
    assert sent.header == "header"
    np.testing.assert_array_equal(parse_pointcloud2(sent).xyz(), organised().xyz())
