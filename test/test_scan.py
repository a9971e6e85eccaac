"""Scan files: what the formats say, what a broken file is told, and what is written reads back."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pcd_files import ENCODINGS, FIELDS, RNG, pcd, records, refused, write

from mdkt_ros.cloud import Cloud
from mdkt_ros.errors import CloudError, OutputError
from mdkt_ros.pcd import write_pcd
from mdkt_ros.scan import read_labels, read_scan, write_scan


@pytest.mark.parametrize(("name", "columns"), [("a.bin", 4), ("a.pcd.bin", 5), ("A.PCD.BIN", 5), ("A.Bin", 4)])
def test_bin_by_its_name(tmp_path, name, columns):
    values = RNG.random((7, columns)).astype("<f4")
    values[:, 4:] = np.arange(7)[:, None]
    cloud = read_scan(write(tmp_path / name, values.tobytes()))
    assert list(cloud.columns) == ["x", "y", "z", "intensity", "ring"][:columns]
    np.testing.assert_array_equal(cloud.xyz(), values[:, :3])
    np.testing.assert_array_equal(cloud.intensity(), values[:, 3])
    assert (cloud.ring() is None) == (columns == 4)
    if columns == 5:
        assert cloud.ring().tolist() == list(range(7))
    assert (cloud.height, cloud.width, cloud.is_dense) == (1, 7, False)


def test_bin_columns_as_told(tmp_path):
    values = np.arange(20, dtype="<f4")
    path = write(tmp_path / "a.bin", values.tobytes())
    assert len(read_scan(path)) == 5
    assert read_scan(path, columns=5).ring().tolist() == [4, 9, 14, 19]
    assert len(read_scan(write(tmp_path / "a.pcd.bin", values.tobytes()), columns=4)) == 5
    assert "6 columns; a .bin has 4 (x y z intensity, as KITTI has it) or 5" in refused(path, columns=6)


@pytest.mark.parametrize("name", ["a.bin", "a.pcd.bin"])
def test_empty_bin_is_an_empty_scan(tmp_path, name):
    cloud = read_scan(write(tmp_path / name, b""))
    assert len(cloud) == 0
    assert cloud.xyz().shape == (0, 3)


def test_truncated_bin_names_its_size_and_what_would_be_right(tmp_path):
    text = refused(write(tmp_path / "000001.bin", bytes(1001)))
    assert text == (
        "1001 bytes are not a whole number of points of 4 float32 (x y z intensity, as KITTI has it): "
        "62 points are 992 bytes; truncated?"
    )
    assert "points of 5 float32 (x y z intensity ring, as nuScenes has it)" in refused(
        write(tmp_path / "a.pcd.bin", bytes(33))
    )


def test_bin_of_the_other_data_set_is_suspected(tmp_path):
    text = refused(write(tmp_path / "a.bin", bytes(60)))
    assert text.endswith("truncated?; it would fit 5 columns (x y z intensity ring, as nuScenes has it)")


@pytest.mark.parametrize("name", ["a.bin", "a.pcd"])
def test_what_is_no_file(tmp_path, name):
    assert refused(tmp_path / name) == "No such file or directory"
    (tmp_path / name).mkdir()
    assert refused(tmp_path / name) == "not a file"
    (tmp_path / name).rmdir()
    os.mkfifo(tmp_path / name)
    assert refused(tmp_path / name) == "not a file"


def test_file_of_another_kind(tmp_path):
    text = refused(write(tmp_path / "scan.las", b""))
    assert text == "not a scan file; known are .bin (KITTI), .pcd.bin (nuScenes) and .pcd"


@st.composite
def pcd_bytes(draw):
    """Headers of plausible lines, some of them wrong or missing, with any data; or a valid file with bytes changed."""
    encoding = draw(st.sampled_from(ENCODINGS))
    if draw(st.booleans()):
        fields = draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=6, unique=True))
        content = bytearray(pcd(fields, records(fields, draw(st.integers(1, 4)), np.random.default_rng(3)), encoding))
        for _ in range(draw(st.integers(1, 4))):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)
    number = st.one_of(st.integers(-1, 9).map(str), st.sampled_from(["4", "1", "8", "1e9", "99999999999", "x", ""]))
    numbers = st.lists(number, max_size=4).map(" ".join)
    lines = {
        "FIELDS": draw(st.lists(st.sampled_from(["x", "y", "z", "_", "ring", "é", "#"]), max_size=4).map(" ".join)),
        "SIZE": draw(numbers),
        "TYPE": draw(st.lists(st.sampled_from("FUIX"), max_size=4).map(" ".join)),
        "COUNT": draw(numbers),
        "WIDTH": draw(number),
        "HEIGHT": draw(number),
        "POINTS": draw(number),
        "DATA": encoding,
    }
    data = draw(st.binary(max_size=80) | st.text("0123456789.- en\n", max_size=80).map(str.encode))
    return b"".join(f"{k} {v}\n".encode() for k, v in lines.items() if draw(st.integers(0, 5))) + data


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=300) | pcd_bytes(),
    name=st.sampled_from(["a.pcd", "a.pcd", "a.pcd", "a.bin", "a.pcd.bin"]),
)
def test_any_bytes_are_read_or_refused(tmp_path, content, name):
    path = write(tmp_path / name, content)
    tracemalloc.start()
    try:
        cloud = read_scan(path)
        cloud.xyz(), cloud.intensity(), cloud.ring()
        assert all(len(column) == len(cloud) for column in cloud.columns.values())
    except CloudError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 3_000_000


def labelled(n: int):
    columns = {"x": RNG.normal(size=n), "y": RNG.normal(size=n), "z": RNG.normal(size=n), "i": RNG.random(n)}
    cloud = Cloud({name: values.astype(np.float32) for name, values in columns.items()}, 1, n, is_dense=True)
    scores = RNG.random((2, n)).astype(np.float32)
    return cloud, RNG.integers(0, 19, n).astype(np.uint8), *scores, RNG.integers(0, 255, (n, 3)).astype(np.uint8)


@pytest.mark.parametrize("n", [0, 1, 40])
def test_labelled_scan_round_trip(tmp_path, n):
    cloud, class_id, probability, entropy, colors = labelled(n)
    write_scan(tmp_path / "out.pcd", cloud, class_id, probability, entropy, colors)
    again = read_scan(tmp_path / "out.pcd")
    assert list(again.columns) == ["x", "y", "z", "intensity", "class_id", "probability", "entropy", "rgb"]
    np.testing.assert_array_equal(again.xyz(), cloud.xyz())
    np.testing.assert_array_equal(again.intensity(), cloud.intensity())
    for name, values in (("class_id", class_id), ("probability", probability), ("entropy", entropy)):
        assert again.columns[name].dtype == values.dtype
        np.testing.assert_array_equal(again.columns[name], values)
    packed = np.ascontiguousarray(again.columns["rgb"]).view("<u4")
    assert packed.tolist() == [r << 16 | g << 8 | b for r, g, b in colors.tolist()]
    assert b"DATA binary\n" in (tmp_path / "out.pcd").read_bytes()


def test_labelled_scan_without_intensity(tmp_path):
    cloud, *rest = labelled(3)
    del cloud.columns["i"]
    write_scan(tmp_path / "out.pcd", cloud, *rest)
    assert "intensity" not in read_scan(tmp_path / "out.pcd").columns


def test_labelled_scan_that_cannot_be_written(tmp_path):
    cloud, class_id, *rest = labelled(3)
    with pytest.raises(CloudError, match=r"out\.bin: labelled scans are written as \.pcd"):
        write_scan(tmp_path / "out.bin", cloud, class_id, *rest)
    with pytest.raises(CloudError, match=r"out\.pcd: columns of different lengths: .*'class_id': 2"):
        write_scan(tmp_path / "out.pcd", cloud, class_id[:2], *rest)
    with pytest.raises(CloudError, match="column 'a' of float16"):
        write_pcd(tmp_path / "out.pcd", {"a": np.zeros(3, np.float16)})
    assert list(tmp_path.iterdir()) == []
    write_scan(tmp_path / "out.pcd", cloud, class_id, *rest)
    with pytest.raises(OutputError, match=r"out\.pcd: exists already"):
        write_scan(tmp_path / "out.pcd", cloud, class_id, *rest)
    write_scan(tmp_path / "out.pcd", cloud, class_id, *rest, force=True)


@pytest.mark.real
def test_real_scans_and_labels(real_data):
    kitti = real_data / "semantickitti/sequences/07"
    scan = read_scan(kitti / "velodyne/000964.bin")
    assert len(scan) == 120_485
    assert len(read_labels(kitti / "labels/000964.label", len(scan), np.uint32)) == 120_485
    assert 0 <= scan.intensity().min() <= scan.intensity().max() <= 1
    frames = sorted((real_data / "nuscenes_lidarseg").glob("*.pcd.bin"))
    assert frames
    for path in frames:
        scan = read_scan(path)
        assert set(np.unique(scan.ring())) == set(range(32))
        assert scan.intensity().max() <= 255
        name = path.name.replace(".pcd.bin", "_lidarseg.bin")
        assert len(read_labels(path.with_name(name), len(scan), np.uint8)) == len(scan)


def test_what_a_scan_lacks_names_its_file(tmp_path):
    write_pcd(tmp_path / "a.pcd", {"u": np.zeros(3, np.float32)})
    with pytest.raises(CloudError, match=r"a\.pcd: point cloud has no field 'x'; fields present: u"):
        read_scan(tmp_path / "a.pcd").xyz()
    np.full((3, 5), -1, "<f4").tofile(tmp_path / "b.pcd.bin")
    with pytest.raises(CloudError, match=r"b\.pcd\.bin: point cloud field 'ring' reaches from -1.0 to -1.0"):
        read_scan(tmp_path / "b.pcd.bin").ring()
