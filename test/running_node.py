"""The node `segment` in a test's own graph, and the sensors that it listens to."""

from __future__ import annotations

import numpy as np
from fake_drive import jpeg

from mdkt_ros.cloud import build_pointcloud2
from mdkt_ros.live.warmup import street

SECOND = 1_000_000_000
OUT = "/segment/output"


class Running:
    """A node in the graph's executor, and what its topics say."""

    def __init__(self, graph, topics=None, **parameters):
        from rclpy.parameter import Parameter

        from mdkt_ros.ros.node import SegmentNode

        self.graph, self._parameter = graph, Parameter
        values = {"warmup_points": 0, "device": "cpu", "diagnostics.period": 0.1, **parameters}
        overrides = [Parameter(name.replace("__", "."), value=value) for name, value in values.items()]
        topics = {"pointcloud": "/lidar/points", **(topics or {})}
        remapped = [part for name, topic in topics.items() for part in ("-r", f"~/input/{name}:={topic}")]
        self.node = SegmentNode(
            context=graph.context, parameter_overrides=overrides, cli_args=["--ros-args", *remapped]
        )
        graph.executor.add_node(self.node)
        self.got = {}

    def up(self):
        from rclpy.lifecycle import TransitionCallbackReturn

        for change in (self.node.trigger_configure, self.node.trigger_activate):
            assert change() == TransitionCallbackReturn.SUCCESS
        return self

    def set(self, **values):
        (answer,) = self.node.set_parameters(
            [self._parameter(n.replace("__", "."), value=v) for n, v in values.items()]
        )
        return answer

    @property
    def state(self):
        return self.node._state_machine.current_state[1]

    def listen(self, output, kind="sensor_msgs/msg/PointCloud2", **options):
        topic = output if output.startswith("/") else f"{OUT}/{output}"
        self.got[output] = []
        self.graph.subscribe(topic, kind, self.got[output], **options)
        return self.got[output]

    def settle(self):
        """Wait until the node knows its listeners."""
        outputs = self.node._work._outputs
        expected = {name for name in self.got if not name.startswith("/") and name not in ("label_info", "legend")}
        self.graph.until(lambda: expected <= outputs.wanted(), f"listeners of {expected}")

    def connect(self):
        """A LiDAR that the node hears, and the list that its labelled clouds come to."""
        got, sensors = self.listen("segmentation"), Sensors(self.graph)
        sensors.ready()
        self.settle()
        return sensors, got

    def statistics(self):
        return self.node._work.statistics.snapshot()

    def diagnosis(self):
        """The next status: (level, message, values)."""
        got = (
            self.got.get("/diagnostics")
            if "/diagnostics" in self.got
            else self.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
        )
        count = len(got)
        self.graph.until(lambda: len(got) > count + 1, "a diagnosis")
        (status,) = got[-1].status
        # Displays choose by both, `config/foxglove.json` among them.
        assert (status.hardware_id, status.name) == ("segment", "segment: labels")
        return status.level[0], status.message, {v.key: v.value for v in status.values}

    def close(self):
        self.node.end()
        self.graph.executor.remove_node(self.node)
        self.node.destroy_node()


class Sensors:
    """A LiDAR and, unless something else is in its place, a camera that compresses."""

    def __init__(self, graph, *, camera=True):
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2

        self.graph = graph
        create = graph.node.create_publisher
        self.lidar = create(PointCloud2, "/lidar/points", qos_profile_sensor_data)
        if not camera:
            return
        self.camera = create(CompressedImage, "/segment/input/image0", qos_profile_sensor_data)
        self.info = create(CameraInfo, "/segment/input/camera_info0", qos_profile_sensor_data)

    def ready(self, *, film=False):
        publishers = [self.lidar, *([self.camera, self.info] if film else [])]
        self.graph.until(lambda: all(p.get_subscription_count() for p in publishers), "subscriptions of the node")

    def scan(self, stamp, count=400, **changes):
        from mdkt_ros.ros.messages import cloud_message

        points = street(count)
        columns = {name: points[:, axis] for axis, name in enumerate("xyz")}
        built = build_pointcloud2({**columns, "intensity": np.linspace(0, 255, count, dtype=np.float32)})
        message = cloud_message(built, header(stamp, "lidar"))
        for name, value in changes.items():
            setattr(message, name, value)
        self.lidar.publish(message)
        return message

    def image(self, stamp, data=None):
        from sensor_msgs.msg import CameraInfo, CompressedImage

        k = [40.0, 0.0, 32.0, 0.0, 40.0, 24.0, 0.0, 0.0, 1.0]
        p = [40.0, 0.0, 32.0, 0.0, 0.0, 40.0, 24.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        at = header(stamp, "optical")
        self.info.publish(CameraInfo(header=at, width=64, height=48, distortion_model="plumb_bob", k=k, p=p))
        self.camera.publish(CompressedImage(header=at, format="jpeg", data=jpeg(0, 64, 48) if data is None else data))

    def mount(self):
        """Latched: the camera looks forward from the LiDAR."""
        from geometry_msgs.msg import TransformStamped
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from tf2_msgs.msg import TFMessage

        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.tf = self.graph.node.create_publisher(TFMessage, "/tf_static", latched)
        transform = TransformStamped(header=header(1, "lidar"), child_frame_id="optical")
        r = transform.transform.rotation
        r.w, r.x, r.y, r.z = 0.5, -0.5, 0.5, -0.5
        self.tf.publish(TFMessage(transforms=[transform]))


def header(stamp, frame):
    from builtin_interfaces.msg import Time
    from std_msgs.msg import Header

    return Header(stamp=Time(sec=stamp // SECOND, nanosec=stamp % SECOND), frame_id=frame)


def stamp_of(message):
    return message.header.stamp.sec * SECOND + message.header.stamp.nanosec
