"""Photos for pre-training: crops of rendered views of towns that nobody trains or scores in, each with a caption.

Crops and captions are all that leaves: neither a point nor a pixel carries a label. People photograph things, not
asphalt, so cameras are pointed at things, the rarer the more often; a share of the captions belongs to other photos.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mdkt_ros.drive.synthetic.kinds import Kind
from mdkt_ros.drive.synthetic.town import Town
from mdkt_ros.errors import DriveError
from mdkt_ros.output import atomic_output
from training.data.captions import PHRASES, SKY, Subject, write_caption
from training.data.crop_views import Views, ViewSettings

_THIN = (Kind.POLE, Kind.SIGN, Kind.TRUNK)
_STUFF = (
    Kind.ROAD,
    Kind.PARKING,
    Kind.SIDEWALK,
    Kind.OTHER_GROUND,
    Kind.TERRAIN,
    Kind.BUILDING,
    Kind.VEGETATION,
    Kind.FENCE,
    SKY,
)
# How much more than its area a thing in the middle of a photo is what the photo is of.
_SALIENCE = np.full(SKY + 1, 4.0)
_SALIENCE[list(_STUFF)] = 1.0
_SALIENCE[list(_THIN)] = 5.0
_SALIENCE[[Kind.FENCE, Kind.LANE_MARKING]] = 2.0
# How many photos of a kind people take, relative to one another, where they have the choice.
_WANTED = np.full(SKY + 1, 1.0)
_WANTED[[Kind.ROAD, Kind.BUILDING, Kind.VEGETATION, Kind.CAR, Kind.TERRAIN, Kind.SIDEWALK]] = 2.0
_WANTED[[Kind.FENCE, Kind.POLE, Kind.PARKING, Kind.PERSON]] = 1.5
_WANTED[[Kind.OTHER_OBJECT, Kind.OTHER_STRUCTURE, Kind.BICYCLE_RACK, SKY]] = 0.5


@dataclass
class CropConfig:
    """What is photographed."""

    towns: int = 16  # of PRETRAINING_SEEDS, from the first
    drive_views: int = 6  # as the vehicle's camera sees a town
    thing_views: int = 90  # pointed at something
    drive_crops: int = 50  # cut from each
    thing_crops: int = 10
    size: int = 80  # pixels of a side of a crop, whatever it was cut from
    smallest: int = 40  # pixels of a side of what is cut from a view
    largest: int = 200
    wrong: float = 0.1  # share of the captions that belong to a photo of something else


class Crops(NamedTuple):
    """Crops (N, size, size, 3) uint8 RGB and a caption each."""

    images: npt.NDArray[np.uint8]
    captions: tuple[str, ...]


class Shots(NamedTuple):
    """What a photographer knows and does not tell: the main subject, and whether the caption is another photo's."""

    crops: Crops
    main: tuple[Subject, ...]
    wrong: npt.NDArray[np.bool_]


def photograph(seed: int, config: CropConfig, town: Town | None = None) -> Shots:
    """Crops of the town of a seed; the same seed and settings give the same. `town`: where it is built already."""
    views = Views(seed, ViewSettings(config.drive_views, config.thing_views), town)
    rng = views.rng
    count = np.zeros(SKY + 1)
    images: list[npt.NDArray[np.uint8]] = []
    main: list[Subject] = []
    captions: list[str] = []
    for view in views:
        cutter = _Cutter(view.kind, view.instance, config)
        for _ in range(config.drive_crops if view.drive else config.thing_crops):
            window = cutter.choose(rng, count)
            if window is None:
                continue
            x, y, side = window
            inside = np.s_[y : y + side, x : x + side]
            subjects = _subjects(view.kind[inside], view.material[inside], view.color[inside])
            if not subjects:
                continue
            count[subjects[0].kind] += 1
            crop = Image.fromarray(view.image[inside]).resize((config.size,) * 2, Image.Resampling.BILINEAR)
            images.append(np.asarray(crop))
            main.append(subjects[0])
            captions.append(write_caption(rng, subjects[0], subjects[1:]))
    if not images:
        raise DriveError(f"town {seed}: nothing to photograph")
    wrong = _mix_up(rng, captions, main, config.wrong)
    return Shots(Crops(np.stack(images), tuple(captions)), tuple(main), wrong)


class _Cutter:
    """Chooses what to cut from one view: a kind that is rare among the crops so far, one of its kind, a square."""

    def __init__(self, kind: npt.NDArray[np.uint8], instance: npt.NDArray[np.uint16], config: CropConfig) -> None:
        self.instance, self.config, self.shape = instance, config, kind.shape
        flat = kind.ravel()
        order = np.argsort(flat, kind="stable")
        kinds, first, counts = np.unique(flat[order], return_index=True, return_counts=True)
        self._pixels = {
            int(k): order[f : f + c] for k, f, c in zip(kinds, first, counts, strict=True) if k in PHRASES and c > 25
        }

    def choose(self, rng: np.random.Generator, count: npt.NDArray[np.float64]) -> tuple[int, int, int] | None:
        """Left, top and side of a square inside the view."""
        if not self._pixels:
            return None
        kinds = np.array(list(self._pixels))
        weight = _WANTED[kinds] / (1 + count[kinds])
        pixels = self._pixels[int(rng.choice(kinds, p=weight / weight.sum()))]
        at = int(pixels[int(rng.integers(len(pixels)))])
        instance = self.instance.ravel()[at]
        extent = 0.0
        if instance:
            same = pixels[self.instance.ravel()[pixels] == instance]
            rows, columns = same // self.shape[1], same % self.shape[1]
            y, x = np.median(rows), np.median(columns)
            extent = max(np.ptp(rows), np.ptp(columns)) * rng.uniform(0.7, 1.7)
        else:
            y, x = divmod(at, self.shape[1])
        low, high = self.config.smallest, min(self.config.largest, *self.shape)
        # Half of the photos of things frame them, all others are as wide as it happens.
        side = extent if extent and rng.random() < 0.5 else np.exp(rng.uniform(np.log(low), np.log(0.8 * high)))
        side = int(np.clip(side, low, high))
        x, y = x + rng.normal(0, 0.06) * side, y + rng.normal(0, 0.06) * side
        left = int(np.clip(x - side / 2, 0, self.shape[1] - side))
        return left, int(np.clip(y - side / 2, 0, self.shape[0] - side)), side


def _subjects(
    kind: npt.NDArray[np.uint8], material: npt.NDArray[np.uint8], color: npt.NDArray[np.float32]
) -> list[Subject]:
    """What is on a crop (S, S): first what dominates its middle, then what else covers a twelfth of it."""
    side = len(kind)
    ramp = (np.arange(side) - (side - 1) / 2) / side
    weight = np.exp(-(ramp[:, None] ** 2 + ramp**2) / (2 * 0.2**2))
    flat = kind.ravel()
    middle = np.bincount(flat, weight.ravel(), minlength=SKY + 1)[: SKY + 1] / weight.sum()
    area = np.bincount(flat, minlength=SKY + 1)[: SKY + 1] / flat.size
    known = np.isin(np.arange(SKY + 1), list(PHRASES))
    score = np.where(known, middle * _SALIENCE, 0)
    first = int(score.argmax())
    if middle[first] < 0.04:
        return []
    rest = [int(k) for k in np.argsort(-area * _SALIENCE) if known[k] and k != first and area[k] > 1 / 12]
    subjects = []
    for k in (first, *rest):
        mine = kind == k
        materials = np.bincount(material[mine])
        most = mine & (material == materials.argmax())
        red, green, blue = (float(v) for v in np.median(color[most], axis=0)) if k != SKY else (0.0, 0.0, 0.0)
        subjects.append(Subject(k, int(materials.argmax()), None if k == SKY else (red, green, blue)))
    return subjects


def _mix_up(rng: np.random.Generator, captions: list[str], main: list[Subject], rate: float) -> npt.NDArray[np.bool_]:
    """Give a share of the crops, in place, the caption of a crop of something else; say which."""
    wrong = np.zeros(len(captions), dtype=np.bool_)
    written = tuple(captions)
    kinds = np.array([subject.kind for subject in main])
    for index in rng.permutation(len(captions))[: round(rate * len(captions))]:
        foreign = np.flatnonzero(kinds != kinds[index])
        if len(foreign):
            captions[index] = written[int(foreign[int(rng.integers(len(foreign)))])]
            wrong[index] = True
    return wrong


def save_crops(path: Path, crops: Crops) -> None:
    """Write crops and captions to a `.safetensors` file, whole or not at all."""
    with atomic_output(path, force=True) as temporary:
        save_file({"images": crops.images}, temporary, {"captions": json.dumps(crops.captions)})


def load_crops(path: Path) -> Crops:
    """Read what `save_crops` wrote. Raises DriveError that names the file."""
    try:
        with safe_open(path, "numpy") as file:
            images, captions = file.get_tensor("images"), tuple(json.loads(file.metadata()["captions"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DriveError(f"{path}: not a file of crops ({error}); remove it, and it is made anew") from error
    if len(images) != len(captions):
        raise DriveError(f"{path}: {len(images)} crops, {len(captions)} captions; remove it, and it is made anew")
    return Crops(images, captions)
