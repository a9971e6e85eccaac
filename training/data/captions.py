"""What someone who put a photo on the web writes below it: the thing in the middle, perhaps what is around it.

Words are those of the label spaces (`config/labels/*.yaml`) in the proportion in which people use them, now and then a
wrong one of the same sort, so that a class prompt asks for something that the captions knew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mdkt_ros.drive.synthetic.kinds import Kind
from mdkt_ros.drive.synthetic.materials import Material
from mdkt_ros.tokenizer import WordTokenizer

SKY = len(Kind)
"""What is seen where no surface is, numbered after the kinds of surfaces."""
CONTEXT = 28
"""Tokens a text: the longest captions are 26 words and two marks."""

PHRASES: Mapping[int, Mapping[str, float]] = {
    Kind.ROAD: {"road": 4, "street": 3, "asphalt": 3},
    Kind.LANE_MARKING: {"lane marking": 7, "road": 3},
    Kind.PARKING: {"parking lot": 5, "parking space": 5},
    Kind.SIDEWALK: {"sidewalk": 5, "pavement": 3, "footpath": 2},
    Kind.OTHER_GROUND: {"gravel ground": 5, "traffic island": 5, "water": 0.1},
    Kind.TERRAIN: {"grass": 5, "lawn": 3, "soil": 2},
    Kind.BUILDING: {"building": 4, "house": 4, "wall": 2, "garage": 0.5},
    Kind.FENCE: {"fence": 6, "railing": 3, "hedge fence": 0.4, "garden wall": 1},
    Kind.OTHER_STRUCTURE: {"bus shelter": 1},
    Kind.VEGETATION: {"tree": 4, "bush": 3, "foliage": 1.5, "hedge": 2},
    Kind.TRUNK: {"tree trunk": 1},
    Kind.POLE: {"pole": 5, "lamp post": 4, "street lamp": 1},
    Kind.SIGN: {"traffic sign": 6, "road sign": 4},
    Kind.OTHER_OBJECT: {"trash bin": 4, "bench": 3, "cabinet": 3},
    Kind.CAR: {"car": 6, "parked car": 2, "van": 1, "suv": 1, "pickup truck": 0.2},
    Kind.TRUCK: {"truck": 5, "lorry": 3, "delivery truck": 2, "pickup truck": 0.3},
    Kind.BUS: {"bus": 9, "articulated bus": 0.5, "tram": 0.4, "train": 0.3},
    Kind.TRAILER: {"trailer": 5, "caravan": 4, "container trailer": 1},
    Kind.BICYCLE: {"bicycle": 7, "parked bike": 3},
    Kind.MOTORCYCLE: {"motorcycle": 6, "motor scooter": 2, "moped": 2},
    Kind.PERSON: {"person": 4, "pedestrian": 3, "man": 2, "woman": 2, "child": 1, "construction worker": 0.2},
    Kind.BICYCLIST: {"cyclist": 5, "person riding a bicycle": 5},
    Kind.MOTORCYCLIST: {"motorcyclist": 5, "person riding a motorcycle": 5},
    Kind.BARRIER: {"traffic barrier": 6, "jersey barrier": 4},
    Kind.CONE: {"traffic cone": 1},
    Kind.CONSTRUCTION_VEHICLE: {"excavator": 8, "bulldozer": 1, "crane": 1},
    Kind.BICYCLE_RACK: {"bicycle stand": 1},
    SKY: {"sky": 6, "clouds": 2},
}
"""Kind -> phrases and how often, relative to one another, people use them. The ego vehicle is on no photo."""

WALL_PHRASES: Mapping[str, float] = {"garden wall": 5, "wall": 3, "fence": 2}
"""The same for a fence of stone."""
_STONE = (Material.BRICK, Material.CONCRETE, Material.PLASTER)
COLORED = frozenset({Kind.CAR, Kind.TRUCK, Kind.BUS, Kind.TRAILER, Kind.MOTORCYCLE, Kind.PERSON, Kind.BUILDING})
"""Kinds of which people name the colour now and then."""
_COLORS: Mapping[str, tuple[float, float, float]] = {
    "black": (0.03, 0.03, 0.03), "gray": (0.25, 0.25, 0.26), "silver": (0.5, 0.5, 0.5), "white": (0.8, 0.8, 0.78),
    "red": (0.4, 0.03, 0.03), "blue": (0.04, 0.1, 0.3), "green": (0.05, 0.15, 0.06), "yellow": (0.7, 0.5, 0.05),
    "beige": (0.5, 0.42, 0.3), "brown": (0.2, 0.1, 0.06), "orange": (0.7, 0.3, 0.03),
}  # fmt: skip

# Relative frequency: how a caption begins. {} is what the photo shows.
TEMPLATES: Mapping[str, float] = {
    "a photo of {}": 10, "{}": 8, "a picture of {}": 3, "a photo of the {}": 2, "the {}": 2, "an image of {}": 2,
    "there is {} in the scene": 2, "this is {} in the scene": 1, "{} in the street": 2, "a view of {}": 1,
    "a close up photo of {}": 1, "a cropped photo of {}": 1, "a blurry photo of {}": 1, "a good photo of {}": 1,
    "a bright photo of {}": 1, "a dark photo of {}": 1, "a photo of one {}": 1, "a low resolution photo of {}": 1,
    "a photo of a small {}": 1, "a photo of a large {}": 1, "a street scene with {}": 1, "a photo of my {}": 0.5,
}  # fmt: skip
_BESIDE = ("beside", "and", "next to", "in front of", "near", "with")
_OTHERS = (0.45, 0.35, 0.20)


class Subject(NamedTuple):
    """Something on a photo: its `Kind` (or `SKY`), the `Material` and the linear RGB colour of most of it."""

    kind: int
    material: int = int(Material.PLASTIC)
    color: tuple[float, float, float] | None = None


def phrases(subject: Subject) -> Mapping[str, float]:
    """What people may call a subject, with relative frequencies."""
    if subject.kind == Kind.FENCE and subject.material in _STONE:
        return WALL_PHRASES
    return PHRASES[subject.kind]


def color_name(color: Sequence[float]) -> str:
    """The nearest of eleven colour names of a linear RGB colour, as an eye compares them."""
    root = np.sqrt(np.asarray(color, dtype=np.float64))
    return min(_COLORS, key=lambda name: float(np.sum((np.sqrt(_COLORS[name]) - root) ** 2)))


def _draw(rng: np.random.Generator, table: Mapping[str, float]) -> str:
    weights: npt.NDArray[np.float64] = np.fromiter(table.values(), dtype=np.float64, count=len(table))
    return tuple(table)[int(rng.choice(len(table), p=weights / weights.sum()))]


def _name(rng: np.random.Generator, subject: Subject) -> str:
    phrase = _draw(rng, phrases(subject))
    if subject.kind in COLORED and subject.color is not None and rng.random() < 0.3:
        phrase = f"{color_name(subject.color)} {phrase}"
    return phrase


def _with_article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def write_caption(rng: np.random.Generator, main: Subject, others: Sequence[Subject] = ()) -> str:
    """A caption of a photo with `main` in its middle and `others` around it, of which it names two at most."""
    named = _name(rng, main)
    template = _draw(rng, TEMPLATES)
    bare = any(word in template for word in ("the {}", "one {}", "small {}", "large {}", "my {}"))
    text = template.format(named if bare or rng.random() < 0.25 else _with_article(named))
    count = min(int(rng.choice(3, p=_OTHERS)), len(others))
    for other in others[:count]:
        text += f" {_BESIDE[int(rng.integers(len(_BESIDE)))]} {_with_article(_name(rng, other))}"
    return text


def caption_tokenizer() -> WordTokenizer:
    """The vocabulary of all captions that `write_caption` can write."""
    names = [*WALL_PHRASES, *(phrase for table in PHRASES.values() for phrase in table)]
    return WordTokenizer.of([*TEMPLATES, *_COLORS, *_BESIDE, *names, "an"], CONTEXT)


def content_words() -> tuple[str, ...]:
    """The words that name things, in alphabetical order; what else a caption says is about the photo."""
    names = [*WALL_PHRASES, *(phrase for table in PHRASES.values() for phrase in table)]
    return tuple(sorted({word for name in names for word in name.split()} - {"a"}))
