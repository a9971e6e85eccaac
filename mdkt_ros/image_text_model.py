"""Image-text models: any that open_clip knows, with weights from a file, a folder, or by a published name."""

from __future__ import annotations

import difflib
import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mdkt_ros.errors import CheckpointError, ConfigError
from mdkt_ros.tokenizer import WordTokenizer, is_word_tokenizer
from mdkt_ros.vision_ops import import_open_clip

LOCAL, HUB = "local-dir:", "hf-hub:"
_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    AssertionError,
    ImportError,
    EOFError,
    zipfile.BadZipFile,
    SafetensorError,
)
"""What open_clip, its tokenizers and the readers below them raise about files that are not what they should be."""


@dataclass(frozen=True, eq=False)
class ImageTextModel:
    """A CLIP-like model, frozen, on its device.

    Attributes:
        name, pretrained: as they were asked for; `pretrained` is empty where the name says where the weights are.
        network: open_clip's model, in evaluation mode; `network.visual` is the image tower.
        tokenize: texts -> (n, context) int64 token ids.
        image_size: height and width in pixels that the image tower was trained at.
        mean, std: of the RGB values 0..1 that the image tower expects.
        fingerprint: 16 hex digits of all weights.
        logit_scale: factor on cosines that the model was trained with.
    """

    name: str
    pretrained: str
    network: nn.Module
    tokenize: Callable[[list[str]], Tensor]
    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fingerprint: str
    logit_scale: float
    device: torch.device

    @property
    def description(self) -> dict[str, str]:
        """What tables and caches say about the model."""
        return {"model": self.name, "pretrained": self.pretrained, "weights": self.fingerprint}

    def knows(self, text: str) -> bool:
        """Whether the model can have learnt the words of a text: not those that a small vocabulary lacks."""
        return not isinstance(self.tokenize, WordTokenizer) or self.tokenize.knows(text)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """Unit embeddings (n, D) float32 of texts, on the CPU. Raises ConfigError where the tokenizer does not fit."""
        tokens = self.tokenize(list(texts))
        # CLIP holds the text tower's parts itself, CustomTextCLIP in `.text`.
        size = getattr(getattr(self.network, "text", self.network), "vocab_size", None)
        if size is not None and len(tokens) and int(tokens.max()) >= size:
            raise ConfigError(
                f"{self.name}: its tokenizer gives ids up to {int(tokens.max())}, its vocabulary has {size}"
            )
        encode: Any = self.network.encode_text
        parts = [
            nn.functional.normalize(encode(part.to(self.device)).float(), dim=-1)
            for part in torch.split(tokens, batch_size)
        ]
        return torch.cat(parts).cpu() if parts else torch.zeros(0, 0)


def load_image_text(
    model: str,
    pretrained: str = "",
    device: torch.device | str = "cpu",
    *,
    options: tuple[str, str] = ("--model", "--pretrained"),
) -> ImageTextModel:
    """Load an image-text model.

    Args:
        model: one of open_clip's models (`ViT-B-16`), `local-dir:FOLDER` with `open_clip_config.json` and
            `open_clip_model.safetensors`, or `hf-hub:OWNER/NAME`.
        pretrained: for one of open_clip's models, a weights file (.safetensors; .pt and .bin are read as plain tensors,
            nothing is unpickled) or the tag of published weights (`laion2b_s34b_b88k`), downloaded where they are not
            in the cache.
        device: to run on.
        options: what the command line calls the two, for messages.

    Raises:
        ConfigError: no such model, tag or file; close ones are listed.
        CheckpointError: the folder or the weights cannot be read, or do not fit the model.
    """
    open_clip = import_open_clip()
    quick_gelu = _check_names(open_clip, model, pretrained, *options)
    asked = f"{model} {pretrained}".strip()
    try:
        with warnings.catch_warnings():
            # open_clip's own calls of what PyTorch, timm and huggingface_hub announce to change.
            for category in (DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            network = open_clip.create_model(
                model,
                pretrained=pretrained or None,
                device=str(device),
                force_quick_gelu=quick_gelu,
                require_pretrained=True,
                weights_only=True,
            )
            own = model.startswith(LOCAL) and is_word_tokenizer(Path(model[len(LOCAL) :]))
            tokenize = WordTokenizer.load(Path(model[len(LOCAL) :])) if own else open_clip.get_tokenizer(model)
    except pickle.UnpicklingError as error:
        # PyTorch's own message advises to unpickle.
        raise CheckpointError(f"{asked}: not a file of plain weights, and nothing else is loaded") from error
    except _UNREADABLE as error:
        raise CheckpointError(f"{asked}: cannot be loaded: {_one_line(error)}") from error
    config, size = network.visual.preprocess_cfg, network.visual.image_size
    return ImageTextModel(
        name=model,
        pretrained=pretrained,
        network=network.eval().requires_grad_(False),
        tokenize=tokenize,
        image_size=(size, size) if isinstance(size, int) else tuple(size),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        fingerprint=weights_fingerprint(network),
        logit_scale=float(network.logit_scale.detach().exp()),
        device=torch.device(device),
    )


def embed_words(model: ImageTextModel, words: Sequence[str], prompts: Sequence[str]) -> Tensor:
    """Unit embeddings (W, D) float32 of words: the direction of the mean over the prompts' unit embeddings."""
    texts = [prompt.replace("{}", word) for word in words for prompt in prompts]
    embeddings = model.encode(texts)
    return nn.functional.normalize(embeddings.reshape(len(words), len(prompts), -1).mean(1), dim=-1)


def weights_fingerprint(network: nn.Module) -> str:
    """16 hex digits of a network's weights, whatever file they came from and whatever device they are on."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _check_names(open_clip: ModuleType, model: str, pretrained: str, model_option: str, weights_option: str) -> bool:
    """Refuse names that mean nothing. Returns whether the published weights were trained with QuickGELU."""
    if model.startswith((LOCAL, HUB)):
        if pretrained:
            raise ConfigError(
                f"{weights_option} {pretrained}: {model} brings its own weights; leave {weights_option} out"
            )
        if model.startswith(LOCAL):
            folder = Path(model[len(LOCAL) :])
            if not (folder / "open_clip_config.json").is_file():
                raise ConfigError(f"{folder}: no open_clip_config.json there; {LOCAL} names a folder that has one")
        return False
    known = open_clip.list_models()
    if model.replace("/", "-") not in known:
        hint = f"a folder is written {LOCAL}{model}" if Path(model).is_dir() else _near(model, known)
        raise ConfigError(f"{model_option} {model}: no such model in open_clip; {hint}")
    tags = open_clip.list_pretrained_tags_by_model(model.replace("/", "-"))
    if not pretrained:
        listed = f"a tag ({', '.join(tags[:6])})" if tags else "(no weights of it are published)"
        raise ConfigError(f"{weights_option} is not given: {model} needs a weights file or {listed}")
    if Path(pretrained).is_file():
        return False
    if not open_clip.get_pretrained_cfg(model.replace("/", "-"), pretrained):
        what = "no such file" if "/" in pretrained or Path(pretrained).suffix else "no file and no tag"
        raise ConfigError(f"{weights_option} {pretrained}: {what} of {model}; {_near(pretrained, tags)}")
    # Otherwise open_clip only warns, and runs OpenAI's weights with the wrong activation.
    return bool(open_clip.get_pretrained_cfg(model.replace("/", "-"), pretrained).get("quick_gelu", False))


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    return f"known: {', '.join(known[:20]) or 'none'}{more}"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 300 else f"{text[:300]} ..."
