"""Fixtures that several subjects share."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from live_setting import Setting
from ros_graph import Graph
from running_node import Running
from small_models import random_meta, random_network
from synthetic_frames import SEED

from mdkt_ros.checkpoint import save_checkpoint
from mdkt_ros.segmenter import Segmenter
from mdkt_ros.sparse import backend

ROOT = Path(__file__).resolve().parents[1]

# In the background of a shell Ctrl-C is ignored, under nohup the hang-up, and programs that a test starts would inherit
# that. What is caught, unlike what is ignored, they do not inherit.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real scans (`MDKT_REAL_DATA`); skips where it is missing: their licence forbids shipping them."""
    folder = Path(os.environ.get("MDKT_REAL_DATA", ROOT.parent / "shared" / "real"))
    if not folder.is_dir():
        pytest.skip(f"real scans are not at {folder} (set MDKT_REAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def rclpy():
    """ROS 2, or the reason why there is none."""
    module = pytest.importorskip("rclpy", reason="rclpy is not here: source a ROS 2's setup.bash")
    if shutil.which("ros2") is None:
        pytest.skip("the program ros2 is not here")
    for name in ("rosbag2_interfaces", "vision_msgs.msg"):
        pytest.importorskip(name, reason=f"{name} of ROS 2 is not here")
    return module


@pytest.fixture
def graph(rclpy, monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    graph = Graph(rclpy)
    yield graph
    graph.close()


@pytest.fixture
def own_engines(monkeypatch):
    """Engines that a test registers are gone after it."""
    monkeypatch.setattr(backend, "_LOADERS", dict(backend._LOADERS))
    backend.forget_engines()
    yield
    monkeypatch.undo()
    backend.forget_engines()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_checkpoint(path, random_network(), random_meta())
    return path


@pytest.fixture
def run(graph, checkpoint):
    """Starts nodes, with `checkpoint` and the graph, and ends them."""
    nodes = []

    def start(**parameters):
        nodes.append(Running(graph, **{"checkpoint": str(checkpoint), "intensity_scale": 1 / 255, **parameters}))
        return nodes[-1]

    yield start
    for node in nodes:
        node.close()


@pytest.fixture(scope="module")
def segmenter():
    """Labels that mean nothing, in no time."""
    return Segmenter(random_network(), random_meta(), device="cpu")


@pytest.fixture
def setting(segmenter):
    """A live labeller without ROS, with everything around it."""
    return Setting(segmenter)


@pytest.fixture(scope="module")
def one_thread():
    """Small operations are slower on several threads, which a test run's other workers want too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def town():
    """The town of the synthetic drives, whose making takes seconds."""
    pytest.importorskip("embreex", reason="synthetic drives need the extra `synthetic` (embreex)")
    from mdkt_ros.drive.synthetic.town import build_town

    return build_town(SEED)


@pytest.fixture(scope="session")
def city():
    """The same streets with nuScenes' traffic and furniture."""
    pytest.importorskip("embreex", reason="synthetic drives need the extra `synthetic` (embreex)")
    from mdkt_ros.drive.synthetic.mix import CITY
    from mdkt_ros.drive.synthetic.town import build_town

    return build_town(SEED, CITY)
