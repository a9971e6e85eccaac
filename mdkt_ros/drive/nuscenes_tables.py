"""nuScenes' JSON tables, read without its devkit; what is missing is named by table, token and field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.pose import pose_from_quaternion
from mdkt_ros.errors import DriveError

T = TypeVar("T")
_SEPARATOR = re.compile(r"[\s,]*")


class Row:
    """One row of a table; a missing or misshapen field is a DriveError that names table, token and field."""

    __slots__ = ("_data", "_path")

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        self._path = path
        self._data = data

    def _fail(self, field: str, problem: str) -> DriveError:
        return DriveError(f"{self._path}: row {self._data.get('token', '(without token)')}: field {field} {problem}")

    def text(self, field: str) -> str:
        """A string field."""
        return str(self._get(field, str))

    def integer(self, field: str) -> int:
        """An integer field."""
        return int(self._get(field, int))

    def flag(self, field: str) -> bool:
        """A boolean field."""
        return bool(self._get(field, bool))

    def array(self, field: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """A field of nested lists of finite numbers."""
        try:
            value = np.array(self._get(field, list), dtype=np.float64)
        except (ValueError, TypeError, OverflowError):
            value = np.array(np.nan)
        if value.shape != shape or not np.isfinite(value).all():
            raise self._fail(field, f"is not {'x'.join(map(str, shape))} finite numbers")
        return value

    def pose(self) -> npt.NDArray[np.float64]:
        """Fields `rotation` (w, x, y, z) and `translation` as a (4, 4) pose."""
        try:
            return pose_from_quaternion(self.array("rotation", (4,)), self.array("translation", (3,)))
        except ValueError as error:
            raise self._fail("rotation", f"is not a rotation: {error}") from error

    def _get(self, field: str, kind: type) -> Any:
        if field not in self._data:
            raise self._fail(field, "is missing")
        value = self._data[field]
        if not isinstance(value, kind):
            raise self._fail(field, f"should be of type {kind.__name__}, is {type(value).__name__}")
        return value


class Tables:
    """The folder of one version's tables (`v1.0-mini/`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, table: str) -> Path:
        """File of a table."""
        return self.folder / f"{table}.json"

    def rows(self, table: str) -> Iterator[Row]:
        """Rows one by one: the full set's sample_data has 2.6 million, of which a drive needs one in ten.

        Raises:
            DriveError: the table is missing or is not a JSON list of objects.
        """
        path = self.path(table)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise DriveError(f"{path}: the table {table} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise DriveError(f"{path}: is not a JSON table: {error.reason}") from error
        decode = json.JSONDecoder().raw_decode
        position = _skip(text, 0)
        if not text.startswith("[", position):
            raise DriveError(f"{path}: is not a JSON table: no list")
        position = _skip(text, position + 1)
        while not text.startswith("]", position):
            try:
                data, position = decode(text, position)
            # ValueError: also an integer of thousands of digits.
            except (ValueError, RecursionError) as error:
                raise DriveError(f"{path}: is truncated or not JSON at character {position}") from error
            if not isinstance(data, dict):
                raise DriveError(f"{path}: is not a JSON table: a row is no object")
            yield Row(path, data)
            position = _skip(text, position)

    def by_token(self, table: str, wanted: Callable[[str], bool] | None = None) -> dict[str, Row]:
        """Rows by their token, all of them or those whose token is `wanted`. Raises DriveError."""
        return {
            token: row for row in self.rows(table) if (token := row.text("token")) and (wanted is None or wanted(token))
        }

    def find(self, rows: dict[str, T], table: str, token: str, needed_by: str) -> T:
        """What was made of the row with this token. Raises DriveError that names table, token and who needs it."""
        try:
            return rows[token]
        except KeyError:
            raise DriveError(f"{self.path(table)}: no row with token {token!r}, needed by {needed_by}") from None


def _skip(text: str, position: int) -> int:
    match = _SEPARATOR.match(text, position)
    return position if match is None else match.end()
