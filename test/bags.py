"""Bags for the tests, written with rosbags alone."""

from __future__ import annotations

import numpy as np
import yaml
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer

from mdkt_ros.cloud import build_pointcloud2
from mdkt_ros.drive.rosmsg import Messages, qos, typestore

PLUGINS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}


def cloud_message(messages: Messages, stamp: int, *, points: int = 20, frame: str = "lidar"):
    rng = np.random.default_rng(points)
    columns = {name: rng.normal(0, 10, points).astype(np.float32) for name in ("x", "y", "z", "intensity")}
    return messages.point_cloud(messages.header(stamp, frame), build_pointcloud2(columns))


def make_bag(path, messages, *, storage="mcap", version=9):
    """Write (topic, log time, message) in that order."""
    store = typestore()
    connections = {}
    with Writer(path, version=version, storage_plugin=PLUGINS[storage]) as writer:
        for topic, stamp, message in messages:
            if topic not in connections:
                offered = qos(latched=topic == "/tf_static")
                connections[topic] = writer.add_connection(
                    topic, message.__msgtype__, typestore=store, offered_qos_profiles=offered
                )
            writer.write(connections[topic], stamp, store.serialize_cdr(message, message.__msgtype__))
    return path


def rewrite(source, path, *, storage="mcap", compression=CompressionMode.NONE, change=None):
    """Copy a bag with other storage or compression, or with `change(topic, message)` applied."""
    store = typestore()
    custom = yaml.safe_load((source / "metadata.yaml").read_text())["rosbag2_bagfile_information"]["custom_data"] or {}
    with Reader(source) as reader, _compressed(path, storage, compression) as writer:
        for key, value in custom.items():
            writer.set_custom_data(key, value)
        connections = {
            c.id: writer.add_connection(
                c.topic, c.msgtype, typestore=store, offered_qos_profiles=c.ext.offered_qos_profiles
            )
            for c in reader.connections
        }
        for connection, stamp, raw in reader.messages():
            if change is not None:
                message = change(connection.topic, store.deserialize_cdr(raw, connection.msgtype))
                raw = store.serialize_cdr(message, connection.msgtype)
            writer.write(connections[connection.id], stamp, raw)
    return path


def _compressed(path, storage, compression):
    writer = Writer(path, version=9, storage_plugin=PLUGINS[storage])
    writer.set_compression(compression, CompressionFormat.ZSTD)
    return writer
