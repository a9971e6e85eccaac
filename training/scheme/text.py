"""Text embeddings of classes: every word of a class in several prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from mdkt_ros.errors import ConfigError
from mdkt_ros.image_text_model import ImageTextModel, embed_words
from mdkt_ros.labels import LabelSpace

STREET_PROMPTS = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of one {}.",
    "a photo of {}.",
    "a cropped photo of a {}.",
    "a close-up photo of a {}.",
    "a photo of a {} in the distance.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "a blurry photo of a {}.",
    "a dark photo of a {}.",
    "a bright photo of a {}.",
    "a low resolution photo of a {}.",
    "a photo of a {} in the street.",
    "a photo of a {} at the side of the road.",
    "a photo of a {} in the city.",
    "a photo of a {} taken from a car.",
    "a dashcam image of a {}.",
    "there is a {} in the scene.",
    "this is a {} in a street scene.",
)
"""Sizes, light and places that things have in pictures that a vehicle takes; otherwise those of CLIP's authors."""


def load_prompts(path: Path | None) -> tuple[str, ...]:
    """Prompt templates of a YAML list, or `STREET_PROMPTS` without a file.

    Raises:
        ConfigError: not a list of texts that each hold one `{}`.
    """
    if path is None:
        return STREET_PROMPTS
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, list) or not data:
        raise ConfigError(f"{path}: prompts are a list of texts with {{}} in the place of the word")
    for prompt in data:
        if not isinstance(prompt, str) or prompt.count("{}") != 1:
            raise ConfigError(f"{path}: the prompt {prompt!r} must be a text with one {{}} in the place of the word")
    return tuple(data)


@dataclass(frozen=True, eq=False)
class ClassText:
    """What a text model says about the classes of a label space; W words in all, class after class.

    Attributes:
        prompts: the templates in use.
        words: all words in use.
        owner: (W,) int64 class id of each word, ascending; every class has at least one.
        embeddings: (W, D) float32, each of unit length.
        known: (C,) bool, classes of which the model knows a word.
    """

    prompts: tuple[str, ...]
    words: tuple[str, ...]
    owner: Tensor
    embeddings: Tensor
    known: npt.NDArray[np.bool_]

    def class_embeddings(self) -> Tensor:
        """(C, D) float32: the direction of the mean of a class's words."""
        mean = torch.zeros(len(self.known), self.embeddings.shape[1]).index_add(0, self.owner, self.embeddings)
        return F.normalize(mean, dim=-1)

    def best(self, scores: Tensor) -> Tensor:
        """Scores (..., C) of classes from scores (..., W) of words: that of the best word of each."""
        owner = self.owner.to(scores.device).expand_as(scores)
        lowest = scores.new_full((*scores.shape[:-1], len(self.known)), -torch.inf)
        return lowest.scatter_reduce(-1, owner, scores, "amax")


def class_text(model: ImageTextModel, labels: LabelSpace, prompts: Sequence[str] = STREET_PROMPTS) -> ClassText:
    """Embed the words of every class of a label space.

    Prompts and words that the model's vocabulary lacks are left out, as long as the class has another word; where it
    has none, the model does not know the class.

    Raises:
        ConfigError: a class has no word, the model knows no class, or its tokenizer does not fit it.
    """
    chosen = tuple(prompt for prompt in prompts if model.knows(prompt.replace("{}", ""))) or ("{}",)
    words: list[str] = []
    owner: list[int] = []
    known = np.zeros(len(labels), dtype=np.bool_)
    for class_id, name in enumerate(labels.names):
        if not labels.words[name]:
            raise ConfigError(f"label space {labels.name}: the class {name!r} has no words for the text model")
        learnt = [word for word in labels.words[name] if model.knows(word)]
        known[class_id] = bool(learnt)
        words += learnt or labels.words[name]
        owner += [class_id] * len(learnt or labels.words[name])
    if not known.any():
        raise ConfigError(f"{model.name}: its vocabulary has no word of any class of {labels.name}")
    return ClassText(chosen, tuple(words), torch.tensor(owner), embed_words(model, words, chosen), known)
