"""The files of `config/` that ROS tools read name the node's own topics."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest
import yaml
from conftest import ROOT

from mdkt_ros.labels import LabelSpace

CONFIG = ROOT / "config"
TOPICS = {"segmentation", "visualization", "label_info", "legend", "overlay0", *LabelSpace.load("semantickitti").groups}


@pytest.mark.parametrize("name", ["segment.rviz", "foxglove.json", "nav2_costmap.yaml"])
def test_the_topics_are_the_nodes(name):
    text = (CONFIG / name).read_text(encoding="utf-8")
    assert json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
    found = set(re.findall(r"/segment/output/(\w+)", text))
    assert found
    assert found <= TOPICS


def test_the_foxglove_layout_asks_for_the_nodes_own_diagnosis():
    """It shows a status only where both match; `running_node.diagnosis` holds the node to these."""
    panels = json.loads((CONFIG / "foxglove.json").read_text(encoding="utf-8"))["configById"]
    asked = panels["DiagnosticStatusPanel!health"]
    assert (asked["selectedHardwareId"], asked["selectedName"]) == ("segment", "segment: labels")


def test_the_costmap_is_made_of_groups_that_every_label_space_has():
    for space in ("semantickitti", "nuscenes"):
        assert {"obstacle", "drivable"} <= set(LabelSpace.load(space).groups)


def test_the_layer_of_the_costmap_leaves_the_heights_to_its_sources():
    """Nav2's ObstacleLayer drops what is outside limits of its own (0 and 2 m), below what a source may mark."""
    text = (CONFIG / "nav2_costmap.yaml").read_text(encoding="utf-8")
    layer = yaml.safe_load(text)["local_costmap"]["local_costmap"]["ros__parameters"]["obstacle_layer"]
    for source in layer["observation_sources"].split():
        assert layer["min_obstacle_height"] < layer[source]["min_obstacle_height"]
        assert layer["max_obstacle_height"] > layer[source]["max_obstacle_height"]


def test_the_dds_profile_makes_fragments_as_large_as_a_datagram():
    root = ElementTree.parse(CONFIG / "cyclonedds.xml").getroot()
    said = {element.tag.partition("}")[2]: element.text for element in root.iter()}
    assert (
        60_000 < int(said["FragmentSize"].removesuffix("B")) < int(said["MaxMessageSize"].removesuffix("B")) <= 65_507
    )


def test_the_dds_profile_asks_soon_for_what_was_lost():
    """Well within the period of a sensor; Cyclone's own 100 ms are a whole one."""
    root = ElementTree.parse(CONFIG / "cyclonedds.xml").getroot()
    said = {element.tag.partition("}")[2]: element.text for element in root.iter()}
    assert sum(int(said[name].removesuffix("ms")) for name in ("HeartbeatInterval", "NackDelay")) <= 20
