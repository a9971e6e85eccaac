"""SemanticKITTI and KITTI object folders: written and read again, real scans, and what is wrong with a folder."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_drives import KITTI_TR, kitti_frames, tree, write_kitti

from mdkt_ros.camera import Camera
from mdkt_ros.drive.pose import inverse
from mdkt_ros.drive.semantickitti import SemanticKitti
from mdkt_ros.drive.write_semantickitti import write_semantickitti
from mdkt_ros.errors import CloudError, DriveError, LabelError, OutputError
from mdkt_ros.labels import LabelSpace


def test_what_is_written_is_read_again(tmp_path: Path):
    frames = kitti_frames(4)
    write_semantickitti(tmp_path / "set", frames, sequence="05")
    drive = SemanticKitti(tmp_path / "set")
    assert (drive.name, drive.axes, drive.intensity_scale, len(drive)) == ("05", "x_forward", 1.0, 4)
    assert drive.labels == LabelSpace.load("semantickitti")
    start = frames[0]
    for i, frame in enumerate(frames):
        read = drive[i]
        assert read.name == f"{i:06d}"
        assert read.stamp == frame.stamp - start.stamp
        for field in ("points", "intensity", "labels", "raw_labels", "instance"):
            expected, value = getattr(frame, field), getattr(read, field)
            assert value.dtype == expected.dtype
            np.testing.assert_array_equal(value, expected)
        # KITTI's world is the first camera's frame, so only poses relative to the first frame are kept.
        relative = inverse(start.world_from_lidar) @ frame.world_from_lidar
        np.testing.assert_allclose(read.world_from_lidar, relative, atol=1e-9)
        for view, expected_view in zip(read.views, frame.views, strict=True):
            assert (view.camera.name, view.stamp) == (expected_view.camera.name, read.stamp)
            np.testing.assert_array_equal(view.load(), expected_view.load())
            assert view.encoded().startswith(b"\x89PNG")
            pixels, expected_pixels = (v.camera.project(frame.points).pixels for v in (view, expected_view))
            np.testing.assert_allclose(pixels, expected_pixels, rtol=1e-9)
        assert {view.camera.name for view in read.views} == {"image_2", "image_3"}


def test_files_are_named_and_formed_as_in_the_real_set(tmp_path: Path):
    frames = kitti_frames(2)
    folder = write_kitti(tmp_path / "set", 2)
    assert sorted(tree(tmp_path / "set")) == sorted(
        f"sequences/00/{name}"
        for name in (
            *("calib.txt", "poses.txt", "times.txt"),
            *(f"{kind}/00000{i}.{suffix}" for i in (0, 1) for kind, suffix in _KINDS.items()),
        )
    )
    scan = np.fromfile(folder / "velodyne/000001.bin", dtype="<f4").reshape(-1, 4)
    np.testing.assert_array_equal(scan, np.column_stack([frames[1].points, frames[1].intensity]))
    label = np.fromfile(folder / "labels/000001.label", dtype="<u4")
    np.testing.assert_array_equal(label & 0xFFFF, frames[1].raw_labels)
    np.testing.assert_array_equal(label >> 16, frames[1].instance)
    calibration = (folder / "calib.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in calibration] == ["P0", "P1", "P2", "P3", "Tr"]
    assert calibration[2].startswith("P2: 3.000000000000e+01 0.000000000000e+00 1.950000000000e+01 1.800000000000e+00 ")
    assert (folder / "times.txt").read_text() == "0.000000000000e+00\n1.036224000000e-01\n"
    # As the official tools compute them: poses of the camera, identity first.
    poses = np.loadtxt(folder / "poses.txt").reshape(-1, 3, 4)
    np.testing.assert_allclose(poses[0], np.eye(4)[:3], atol=1e-12)
    moved = inverse(frames[0].world_from_lidar) @ frames[1].world_from_lidar
    np.testing.assert_allclose(poses[1], (KITTI_TR @ moved @ inverse(KITTI_TR))[:3], atol=1e-10)


_KINDS = {"velodyne": "bin", "labels": "label", "image_2": "png", "image_3": "png"}


def test_same_frames_same_bytes(tmp_path: Path):
    for name in "ab":
        write_kitti(tmp_path / name)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_png_files_are_copied_and_class_ids_become_raw_ids(tmp_path: Path):
    write_kitti(tmp_path / "a", 1)
    drive = SemanticKitti(tmp_path / "a")
    frame = replace(drive[0], raw_labels=None, instance=None, intensity=drive[0].intensity * 255)
    labels = LabelSpace.load("semantickitti")
    write_semantickitti(tmp_path / "b", [frame], sequence="00", labels=labels, intensity_scale=1 / 255)
    first, second = tree(tmp_path / "a/sequences/00"), tree(tmp_path / "b/sequences/00")
    assert first["image_2/000000.png"] == second["image_2/000000.png"]
    raw = np.frombuffer(second["labels/000000.label"], dtype="<u4")
    np.testing.assert_array_equal(raw, labels.to_raw(drive[0].labels))
    again = SemanticKitti(tmp_path / "b")[0]
    np.testing.assert_array_equal(again.labels, drive[0].labels)
    np.testing.assert_allclose(again.intensity, drive[0].intensity, rtol=1e-6)
    with pytest.raises(LabelError, match="frame 000000: has class ids; give the label space"):
        write_semantickitti(tmp_path / "c", [frame], sequence="00")


def test_test_sequences_have_neither_labels_nor_poses_nor_images(tmp_path: Path):
    frames = [
        replace(f, labels=None, raw_labels=None, instance=None, world_from_lidar=None, views=())
        for f in kitti_frames(2)
    ]
    write_semantickitti(tmp_path / "set", frames, sequence="11")
    drive = SemanticKitti(tmp_path / "set/sequences/11")
    assert drive.labels is None
    assert (drive[1].labels, drive[1].world_from_lidar, drive[1].views) == (None, None, ())
    (tmp_path / "set/sequences/11/calib.txt").unlink()
    (tmp_path / "set/sequences/11/times.txt").unlink()
    assert SemanticKitti(tmp_path / "set/sequences/11")[1].stamp == 100_000_000


def test_several_sequences_are_one_drive(tmp_path: Path):
    for sequence, count in (("00", 2), ("08", 3)):
        write_kitti(tmp_path / "set", count, sequence)
    drive = SemanticKitti(tmp_path / "set")
    assert [drive[i].name for i in range(len(drive))] == [
        "00_000000",
        "00_000001",
        "08_000000",
        "08_000001",
        "08_000002",
    ]
    assert [drive.sequence(i) for i in range(len(drive))] == ["00", "00", "08", "08", "08"]
    chosen = SemanticKitti(tmp_path / "set", sequences=["08"], frames="1-2")
    assert [chosen[i].name for i in range(len(chosen))] == ["000001", "000002"]
    (tmp_path / "dataset").mkdir()
    (tmp_path / "set/sequences").rename(tmp_path / "dataset/sequences")
    assert len(SemanticKitti(tmp_path)) == 5  # the official archive's layout


def test_other_label_folders_are_read(tmp_path: Path):
    folder = write_kitti(tmp_path / "set", 2)
    (folder / "scribbles").mkdir()
    np.zeros(51, dtype="<u4").tofile(folder / "scribbles/000001.label")
    drive = SemanticKitti(folder, label_folder="scribbles")
    assert drive[0].labels is None  # no file
    assert (drive[1].labels == 255).all()


@pytest.mark.real
def test_real_labelled_scan(real_data: Path):
    root = real_data / "semantickitti"
    drive = SemanticKitti(root, sequences=["07"], image_calibration_size=(1226, 370))
    frame = drive[0]
    assert (frame.name, frame.points.shape) == ("000964", (120_485, 3))
    counts = {raw: int((frame.raw_labels == raw).sum()) for raw in (40, 48, 50, 51, 70, 10, 252, 0)}
    assert counts == {40: 17_066, 48: 19_952, 50: 37_840, 51: 14_275, 70: 16_304, 10: 10_400, 252: 1_110, 0: 1_767}
    assert len(np.unique(frame.raw_labels)) == 16
    # Moving and standing cars are one class, and unlabelled is none.
    assert (frame.labels == drive.labels.index("car")).sum() == 10_400 + 1_110
    assert (frame.labels == 255).sum() >= 1_767
    assert 0 <= frame.intensity.min() < frame.intensity.max() <= 1
    assert len(np.unique(frame.instance)) > 1
    assert frame.stamp == 964 * 100_000_000
    view = frame.views[0]
    assert view.load().shape == (201, 673, 3)
    in_view = view.camera.project(frame.points).in_view
    assert 0.12 < in_view.mean() < 0.18
    # The full-size camera sees the same points, at pixels 1226 / 673 times as far.
    matrix = np.array([[707.0912, 0, 601.8873], [0, 707.0912, 183.1104], [0, 0, 1]])
    offset = np.array([46.88783, 0.1178601, 0.006203223])
    full = Camera("image_2", 1226, 370, matrix, view.camera.camera_from_lidar, projection_offset=offset)
    both = in_view & full.project(frame.points).in_view
    assert both.sum() >= in_view.sum() - 50
    scale = np.array([673 / 1226, 201 / 370])
    expected = (full.project(frame.points).pixels[both] + 0.5) * scale - 0.5
    np.testing.assert_allclose(view.camera.project(frame.points).pixels[both], expected, atol=1e-6)


@pytest.mark.real
def test_real_image_fits_the_labels(real_data: Path):
    """Vegetation is green and road grey where the labels fall in the image: what a wrong camera would not give."""
    drive = SemanticKitti(real_data / "semantickitti/sequences/07", image_calibration_size=(1226, 370))
    frame = drive[0]
    view = frame.views[0]
    projection = view.camera.project(frame.points)
    column, row = np.round(projection.pixels[projection.in_view]).astype(int).T
    colors = view.load()[row, column].astype(float)
    green = colors[:, 1] - colors[:, [0, 2]].mean(axis=1)
    labels = frame.labels[projection.in_view]
    by_class = {name: green[labels == drive.labels.index(name)].mean() for name in ("vegetation", "road", "building")}
    assert by_class["vegetation"] > by_class["road"] + 3
    assert by_class["vegetation"] > by_class["building"] + 3


@pytest.mark.real
def test_real_scans_without_labels(real_data: Path):
    drive = SemanticKitti(real_data / "semantickitti", sequences=["00"])
    assert drive.labels is None
    assert [len(drive[i].points) // 1000 for i in range(3)] == [124, 124, 124]
    assert drive[0].views == ()


def _without(key: str):
    def change(folder: Path) -> None:
        path = folder / "calib.txt"
        path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines() if not line.startswith(key)))

    return change


def _append(name: str, text: str):
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


def _cut(name: str, count: int):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-count])


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (_without("Tr"), DriveError, r"calib.txt: key Tr is missing; present: P0, P1, P2, P3"),
        (_without("P2"), DriveError, r"calib.txt: key P2 is missing; present: P0, P1, P3, Tr"),
        (_append("calib.txt", "P3: 1 2 3\n"), DriveError, r"calib.txt: P3 needs 12 numbers, has 3"),
        (
            _append("calib.txt", "P3: 1 nan\n"),
            DriveError,
            r"calib.txt: line 6 holds something else than finite numbers",
        ),
        (_append("calib.txt", f"Tr: {'0 ' * 12}\n"), DriveError, r"calib.txt: Tr is no rigid pose"),
        (_append("calib.txt", "hello\n"), DriveError, r"calib.txt: line 6 is not like 'P2: ...'"),
        (
            lambda f: (f / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n"),
            DriveError,
            r"poses.txt: has 1 lines, scan 000001.bin needs 2",
        ),
        (_append("poses.txt", "1 2\n"), DriveError, r"poses.txt: line 3 needs 12 numbers, has 2"),
        (
            lambda f: (f / "times.txt").write_text("0.0\n"),
            DriveError,
            r"times.txt: has 1 lines, scan 000001.bin needs 2",
        ),
        (
            lambda f: (f / "times.txt").write_text("0.0\n1 2\n"),
            DriveError,
            r"times.txt: line 2 is not a time in seconds",
        ),
        (lambda f: (f / "times.txt").write_bytes(b"\xff\xfe"), DriveError, r"times.txt: is not a text file"),
        (_cut("velodyne/000001.bin", 5), CloudError, r"velodyne/000001.bin: .*truncated"),
        (_cut("labels/000001.label", 3), LabelError, r"labels/000001.label: .*truncated"),
        (
            _cut("labels/000001.label", 8),
            LabelError,
            r"labels/000001.label: 49 uint32 labels, but the scan has 51 points",
        ),
        (
            lambda f: np.full(51, 7, "<u4").tofile(f / "labels/000001.label"),
            LabelError,
            r"000001.label: raw label id 7 is not in .* semantickitti",
        ),
        (
            lambda f: (f / "velodyne/000001.bin").rename(f / "velodyne/last.bin"),
            DriveError,
            r"last.bin: the name of a scan is its number",
        ),
        (lambda f: [p.unlink() for p in (f / "velodyne").iterdir()], DriveError, r"velodyne: no .bin scans"),
        (
            lambda f: [p.write_bytes(b"no") for p in (f / "image_2").iterdir()],
            DriveError,
            r"image_2/000000.png: cannot be read as an image",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, damage, error, message):
    folder = write_kitti(tmp_path / "set", 2)
    damage(folder)
    with pytest.raises(error, match=message):
        SemanticKitti(folder)[1]


def test_a_missing_image_matters_only_when_it_is_loaded(tmp_path: Path):
    folder = write_kitti(tmp_path / "set", 2)
    (folder / "image_2/000001.png").unlink()
    view = SemanticKitti(folder)[1].views[0]
    with pytest.raises(DriveError, match=r"image_2/000001.png: cannot be read as an image: No such file"):
        view.load()
    with pytest.raises(DriveError, match=r"image_2/000001.png: No such file"):
        view.encoded()


def test_a_damaged_first_image_costs_one_image(tmp_path: Path):
    root = write_kitti(tmp_path / "set", 2)
    (root / "image_2" / "000000.png").write_bytes(b"")
    drive = SemanticKitti(root)
    assert drive[1].views[0].load().ndim == 3
    with pytest.raises(DriveError, match=r"image_2/000000.png: cannot be read as an image: no known format"):
        drive[0].views[0].load()


def test_an_image_of_another_size_is_refused(tmp_path: Path):
    folder = write_kitti(tmp_path / "set", 2)
    Image.new("RGB", (10, 5)).save(folder / "image_2/000001.png")
    with pytest.raises(DriveError, match=r"000001.png: is 10x5, camera image_2 is 40x24"):
        SemanticKitti(folder)[1].views[0].load()


def test_folders_that_are_no_data_set(tmp_path: Path):
    with pytest.raises(DriveError, match="neither a SemanticKITTI root"):
        SemanticKitti(tmp_path)
    (tmp_path / "sequences").mkdir()
    with pytest.raises(DriveError, match="no sequence with a velodyne folder"):
        SemanticKitti(tmp_path)
    folder = write_kitti(tmp_path, 1)
    with pytest.raises(DriveError, match="no sequence 08; there are 00"):
        SemanticKitti(tmp_path, sequences=["08"])
    with pytest.raises(DriveError, match="is the sequence 00, cannot choose 08 from it"):
        SemanticKitti(folder, sequences=["08"])


def _camera(frame, **changes):
    return replace(frame, views=tuple(replace(v, camera=replace(v.camera, **changes)) for v in frame.views))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda f: replace(f, instance=f.instance + np.uint32(65536)),
            LabelError,
            r"frame 000001: instance \d+; the format has 0 to 65535",
        ),
        (lambda f: replace(f, raw_labels=f.raw_labels[1:]), LabelError, "frame 000001: 51 points, 50 labels"),
        (lambda f: replace(f, raw_labels=f.raw_labels + np.uint32(65536)), LabelError, "frame 000001: raw class id"),
        (
            lambda f: replace(f, world_from_lidar=None),
            DriveError,
            "frame 000001: all frames of a sequence have a pose, or none",
        ),
        (lambda f: replace(f, views=f.views[:1]), DriveError, r"frame 000001: has the cameras \['image_2'\]"),
        (lambda f: _camera(f, matrix=np.eye(3)), DriveError, "camera image_2 differs; a sequence has one calibration"),
    ],
)
def test_frames_that_form_no_sequence_leave_nothing(tmp_path: Path, change, error, message):
    frames = kitti_frames(2)
    frames[1] = change(frames[1])
    with pytest.raises(error, match=message):
        write_semantickitti(tmp_path / "set", frames, sequence="00")
    assert list(tmp_path.iterdir()) == []


def test_cameras_that_kitti_does_not_have_are_refused(tmp_path: Path):
    frame = _camera(kitti_frames(1)[0], name="CAM_FRONT")
    with pytest.raises(DriveError, match="camera CAM_FRONT must be image_2 or image_3"):
        write_semantickitti(tmp_path / "set", [frame], sequence="00")
    with pytest.raises(DriveError, match="at least one frame"):
        write_semantickitti(tmp_path / "set", [], sequence="00")


def test_an_existing_sequence_is_refused_and_kept(tmp_path: Path):
    write_kitti(tmp_path / "set", 2)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"sequences/00: exists already"):
        write_semantickitti(tmp_path / "set", kitti_frames(1), sequence="00")
    assert tree(tmp_path) == before
    write_semantickitti(tmp_path / "set", kitti_frames(1, seed=9), sequence="00", force=True)
    assert len(SemanticKitti(tmp_path / "set")) == 1


def test_a_full_disk_or_ctrl_c_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted():
        yield kitti_frames(1)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_semantickitti(tmp_path / "set", interrupted(), sequence="00")
    assert list(tmp_path.iterdir()) == []

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"set: No space left on device; nothing was written"):
        write_semantickitti(tmp_path / "set", kitti_frames(1), sequence="00")
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_frames(tmp_path: Path):
    calls: list[tuple[int, int]] = []
    write_semantickitti(
        tmp_path / "set",
        iter(kitti_frames(2)),
        sequence="00",
        total=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 2), (2, 2)]
