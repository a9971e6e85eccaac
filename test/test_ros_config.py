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


def test_the_costmap_is_made_of_groups_that_every_label_space_has():
    for space in ("semantickitti", "nuscenes"):
        assert {"obstacle", "drivable"} <= set(LabelSpace.load(space).groups)


def test_the_dds_profile_makes_fragments_as_large_as_a_datagram():
    root = ElementTree.parse(CONFIG / "cyclonedds.xml").getroot()
    said = {element.tag.partition("}")[2]: element.text for element in root.iter()}
    assert (
        60_000 < int(said["FragmentSize"].removesuffix("B")) < int(said["MaxMessageSize"].removesuffix("B")) <= 65_507
    )
