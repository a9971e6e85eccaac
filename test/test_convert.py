"""Data set to rosbag2: what is in the bag, as rosbags itself reads it."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from fake_drive import MS, START, FakeDrive, decode
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.typesys import Stores, get_typestore
from small_drives import EGO_FROM_CAMERA, EGO_FROM_LIDAR, write_kitti, write_nuscenes_set

from mdkt_ros.drive import open_drive
from mdkt_ros.drive.bag import BagDrive
from mdkt_ros.drive.convert import convert, topic_name
from mdkt_ros.errors import ConfigError, DriveError, OutputError

TOPICS = {
    "/lidar/points": "sensor_msgs/msg/PointCloud2",
    "/ground_truth/segmentation": "sensor_msgs/msg/PointCloud2",
    "/ground_truth/label_info": "vision_msgs/msg/LabelInfo",
    "/camera/image_2/image_raw/compressed": "sensor_msgs/msg/CompressedImage",
    "/camera/image_2/camera_info": "sensor_msgs/msg/CameraInfo",
    "/camera/CAM_LEFT/image_raw/compressed": "sensor_msgs/msg/CompressedImage",
    "/camera/CAM_LEFT/camera_info": "sensor_msgs/msg/CameraInfo",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/tf_static": "tf2_msgs/msg/TFMessage",
    "/odom": "nav_msgs/msg/Odometry",
}


def read_all(path):
    """Messages by topic: (log time, message)."""
    found = {}
    with AnyReader([path]) as reader:
        for connection, stamp, raw in reader.messages():
            found.setdefault(connection.topic, []).append((stamp, reader.deserialize(raw, connection.msgtype)))
    return found


@pytest.mark.parametrize(
    ("sourced", "version"), [("humble", 8), ("jazzy", 9), ("lyrical", 9), ("some_other", 9), (None, 9)]
)
def test_a_bag_is_for_the_distribution_that_is_sourced(tmp_path, monkeypatch, sourced, version):
    if sourced is None:
        monkeypatch.delenv("ROS_DISTRO", raising=False)
    else:
        monkeypatch.setenv("ROS_DISTRO", sourced)
    convert(FakeDrive(1), tmp_path / "bag")
    metadata = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["version"] == version


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("distro", ["humble", "jazzy", "lyrical"])
def test_topics_types_and_quality_of_service(tmp_path, storage, distro):
    out = tmp_path / "bag"
    convert(FakeDrive(), out, storage=storage, distro=distro)
    metadata = yaml.safe_load((out / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["version"] == (8 if distro == "humble" else 9)
    assert metadata["storage_identifier"] == storage
    assert sorted(p.name for p in out.iterdir()) == [f"bag.{'mcap' if storage == 'mcap' else 'db3'}", "metadata.yaml"]
    assert metadata["relative_file_paths"] == [next(p.name for p in out.iterdir() if p.name != "metadata.yaml")]
    store = get_typestore({"humble": Stores.ROS2_HUMBLE, "jazzy": Stores.ROS2_JAZZY}.get(distro, Stores.ROS2_LYRICAL))
    # AnyReader checks every type's hash against its definition.
    with AnyReader([out]) as reader:
        assert {c.topic: c.msgtype for c in reader.connections} == TOPICS
        for connection in reader.connections:
            (offered,) = connection.ext.offered_qos_profiles
            latched = connection.topic in ("/tf_static", "/ground_truth/label_info")
            assert offered.durability == (QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE)
            assert offered.reliability == QosReliability.RELIABLE
            if connection.msgtype in store.fielddefs:
                assert connection.digest == store.hash_rihs01(connection.msgtype)


def test_clouds_images_and_calibration(tmp_path):
    drive = FakeDrive()
    convert(drive, tmp_path / "bag")
    found = read_all(tmp_path / "bag")
    for index, (log_time, message) in enumerate(found["/lidar/points"]):
        frame = drive[index]
        assert log_time == frame.stamp == message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        assert message.header.frame_id == "lidar"
        assert [(f.name, f.offset, f.datatype) for f in message.fields] == [
            ("x", 0, 7), ("y", 4, 7), ("z", 8, 7), ("intensity", 12, 7), ("ring", 16, 4), ("time", 20, 7),
        ]  # fmt: skip
        assert not message.is_dense
        assert message.data.reshape(-1, message.point_step)[:, :12].tobytes() == frame.points.tobytes()
    (_, label_info), truth = found["/ground_truth/label_info"][0], found["/ground_truth/segmentation"]
    assert [c.class_name for c in label_info.class_map] == list(drive.labels.names)
    assert [c.class_id for c in label_info.class_map] == list(range(19))
    assert np.array_equal(truth[2][1].data.reshape(-1, 16)[:, 12], drive[2].labels)
    image = found["/camera/image_2/image_raw/compressed"][1][1]
    assert image.format == "jpeg"
    assert image.data.tobytes() == drive[1].views[0].encoded()
    assert image.header.frame_id == "image_2_optical_frame"
    info = found["/camera/image_2/camera_info"][1][1]
    assert info.header == image.header
    assert (info.width, info.height, info.distortion_model) == (32, 24, "plumb_bob")
    assert np.array_equal(info.d, np.zeros(5))
    assert np.array_equal(info.p.reshape(3, 4)[:, 3], [4.5, 0.2, 0.003])
    assert np.array_equal(info.p.reshape(3, 4)[:, :3].ravel(), info.k)
    # No file behind the second camera's images: they are encoded here.
    left = found["/camera/CAM_LEFT/image_raw/compressed"][0][1]
    error = np.abs(decode(left.data.tobytes()).astype(int) - drive[0].views[1].load())
    assert error.mean() < 12


def test_transforms_and_odometry(tmp_path):
    drive = FakeDrive()
    convert(drive, tmp_path / "bag")
    found = read_all(tmp_path / "bag")
    ((_, static),) = found["/tf_static"]
    assert [(t.header.frame_id, t.child_frame_id) for t in static.transforms] == [
        ("base_link", "lidar"),
        ("base_link", "image_2_optical_frame"),
        ("base_link", "CAM_LEFT_optical_frame"),
    ]
    odom = found["/odom"]
    assert len(odom) == len(drive)
    for index, (_, message) in enumerate(odom):
        position = message.pose.pose.position
        assert np.allclose([position.x, position.y], drive[index].world_from_lidar[:2, 3])
    twist = odom[2][1].twist.twist
    # The curve turns by 0.2 rad/s and covers 8 m/s forward.
    assert twist.angular.z == pytest.approx(0.2)
    assert np.hypot(twist.linear.x, twist.linear.y) == pytest.approx(np.hypot(8, 0.5), rel=1e-6)
    # One a scan, and one at the time of the camera that fires later.
    stamps = [t.header.stamp.sec * 10**9 + t.header.stamp.nanosec for _, m in found["/tf"] for t in m.transforms]
    assert stamps == [START + i * 100 * MS + k * 30 * MS for i in range(4) for k in (0, 1)]


def test_y_forward_is_turned_by_tf_and_nothing_else(tmp_path):
    drive = FakeDrive(axes="y_forward")
    convert(drive, tmp_path / "bag")
    found = read_all(tmp_path / "bag")
    rotation = found["/tf_static"][0][1].transforms[0].transform.rotation
    assert (rotation.z, rotation.w) == pytest.approx((-np.sqrt(0.5), np.sqrt(0.5)))
    cloud = found["/lidar/points"][0][1]
    assert cloud.data.reshape(-1, cloud.point_step)[:, :12].tobytes() == drive[0].points.tobytes()


@pytest.mark.parametrize(("start", "period", "expected"), [
    (0, 0, [1000, 1100, 1200, 1300]),
    (0, 50 * MS, [1000, 1050, 1100, 1150]),
    (10**12, 0, [10**6, 10**6 + 100, 10**6 + 200, 10**6 + 300]),
])  # fmt: skip
def test_stamps_always_rise(tmp_path, start, period, expected):
    convert(FakeDrive(start=start, period=period), tmp_path / "bag")
    found = read_all(tmp_path / "bag")
    assert [stamp // MS for stamp, _ in found["/lidar/points"]] == expected
    for messages in found.values():
        stamps = [stamp for stamp, _ in messages]
        assert stamps == sorted(stamps)
    images = found["/camera/CAM_LEFT/image_raw/compressed"]
    assert [stamp // MS for stamp, _ in images] == [stamp + 30 for stamp in expected]


def test_a_second_sequence_goes_on_where_the_first_ended(tmp_path):
    class Twice(FakeDrive):
        def __getitem__(self, index):
            return super().__getitem__(index % 2)

    convert(Twice(cameras=False), tmp_path / "bag")
    stamps = [(stamp - START) // MS for stamp, _ in read_all(tmp_path / "bag")["/lidar/points"]]
    assert stamps == [0, 100, 200, 300]


def test_a_bare_drive_has_clouds_and_the_static_transform_alone(tmp_path):
    convert(FakeDrive(labelled=False, cameras=False, poses=False), tmp_path / "bag")
    assert sorted(read_all(tmp_path / "bag")) == ["/lidar/points", "/tf_static"]


def test_another_vehicle_announces_its_cameras_anew(tmp_path):
    class TwoVehicles(FakeDrive):
        def __getitem__(self, index):
            frame = super().__getitem__(index)
            if index >= 2:
                for view in frame.views:
                    view.camera.camera_from_lidar[:3, 3] += (0, 0, 4)
            return frame

        def views(self, index, stamp):
            views = super().views(index, stamp)
            for view in views:
                object.__setattr__(view.camera, "camera_from_lidar", view.camera.camera_from_lidar.copy())
            return views

    drive = TwoVehicles()
    convert(drive, tmp_path / "bag")
    assert len(read_all(tmp_path / "bag")["/tf_static"]) == 2
    with BagDrive(tmp_path / "bag") as bag:
        for index in (0, 3):
            views = {view.camera.name: view.camera for view in bag[index].views}
            assert np.allclose(
                views["image_2"].camera_from_lidar, drive[index].views[0].camera.camera_from_lidar, atol=1e-6
            )


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_data_sets_as_they_are_on_disk(tmp_path, storage):
    write_kitti(tmp_path / "kitti")
    write_nuscenes_set(tmp_path / "nuscenes", scenes=2)
    # KITTI's time starts at 0, which means something else in ROS.
    for name, shift in (("kitti", 10**9), ("nuscenes", 0)):
        drive = open_drive(tmp_path / name)
        convert(drive, tmp_path / f"{name}_bag", storage=storage)
        with BagDrive(tmp_path / f"{name}_bag") as bag:
            assert (len(bag), bag.axes, bag.labels) == (len(drive), drive.axes, drive.labels)
            for index in range(len(drive)):
                ours, theirs = bag[index], drive[index]
                assert ours.stamp == theirs.stamp + shift
                assert ours.points.tobytes() == theirs.points.tobytes()
                assert np.array_equal(ours.intensity, theirs.intensity)
                assert np.array_equal(ours.labels, theirs.labels)
                assert np.allclose(ours.world_from_lidar, theirs.world_from_lidar, atol=1e-6)
                views = {view.camera.name: view for view in ours.views}
                for view in theirs.views:
                    mine = views[view.camera.name]
                    assert (mine.stamp, mine.encoded()) == (view.stamp + shift, view.encoded())
                    assert np.allclose(mine.camera.camera_from_lidar, view.camera.camera_from_lidar, atol=1e-6)
                    assert np.allclose(mine.camera.projection_offset, view.camera.projection_offset)
    transforms = read_all(tmp_path / "nuscenes_bag")["/tf_static"][0][1].transforms
    # The vehicle's own frame: LiDAR and cameras where the set's calibration has them.
    with AnyReader([tmp_path / "nuscenes_bag"]) as reader:
        topics = [connection.topic for connection, _, _ in reader.messages()]
    assert topics[:2] == ["/tf_static", "/ground_truth/label_info"]
    mounts = {"lidar": EGO_FROM_LIDAR} | {f"{name}_optical_frame": pose for name, pose in EGO_FROM_CAMERA.items()}
    assert {t.child_frame_id for t in transforms} == mounts.keys()
    for transform in transforms:
        t = transform.transform.translation
        assert np.allclose([t.x, t.y, t.z], mounts[transform.child_frame_id][:3, 3], atol=0.01)


def test_progress(tmp_path):
    calls = []
    convert(FakeDrive(), tmp_path / "bag", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_existing_output_is_refused_unless_forced(tmp_path):
    out = tmp_path / "bag"
    convert(FakeDrive(2), out)
    with pytest.raises(OutputError, match=r"bag: exists already; .*--force"):
        convert(FakeDrive(3), out)
    assert len(read_all(out)["/lidar/points"]) == 2
    convert(FakeDrive(3), out, force=True)
    assert len(read_all(out)["/lidar/points"]) == 3


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), DriveError("bad scan")])
def test_nothing_is_left_when_it_fails_in_the_middle(tmp_path, storage, error):
    class Failing(FakeDrive):
        def __getitem__(self, index):
            if index == 3:
                raise error
            return super().__getitem__(index)

    expected = (OutputError, "No space left") if isinstance(error, OSError) else (type(error), None)
    with pytest.raises(expected[0], match=expected[1]):
        convert(Failing(), tmp_path / "bag", storage=storage)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_drive_and_cameras_of_one_topic(tmp_path):
    with pytest.raises(DriveError, match="fake: no scans to convert"):
        convert(FakeDrive(0), tmp_path / "bag")
    drive = FakeDrive()
    drive.mounts = {"left cam": drive.mounts["image_2"], "left-cam": drive.mounts["image_2"]}
    with pytest.raises(DriveError, match="left cam, left-cam"):
        convert(drive, tmp_path / "bag")


@pytest.mark.parametrize("options", [{"distro": "melodic"}, {"storage": "rosbag"}])
def test_other_distros_and_storages(tmp_path, options):
    with pytest.raises(ConfigError, match="distro is humble, jazzy, lyrical, storage is mcap or sqlite3"):
        convert(FakeDrive(1), tmp_path / "bag", **options)


@pytest.mark.parametrize(("camera", "topic"), [("CAM_FRONT", "CAM_FRONT"), ("2", "_2"), ("a-b c", "a_b_c"), ("ü", "_")])
def test_topic_names(camera, topic):
    assert topic_name(camera) == topic


def test_a_file_that_contradicts_the_storage_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"drive\.db3: a \.db3 file is sqlite3, not mcap; give --storage sqlite3"):
        convert(FakeDrive(1), tmp_path / "drive.db3", storage="mcap")
    assert not list(tmp_path.iterdir())
