"""What a labelled bag holds, as rosbags reads it."""

from __future__ import annotations

from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader

from mdkt_ros.cloud import parse_pointcloud2

OUT = "/segment/output/segmentation"
OUT_INFO = "/segment/output/label_info"


def raw_messages(path):
    """Raw messages by topic, and each topic's type, definition hash and quality of service."""
    found, described = {}, {}
    with Reader(path) as reader:
        for connection in reader.connections:
            described[connection.topic] = (connection.msgtype, connection.digest, connection.ext)
        for connection, stamp, raw in reader.messages():
            found.setdefault(connection.topic, []).append((stamp, bytes(raw)))
    return found, described


def labelled(path):
    with AnyReader([path]) as reader:
        connections = [c for c in reader.connections if c.topic == OUT]
        return [reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages(connections)]


def fields(message):
    return parse_pointcloud2(message).columns
