"""What a cache of image-text scores was made with, and how a scan and its images are recognised again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from mdkt_ros.drive.frame import Frame
from mdkt_ros.errors import ConfigError
from mdkt_ros.output import atomic_output
from training.data.shape import COLUMNS

FORMAT = 1
HEAD, TEXT = "image_text.json", "text.safetensors"


@dataclass(frozen=True, eq=False)
class CacheHead:
    """What a cache was made with.

    Attributes:
        settings: everything that the scores depend on besides the scans, of JSON types; `key` is its hash.
        description: model and weights in words, for tables and messages.
        classes: class names in the order of the scores.
        known: (C,) bool, classes of which the text model knows a word.
        logit_scale: factor on cosines that the model was trained with.
        text: (C, D) float32 unit text embeddings of the classes.
    """

    settings: dict[str, Any]
    description: dict[str, str]
    classes: tuple[str, ...]
    known: tuple[bool, ...]
    logit_scale: float
    text: Tensor

    @property
    def columns(self) -> int:
        """C + K: of the scores, those of the classes, and components and shape after them."""
        return self.pixel_columns + (COLUMNS if self.shape else 0)

    @property
    def shape(self) -> bool:
        """Whether the shape of the points' surroundings is there."""
        return "shape" in self.settings

    @property
    def pixel_columns(self) -> int:
        """Of these the first ones, which a pixel has, too: all but the shape."""
        return len(self.classes) + int(self.settings.get("components", {}).get("count", 0))

    @property
    def key(self) -> str:
        """16 hex digits of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]


def read_head(folder: Path) -> CacheHead:
    """What the cache in a folder was made with. Raises ConfigError."""
    if not (folder / HEAD).is_file():
        raise ConfigError(
            f"{folder}: no image-text scores there; python training/pseudo_labels.py --config RECIPE --model NAME "
            f"--pretrained TAG --out {folder} makes them"
        )
    try:
        data = json.loads((folder / HEAD).read_text(encoding="utf-8"))
        with safe_open(folder / TEXT, framework="pt") as file:
            text = file.get_tensor("text")
        head = CacheHead(
            settings=data["settings"],
            description={str(key): str(value) for key, value in data["description"].items()},
            classes=tuple(map(str, data["classes"])),
            known=tuple(map(bool, data["known"])),
            logit_scale=float(data["logit_scale"]),
            text=text,
        )
        if data["format"] != FORMAT:
            raise ConfigError(f"{folder / HEAD}: format {data['format']!r}, this version reads {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ConfigError(f"{folder}: not a cache of image-text scores ({error})") from error
    return head


def write_head(folder: Path, head: CacheHead) -> None:
    """Begin a cache, or go on with one of the same settings.

    Raises:
        ConfigError: the folder holds a cache of other settings; the message names those that differ.
        OutputError: it cannot be written.
    """
    if (folder / HEAD).is_file():
        there = read_head(folder)
        if there.key != head.key:
            keys = sorted({*there.settings, *head.settings})
            differ = [key for key in keys if there.settings.get(key) != head.settings.get(key)]
            shown = "; ".join(f"{key}: {_short(there.settings.get(key))}" for key in differ)
            raise ConfigError(
                f"{folder}: holds scores made with other settings ({shown}); take another --out, or --force to replace"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "format": FORMAT,
        "key": head.key,
        "description": head.description,
        "classes": list(head.classes),
        "known": list(head.known),
        "logit_scale": head.logit_scale,
        "settings": head.settings,
    }
    with atomic_output(folder / TEXT, force=True) as temporary:
        temporary.write_bytes(save({"text": head.text.float().numpy()}))
    # Last: a cache is one when this is there.
    with atomic_output(folder / HEAD, force=True) as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:60]}..."


def frame_digest(frame: Frame) -> str:
    """16 hex digits of a scan's points, its images, and where its cameras see what."""
    digest = hashlib.sha256(np.ascontiguousarray(frame.points).tobytes())
    for view in frame.views:
        camera = view.camera
        head = [camera.name, camera.width, camera.height, camera.distortion, list(camera.coefficients)]
        digest.update(json.dumps(head).encode())
        for array in (camera.matrix, camera.camera_from_lidar, camera.projection_offset):
            digest.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
        digest.update(view.load().tobytes() if view.encoded is None else view.encoded())
    return digest.hexdigest()[:16]
