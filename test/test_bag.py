"""A rosbag2 as a drive: round trips with what `convert` wrote, and bags as vehicles record them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import yaml
from bags import cloud_message, make_bag, rewrite
from fake_drive import MS, START, FakeDrive, decode
from rosbags.rosbag2 import CompressionMode

from mdkt_ros.camera import Camera
from mdkt_ros.drive.bag import BagDrive
from mdkt_ros.drive.bag_images import camera_from_info, decode_raw
from mdkt_ros.drive.convert import convert
from mdkt_ros.drive.rosmsg import Messages, typestore
from mdkt_ros.drive.transforms import TransformTree, interpolate
from mdkt_ros.errors import CameraError, CloudError, DriveError, LabelError, MdktError

MESSAGES = Messages(typestore())


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    out = tmp_path_factory.mktemp("bag") / "drive"
    convert(FakeDrive(6), out)
    return out


def assert_same(frame, expected):
    assert frame.stamp == expected.stamp
    for name in ("points", "intensity", "ring", "labels", "point_time"):
        ours, theirs = getattr(frame, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes(), name
    assert np.allclose(frame.world_from_lidar, expected.world_from_lidar, atol=1e-9)
    views = {view.camera.name: view for view in frame.views}
    assert len(views) == len(expected.views)
    for view in expected.views:
        ours = views[view.camera.name.replace(" ", "_")]
        assert ours.stamp == view.stamp
        assert (ours.camera.width, ours.camera.height) == (32, 24)
        assert (ours.camera.distortion, ours.camera.coefficients) == (view.camera.distortion, view.camera.coefficients)
        for name in ("matrix", "projection_offset"):
            assert np.array_equal(getattr(ours.camera, name), getattr(view.camera, name))
        assert np.allclose(ours.camera.camera_from_lidar, view.camera.camera_from_lidar, atol=1e-9)
        if view.encoded is not None:
            assert ours.encoded() == view.encoded()
        assert np.array_equal(ours.load(), decode(ours.encoded()))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("distro", ["humble", "lyrical"])
@pytest.mark.parametrize("axes", ["x_forward", "y_forward"])
def test_every_part_of_a_frame_survives_the_bag(tmp_path, storage, distro, axes):
    drive = FakeDrive(axes=axes)
    convert(drive, tmp_path / "bag", storage=storage, distro=distro)
    with BagDrive(tmp_path / "bag") as read:
        assert (len(read), read.name, read.axes) == (4, "bag", axes)
        assert read.intensity_scale == read.stated_intensity_scale == 1 / 255
        assert read.labels == drive.labels
        frames = list(read)
        assert [frame.name for frame in frames] == ["000000", "000001", "000002", "000003"]
        for frame, expected in zip(frames, map(drive.__getitem__, range(4)), strict=True):
            assert_same(frame, expected)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_single_file_is_a_drive_too(tmp_path, storage):
    convert(FakeDrive(axes="y_forward"), tmp_path / "bag", storage=storage)
    (data,) = (p for p in (tmp_path / "bag").iterdir() if p.suffix in {".mcap", ".db3"})
    with BagDrive(data) as read:
        # Without metadata.yaml the axes come from /tf_static, and nobody states the intensity's scale.
        assert (len(read), read.axes, read.stated_intensity_scale) == (4, "y_forward", None)
        assert_same(read[2], FakeDrive()[2])


COMPRESSIONS = [(s, m) for s in ("mcap", "sqlite3") for m in (CompressionMode.FILE, CompressionMode.MESSAGE)]


@pytest.mark.parametrize(("storage", "mode"), [*COMPRESSIONS, ("mcap", CompressionMode.STORAGE)])
def test_compressed_bags(tmp_path, bag, mode, storage):
    packed = rewrite(bag, tmp_path / "packed", storage=storage, compression=mode)
    with BagDrive(packed) as read:
        assert_same(read[1], FakeDrive(6)[1])


def test_any_order_of_access(bag):
    drive = FakeDrive(6)
    with BagDrive(bag) as read:
        for index in (4, 0, 0, 1, 5, 2, -1, 3, -6):
            assert_same(read[index], drive[index % 6])
        for index in (6, -7):
            with pytest.raises(IndexError, match=r"/lidar/points has 6 messages"):
                read[index]


def test_messages_of_one_time_and_files_that_overlap_are_told_apart(tmp_path):
    stamps = [5, 5, 5, 9, 9, 12]
    clouds = [
        ("/points", stamp * MS, cloud_message(MESSAGES, stamp * MS, points=i + 1)) for i, stamp in enumerate(stamps)
    ]
    make_bag(tmp_path / "bag", clouds)
    with BagDrive(tmp_path / "bag") as read:
        assert [len(read[i].points) for i in (5, 4, 3, 2, 1, 0, 2, 1)] == [6, 5, 4, 3, 2, 1, 3, 2]
    make_bag(tmp_path / "other", [("/points", s * MS, cloud_message(MESSAGES, s * MS, points=s)) for s in (7, 10)])
    metadata = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())
    information = metadata["rosbag2_bagfile_information"]
    shutil.copy(tmp_path / "other" / "other.mcap", tmp_path / "bag")
    information["relative_file_paths"].append("other.mcap")
    information["topics_with_message_count"][0]["message_count"] = information["message_count"] = 8
    (tmp_path / "bag" / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    with BagDrive(tmp_path / "bag") as read:
        lengths = [len(frame.points) for frame in read]
        assert lengths == [1, 2, 3, 4, 5, 6, 7, 10]
        assert [len(read[i].points) for i in range(7, -1, -1)] == lengths[::-1]


def test_memory_does_not_grow_with_the_bag(tmp_path):
    import tracemalloc

    peaks = []
    for frames in (10, 40):
        convert(FakeDrive(frames, points=20_000, cameras=False, poses=False), tmp_path / str(frames))
        tracemalloc.start()
        with BagDrive(tmp_path / str(frames)) as read:
            assert sum(len(frame.points) > 0 for frame in read) == frames
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # One frame is 0.6 MB.
    assert peaks[1] < peaks[0] + 300_000


def tf(parent, child, stamp, pose):
    return MESSAGES.tf([MESSAGES.transform(stamp, parent, child, pose)])


def test_a_vehicles_own_bag(tmp_path):
    # No truth, no custom_data, other names, a LiDAR turned to the side, images of another rate and without tf.
    turned = np.eye(4)
    turned[:2, :2] = [[0, 1], [-1, 0]]
    turned[2, 3] = 1.8
    drive = FakeDrive()
    messages = [("/tf_static", START, tf("base_link", "velodyne", 0, turned))]
    messages += [
        ("/tf", START + i * 10 * MS, tf("map", "base_link", START + i * 10 * MS, drive.pose(START + i * 10 * MS)))
        for i in range(50)
    ]
    for i in range(3):
        stamp = START + i * 100 * MS + 5 * MS
        messages.append(("/velodyne_points", stamp + 60 * MS, cloud_message(MESSAGES, stamp, frame="velodyne")))
    make_bag(tmp_path / "bag", messages)
    with BagDrive(tmp_path / "bag") as read:
        assert (len(read), read.topic, read.axes) == (3, "/velodyne_points", "y_forward")
        assert (read.labels, read.stated_intensity_scale, read.intensity_scale) == (None, None, 1.0)
        frame = read[1]
        assert (frame.labels, frame.views) == (None, ())
        # Between two poses, 10 ms apart.
        assert np.allclose(frame.world_from_lidar, drive.pose(frame.stamp) @ turned, atol=1e-5)


def images(rate_ms, count, *, topic="/cam/image_raw/compressed", model="plumb_bob", frame="cam"):
    view = FakeDrive()[0].views[0]
    for i in range(count):
        stamp = START + i * rate_ms * MS
        header = MESSAGES.header(stamp, frame)
        info = MESSAGES.camera_info(header, view.camera)
        if model != "plumb_bob":
            info.distortion_model, info.d = model, np.ones(5)
        yield (topic, stamp + 20 * MS, MESSAGES.compressed_image(header, view.encoded()))
        yield ("/cam/camera_info", stamp + 20 * MS, info)


def clouds(count):
    for i in range(count):
        yield ("/points", START + i * 100 * MS, cloud_message(MESSAGES, START + i * 100 * MS))


def test_the_nearest_image_within_the_limit(tmp_path):
    mount = [("/tf_static", START, tf("lidar", "cam", 0, np.eye(4)))]
    make_bag(tmp_path / "bag", [*mount, *clouds(6), *images(30, 12)])
    with BagDrive(tmp_path / "bag", max_delay=20 * MS) as read:
        found = [[(v.stamp - START) // MS for v in frame.views] for frame in read]
    # The last image is of 330 ms.
    assert found == [[0], [90], [210], [300], [], []]


@pytest.mark.parametrize(("frame", "model", "reason"), [
    ("elsewhere", "plumb_bob", "tf_static does not connect elsewhere with lidar"),
    ("cam", "fisheye62", "distortion model 'fisheye62' is not one of plumb_bob"),
])  # fmt: skip
def test_images_that_cannot_be_used_are_left_out_with_a_warning(tmp_path, frame, model, reason):
    mount = [("/tf_static", START, tf("lidar", "cam", 0, np.eye(4)))]
    make_bag(tmp_path / "bag", [*mount, *clouds(2), *images(100, 2, frame=frame, model=model)])
    with BagDrive(tmp_path / "bag") as read:
        with pytest.warns(UserWarning, match=f"images of /cam/image_raw/compressed are left out: .*{reason}"):
            assert read[0].views == ()
        assert read[1].views == ()  # said once


def test_no_cloud_topic_or_several(tmp_path):
    odom = MESSAGES.tf([])
    make_bag(tmp_path / "none", [("/tf", 1, odom)])
    with pytest.raises(DriveError, match=r"none: no topic of type sensor_msgs/msg/PointCloud2; topics: /tf \(tf2_msgs"):
        BagDrive(tmp_path / "none")
    both = [(topic, 1, cloud_message(MESSAGES, 1, points=n)) for n, topic in enumerate(("/front", "/rear"), 1)]
    make_bag(tmp_path / "two", [*both, ("/tf", 1, odom)])
    with pytest.raises(
        DriveError, match=r"two: several cloud topics: /front \(1\), /rear \(1\); choose one with --topic"
    ):
        BagDrive(tmp_path / "two")
    with BagDrive(tmp_path / "two", topic="/rear") as read:
        assert len(read[0].points) == 2
    with pytest.raises(DriveError, match=r"no topic /side; topics: /front .*/rear .*/tf"):
        BagDrive(tmp_path / "two", topic="/side")
    with pytest.raises(DriveError, match=r"topic /tf is tf2_msgs/msg/TFMessage, not sensor_msgs/msg/PointCloud2"):
        BagDrive(tmp_path / "two", topic="/tf")


def test_results_of_this_package_are_no_candidates(tmp_path):
    names = ("/points", "/segment/output/segmentation", "/ground_truth/segmentation", "/robot/segment/output/obstacle")
    make_bag(tmp_path / "bag", [(topic, 1, cloud_message(MESSAGES, 1)) for topic in names])
    with BagDrive(tmp_path / "bag") as read:
        assert read.topic == "/points"


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("single", [True, False])
def test_a_cut_off_bag_names_the_file_and_what_would_help(tmp_path, storage, share, single):
    convert(FakeDrive(6), tmp_path / "bag", storage=storage)
    (data,) = (p for p in (tmp_path / "bag").iterdir() if p.suffix in {".mcap", ".db3"})
    data.write_bytes(data.read_bytes()[: int(data.stat().st_size * share)])
    path = data if single else tmp_path / "bag"
    with (
        pytest.raises(DriveError, match=rf"{path}: damaged or cut off.*mcap recover.*sqlite3 FILE"),
        BagDrive(path) as read,
    ):
        list(read)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_damage_anywhere_reads_or_raises_our_own_error(tmp_path, storage):
    convert(FakeDrive(2, 20, cameras=False), tmp_path / "bag", storage=storage)
    files = [(path, path.read_bytes()) for path in (tmp_path / "bag").iterdir()]
    errors = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        for path, content in files:
            spoilt = bytearray(content)
            if (path.suffix == ".yaml") == (seed % 4 == 0):
                for at in rng.integers(0, len(spoilt) - 8, 3):
                    # The end of the file is where its index is.
                    at = at if rng.random() < 0.6 else len(spoilt) - 8 - at % 2000
                    spoilt[at : at + 8] = rng.bytes(8) if rng.random() < 0.7 else b""
            path.write_bytes(spoilt)
        try:
            with BagDrive(tmp_path / "bag") as read:
                list(read)
        except MdktError as error:
            errors.append(str(error))
    assert len(errors) > 10
    assert all(error.startswith(str(tmp_path / "bag")) for error in errors)


def test_other_things_that_are_no_bag(tmp_path):
    with pytest.raises(DriveError, match="missing: "):
        BagDrive(tmp_path / "missing")
    (tmp_path / "drive.bag").write_bytes(b"#ROSBAG V2.0")
    with pytest.raises(
        DriveError, match=r"drive\.bag: not a rosbag2: a folder with metadata\.yaml, a \.mcap or a \.db3"
    ):
        BagDrive(tmp_path / "drive.bag")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "cut_0.mcap").write_bytes(b"")
    with pytest.raises(DriveError, match=r"cut: no metadata\.yaml.*ros2 bag reindex"):
        BagDrive(tmp_path / "cut")
    for text in ("", "a: [", "rosbag2_bagfile_information: {version: 99}", "rosbag2_bagfile_information: 3"):
        (tmp_path / "cut" / "metadata.yaml").write_text(text)
        with pytest.raises(DriveError, match="cut: "):
            BagDrive(tmp_path / "cut")


def test_files_that_are_gone_are_named(tmp_path, bag):
    copy = rewrite(bag, tmp_path / "copy")
    (copy / "copy.mcap").unlink()
    with pytest.raises(DriveError, match=r"copy: metadata\.yaml names files that are not there: .*copy\.mcap"):
        BagDrive(copy)


def test_a_bad_cloud_is_named(tmp_path):
    bad = cloud_message(MESSAGES, 2)
    bad.fields[2].name = "up"
    make_bag(tmp_path / "bag", [("/points", 1, cloud_message(MESSAGES, 1)), ("/points", 2, bad)])
    with BagDrive(tmp_path / "bag") as read:
        assert len(read[0].points)
        with pytest.raises(CloudError, match=r"bag: topic /points, message 1: point cloud has no field 'z'"):
            read[1]


def test_a_truth_that_does_not_fit(tmp_path, bag):
    def shorten(topic, message):
        if topic == "/ground_truth/segmentation":
            message.width -= 1
            message.row_step -= message.point_step
            message.data = message.data[: -message.point_step]
        return message

    broken = rewrite(bag, tmp_path / "short", change=shorten)
    with (
        BagDrive(broken) as read,
        pytest.raises(LabelError, match=r"/ground_truth/segmentation: 49 labels .* 50 points"),
    ):
        read[0]


def test_class_names_of_no_known_label_space(tmp_path, bag):
    def rename(topic, message):
        if topic == "/ground_truth/label_info":
            message.class_map[0].class_name = "tank"
        return message

    with BagDrive(rewrite(bag, tmp_path / "tank", change=rename)) as read:
        assert read.labels.names[:2] == ("tank", "bicycle")
        assert read.labels.name == "bag"
        assert len(np.unique(read.labels.palette, axis=0)) == 19
        assert read[0].labels is not None


def test_cameras_of_messages():
    header = MESSAGES.header(0, "cam")
    lens = {"distortion": "rational_polynomial", "coefficients": (1.0, 2, 3, 4, 5, 6, 7, 8)}
    camera = Camera("c", 64, 48, np.diag([50.0, 50, 1]), np.eye(4), **lens, projection_offset=np.array([1.0, 2, 3]))
    info = MESSAGES.camera_info(header, camera)
    assert camera_from_info("c", info, np.eye(4)).coefficients == camera.coefficients
    rectified = camera_from_info("c", info, np.eye(4), rectified=True)
    assert rectified.distortion == "none"
    assert np.array_equal(rectified.projection_offset, [1, 2, 3])
    info.d = np.ones(14)
    with pytest.raises(CameraError, match="rational_polynomial with 14 coefficients"):
        camera_from_info("c", info, np.eye(4))
    info.k = np.zeros(9)
    with pytest.raises(CameraError, match="not calibrated"):
        camera_from_info("c", info, np.eye(4))


@pytest.mark.parametrize(("encoding", "channels"), [("rgb8", 3), ("bgr8", 3), ("rgba8", 4), ("bgra8", 4), ("mono8", 1)])
def test_raw_images(encoding, channels):
    pixels = np.arange(5 * 7 * channels, dtype=np.uint8).reshape(5, 7, channels)
    padded = np.zeros((5, 7 * channels + 3), dtype=np.uint8)
    padded[:, :-3] = pixels.reshape(5, -1)
    fields = {"height": 5, "width": 7, "encoding": encoding, "is_bigendian": 0}
    fields |= {"step": padded.shape[1], "data": padded.ravel()}
    message = MESSAGES.store.types["sensor_msgs/msg/Image"](header=MESSAGES.header(0, "c"), **fields)
    expected = np.repeat(pixels, 3, 2) if channels == 1 else pixels[..., :3]
    assert np.array_equal(decode_raw("c", message), expected[..., ::-1] if encoding.startswith("bgr") else expected)
    message.height = 6
    with pytest.raises(CameraError, match=r"7x6 .* does not fit"):
        decode_raw("c", message)
    message.encoding = "32FC1"
    with pytest.raises(CameraError, match="encoding '32FC1' is not one of rgb8"):
        decode_raw("c", message)


def test_transform_tree():
    drive, tree = FakeDrive(), TransformTree()
    for ms in (0, 100):
        tree.add("/odom", "base", ms * MS, drive.pose(START + ms * MS), fixed=False)
    tree.add("base", "lidar", 0, np.eye(4), fixed=True)
    later = np.eye(4)
    later[2, 3] = 1
    tree.add("base", "lidar", 50, later, fixed=True)
    assert tree.moves("lidar")
    assert tree.lookup("base", "lidar", 49)[2, 3] == 0
    assert tree.lookup("lidar", "base", 50)[2, 3] == -1
    assert np.allclose(tree.lookup("odom", "base", 30 * MS), drive.pose(START + 30 * MS), atol=1e-4)
    assert np.allclose(tree.lookup("odom", "base", 900 * MS), drive.pose(START + 100 * MS))
    moved = tree.lookup("base", "base", 100 * MS, source_stamp=0)
    assert np.allclose(drive.pose(START + 100 * MS) @ moved, drive.pose(START))
    assert tree.lookup("base", "moon", 0) is None
    tree.add("lidar", "odom", 0, np.eye(4), fixed=True)  # a circle ends somewhere
    tree.lookup("odom", "lidar", 0)


def test_interpolation_of_rotations():
    half_turn = np.diag([-1.0, -1, 1, 1])
    halfway = interpolate(np.eye(4), half_turn, 0.5)
    assert np.allclose(np.abs(halfway[:2, :2]), [[0, 1], [1, 0]], atol=1e-12)
    assert np.allclose(interpolate(half_turn, half_turn, 0.3), half_turn)
