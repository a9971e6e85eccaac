"""Clouds that are built, against their documented bytes: labels, colours, subsets, messages."""

from __future__ import annotations

import array
import dataclasses
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from cloud_messages import FORMATS, VALUES, messages, organised
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from mdkt_ros.cloud import (
    build_pointcloud2,
    build_segmentation,
    build_subset,
    build_visualization,
    cloud_from_columns,
    pack_rgb,
    parse_pointcloud2,
)
from mdkt_ros.errors import CloudError


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


def test_points_that_are_laid_out_already_become_the_message():
    cloud = organised()
    count = len(cloud)
    labels = np.arange(count).astype(np.uint8), *np.random.default_rng(0).random((2, count), dtype=np.float32)
    built = build_segmentation(cloud, *labels)
    records = built.data.reshape(count, 24)
    taken = build_segmentation(cloud, *labels, records=records)
    assert np.shares_memory(taken.data, records)
    for name in ("height", "width", "fields", "point_step", "row_step", "is_bigendian", "is_dense"):
        assert getattr(taken, name) == getattr(built, name), name
    # Where something is appended they are not enough.
    more = {"prompt": np.ones(count, np.float32)}
    assert build_segmentation(cloud, *labels, more=more, records=records).point_step == 28
    with pytest.raises(CloudError, match=rf"records have shape \({count - 1}, 24\) for {count} points"):
        build_segmentation(cloud, *labels, records=records[1:])


def test_what_is_built_is_published_without_a_copy():
    message = build_pointcloud2({"x": np.ones(5, np.float32)})
    published = message.data_array()
    assert isinstance(published, array.array)
    assert np.shares_memory(published, message.data)
    part = dataclasses.replace(message, data=message.data[4:12])
    assert part.data_array().tobytes() == message.data[4:12].tobytes()
    counted = build_pointcloud2({"x": np.arange(5, dtype=np.uint8)})
    backward = dataclasses.replace(counted, data=np.ascontiguousarray(counted.data[::-1]))
    assert backward.data_array().tolist() == [4, 3, 2, 1, 0]
    assert np.shares_memory(counted.data_array(), counted.data)
