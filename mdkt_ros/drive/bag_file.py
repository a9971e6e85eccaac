"""rosbag2 files through `rosbags`: opened with errors that say what to do, written whole or not at all."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import sys
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import apsw
import yaml
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinitionFormat
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, ReaderError, StoragePlugin, Writer, WriterError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mdkt_ros.drive.rosmsg import BagVersion, typestore
from mdkt_ros.errors import DriveError, OutputError
from mdkt_ros.output import atomic_output

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Storage = Literal["mcap", "sqlite3"]
_SUFFIXES: dict[str, Storage] = {".mcap": "mcap", ".db3": "sqlite3"}
_PLUGINS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
NO_HASH = "RIHS01_" + "0" * 64
"""Type hash of a type that neither the bag nor rosbags defines; players do not look at it."""

# rosbags reads the bytes of a bag without checking each length and offset first, so damage shows as any of these.
_DAMAGE = (
    ReaderError, SerdeError, TypesysError, apsw.Error, sqlite3.Error, zstd.ZstdError, yaml.YAMLError, struct.error,
    EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, OverflowError,
    MemoryError,
)  # fmt: skip


class Topic(NamedTuple):
    """A topic of a bag: name, message type, number of messages."""

    name: str
    type: str
    messages: int


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DriveError(f"{path}: {error.strerror or error}") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if reason.startswith("Some database files are missing"):
            files = reason.partition(": ")[2].strip("[]")
            raise DriveError(f"{path}: metadata.yaml names files that are not there: {files}") from error
        raise DriveError(
            f"{path}: damaged or cut off, cannot be read as a rosbag2 ({reason}); what is readable can be saved with "
            "`mcap recover` (.mcap) or `sqlite3 FILE .recover` (.db3), then `ros2 bag reindex`"
        ) from error


def _check_database(path: Path) -> None:
    # SQLite reads a database without its last pages while nothing asks for them: messages would be missing silently.
    with path.open("rb") as file:
        header = file.read(32)
    if path.suffix == ".db3" and header.startswith(b"SQLite format 3\0") and len(header) == 32:
        page, pages = int.from_bytes(header[16:18], "big"), int.from_bytes(header[28:32], "big")
        expected = (65536 if page == 1 else page) * pages
        if path.stat().st_size < expected:
            raise ReaderError(f"{path.name} has {path.stat().st_size} of {expected} bytes")


class BagFile:
    """A rosbag2 opened for reading: a folder with metadata.yaml, or one .mcap or .db3 file. Use as a context manager.

    Attributes:
        path: what was opened.
        store: the message types of the bag; where it holds no definitions (Humble's sqlite3), those of ROS 2 Jazzy.
        custom: `custom_data` of metadata.yaml.
        storage: storage plugin.
        version: 8 or 9, the newest version that whoever reads this bag reads as well.
        compression: how its data are compressed; a compressed MCAP is `STORAGE`.

    Raises:
        DriveError: missing, truncated, of another format; the message names the file and what would help.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        storage = _SUFFIXES.get(self.path.suffix)
        if self.path.is_dir() and not (self.path / "metadata.yaml").is_file():
            raise DriveError(
                f"{self.path}: no metadata.yaml, as after a recording that was cut off; `ros2 bag reindex {self.path}` "
                "writes it, or give the .mcap or .db3 file itself"
            )
        if self.path.is_file() and storage is None:
            raise DriveError(f"{self.path}: not a rosbag2: a folder with metadata.yaml, a .mcap or a .db3 file")
        with _readable(self.path):
            for part in self.path.glob("*.db3") if self.path.is_dir() else [self.path]:
                _check_database(part)
            self._reader = Reader(self.path)
            self._reader.open()
        try:
            with _readable(self.path):
                self._describe(storage)
        except DriveError:
            self.close()
            raise

    def _describe(self, storage: Storage | None) -> None:
        self.custom: dict[str, str] = {}
        self.version: BagVersion = 8
        modes = {"file": CompressionMode.FILE, "message": CompressionMode.MESSAGE}
        self.compression = modes.get(self._reader.compression_mode or "", CompressionMode.NONE)
        if storage is None:
            text = (self.path / "metadata.yaml").read_text(encoding="utf-8")
            information = yaml.safe_load(text)["rosbag2_bagfile_information"]
            storage = cast(Storage, information["storage_identifier"])
            self.version = 9 if information["version"] >= 9 else 8
            self.custom = {str(k): str(v) for k, v in (information.get("custom_data") or {}).items()}
        self.storage: Storage = storage
        for part in getattr(self._reader.storage, "storages", [self._reader.storage]):
            if any(chunk.compression for chunk in getattr(part, "chunks", [])):
                self.compression = CompressionMode.STORAGE
        self.store = _types_of(self.connections)

    def __enter__(self) -> BagFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        if self._reader.is_open:
            self._reader.close()

    @property
    def connections(self) -> list[Connection]:
        """Topics as rosbags sees them."""
        return self._reader.connections

    @property
    def topics(self) -> list[Topic]:
        """Topics by name."""
        counts: dict[tuple[str, str], int] = {}
        for connection in self.connections:
            key = (connection.topic, connection.msgtype)
            counts[key] = counts.get(key, 0) + connection.msgcount
        return [Topic(name, msgtype, count) for (name, msgtype), count in sorted(counts.items())]

    @property
    def duration(self) -> float:
        """Seconds from the first message to the last."""
        return max(self._reader.duration - 1, 0) / 1e9

    @property
    def start(self) -> int:
        """Nanoseconds at which the first message was recorded; 0 of an empty bag."""
        return self._reader.start_time if self._reader.message_count else 0

    @property
    def ros_distro(self) -> str | None:
        """Distribution that recorded the bag, where it says."""
        return self._reader.ros_distro

    def messages(
        self, connections: Collection[Connection] = (), start: int | None = None, stop: int | None = None
    ) -> Generator[tuple[Connection, int, bytes], None, None]:
        """Stream (connection, log time in nanoseconds, raw bytes) of some topics, or of all; `stop` is exclusive.

        Raises:
            DriveError: the bag is damaged from here on.
        """
        with _readable(self.path):
            yield from self._reader.messages(connections, start, stop)

    def messages_of(
        self, *topics: str, start: int | None = None, stop: int | None = None
    ) -> Generator[tuple[Connection, int, bytes], None, None]:
        """`messages` of topics by name; nothing where the bag has none of them."""
        connections = [c for c in self.connections if c.topic in topics]
        if connections:
            yield from self.messages(connections, start, stop)

    def deserialize(self, raw: bytes, connection: Connection) -> Any:
        """The message. Raises DriveError that names the topic: the bytes are not a message of its type."""
        try:
            return self.store.deserialize_cdr(raw, connection.msgtype)
        except _DAMAGE as error:
            reason = " ".join(str(error).split())
            raise DriveError(f"{self.path}: topic {connection.topic}: not a {connection.msgtype}: {reason}") from error


def _types_of(connections: list[Connection]) -> Typestore:
    """The bag's own definitions, and ROS 2's where it has none."""
    store = get_typestore(Stores.EMPTY)
    for connection in connections:
        definition = connection.msgdef
        if connection.msgtype in store.fielddefs or definition.format == MessageDefinitionFormat.NONE:
            continue
        if definition.format == MessageDefinitionFormat.MSG:
            store.register(get_types_from_msg(definition.data, connection.msgtype))
            continue
        separator = "=" * 80 + "\n"
        parts = (
            definition.data.split(separator)[1:] if definition.data.startswith(separator) else ["\n" + definition.data]
        )
        for part in parts:
            store.register(get_types_from_idl(part.split("\n", 1)[1]))
    known = typestore()
    missing = {c.msgtype for c in connections if c.msgtype not in store.fielddefs}
    if missing & known.fielddefs.keys():
        store.register({name: fields for name, fields in known.fielddefs.items() if name not in store.fielddefs})
    return store


def copy_connection(writer: Writer, connection: Connection, store: Typestore) -> Connection:
    """Announce a topic of one bag in another: type, definition and quality of service unchanged."""
    extension = cast(ConnectionExtRosbag2, connection.ext)
    definition, digest = connection.msgdef.data, connection.digest
    if connection.msgtype in store.fielddefs:
        definition = definition or store.generate_msgdef(connection.msgtype, ros_version=2)[0]
        digest = digest or store.hash_rihs01(connection.msgtype)
    return writer.add_connection(
        connection.topic,
        connection.msgtype,
        msgdef=definition,
        rihs01=digest or NO_HASH,
        serialization_format=extension.serialization_format,
        offered_qos_profiles=extension.offered_qos_profiles,
    )


@contextmanager
def write_bag(
    out: Path,
    *,
    storage: Storage,
    version: BagVersion,
    compression: CompressionMode = CompressionMode.NONE,
    force: bool = False,
) -> Iterator[Writer]:
    """Write a rosbag2; it appears under `out` when the block ends well, and not at all otherwise.

    `out` is a folder, or one file where it ends in .mcap or .db3; the suffix decides on the storage then.

    Raises:
        OutputError: `out` exists and `force` is false, or the disk is full.
    """
    storage = _SUFFIXES.get(out.suffix, storage)
    if storage == "sqlite3" and compression == CompressionMode.STORAGE:
        compression = CompressionMode.MESSAGE
    if out.suffix in _SUFFIXES and compression != CompressionMode.STORAGE:
        compression = CompressionMode.NONE  # only metadata.yaml says how a file or its messages are compressed
    with atomic_output(out, force=force) as temporary:
        # The files in a bag are named after its folder.
        single = out.suffix in _SUFFIXES
        folder = temporary / (out.stem if single else out.name)
        try:
            writer = Writer(folder, version=version, storage_plugin=_PLUGINS[storage])
            writer.set_compression(compression, CompressionFormat.ZSTD)
            with writer:
                yield writer
        except (sqlite3.Error, WriterError) as error:
            raise OutputError(f"{out}: {error}; nothing was written") from error
        _move_up(folder, temporary, single=single)


def _move_up(folder: Path, target: Path, *, single: bool) -> None:
    if not single:
        for path in list(folder.iterdir()):
            os.replace(path, target / path.name)
        folder.rmdir()
        return
    (data,) = (path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    aside = target.with_name(f"{target.name}.data")
    try:
        os.replace(data, aside)
        shutil.rmtree(target)
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
