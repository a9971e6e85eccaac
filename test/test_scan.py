"""Scan and label files: what the formats say, what a broken file is told, and that no header is believed."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import lzf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdkt_ros.cloud import Cloud
from mdkt_ros.errors import CloudError, LabelError, OutputError
from mdkt_ros.pcd import read_header, write_pcd
from mdkt_ros.scan import read_labels, read_scan, write_scan

ENCODINGS = ["ascii", "binary", "binary_compressed"]
RNG = np.random.default_rng(0)
# A layout as PCL writes it: padding fields, a field of several values, integers of each size.
FIELDS = [("x", "f4", 1), ("y", "f4", 1), ("z", "f4", 1), ("_", "u1", 4), ("intensity", "f4", 1), ("normal", "f4", 3)]
FIELDS += [("_", "u1", 1), ("ring", "u2", 1), ("flag", "i1", 2), ("t", "f8", 1), ("id", "i4", 1), ("big", "u8", 1)]


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


@pytest.mark.parametrize("n", [0, 1, 2, 50])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_pcd_of_every_encoding(tmp_path, encoding, n):
    points = records(FIELDS, n)
    cloud = read_scan(write(tmp_path / "a.pcd", pcd(FIELDS, points, encoding) if n else header(FIELDS, 0, encoding)))
    assert list(cloud.columns) == [name for name, _, _ in FIELDS if name != "_"]
    for i, (name, code, _) in enumerate(FIELDS):
        if name != "_":
            assert cloud.columns[name].dtype == np.dtype(code)
            np.testing.assert_array_equal(cloud.columns[name], points[f"c{i}"])
    np.testing.assert_array_equal(cloud.xyz(), np.stack([points["c0"], points["c1"], points["c2"]], axis=1))
    assert cloud.xyz().flags.writeable


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_organised_pcd_keeps_its_rows(tmp_path, encoding):
    points = records(FIELDS, 6)
    cloud = read_scan(write(tmp_path / "a.pcd", header(FIELDS, 3, encoding, height=2) + body(points, encoding)))
    assert (cloud.height, cloud.width, len(cloud)) == (2, 3, 6)


XYZ = [("x", "f4", 1), ("y", "f4", 1), ("z", "f4", 1)]


def test_ascii_as_people_write_it(tmp_path):
    fields = [*XYZ, ("ring", "u1", 1), ("id", "i8", 1)]
    text = b"  1\t2.5 nan 3.0  4\r\n\n-inf 1e2 .5 7 8 \n"
    cloud = read_scan(write(tmp_path / "a.pcd", header(fields, 2, "ascii") + text))
    np.testing.assert_array_equal(cloud.xyz(), np.array([[1, 2.5, np.nan], [-np.inf, 100, 0.5]], np.float32))
    assert cloud.ring().tolist() == [3, 7]
    assert cloud.columns["id"].tolist() == [4, 8]


def test_header_as_people_write_it(tmp_path):
    points = records(XYZ, 3)
    content = b"#c\r\n\r\nversion .5\r\nCOLUMNS x y z\r\nsize 4 4 4\r\nTYPE f F f\r\nPOINTS 3\r\nDATA BINARY\r\n"
    cloud = read_scan(write(tmp_path / "a.pcd", content + points.tobytes() + b"\n"))
    np.testing.assert_array_equal(cloud.xyz()[:, 1], points["c1"])


@pytest.mark.parametrize(
    ("lines", "data", "error"),
    [
        ({"WIDTH": "1" + "0" * 12, "POINTS": "1" + "0" * 12}, "binary", "claims 1000000000000 points of 12 bytes"),
        ({"WIDTH": "1" + "0" * 12, "POINTS": "1" + "0" * 12}, "ascii", "claims 1000000000000 points, at least"),
        ({"WIDTH": "1" + "0" * 12, "POINTS": "1" + "0" * 12}, "binary_compressed", "claims 1000000000000 points"),
        ({"WIDTH": "9" * 18, "HEIGHT": "9" * 18, "POINTS": ""}, "binary", "claims 99999"),
        ({"WIDTH": "3", "POINTS": "3"}, "binary", "claims 3 points of 12 bytes, 36 in all; 24 follow"),
        ({"WIDTH": "3", "POINTS": "3"}, "ascii", "claims 3 points, 2 lines of data follow"),
        ({"WIDTH": "1", "POINTS": "1"}, "ascii", "claims 1 points, 2 lines of data follow"),
        ({"WIDTH": "3"}, "binary", "POINTS 2 is not WIDTH 3 * HEIGHT 1"),
        ({"POINTS": "-2"}, "binary", "POINTS '-2' is not a count"),
        ({"POINTS": "٢"}, "binary", "POINTS '٢' is not a count"),
        ({"WIDTH": "9" * 5000}, "binary", "is not a count"),
        ({"FIELDS": "x y"}, "binary", "2 FIELDS, but 3 values of SIZE"),
        ({"FIELDS": ""}, "binary", "PCD header has no FIELDS; it has VERSION, SIZE, TYPE"),
        ({"FIELDS": "x y x"}, "binary", "PCD field 'x' occurs twice; fields present: x, y, x"),
        ({"SIZE": "4 4"}, "binary", "3 FIELDS, but 2 values of SIZE"),
        ({"SIZE": "4 4 2"}, "binary", "PCD field 'z': TYPE F of SIZE 2 is not known"),
        ({"TYPE": "F F C"}, "binary", "PCD field 'z': TYPE C of SIZE 4 is not known"),
        ({"COUNT": "1 1 0"}, "binary", "PCD field 'z': COUNT is 0"),
        ({"COUNT": "1 1 1000000000"}, "binary", "PCD field 'z': COUNT is 1000000000"),
        ({"COUNT": "2000 2000 2000"}, "binary", "a point of 24000 bytes is more than 16384"),
        ({"DATA": "zip"}, "binary", "PCD DATA 'zip' is not ascii, binary or binary_compressed"),
        ({"DATA": ""}, "binary", "not a PCD file: no DATA line"),
    ],
)
def test_header_that_cannot_be(tmp_path, lines, data, error):
    points = records(XYZ, 2)
    head = header(XYZ, 2, data, **lines)
    assert error in refused(write(tmp_path / "a.pcd", head + body(points, data)))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"1 2\n3 4\n", "at least 11 bytes of text; 8 follow"),
        (b"1 2 3 4\n5 6\n", "cannot be read as ascii"),
        (b"1 2 a\n4 5 6\n", "cannot be read as ascii: could not convert string"),
        (b"\xff\xfe\x00 1 2\n4 5 6\n", "cannot be read as ascii"),
        (b"# 1 2 3\n4 5 6 \n", "its data hold 1"),
    ],
)
def test_text_that_is_no_points(tmp_path, text, error):
    assert error in refused(write(tmp_path / "a.pcd", header(XYZ, 2, "ascii") + text))


@pytest.mark.parametrize("value", [b"256", b"-1", b"nan", b"1e30"])
def test_text_that_does_not_fit_its_field(tmp_path, value):
    path = write(tmp_path / "a.pcd", header([("ring", "u1", 1)], 1, "ascii") + value)
    assert refused(path) == "PCD field 'ring' of type uint8 holds a value that is no such number"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "truncated: 0 bytes follow"),
        (struct.pack("<II", 500, 24) + b"abc", "truncated: 500 compressed bytes stated, 3 follow"),
        (struct.pack("<II", 3, 25) + b"abc", "claims 2 points of 12 bytes, 24 in all; its data state 25"),
        (struct.pack("<II", 0, 24), "0 bytes cannot hold 24 compressed ones"),
        (struct.pack("<II", 3, 24) + b"\xff\xff\xff", "cannot be read as binary_compressed"),
        (struct.pack("<II", 2, 24) + b"\x00a", "cannot be read as binary_compressed"),
    ],
)
def test_compressed_data_that_cannot_be(tmp_path, data, error):
    assert error in refused(write(tmp_path / "a.pcd", header(XYZ, 2, "binary_compressed") + data))


def test_small_file_that_claims_a_lot_allocates_little(tmp_path):
    n = 10**8
    bomb = header(XYZ, n, "binary_compressed") + struct.pack("<II", 1000, 12 * n) + bytes(1000)
    path = write(tmp_path / "a.pcd", bomb)
    tracemalloc.start()
    try:
        assert "1000 bytes cannot hold 1200000000" in refused(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_header_without_end_is_given_up(tmp_path):
    assert "no DATA line" in refused(write(tmp_path / "a.pcd", b"# comment\n" * 100_000))
    assert "no DATA line" in refused(write(tmp_path / "a.pcd", b"x" * 1_000_000))
    assert "no DATA line" in refused(write(tmp_path / "a.pcd", b""))
    wide = " ".join(f"f{i}" for i in range(10_000))
    assert "FIELDS, but" in refused(write(tmp_path / "a.pcd", f"FIELDS {wide}\nSIZE 4\nTYPE F\nDATA ascii\n".encode()))


def test_header_offsets_are_exact():
    content = header(XYZ, 2, "binary")
    parsed = read_header(content + bytes(24), "a")
    assert parsed.data_offset == len(content)
    assert (parsed.names, parsed.types, parsed.counts) == (("x", "y", "z"), ("f4",) * 3, (1, 1, 1))
    assert (parsed.points, parsed.point_bytes) == (2, 12)


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


LABELS = np.array([40, 10 | 7 << 16, 252, 0], dtype="<u4")


def test_labels_of_semantickitti(tmp_path):
    labels = read_labels(write(tmp_path / "a.label", LABELS.tobytes()), 4, np.uint32)
    assert labels.dtype == np.uint32
    assert labels.tolist() == LABELS.tolist()
    labels[0] = 1


def test_labels_of_lidarseg(tmp_path):
    labels = read_labels(write(tmp_path / "a_lidarseg.bin", bytes([24, 30, 0])), 3, np.uint8)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [24, 30, 0]
    assert read_labels(write(tmp_path / "b", b""), 0, np.uint32).shape == (0,)


@pytest.mark.parametrize(
    ("size", "points", "error"),
    [
        (15, 4, "15 bytes are not a whole number of uint32 labels; 4 points need 16 bytes; truncated?"),
        (12, 4, "3 uint32 labels, but the scan has 4 points"),
        (20, 4, "5 uint32 labels, but the scan has 4 points"),
        (0, 4, "0 uint32 labels, but the scan has 4 points"),
    ],
)
def test_labels_that_do_not_fit_the_scan(tmp_path, size, points, error):
    path = write(tmp_path / "a.label", bytes(size))
    with pytest.raises(LabelError) as raised:
        read_labels(path, points, np.uint32)
    assert str(raised.value) == f"{path}: {error}"


def test_labels_that_are_no_file(tmp_path):
    with pytest.raises(LabelError, match=r"a\.label: No such file"):
        read_labels(tmp_path / "a.label", 1, np.uint32)
    with pytest.raises(LabelError, match="not a file"):
        read_labels(tmp_path, 1, np.uint32)


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
