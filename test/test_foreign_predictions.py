"""Any folder of scans is labelled by any checkpoint: predictions in other classes than the data set's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from echo_segmenter import Echo
from small_drives import kitti_drive, kitti_scan, tree, write_nuscenes_set
from test_page_source import shown

from mdkt_ros.drive import open_drive
from mdkt_ros.errors import LabelError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.pcd import write_pcd
from mdkt_ros.render.page import page_for_path
from mdkt_ros.scan import read_labels
from mdkt_ros.segment_drive import segment_path

NUSCENES, KITTI = LabelSpace.load("nuscenes"), LabelSpace.load("semantickitti")


def nuscenes_scans(folder: Path) -> Path:
    folder.mkdir()
    values = np.random.default_rng(0).normal(0, 10, (30, 5)).astype("<f4")
    values[:, 4] = np.arange(30)
    values.tofile(folder / "00.pcd.bin")
    np.full(30, 17, np.uint8).tofile(folder / "00_lidarseg.bin")
    return folder


def object_scans(root: Path) -> Path:
    kitti_scan(root / "training" / "velodyne" / "00.bin")
    (root / "training" / "calib").mkdir()
    return root


def pcd_scans(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    write_pcd(folder / "00.pcd", {name: rng.normal(0, 9, 30).astype(np.float32) for name in "xyz"})
    return folder


@pytest.mark.parametrize(
    ("make", "labels", "place"),
    [
        (nuscenes_scans, KITTI, "predictions_semantickitti/00.label"),
        (object_scans, NUSCENES, "training/predictions_nuscenes/00.label"),
        (pcd_scans, NUSCENES, "predictions_nuscenes/00.label"),
    ],
)
def test_folders_of_scans(tmp_path, make, labels, place):
    source = make(tmp_path / "in")
    before = tree(source)
    summary = segment_path(source, tmp_path / "out", Echo(labels=labels))
    assert tree(source) == before
    out = tmp_path / "out" / place
    assert tree(tmp_path / "out").keys() - before.keys() == {place, str(Path(place).with_name("label_space.yaml"))}
    assert LabelSpace.load(out.with_name("label_space.yaml")) == labels
    frame = open_drive(source)[0]
    ids = labels.from_raw(read_labels(out, len(frame.points), np.uint32), "")
    assert np.bincount(ids, minlength=len(labels)).tolist() == summary.class_points.tolist()
    assert sum(f"{out.parent.name}/" in note for note in summary.notes) == 1
    page = tmp_path / "page.html"
    page_for_path(tmp_path / "out", page)
    (drawn,) = shown(page)
    assert np.array_equal(drawn["prediction"], ids)
    assert f"<dd>{len(labels)}, {labels.name}</dd>" in page.read_text("utf-8")
    for given in (out, out.parent):
        page_for_path(source, page, predictions=given, force=True)
        assert np.array_equal(next(shown(page))["prediction"], ids)


def test_all_sequences_of_semantickitti(tmp_path):
    source = kitti_drive(tmp_path / "in")
    (source / "sequences" / "09").symlink_to("08")
    segment_path(source, tmp_path / "out", Echo(labels=NUSCENES))
    for sequence in ("08", "09"):
        folder = tmp_path / "out" / "sequences" / sequence
        assert len(list((folder / "predictions_nuscenes").iterdir())) == 4
        assert not (folder / "predictions").exists()
    for path, predictions in ((tmp_path / "out", None), (source, tmp_path / "out")):
        page_for_path(path, tmp_path / "page.html", predictions=predictions, force=True)
        frames = list(shown(tmp_path / "page.html"))
        assert len(frames) == 6
        for frame in frames:
            # Truth in other classes cannot be compared.
            assert "truth" not in frame
            assert set(np.unique(frame["prediction"])) == {0, 1}


def test_nuscenes_by_the_scans_token(tmp_path):
    write_nuscenes_set(tmp_path / "in")
    segment_path(tmp_path / "in", tmp_path / "out", Echo())
    drive = open_drive(tmp_path / "in")
    names = {f"{drive.lidar_token(i)}.label" for i in range(3)}
    assert {p.name for p in (tmp_path / "out" / "predictions_semantickitti").iterdir()} == {*names, "label_space.yaml"}
    assert not (tmp_path / "out" / "val").exists()
    page_for_path(tmp_path / "out", tmp_path / "page.html")
    assert all("prediction" in frame for frame in shown(tmp_path / "page.html"))


class Mirror(Echo):
    """Another checkpoint, which says otherwise."""

    def segment(self, points, intensity=None):
        return super().segment(-points, intensity)


def test_a_labelled_folder_once_more(tmp_path):
    """Files of the first result are links in the second, and must not change with it."""
    source = nuscenes_scans(tmp_path / "in")
    segment_path(source, tmp_path / "one", Echo())
    before = tree(tmp_path / "one")
    segment_path(tmp_path / "one", tmp_path / "two", Mirror())
    assert tree(tmp_path / "one") == before
    name = "predictions_semantickitti/00.label"
    assert tree(tmp_path / "two")[name] != before[name]


def test_a_damaged_label_space_is_named(tmp_path):
    segment_path(nuscenes_scans(tmp_path / "in"), tmp_path / "out", Echo())
    (tmp_path / "out" / "predictions_semantickitti" / "label_space.yaml").write_text("classes: 1\n")
    with pytest.raises(LabelError, match=r"predictions_semantickitti/label_space\.yaml: "):
        page_for_path(tmp_path / "out", tmp_path / "page.html")


def test_a_single_label_file_of_other_classes(tmp_path):
    scan, out, page = nuscenes_scans(tmp_path / "in") / "00.pcd.bin", tmp_path / "a.label", tmp_path / "page.html"
    summary = segment_path(scan, out, Echo())
    assert summary.notes[-1] == (
        "a.label holds raw ids of semantickitti: to see it, `mdkt view ... --labels semantickitti`"
    )
    page_for_path(scan, page, predictions=out, labels=KITTI)
    ids = KITTI.from_raw(read_labels(out, 30, np.uint32), "")
    assert np.array_equal(next(shown(page))["prediction"], ids)
