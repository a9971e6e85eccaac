"""Cameras of the node on a real graph: lenses, raw encodings, and transforms that move, jump or come late."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from running_node import SECOND, Sensors, header

from mdkt_ros.camera import Camera
from mdkt_ros.cloud import parse_pointcloud2
from mdkt_ros.drive.bayer import PATTERNS
from mdkt_ros.render.overlay import overlay

pytestmark = [pytest.mark.ros, pytest.mark.slow]

COLOR = (200, 90, 10)
K = np.array([[40.0, 0, 32], [0, 40, 24], [0, 0, 1]])
OPTICAL = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
LENSES = {
    "plumb_bob": [-0.2, 0.05, 0.001, -0.002, 0.01],
    "rational_polynomial": [0.4, -0.2, 0.001, 0.0005, 0.05, 0.7, -0.1, 0.02],
    "equidistant": [0.05, -0.01, 0.002, -0.001],
}


def mosaic(encoding):
    """48 x 64 pixels of an even colour as the sensor of such a camera has them."""
    rows = np.empty((48, 64), np.uint8)
    for place, color in enumerate(PATTERNS[encoding]):
        rows[place // 2 :: 2, place % 2 :: 2] = COLOR["rgb".index(color)]
    return rows


def even(*values):
    return np.broadcast_to(np.array(values, np.uint8), (48, 64, len(values)))


ENCODINGS = {
    **{encoding: (mosaic(encoding), COLOR) for encoding in PATTERNS},
    "rgb8": (even(*COLOR), COLOR),
    "bgr8": (even(*COLOR[::-1]), COLOR),
    "bgra8": (even(*COLOR[::-1], 255), COLOR),
    "mono8": (even(90), (90, 90, 90)),
}


class RawCamera:
    """A camera that sends raw images, and the tf of its mount."""

    def __init__(self, graph):
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import CameraInfo, Image

        self.graph, create = graph, graph.node.create_publisher
        self.images = create(Image, "/segment/input/image0", qos_profile_sensor_data)
        self.infos = create(CameraInfo, "/segment/input/camera_info0", qos_profile_sensor_data)

    def send(self, stamp, encoding="rgb8", model="plumb_bob", k=K, d=None):
        from sensor_msgs.msg import CameraInfo, Image

        rows, _ = ENCODINGS[encoding]
        at = header(stamp, "optical")
        p = np.hstack([k, np.zeros((3, 1))]).ravel().tolist()
        coefficients = LENSES[model] if d is None else d
        self.infos.publish(
            CameraInfo(
                header=at, width=64, height=48, distortion_model=model, d=coefficients, k=k.ravel().tolist(), p=p
            )
        )
        data = array("B", np.ascontiguousarray(rows).tobytes())
        image = Image(header=at, height=48, width=64, encoding=encoding, step=len(data) // 48, data=data)
        self.images.publish(image)


class Filmed:
    """A node with one raw camera that somebody watches."""

    def __init__(self, run, graph, **parameters):
        self.graph, self.running = graph, run(cameras=1, **parameters).up()
        self.clouds = self.running.listen("segmentation")
        self.overlays = self.running.listen("overlay0", "sensor_msgs/msg/Image")
        self.sensors, self.camera = Sensors(graph, camera=False), RawCamera(graph)
        self.sensors.mount()
        self.running.settle()
        self.sensors.ready()
        publishers = self.camera.images, self.camera.infos
        graph.until(lambda: all(p.get_subscription_count() for p in publishers), "subscriptions to the camera")
        graph.until(lambda: "optical" in self.transforms._buffer.all_frames_as_yaml(), "tf")

    @property
    def transforms(self):
        return self.running.node._work._transforms

    def scan(self, stamp, **of_image):
        """Send an image and a scan of that time; the labelled cloud."""
        received, clouds = self.counts.received, len(self.clouds)
        self.camera.send(stamp, **of_image)
        self.graph.until(lambda: self.counts.received > received, "the image")
        self.sensors.scan(stamp)
        self.graph.until(lambda: len(self.clouds) > clouds, "the cloud")
        return self.clouds[-1]

    @property
    def counts(self):
        from mdkt_ros.live.statistics import CameraCounts

        return self.running.statistics().cameras.get(0, CameraCounts())


def picture(message):
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)


def expected(cloud, labels, color, model):
    columns = parse_pointcloud2(cloud)
    lens = Camera("0", 64, 48, K, OPTICAL, model, tuple(LENSES[model]))
    image = np.broadcast_to(np.array(color, np.uint8), (48, 64, 3))
    return np.asarray(overlay(image, lens, columns.xyz(), columns.columns["class_id"], labels))


def test_every_lens_and_encoding_gives_the_picture_of_that_camera(run, graph):
    filmed = Filmed(run, graph)
    labels = filmed.running.node._work._segmenter.labels
    seconds = 0
    for model in LENSES:
        for encoding, (_, color) in ENCODINGS.items():
            seconds += 1
            cloud = filmed.scan(seconds * SECOND, encoding=encoding, model=model)
            graph.until(lambda: len(filmed.overlays) == seconds, f"the overlay of {encoding}, {model}")  # noqa: B023
            got = picture(filmed.overlays[-1])
            assert np.array_equal(got, expected(cloud, labels, color, model)), (encoding, model)
    assert len({picture(m).tobytes() for m in filmed.overlays}) >= 2 * len(LENSES)


def test_a_miscalibrated_camera_costs_its_overlay_alone_until_it_is_calibrated(run, graph):
    filmed = Filmed(run, graph)
    wrong = [
        {"k": np.zeros((3, 3))},
        {"model": "magic", "d": [0.1, 0.2]},
        {"model": "equidistant", "d": [0.1, 0, 0, 0, 0.5]},
        {"k": np.full((3, 3), np.nan)},
    ]
    for number, calibration in enumerate(wrong, 1):
        filmed.scan(number * SECOND, **calibration)
    graph.until(lambda: filmed.counts.skipped["not usable"] == len(wrong), "the reasons")
    assert (len(filmed.clouds), filmed.overlays) == (len(wrong), [])
    filmed.scan(9 * SECOND)
    graph.until(lambda: len(filmed.overlays) == 1, "the overlay")


# --------------------------------------------------------------------------------------------------------- a moving car


class Car:
    """tf of a car that drives along x of odom at 10 m/s from `start` metres on."""

    def __init__(self, graph):
        from tf2_msgs.msg import TFMessage

        self.publisher = graph.node.create_publisher(TFMessage, "/tf", 100)
        graph.until(self.publisher.get_subscription_count, "the node's tf")

    def drive(self, begin, end, start=0.0):
        """Every 0.1 s from `begin` to `end`, in seconds."""
        from geometry_msgs.msg import TransformStamped
        from tf2_msgs.msg import TFMessage

        for at in np.arange(begin, end + 0.05, 0.1):
            stamped = TransformStamped(header=header(round(at * SECOND), "odom"), child_frame_id="lidar")
            stamped.transform.translation.x = start + 10.0 * (at - begin)
            stamped.transform.rotation.w = 1.0
            self.publisher.publish(TFMessage(transforms=[stamped]))


def shift(transforms, scan, image):
    """By how many metres forward a point of the scan has come nearer when the image is taken; times in seconds."""
    pose = transforms.camera_from_lidar("optical", round(image * SECOND), "lidar", round(scan * SECOND))
    assert np.allclose(pose[:3, :3], OPTICAL[:3, :3])
    return -pose[2, 3]


def knows(graph, transforms, scan, image, metres):
    graph.until(lambda: abs(shift(transforms, scan, image) - metres) < 1e-6, f"a motion of {metres} m")


def test_the_motion_between_scan_and_image_is_corrected_also_after_tf_has_jumped(run, graph):
    filmed = Filmed(run, graph)
    transforms, car = filmed.transforms, Car(graph)
    assert shift(transforms, 100.0, 100.05) == 0  # no odometry yet: the mount alone
    car.drive(100.0, 101.0)
    knows(graph, transforms, 100.5, 100.55, 0.5)
    knows(graph, transforms, 100.5, 100.42, -0.8)
    assert shift(transforms, 100.9, 101.2) == 0  # later than what is known: not waited for, the mount alone
    # The estimate of the car's place jumps, as when it finds itself on a map: within one piece all fits again.
    car.drive(101.1, 102.0, start=500.0)
    knows(graph, transforms, 101.5, 101.55, 0.5)
    # A bag begins again.
    car.drive(3.0, 4.0)
    knows(graph, transforms, 3.5, 3.58, 0.8)
    assert shift(transforms, 100.5, 100.55) == 0
    filmed.scan(round(3.5 * SECOND))
    graph.until(lambda: len(filmed.overlays) == 1, "the overlay")


def test_without_a_fixed_frame_the_mount_alone_counts(run, graph):
    filmed = Filmed(run, graph, fixed_frame="")
    car = Car(graph)
    car.drive(100.0, 101.0)
    graph.until(lambda: "odom" in filmed.transforms._buffer.all_frames_as_yaml(), "odometry")
    assert shift(filmed.transforms, 100.5, 100.55) == 0
