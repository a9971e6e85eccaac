"""The page of a path: whatever form a drive has, the page shows its scans with the labels that belong to them."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from bags import cloud_message, make_bag, rewrite
from fake_drive import START, FakeDrive
from small_drives import kitti_frames, write_kitti, write_nuscenes_set

from mdkt_ros.checkpoint import CheckpointMeta
from mdkt_ros.cloud import cloud_from_columns
from mdkt_ros.drive import open_drive
from mdkt_ros.drive.convert import convert
from mdkt_ros.drive.rosmsg import Messages, typestore
from mdkt_ros.errors import DriveError, LabelError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.render.page import page_for_path
from mdkt_ros.scan import write_scan
from mdkt_ros.segment_drive import segment_path
from mdkt_ros.segmentation import Segmentation
from mdkt_ros.voxel_grid import VoxelGrid

KITTI, NUSCENES = LabelSpace.load("semantickitti"), LabelSpace.load("nuscenes")
MESSAGES = Messages(typestore())
GRID = VoxelGrid(1.0, (-40.0, -40.0, -40.0), (40.0, 40.0, 40.0))


class Stripes:
    """Labels a point by its x, so that a test can tell what the page has to show."""

    def __init__(self, labels=KITTI, axes="x_forward"):
        self.labels, self.axes, self.intensity_scale = labels, axes, 1.0
        self.meta = replace(CheckpointMeta("minkunet14s", 1.0, GRID, labels), axes=axes)

    def for_sensor(self, **_):
        return self

    def segment(self, points, intensity=None):
        broken = ~np.isfinite(points).all(axis=1)
        class_id = np.where(broken, 255, stripe(points)).astype(np.uint8)
        probability = np.where(broken, 0, 0.75).astype(np.float32)
        return Segmentation(class_id, probability, np.zeros(len(points), np.float32), {"inference": 2.0, "total": 2.0})


def stripe(points):
    return np.nan_to_num(np.floor(np.abs(points[:, 0])), posinf=0) % 5


def shown(path):
    """Name, and decoded columns, of each frame on a page."""
    found = re.findall(r'<script type="application/json" class="frame"[^>]*>(.*?)</script>', path.read_text("utf-8"))
    for text in found:
        frame = json.loads(text)
        for name in ("prediction", "truth", "probability"):
            if name in frame:
                frame[name] = np.frombuffer(base64.b64decode(frame[name]), np.uint8)
        frame["xyz"] = np.frombuffer(base64.b64decode(frame["xyz"]), "<i2").reshape(-1, 3) * frame["scale"]
        yield frame


@pytest.fixture
def page(tmp_path):
    return tmp_path / "page.html"


def test_labelled_bag(tmp_path, page):
    drive = FakeDrive(frames=5)
    convert(drive, tmp_path / "in")
    summary = segment_path(tmp_path / "in", tmp_path / "out", Stripes())
    seen = []
    statistics = page_for_path(tmp_path / "out", page, limit=3, progress=lambda *step: seen.append(step))
    frames = list(shown(page))
    assert [frame["stamp"] for frame in frames] == [str(drive[i].stamp) for i in (0, 2, 4)]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    for frame, index in zip(frames, (0, 2, 4), strict=True):
        original = drive[index]
        finite = np.isfinite(original.points).all(axis=1)
        assert np.array_equal(frame["prediction"], stripe(original.points)[finite])
        assert np.array_equal(frame["truth"], original.labels[finite])
        assert set(frame["probability"]) == {191}
        assert [image["name"] for image in frame["images"]] == ["image_2", "CAM_LEFT"]
    assert statistics.confusion.sum() < summary.confusion.sum()
    page_for_path(tmp_path / "out", page, limit=3, summary=summary, facts=[("Checkpoint", "stripes")], force=True)
    text = page.read_text("utf-8")
    assert "every point of the drive&#x27;s 5 scans" in text
    assert "<dt>Checkpoint</dt><dd>stripes</dd>" in text
    assert "<dt>Scans shown</dt><dd>3 of 5</dd>" in text
    assert '<th scope="row">inference</th><td>2.0 ms</td>' in text


def test_bag_without_labels_and_with_truth_alone(tmp_path, page):
    convert(FakeDrive(frames=2, labelled=False), tmp_path / "bare")
    page_for_path(tmp_path / "bare", page)
    assert "<dt>Classes</dt>" not in page.read_text("utf-8")
    for frame in shown(page):
        assert "prediction" not in frame
        assert "truth" not in frame
    convert(FakeDrive(frames=2), tmp_path / "truth")
    page_for_path(tmp_path / "truth", page, force=True)
    assert all("truth" in frame and "prediction" not in frame for frame in shown(page))


def test_truth_in_other_classes_is_left_out(tmp_path, page):
    convert(FakeDrive(frames=2, label_space="nuscenes"), tmp_path / "in")
    segment_path(tmp_path / "in", tmp_path / "out", Stripes(KITTI))
    page_for_path(tmp_path / "out", page)
    assert all("truth" not in frame and "prediction" in frame for frame in shown(page))
    assert "<dd>left out, it is in other classes</dd>" in page.read_text("utf-8")


def test_labelled_bag_without_class_names(tmp_path, page):
    cloud = cloud_message(MESSAGES, START)
    make_bag(tmp_path / "bag", [("/points", START, cloud), ("/segment/output/segmentation", START, cloud)])
    with pytest.raises(DriveError, match="there is no /segment/output/label_info that names their classes"):
        page_for_path(tmp_path / "bag", page)
    assert not page.exists()


def test_damaged_cloud_is_left_out_and_told(tmp_path, page):
    convert(FakeDrive(frames=3, cameras=False), tmp_path / "in")
    count = iter(range(10))

    def change(topic, message):
        if topic == "/lidar/points" and next(count) == 1:
            message.fields[0].name = "not_x"
        return message

    rewrite(tmp_path / "in", tmp_path / "damaged", change=change)
    page_for_path(tmp_path / "damaged", page)
    assert [frame["name"] for frame in shown(page)] == ["000000", "000002"]
    assert re.search(r"Scan 1 is not shown: .*not_x", page.read_text("utf-8"))


def test_labelled_semantickitti(tmp_path, page):
    write_kitti(tmp_path / "in")
    segment_path(tmp_path / "in", tmp_path / "out", Stripes())
    for path in (tmp_path / "out", tmp_path / "out" / "sequences" / "00"):
        page_for_path(path, page, force=True)
        for frame, original in zip(shown(page), kitti_frames(), strict=True):
            assert np.array_equal(frame["prediction"], stripe(original.points))
            assert np.array_equal(frame["truth"], original.labels)
            assert len(frame["images"]) == 2
    page_for_path(tmp_path / "in", page, predictions=tmp_path / "out", force=True)
    assert all("prediction" in frame for frame in shown(page))
    with pytest.raises(LabelError, match="holds no prediction of a scan of 00"):
        page_for_path(tmp_path / "in", page, predictions=tmp_path, force=True)


def test_labelled_nuscenes_shows_the_prediction_and_not_the_truth_for_it(tmp_path, page):
    write_nuscenes_set(tmp_path / "in", count=2)
    page_for_path(tmp_path / "in", page)
    assert all("prediction" not in frame and "truth" in frame for frame in shown(page))
    segment_path(tmp_path / "in", tmp_path / "out", Stripes(NUSCENES, "y_forward"))
    page_for_path(tmp_path / "out", page, force=True)
    for frame in shown(page):
        # x forward on the page, as the segmenter saw it with y forward; positions are rounded to millimetres.
        agree = frame["prediction"] == np.floor(np.abs(frame["xyz"][:, 1])) % 5
        assert agree.mean() > 0.95
        assert {image["name"] for image in frame["images"]} == {"CAM_FRONT", "CAM_BACK"}


def test_plain_folder_and_label_file(tmp_path, page):
    folder = tmp_path / "scans"
    folder.mkdir()
    scan = np.random.default_rng(0).normal(0, 10, (40, 4)).astype("<f4")
    scan.tofile(folder / "a.bin")
    segment_path(folder, tmp_path / "out", Stripes())
    page_for_path(tmp_path / "out", page)
    (frame,) = shown(page)
    assert np.array_equal(frame["prediction"], stripe(scan))
    segment_path(folder / "a.bin", tmp_path / "a.label", Stripes())
    page_for_path(folder / "a.bin", page, predictions=tmp_path / "a.label", force=True)
    (frame,) = shown(page)
    assert np.array_equal(frame["prediction"], stripe(scan))


@pytest.mark.parametrize("labels", [KITTI, NUSCENES])
def test_labelled_pcd_knows_its_classes_by_their_colours(tmp_path, page, labels):
    rng = np.random.default_rng(1)
    cloud = cloud_from_columns({name: rng.normal(0, 9, 30).astype(np.float32) for name in "xyz"})
    class_id = rng.integers(0, 16, 30).astype(np.uint8)
    ones = np.ones(30, np.float32)
    write_scan(tmp_path / "a.pcd", cloud, class_id, ones, ones, labels.colors(class_id))
    page_for_path(tmp_path / "a.pcd", page)
    (frame,) = shown(page)
    assert np.array_equal(frame["prediction"], class_id)
    assert f"<dd>{len(labels)}, {labels.name}</dd>" in page.read_text("utf-8")
    write_scan(tmp_path / "b.pcd", cloud, class_id, ones, ones, np.full((30, 3), 7, np.uint8))
    with pytest.raises(LabelError, match=r"b\.pcd: its colours are of no shipped label space"):
        page_for_path(tmp_path / "b.pcd", page, force=True)
    page_for_path(tmp_path / "b.pcd", page, labels=labels, force=True)


def test_what_is_not_a_drive_is_named(tmp_path, page):
    with pytest.raises(DriveError, match="does not exist"):
        page_for_path(tmp_path / "nothing", page)
    convert(FakeDrive(frames=1), tmp_path / "bag")
    with pytest.raises(DriveError, match="predictions of a bag are in the bag itself"):
        page_for_path(tmp_path / "bag", page, predictions=tmp_path)


@pytest.mark.real
def test_real_scan_with_its_truth_and_image(real_data, page):
    page_for_path(real_data / "semantickitti" / "sequences" / "07", page, image_size=(1226, 370))
    (frame,) = shown(page)
    assert frame["total"] == 120_485
    assert frame["truthCounts"][str(KITTI.index("building"))] == 37_840
    assert frame["n"] == 60_000
    assert page.stat().st_size < 1.5e6


def test_damaged_images_are_left_out_and_told(tmp_path, page):
    write_kitti(tmp_path / "in")
    (folder,) = (tmp_path / "in").glob("sequences/*/image_2")
    first, second, *_ = sorted(folder.iterdir())
    second.write_bytes(first.read_bytes()[:200])
    convert(open_drive(tmp_path / "in"), tmp_path / "bag")
    for path in (tmp_path / "in", tmp_path / "bag"):
        page_for_path(path, page, force=True)
        assert [len(frame["images"]) for frame in shown(page)][:2] == [2, 1]
        assert re.search(r"Scan 0*1 is shown without its image of image_2: .*image", page.read_text("utf-8"))


def test_of_a_drive_that_was_labelled_in_part_that_part_is_shown(tmp_path, page):
    folder = tmp_path / "scans"
    folder.mkdir()
    for i in range(20):
        np.random.default_rng(i).normal(0, 10, (40, 4)).astype("<f4").tofile(folder / f"{i:02d}.bin")
    segment_path(folder, tmp_path / "out", Stripes(), limit=2)
    page_for_path(tmp_path / "out", page)
    frames = list(shown(page))
    assert [frame["name"] for frame in frames] == ["00", "01"]
    assert all("prediction" in frame for frame in frames)
    with pytest.raises(LabelError, match="nothing: does not exist"):
        page_for_path(tmp_path / "out", page, predictions=tmp_path / "nothing", force=True)


def test_where_not_one_scan_can_be_shown_the_reason_is(tmp_path, page):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "0.bin").write_bytes(b"123")
    with pytest.raises(DriveError, match=r"scans: there is no scan to show\. Scan 0 is not shown: .*0\.bin: 3 bytes"):
        page_for_path(tmp_path / "scans", page)
    assert not page.exists()
