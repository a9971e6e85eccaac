"""PCD files: every encoding, headers as people write them, and that no header is believed."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from pcd_files import ENCODINGS, FIELDS, XYZ, body, header, pcd, records, refused, write

from mdkt_ros.pcd import read_header
from mdkt_ros.scan import read_scan


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
