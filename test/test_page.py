"""The report page: what is in the file, and what is refused."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from page_frames import BUILDING, CAR, EVIL, LABELS, ROAD, camera, make_frame
from PIL import Image

from mdkt_ros.errors import CameraError, ConfigError, DriveError, LabelError, OutputError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.render.page import PageFrame, write_page
from mdkt_ros.render.page_data import thin


def packed_frames(path):
    """The frames as the page holds them."""
    found = re.findall(r'<script type="application/json" class="frame"[^>]*>(.*?)</script>', path.read_text("utf-8"))
    return [json.loads(text) for text in found]


def test_page_holds_every_column_of_a_frame(tmp_path):
    frame = make_frame()
    statistics = write_page(tmp_path / "page.html", [frame], title="Drive", labels=LABELS)
    (packed,) = packed_frames(tmp_path / "page.html")
    assert packed["n"] == packed["total"] == len(frame.points) == statistics.points == statistics.shown
    xyz = np.frombuffer(base64.b64decode(packed["xyz"]), "<i2").reshape(-1, 3) * packed["scale"]
    np.testing.assert_allclose(xyz, frame.points, atol=packed["scale"] / 2 + 1e-6)
    for name, column in (("prediction", frame.class_id), ("truth", frame.truth)):
        assert np.array_equal(np.frombuffer(base64.b64decode(packed[name]), np.uint8), column)
    probability = np.frombuffer(base64.b64decode(packed["probability"]), np.uint8) / 255
    np.testing.assert_allclose(probability, frame.probability, atol=0.002)
    half = len(frame.points) // 2
    assert packed["predictionCounts"] == {str(CAR): half, str(ROAD): half}
    assert packed["truthCounts"][str(BUILDING)] == 100
    assert (packed["scored"], packed["wrong"]) == (2 * half - 10, 100)


def test_image_travels_with_the_points_that_it_shows(tmp_path):
    frame = make_frame()
    write_page(tmp_path / "page.html", [frame], title="Drive", labels=LABELS)
    (image,) = packed_frames(tmp_path / "page.html")[0]["images"]
    head, data = image["src"].split(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (320, 160)
    uv = np.frombuffer(base64.b64decode(image["uv"]), "<u2").reshape(-1, 2) * image["step"]
    expected = camera().project(frame.points)
    assert len(uv) == expected.in_view.sum()
    wanted = expected.pixels[expected.in_view] + 0.5
    assert {tuple(row) for row in np.round(wanted * 16) / 16} == {tuple(row) for row in uv}


def test_axes_of_nuscenes_are_turned_forward(tmp_path):
    points = np.array([[1, 20, 0.5]], np.float32)  # x right, y forward
    frame = PageFrame("a", 0, points, class_id=np.array([0], np.uint8))
    write_page(tmp_path / "page.html", [frame], title="t", labels=LabelSpace.load("nuscenes"), axes="y_forward")
    (packed,) = packed_frames(tmp_path / "page.html")
    xyz = np.frombuffer(base64.b64decode(packed["xyz"]), "<i2") * packed["scale"]
    np.testing.assert_allclose(xyz, [20, -1, 0.5], atol=1e-3)


def test_table_has_the_figures_of_every_point(tmp_path):
    write_page(tmp_path / "page.html", [make_frame()], title="Drive", labels=LABELS, point_limit=50)
    text = (tmp_path / "page.html").read_text("utf-8")
    half = len(make_frame().points) // 2
    row = re.search(r"<tr><th scope=\"row\"><i class=\"swatch c0\"></i>car</th>(.*?)</tr>", text).group(1)
    assert re.findall(r">([^<>]+)</td>", row) == [
        f"{half:,}",
        f"{half - 110:,}",
        f"{100 * (half - 110) / (half - 10):.1f} %",
        f"{100 * (half - 110) / (half - 10):.1f} %",
        "100.0 %",
    ]
    assert "inference</th><td>90.0 ms</td></tr>" in text
    assert packed_frames(tmp_path / "page.html")[0]["n"] == 50


def test_page_asks_the_network_for_nothing(tmp_path):
    write_page(tmp_path / "page.html", [make_frame()], title="Drive", labels=LABELS)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert not re.search(r"https?://|//cdn|src=\"(?!data:)", text)
    assert "default-src 'none'" in text


def test_text_cannot_leave_its_place(tmp_path):
    frame = make_frame(name=EVIL)
    frame = PageFrame(EVIL, 0, frame.points, frame.class_id, images=[(EVIL, *frame.images[0][1:])], timings={EVIL: 1.0})
    write_page(tmp_path / "page.html", [frame], title=EVIL, labels=LABELS, facts=[(EVIL, EVIL)], note=EVIL)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "<script>document" not in text
    assert "<img" not in text.replace("document.createElement", "")
    (packed,) = packed_frames(tmp_path / "page.html")
    assert packed["name"] == packed["images"][0]["name"] == EVIL


def test_thinning_keeps_the_far_and_thins_the_near():
    rng = np.random.default_rng(3)
    near, far = rng.uniform(-2, 2, (20_000, 3)), rng.uniform(30, 60, (500, 3))
    points = np.concatenate([near, far, [[np.nan, 0, 0]]]).astype(np.float32)
    kept = thin(points, 8_000)
    assert len(kept) == 8_000
    assert len(np.unique(kept)) == 8_000
    assert np.all(np.diff(kept) > 0)
    assert (kept >= 20_000).sum() >= 495, "hardly two far points share a cell"
    assert np.array_equal(kept, thin(points, 8_000))
    assert len(thin(points, 10**6)) == 20_500


def test_points_that_cannot_be_are_counted_but_not_drawn(tmp_path):
    points = np.array([[1, 2, 3], [np.nan, 0, 0], [1e30, 0, 0], [4, 5, 6]], np.float32)
    class_id = np.array([CAR, 255, 255, ROAD], np.uint8)
    frame = PageFrame("a", 0, points, class_id, probability=np.array([1, np.nan, 0, 1], np.float32))
    write_page(tmp_path / "page.html", [frame], title="t", labels=LABELS)
    (packed,) = packed_frames(tmp_path / "page.html")
    assert (packed["n"], packed["total"]) == (2, 4)
    assert packed["predictionCounts"] == {str(CAR): 1, str(ROAD): 1, "255": 2}
    assert packed["scale"] < 0.001, "a stray coordinate does not cost the others their resolution"


def test_bad_input_is_refused_and_nothing_is_left(tmp_path):
    out = tmp_path / "page.html"
    with pytest.raises(DriveError, match="no scan"):
        write_page(out, [], title="t", labels=LABELS)
    with pytest.raises(ConfigError, match="point_limit is 0"):
        write_page(out, [make_frame()], title="t", labels=LABELS, point_limit=0)
    small = make_frame(name="bad", images=[("front", np.zeros((10, 10, 3), np.uint8), camera())])
    with pytest.raises(CameraError, match="frame bad, image front: 10x10 pixels"):
        write_page(out, [make_frame(), small], title="t", labels=LABELS)
    foreign = make_frame(class_id=np.full(len(make_frame().points), 77, np.uint8))
    with pytest.raises(LabelError, match="frame first: class_id 77; semantickitti has 0 to 18"):
        write_page(out, [foreign], title="t", labels=LABELS)
    with pytest.raises(LabelError, match=r"frame first: truth has shape \(3,\)"):
        make_frame(truth=np.zeros(3, np.uint8))
    assert list(tmp_path.iterdir()) == []
    out.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_page(out, [make_frame()], title="t", labels=LABELS)
    assert out.read_text() == "mine"
    write_page(out, [make_frame()], title="t", labels=LABELS, force=True)
    assert "mine" not in out.read_text("utf-8")[:100]
