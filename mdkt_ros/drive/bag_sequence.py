"""The messages of one topic as a sequence: in order it streams, elsewhere it seeks."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

from rosbags.interfaces import Connection

from mdkt_ros.drive.bag_file import BagFile
from mdkt_ros.errors import DriveError


class RawMessage(NamedTuple):
    """A message as it was recorded: its topic, log time in nanoseconds, CDR bytes."""

    connection: Connection
    log_time: int
    raw: bytes


class MessageSequence:
    """Messages of a topic by position.

    The next message after the last one read comes from the open stream, so going through a bag reads it once. The log
    times met on the way are kept (8 bytes a message), and a message before the newest of them is found by its time.
    """

    def __init__(self, bag: BagFile, topic: str) -> None:
        self._bag = bag
        self._topic = topic
        self._connections = [c for c in bag.connections if c.topic == topic]
        self._length = sum(c.msgcount for c in self._connections)
        self._times: list[int] = []
        self._stream: Generator[tuple[Connection, int, bytes], None, None] | None = None
        self._position = 0

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> RawMessage:
        """The message at `index`, negative from the end. Raises IndexError or DriveError."""
        wanted = index + self._length if index < 0 else index
        if not 0 <= wanted < self._length:
            raise IndexError(f"{self._bag.path}: topic {self._topic} has {self._length} messages, not one at {index}")
        if self._stream is None or wanted < self._position:
            self._seek(wanted)
        while True:
            message = self._read()
            if self._position > wanted:
                return message

    def _seek(self, index: int) -> None:
        if not self._times:
            self._stream, self._position = self._bag.messages(self._connections), 0
            return
        index = min(index, len(self._times) - 1)
        start = self._times[index]
        self._stream = self._bag.messages(self._connections, start=start)
        # Files of one bag may overlap in time: what comes first in the stream need not be what was recorded first.
        earlier = sum(time >= start for time in self._times[:index])
        for _ in range(earlier):
            next(self._stream)
        self._position = index

    def _read(self) -> RawMessage:
        assert self._stream is not None
        try:
            connection, log_time, raw = next(self._stream)
        except StopIteration:
            self._stream = None
            raise DriveError(
                f"{self._bag.path}: topic {self._topic} ends after {self._position} of {self._length} messages"
            ) from None
        if self._position == len(self._times):
            self._times.append(log_time)
        self._position += 1
        return RawMessage(connection, log_time, raw)
