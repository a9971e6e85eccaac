"""Starts the node `segment`, brings it up, and on request plays a bag and opens RViz.

ros2 launch mdkt_ros segment.launch.py --show-args
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition
from rclpy import get_rmw_implementation_identifier

from launch import LaunchContext, LaunchDescription

SHARE = Path(get_package_share_directory("mdkt_ros"))
ARGUMENTS = {
    "checkpoint": ("", "A .safetensors checkpoint, or a shipped one by name: mdkt_synthetic_kitti or the smaller "
                       "mdkt_synthetic_kitti_10hz, both trained on synthetic towns (the node warns); empty: "
                       "params_file's, by default the first."),
    "params_file": (str(SHARE / "config" / "segment.yaml"), "Parameters; the default file documents each."),
    "pointcloud": ("/lidar/points", "Topic of the clouds (sensor_msgs/PointCloud2)."),
    "cameras": ("", "Image topics for overlays, separated by commas, such as /camera/front/image_raw/compressed; a "
                    "topic that ends in /compressed carries CompressedImage. Mixing both kinds is not possible."),
    "camera_infos": ("", "CameraInfo topics in the same order; empty: camera_info in each image topic's namespace."),
    "device": ("", "auto, cpu, cuda or cuda:N; empty: params_file's."),
    "intensity_scale": ("", "Brings the sensor's intensity to 0..1, such as 0.00392157; empty: params_file's."),
    "axes": ("", "x_forward or y_forward (nuScenes); empty: params_file's."),
    "bag": ("", "A rosbag2 to play, with --clock, as soon as the node is active."),
    "rate": ("1.0", "Speed of the bag."),
    "loop": ("false", "Play the bag again and again: true or false."),
    "rviz": ("false", "Open RViz with the labelled cloud and the first overlay: true or false."),
    "use_sim_time": ("", "Time comes from /clock: true or false; empty: true if a bag is played."),
    "dds_profile": ("", "Settings of Cyclone DDS for clouds of megabytes, for all that is started here: shipped "
                        "(config/cyclonedds.xml) or a file; empty: as CYCLONEDDS_URI says. The sensor's driver needs "
                        "them in its own environment."),
    "namespace": ("", "Namespace of the node: its topics become /NAMESPACE/segment/output/..."),
    "autostart": ("true", "Configure and activate the node: true or false; false: do it by `ros2 lifecycle set`."),
}  # fmt: skip


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` runs."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_start)])


def _start(context: LaunchContext) -> list:
    given = {name: context.launch_configurations[name].strip() for name in ARGUMENTS}
    flags = {name: _flag(name, given[name]) for name in ("loop", "rviz", "autostart")}
    sim_time = _flag("use_sim_time", given["use_sim_time"]) if given["use_sim_time"] else bool(given["bag"])
    parameters = {"use_sim_time": sim_time}
    parameters |= {name: given[name] for name in ("checkpoint", "device", "axes") if given[name]}
    if given["intensity_scale"]:
        parameters["intensity_scale"] = _number("intensity_scale", given["intensity_scale"])
    remappings = [("~/input/pointcloud", given["pointcloud"])]
    _cameras(given, parameters, remappings)
    if not Path(given["params_file"]).is_file():
        raise RuntimeError(f"params_file: there is no file {given['params_file']}")
    node = LifecycleNode(
        package="mdkt_ros",
        executable="segment",
        name="segment",
        namespace=given["namespace"],
        parameters=[given["params_file"], parameters],
        remappings=remappings,
        output="screen",
        emulate_tty=True,
    )
    player = _player(given, flags["loop"])
    actions = [*_lifecycle(node, player), node] if flags["autostart"] else [node, *player]
    return [*_dds(given["dds_profile"]), *actions, *(_rviz(given["namespace"], sim_time) if flags["rviz"] else [])]


def _cameras(given: dict[str, str], parameters: dict, remappings: list[tuple[str, str]]) -> None:
    """Parameters and topics of the cameras."""
    images = [topic.strip() for topic in given["cameras"].split(",") if topic.strip()]
    infos = [topic.strip() for topic in given["camera_infos"].split(",") if topic.strip()]
    if not images:
        return
    compressed = [topic.endswith("/compressed") for topic in images]
    if len(set(compressed)) > 1:
        raise RuntimeError("cameras: either all topics end in /compressed or none does")
    if infos and len(infos) != len(images):
        raise RuntimeError(f"camera_infos: {len(infos)} topics for {len(images)} cameras")
    bases = [topic.removesuffix("/compressed").rpartition("/")[0] for topic in images]
    infos = infos or [f"{base}/camera_info" for base in bases]
    parameters["cameras"] = len(images)
    parameters["image_transport"] = "compressed" if all(compressed) else "raw"
    for index, (image, info) in enumerate(zip(images, infos)):  # noqa: B905, Humble's launch runs on 3.10, where both are alike
        remappings += [(f"~/input/image{index}", image), (f"~/input/camera_info{index}", info)]


def _dds(profile: str) -> list:
    """Cyclone DDS reads its settings from the environment of each process."""
    if not profile:
        return []
    file = SHARE / "config" / "cyclonedds.xml" if profile == "shipped" else Path(profile)
    if not file.is_file():
        raise RuntimeError(f"dds_profile: {profile!r} is neither 'shipped' nor a file")
    rmw = get_rmw_implementation_identifier()
    warning = [] if rmw == "rmw_cyclonedds_cpp" else [LogInfo(msg=f"dds_profile: is for rmw_cyclonedds_cpp, not {rmw}")]
    return [*warning, SetEnvironmentVariable("CYCLONEDDS_URI", file.resolve().as_uri())]


def _player(given: dict[str, str], loop: bool) -> list[ExecuteProcess]:
    """`ros2 bag play`, if a bag was given."""
    if not given["bag"]:
        return []
    if not Path(given["bag"]).exists():
        raise RuntimeError(f"bag: there is no {given['bag']}")
    _playable(Path(given["bag"]))
    rate = str(_number("rate", given["rate"]))
    command = ["ros2", "bag", "play", given["bag"], "--rate", rate, *(["--loop"] if loop else []), "--clock"]
    return [ExecuteProcess(cmd=command, output="screen")]


def _playable(bag: Path) -> None:
    """Humble's player ends with a parser's words at bags of its successors, after the network has been loaded."""
    metadata = bag / "metadata.yaml"
    if os.environ.get("ROS_DISTRO") != "humble" or not metadata.is_file():
        return
    try:
        version = yaml.safe_load(metadata.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]["version"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return  # the player says what is wrong
    if isinstance(version, int) and version > 8:
        raise RuntimeError(
            f"bag: {bag} has metadata of version {version}, Humble reads up to 8: "
            "write it with `mdkt convert --distro humble`, or copy it with "
            f"`rosbags-convert --src {bag} --dst COPY --dst-version 8`"
        )


def _lifecycle(node: LifecycleNode, player: list[ExecuteProcess]) -> list[RegisterEventHandler]:
    """Configure the node when it is there, activate it when it is configured, play when it is active."""

    def request(transition: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))

    def reached(start: str, goal: str, entities: list) -> RegisterEventHandler:
        handler = OnStateTransition(target_lifecycle_node=node, start_state=start, goal_state=goal, entities=entities)
        return RegisterEventHandler(handler)

    configure = request(Transition.TRANSITION_CONFIGURE)
    return [
        RegisterEventHandler(OnProcessStart(target_action=node, on_start=[configure])),
        reached("configuring", "inactive", [request(Transition.TRANSITION_ACTIVATE)]),
        # Once: activating the node again must not play the bag again.
        *([reached("activating", "active", [OpaqueFunction(function=_once(player))])] if player else []),
    ]


def _once(player: list[ExecuteProcess]):
    left = list(player)

    def start(_context: LaunchContext) -> list[ExecuteProcess]:
        found, left[:] = list(left), []
        return found

    return start


def _rviz(namespace: str, sim_time: bool) -> list[Node]:
    """RViz on the node's own topics."""
    prefix = f"/{namespace.strip('/')}" if namespace.strip("/") else ""
    topics = [
        f"/segment/output/{name}"
        for name in ("visualization", "segmentation", "obstacle", "drivable", "overlay0", "legend")
    ]
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", str(SHARE / "config" / "segment.rviz")],
            parameters=[{"use_sim_time": sim_time}],
            remappings=[(topic, prefix + topic) for topic in topics] if prefix else [],
        )
    ]


def _flag(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise RuntimeError(f"{name}: {value!r} is neither true nor false")
    return value.lower() == "true"


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise RuntimeError(f"{name}: {value!r} is not a number") from None
