"""LabelSpace: what a class id means. Names, colours, raw ids of the data set, groups, words for a text model."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from mdkt_ros.errors import LabelError
from mdkt_ros.resources import config_dir

IGNORE = 255
"""Class id of a point without a label: ignored in the truth, not labelled in a prediction."""

_MAX_ID = 0xFFFF
_UNLABELLED_COLOR = (96, 96, 96)


def _palette(colors: list[Any]) -> npt.NDArray[np.uint8]:
    for color in colors:
        # Checked one by one: some NumPy versions wrap 256 round to 0, or warn about ragged lists, where others refuse.
        if len(color) != 3 or not all(isinstance(value, int) and 0 <= value <= 255 for value in color):
            raise ValueError("a color is three whole numbers 0 .. 255")
    return np.array(colors, dtype=np.uint8).reshape(len(colors), 3)


@dataclass(frozen=True, eq=False)
class LabelSpace:
    """An ordered set of classes; a class id is an index into `names`, 255 (`IGNORE`) is none of them.

    Attributes:
        name: short name, as in `config/labels/<name>.yaml`.
        names: class names in order.
        palette: (C, 3) uint8 RGB.
        raw_ids: raw id of the data set -> class id or 255, for every raw id that the data set knows.
        canonical_raw: the raw id that stands for a class when a prediction is written in the raw format.
        submission_ids: the id that the benchmark's server expects for a class.
        groups: group name -> class names (obstacle, drivable, ...).
        words: class name -> words for a text model.
    """

    name: str
    names: tuple[str, ...]
    palette: npt.NDArray[np.uint8]
    raw_ids: Mapping[int, int]
    canonical_raw: tuple[int, ...]
    submission_ids: tuple[int, ...]
    groups: Mapping[str, tuple[str, ...]]
    words: Mapping[str, tuple[str, ...]]

    @classmethod
    def load(cls, name: str | Path) -> LabelSpace:
        """Load a shipped label space by name (`semantickitti`, `nuscenes`) or one from a YAML file by path.

        Raises:
            LabelError: no such name or file, or a key is missing or wrong; the message names it.
        """
        path = Path(name)
        if path.suffix not in {".yaml", ".yml"}:
            folder = config_dir() / "labels"
            path = folder / f"{name}.yaml"
            if not path.is_file():
                known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
                raise LabelError(f"label space {str(name)!r} is not known; shipped: {known}; or give a .yaml file")
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise LabelError(f"{path}: {error.strerror}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise LabelError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
        return cls.from_dict(data, source=str(path))

    @classmethod
    def from_dict(cls, data: Any, source: str = "label space") -> LabelSpace:
        """Build from the YAML's structure (also what `to_dict` returns and a checkpoint stores). Raises LabelError."""
        try:
            classes = data["classes"]
            names = tuple(str(c["name"]) for c in classes)
            raw_ids = {int(r): IGNORE for r in data.get("ignore", [])}
            for class_id, c in enumerate(classes):
                if not c["raw"]:
                    raise LabelError(f"{source}: class {c['name']!r} has no raw id")
                for raw in c["raw"]:
                    if int(raw) in raw_ids:
                        raise LabelError(f"{source}: raw id {raw} belongs to two classes")
                    raw_ids[int(raw)] = class_id
            space = cls(
                name=str(data["name"]),
                names=names,
                palette=_palette([c["color"] for c in classes]),
                raw_ids=raw_ids,
                canonical_raw=tuple(int(c.get("canonical", c["raw"][0])) for c in classes),
                submission_ids=tuple(int(c["submission"]) for c in classes),
                groups={str(g): tuple(map(str, members)) for g, members in data.get("groups", {}).items()},
                words={str(c["name"]): tuple(map(str, c.get("words", [c["name"]]))) for c in classes},
            )
        except KeyError as error:
            raise LabelError(f"{source}: key {error} is missing") from error
        except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise LabelError(f"{source}: not a label space: {error}") from error
        # Tables are as long as the largest id, so an id out of range must not get that far.
        for kind, ids in (
            ("raw", space.raw_ids),
            ("canonical", space.canonical_raw),
            ("submission", space.submission_ids),
        ):
            for value in ids:
                if not 0 <= value <= _MAX_ID:
                    raise LabelError(f"{source}: {kind} id {value} is not in 0 .. {_MAX_ID}")
        if not 0 < len(names) < IGNORE or len(set(names)) != len(names):
            raise LabelError(f"{source}: needs 1 to 254 classes with distinct names, has {len(names)}")
        for class_id, raw in enumerate(space.canonical_raw):
            if space.raw_ids.get(raw) != class_id:
                raise LabelError(
                    f"{source}: class {names[class_id]!r} has the canonical id {raw}, no raw id of its own"
                )
        for group, members in space.groups.items():
            for member in members:
                if member not in names:
                    raise LabelError(f"{source}: group {group!r} names the class {member!r}, which does not exist")
        return space

    def to_dict(self) -> dict[str, Any]:
        """The structure that `from_dict` reads, of JSON types only."""
        return {
            "name": self.name,
            "ignore": [raw for raw, c in self.raw_ids.items() if c == IGNORE],
            "classes": [
                {
                    "name": name,
                    "color": [int(v) for v in self.palette[i]],
                    "raw": [raw for raw, c in self.raw_ids.items() if c == i],
                    "canonical": self.canonical_raw[i],
                    "submission": self.submission_ids[i],
                    "words": list(self.words[name]),
                }
                for i, name in enumerate(self.names)
            ],
            "groups": {group: list(members) for group, members in self.groups.items()},
        }

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelSpace) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.name, self.names))

    def index(self, name: str) -> int:
        """Class id of a class name. Raises LabelError that lists the names."""
        try:
            return self.names.index(name)
        except ValueError:
            raise LabelError(f"class {name!r} is not in {self.name}: {', '.join(self.names)}") from None

    @functools.cached_property
    def _lookup(self) -> npt.NDArray[np.int16]:
        table = np.full(max(self.raw_ids, default=0) + 1, -1, dtype=np.int16)
        for raw, class_id in self.raw_ids.items():
            table[raw] = class_id
        return table

    def from_raw(self, raw: npt.NDArray[np.integer[Any]], source: str) -> npt.NDArray[np.uint8]:
        """Map raw ids (N,) of the data set to class ids (N,) uint8, ignored ones to 255.

        Raises:
            LabelError: an id that the data set does not know; the message names `source` and the ids.
        """
        raw = np.asarray(raw)
        table = self._lookup
        inside = (raw >= 0) & (raw < len(table))
        mapped = np.where(inside, table[np.where(inside, raw, 0)], -1)
        if (unknown := mapped < 0).any():
            ids = np.unique(raw[unknown])
            shown = ", ".join(str(int(i)) for i in ids[:5]) + (" ..." if len(ids) > 5 else "")
            raise LabelError(f"{source}: raw label id {shown} is not in the label space {self.name}")
        return mapped.astype(np.uint8)

    def to_raw(self, class_id: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
        """Raw ids (N,) uint32 that stand for class ids (N,); 255 becomes 0."""
        return self._scatter(self.canonical_raw)[class_id]

    def to_submission(self, class_id: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
        """Ids (N,) uint32 that the benchmark's server expects; 255 becomes 0."""
        return self._scatter(self.submission_ids)[class_id]

    @staticmethod
    def _scatter(ids: tuple[int, ...]) -> npt.NDArray[np.uint32]:
        table = np.zeros(256, dtype=np.uint32)
        table[: len(ids)] = ids
        return table

    def colors(self, class_id: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """RGB (N, 3) uint8 of class ids (N,); 255 is grey."""
        table = np.full((256, 3), _UNLABELLED_COLOR, dtype=np.uint8)
        table[: len(self)] = self.palette
        return table[class_id]

    def in_group(self, class_id: npt.NDArray[np.uint8], group: str) -> npt.NDArray[np.bool_]:
        """Mask (N,) of the points whose class belongs to `group`. Raises LabelError that lists the groups."""
        if group not in self.groups:
            raise LabelError(f"group {group!r} is not in {self.name}: {', '.join(self.groups)}")
        member = np.zeros(256, dtype=np.bool_)
        member[[self.names.index(name) for name in self.groups[group]]] = True
        return member[class_id]
