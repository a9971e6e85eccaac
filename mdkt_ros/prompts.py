"""Points by name: how well words fit each point, also words that no class has, from the LiDAR alone.

The checkpoint holds the text embeddings of its own classes' words, so those need nothing else. Any other prompt is
embedded by the text model that the training used, which is loaded for that and then forgotten.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mdkt_ros.checkpoint import load_projection
from mdkt_ros.checkpoint_meta import CheckpointMeta
from mdkt_ros.errors import CheckpointError, ConfigError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.projection import ProjectionHead, cosines


class PromptWarning(UserWarning):
    """The text model does not know a word of a prompt."""


@dataclass(frozen=True)
class PromptScores:
    """What N points have to do with P prompts.

    Attributes:
        prompts: as they were given.
        score: (N, P) float32, 0 .. 1: the probability of the prompt beside all classes of the label space but one that
            it is itself a word of, as the training's softmax has it; 0 where not labelled. (The cosine of point and
            prompt alone ranks points half as well: some points are near to all texts, some to none.)
        nearest: (N, P) bool, whether the point lies nearer to the prompt than to any of those classes.
    """

    prompts: tuple[str, ...]
    score: npt.NDArray[np.float32]
    nearest: npt.NDArray[np.bool_]

    @property
    def columns(self) -> dict[str, npt.NDArray[np.float32]]:
        """The scores by the names of their columns in a cloud, see `column_names`."""
        return {name: self.score[:, i] for i, name in enumerate(column_names(self.prompts))}


def column_names(prompts: Sequence[str]) -> tuple[str, ...]:
    """Names of cloud fields: `prompt_` and the prompt with `_` for all but letters a to z and digits; all different."""
    names: list[str] = []
    for number, prompt in enumerate(prompts):
        slug = re.sub(r"[^a-z0-9]+", "_", prompt.lower()).strip("_")[:40].strip("_")
        name = f"prompt_{slug or number}"
        names.append(name if name not in names else f"{name}_{number}")
    return tuple(names)


class PromptScorer:
    """The projection head and the embeddings of some prompts, on one device.

    Attributes:
        prompts: as they were given.
        head, texts: the projection head, and the prompts' unit embeddings (P, D).
        classes, rivals: unit embeddings (C, D) of the classes, and (P, C) bool: those that are not the prompt itself.
        temperature: that the training divided cosines by.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        head: ProjectionHead,
        texts: Tensor,
        classes: Tensor,
        rivals: Tensor,
        temperature: float,
    ) -> None:
        self.prompts, self.head, self.temperature = tuple(prompts), head, temperature
        self.texts, self.classes, self.rivals = texts, classes, rivals

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        meta: CheckpointMeta,
        prompts: Sequence[str],
        *,
        text_model: str = "",
        text_weights: str = "",
        device: torch.device | str = "cpu",
    ) -> PromptScorer:
        """Read the projection head of a checkpoint and embed prompts.

        Args:
            path, meta: the checkpoint, and what `load_checkpoint` returned of it.
            prompts: what to look for: `traffic cone`.
            text_model, text_weights: of `image_text_model.load_image_text`; only looked at where a prompt is not a word
                of the label space.

        Raises:
            CheckpointError: the checkpoint has no projection head. ConfigError: a prompt that is empty or comes twice,
                no text model where one is needed, another than that of the training, or open_clip is missing.
        """
        cleaned = [" ".join(prompt.split()) for prompt in prompts]
        for prompt in cleaned:
            if not prompt or cleaned.count(prompt) > 1:
                raise ConfigError(f"--prompt {prompt!r}: {'comes twice' if prompt else 'is empty'}")
        if meta.open_vocabulary is None or meta.text_embeddings is None:
            raise CheckpointError(
                f"{path}: cannot be asked by name: it was exported without its projection head and text embeddings "
                "(training/export.py --open-vocabulary)"
            )
        head = load_projection(path, device)
        classes = torch.nn.functional.normalize(meta.text_embeddings, dim=1)
        own = [class_of(prompt, meta.labels) for prompt in cleaned]
        texts = torch.zeros(len(cleaned), classes.shape[1])
        rivals = torch.ones(len(cleaned), len(classes), dtype=torch.bool)
        for i, class_id in enumerate(own):
            if class_id is not None:
                texts[i], rivals[i, class_id] = classes[class_id], False
        others = [i for i, class_id in enumerate(own) if class_id is None]
        if others:
            asked = [cleaned[i] for i in others]
            texts[others] = _embed(asked, str(path), meta, text_model, text_weights)
        temperature = meta.open_vocabulary.temperature
        return cls(cleaned, head, texts.to(device), classes.to(device), rivals.to(device), temperature)

    @torch.no_grad()
    def __call__(self, features: Tensor, row: Tensor) -> PromptScores:
        """Scores of N points by the decoder features at stride 1 (V, channels) and the points' rows (N,); -1: none."""
        count = len(self.prompts)
        cosine = cosines(self.head, features, torch.cat([self.texts, self.classes]))
        # One row more, because point rows of -1 index the last.
        score = cosine.new_zeros(len(features) + 1, count)
        nearest = torch.zeros_like(score, dtype=torch.bool)
        for i, rivals in enumerate(self.rivals):
            own, others = cosine[:, i], cosine[:, count:].masked_fill(~rivals, -torch.inf)
            odds = own / self.temperature - torch.logsumexp(others / self.temperature, 1)
            # Features that are not finite say nothing.
            score[:-1, i] = odds.sigmoid().nan_to_num(0)
            nearest[:-1, i] = own > others.amax(1)
        return PromptScores(self.prompts, score[row].cpu().numpy(), nearest[row].cpu().numpy())


def class_of(prompt: str, labels: LabelSpace) -> int | None:
    """Class id of a class whose name or word the prompt is, whatever the case and the dashes; None: of none."""
    asked = _plain(prompt)
    for class_id, name in enumerate(labels.names):
        if asked in {_plain(word) for word in (name, *labels.words[name])}:
            return class_id
    return None


def _plain(text: str) -> str:
    return " ".join(re.split(r"[\s_-]+", text.strip().lower()))


def _embed(prompts: list[str], path: str, meta: CheckpointMeta, text_model: str, text_weights: str) -> Tensor:
    """Unit embeddings (P, D) by the text model of the training."""
    stated = meta.open_vocabulary
    assert stated is not None
    own = f"{stated.model} {stated.pretrained}".strip()
    if not text_model:
        raise ConfigError(
            f"--prompt {prompts[0]!r}: is no word of {meta.labels.name}, so it takes the text model that {path} was "
            f"trained with ({own}): --text-model local-dir:FOLDER, or NAME with --text-weights FILE"
        )
    from mdkt_ros.image_text_model import embed_words, load_image_text

    model = load_image_text(text_model, text_weights, options=("--text-model", "--text-weights"))
    if stated.weights and model.fingerprint != stated.weights:
        raise ConfigError(
            f"--text-model {text_model}: its weights ({model.fingerprint}) are not those that {path} was trained with "
            f"({own}, {stated.weights}): the prompts would mean something else"
        )
    embeddings = embed_words(model, prompts, stated.prompts)
    if embeddings.shape[1] != stated.dim:
        raise ConfigError(
            f"--text-model {text_model}: its embeddings have {embeddings.shape[1]} numbers, "
            f"those that {path} was trained with ({own}) {stated.dim}"
        )
    for prompt in prompts:
        if not model.knows(prompt):
            warnings.warn(
                f"--prompt {prompt!r}: the text model's vocabulary lacks a word of it, so the scores mean little",
                PromptWarning,
                stacklevel=4,
            )
    return embeddings
