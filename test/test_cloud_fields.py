"""Coordinates, intensity and ring of a cloud: found by their names, in any type."""

from __future__ import annotations

import numpy as np
import pytest
from cloud_messages import message

from mdkt_ros.cloud import (
    INTENSITY_NAMES,
    RING_NAMES,
    PointField,
    build_segmentation,
    cloud_from_columns,
    parse_pointcloud2,
)
from mdkt_ros.errors import CloudError


def test_missing_coordinate_names_the_field_and_those_present():
    cloud = parse_pointcloud2(message([PointField("x", 0, 7), PointField("height", 4, 7)], bytes(24)))
    with pytest.raises(CloudError, match=r"^point cloud has no field 'y'; fields present: x, height$"):
        cloud.xyz()


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
