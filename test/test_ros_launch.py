"""`ros2 launch` and `ros2 run` of the package, installed for ROS as colcon does it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import typer
from conftest import ROOT
from fake_drive import FakeDrive
from ros_graph import DEADLINE, DOMAIN
from running_node import OUT, stamp_of

from mdkt_ros.cli import app
from mdkt_ros.drive.convert import convert

pytestmark = [pytest.mark.ros, pytest.mark.slow]
STARTUP = 120.0
"""Seconds for a process that imports PyTorch, and compiles its loops, on a busy machine."""


@pytest.fixture(scope="session")
def installed(rclpy, tmp_path_factory):
    """Prefix of an installation by the command that colcon runs, with this interpreter."""
    folder = tmp_path_factory.mktemp("ros")
    source, prefix = folder / "source", folder / "install"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "runs", "*.egg-info", "__pycache__", ".*cache")
    shutil.copytree(ROOT, source, ignore=ignored)
    command = [sys.executable, "-W", "ignore", "setup.py", "-q", "egg_info", "install", "--prefix", str(prefix)]
    command += ["--single-version-externally-managed", "--record", str(folder / "record")]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return prefix


@pytest.fixture
def environment(installed, monkeypatch):
    """As after `source install/setup.bash`, in the domain of the test's graph."""
    (packages,) = installed.glob("lib/python*/site-packages")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{installed}{os.pathsep}{os.environ['AMENT_PREFIX_PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{packages}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def ros2(*command, **options):
    options = {"capture_output": True, "text": True, "check": False, "timeout": 2 * STARTUP, **options}
    return subprocess.run(["ros2", *map(str, command)], **options)


def test_every_argument_is_explained(environment):
    shown = ros2("launch", "mdkt_ros", "segment.launch.py", "--show-args").stdout
    explained = dict(re.findall(r"^    '(\w+)':\n        (.+)$", shown, re.MULTILINE))
    assert set(explained) >= {
        "checkpoint", "params_file", "pointcloud", "cameras", "device", "bag", "rate", "loop", "rviz", "use_sim_time",
        "namespace", "autostart", "dds_profile",
    }  # fmt: skip
    assert min(map(len, explained.values())) > 15


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("bag:=/nowhere", "bag: there is no /nowhere"),
        ("params_file:=/nowhere", "params_file: there is no file /nowhere"),
        ("loop:=often", "loop: 'often' is neither true nor false"),
        ("dds_profile:=/nowhere.xml", "dds_profile: '/nowhere.xml' is neither 'shipped' nor a file"),
        ("cameras:=/a/image_raw,/b/image_raw/compressed", "either all topics end in /compressed or none does"),
    ],
)
def test_a_wrong_argument_is_named(environment, argument, message):
    done = ros2("launch", "mdkt_ros", "segment.launch.py", argument)
    assert done.returncode == 1
    assert message in done.stdout + done.stderr


def test_a_bag_that_humbles_player_cannot_read_is_refused_before_the_network_is_loaded(
    environment, tmp_path, monkeypatch
):
    monkeypatch.setenv("ROS_DISTRO", "humble")
    convert(FakeDrive(1), tmp_path / "newer", distro="jazzy")
    done = ros2("launch", "mdkt_ros", "segment.launch.py", f"bag:={tmp_path / 'newer'}")
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "newer has metadata of version 9, Humble reads up to 8: write it with `mdkt convert --distro humble`" in said
    assert "process started" not in said


def test_launched_as_a_user_does_it_a_bag_is_labelled(environment, graph, checkpoint, tmp_path):
    convert(FakeDrive(frames=8, points=300), tmp_path / "drive")
    images = ",".join(f"/camera/{name}/image_raw/compressed" for name in ("image_2", "CAM_LEFT"))
    arguments = {"checkpoint": checkpoint, "device": "cpu", "intensity_scale": 1 / 255, "cameras": images}
    arguments |= {"bag": tmp_path / "drive", "rate": 0.4, "loop": "true", "namespace": "car", "dds_profile": "shipped"}
    got, overlays, states, diagnoses = [], [], [], []
    graph.subscribe(f"/car{OUT}/segmentation", "sensor_msgs/msg/PointCloud2", got)
    graph.subscribe(f"/car{OUT}/overlay1", "sensor_msgs/msg/Image", overlays)
    graph.subscribe("/car/segment/transition_event", "lifecycle_msgs/msg/TransitionEvent", states)
    graph.subscribe("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", diagnoses)
    given = [f"{name}:={value}" for name, value in arguments.items()]
    with graph.program("launch", "mdkt_ros", "segment.launch.py", *given) as launch:
        end = time.monotonic() + STARTUP
        while not (len(got) > 10 and overlays and diagnoses) and time.monotonic() < end:
            graph.executor.spin_once(timeout_sec=0.1)
        launch.send_signal(signal.SIGINT)
        output, _ = launch.communicate(timeout=DEADLINE)
    assert len(got) > 10, output
    assert overlays, output
    assert [state.goal_state.label for state in states][-2:] == ["activating", "active"]
    assert {stamp_of(message) for message in got} <= {FakeDrive()[0].stamp + k * 100_000_000 for k in range(8)}
    assert diagnoses[-1].status[0].name == "car/segment: labels"
    # Stamped by the bag's clock.
    assert diagnoses[-1].header.stamp.sec < 1_600_000_000
    assert "process has finished cleanly" in output
    assert "has died" not in output, output


def node(name, *parameters):
    """`ros2 run mdkt_ros segment`, but so that a signal reaches the node itself."""
    found = ros2("pkg", "prefix", "mdkt_ros").stdout.strip()
    given = [part for parameter in parameters for part in ("-p", parameter)]
    command = [f"{found}/lib/mdkt_ros/segment", "--ros-args", "-r", f"__node:={name}", *given]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("moment", ["unconfigured", "configuring", "active"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_without_waiting(environment, graph, checkpoint, moment, number):
    from lifecycle_msgs.srv import ChangeState

    # A name of its own: DDS remembers a node that another test has killed for a while.
    name = f"{moment}_{number.name.lower()}"
    client = graph.node.create_client(ChangeState, f"/{name}/change_state")
    # Many seconds of warming up, after which it says how it decodes images.
    slow = ["warmup_points:=1000000", "max_points:=1000000", "cameras:=1"]
    slow = slow if moment == "configuring" else [f"checkpoint:={checkpoint}"]
    process = node(name, "device:=cpu", *slow)
    try:
        graph.until(client.service_is_ready, "the node")
        if moment != "unconfigured":
            request = ChangeState.Request()
            for transition in (1, 3) if moment == "active" else (1,):
                request.transition.id = transition
                future = client.call_async(request)
                if moment == "active":
                    graph.until(future.done, "the transition")
        if moment == "configuring":
            said = ""
            while "shipped checkpoint was trained" not in said:
                said = process.stdout.readline()
        process.send_signal(number)
        output, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, output
        assert "images are decoded by" not in output, "it waited for the network"
        assert "Traceback" not in output
    finally:
        process.kill()
        process.wait()


def test_each_command_is_an_executable(environment, tmp_path):
    convert(FakeDrive(frames=2), tmp_path / "drive")
    listed = ros2("pkg", "executables", "mdkt_ros").stdout.split()[1::2]
    commands = typer.main.get_command(app).commands
    assert sorted(listed) == sorted(["mdkt", *commands])
    by_ros = ros2("run", "mdkt_ros", "info", tmp_path / "drive", "--json")
    by_hand = subprocess.run(
        [sys.executable, "-m", "mdkt_ros.cli", "info", tmp_path / "drive", "--json"], capture_output=True, check=True
    )
    assert by_ros.stdout == by_hand.stdout.decode()
    # With arguments of its own, the node's executable is the command.
    assert "Usage: mdkt segment" in ros2("run", "mdkt_ros", "segment", "--help").stdout
    refused = ros2("run", "mdkt_ros", "info", "/nowhere")
    assert refused.returncode == 1
