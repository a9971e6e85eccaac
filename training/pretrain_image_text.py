"""Trains a small open_clip model on crops and captions: the stand-in for CLIP. `training/pretrain.py` runs it."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mdkt_ros.tokenizer import UNKNOWN, WordTokenizer, split_words
from mdkt_ros.vision_ops import import_open_clip
from training.data.captions import caption_tokenizer, content_words
from training.data.crops import Crops
from training.losses import TrainingError
from training.optimization import learning_rate

MEAN, DEVIATION = (0.42, 0.42, 0.40), (0.22, 0.22, 0.22)
Progress = Callable[[int, int], None]


@dataclass
class ImageTextConfig:
    """The two towers and how long they learn."""

    image_size: int = 64  # pixels of a side of what the image tower looks at
    patch: int = 8
    width: int = 192
    layers: int = 4
    head_width: int = 64
    pool: str = "avg"  # avg | tok
    dim: int = 128  # of the space that both towers share
    text_width: int = 128
    text_layers: int = 2
    batch_size: int = 64
    epochs: float = 12.0  # passes over the crops; fractions are allowed
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05  # share of the steps
    unknown: float = 0.02  # share of the words that are hidden, so that an unknown one does no harm
    words: float = 0.5  # weight of telling the caption's words from the image alone
    places: float = 1.0  # weight of matching a caption with the places of its crop, of which one must fit; 0: off
    color: float = 0.2  # brightness, contrast and saturation, uniform in 1 +-


def build_image_text(config: ImageTextConfig, tokenizer: WordTokenizer) -> tuple[nn.Module, dict[str, Any]]:
    """An open_clip `CLIP` with fresh weights, and the `model_cfg` that builds it."""
    open_clip = import_open_clip()
    model_cfg = {
        "embed_dim": config.dim,
        "vision_cfg": {
            "image_size": config.image_size,
            "patch_size": config.patch,
            "width": config.width,
            "layers": config.layers,
            "head_width": config.head_width,
            "pool_type": config.pool,
        },
        "text_cfg": {
            "context_length": tokenizer.context_length,
            "vocab_size": tokenizer.vocab_size,
            "width": config.text_width,
            "heads": max(config.text_width // 32, 1),
            "layers": config.text_layers,
        },
    }
    model: nn.Module = open_clip.model.CLIP(**json.loads(json.dumps(model_cfg)))
    return model, model_cfg


def train_image_text(
    crops: Crops,
    config: ImageTextConfig,
    seed: int,
    device: torch.device,
    dtype: torch.dtype | None,
    progress: Progress | None = None,
) -> tuple[nn.Module, dict[str, Any], list[float]]:
    """Teach a fresh model which caption belongs to which crop.

    Args:
        device, dtype: to compute on; of the towers' arithmetic, None for that of the weights.
        progress: called as (steps done, steps).

    Returns:
        The model, its `model_cfg`, and each step's loss.

    Raises:
        TrainingError: the loss became NaN or infinite.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    tokenizer = caption_tokenizer()
    model, model_cfg = build_image_text(config, tokenizer)
    model.to(device)
    tokens = tokenizer(crops.captions)
    steps = max(round(config.epochs * len(crops.images) / config.batch_size), 1)
    # Few crops teach two towers little; the words of a caption one by one teach the image tower more.
    targets = torch.from_numpy(word_targets(crops.captions))
    reader = word_head(config.dim, targets).to(device)
    parameters = [*model.parameters(), *reader.parameters()]
    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.lr,
        betas=(0.9, 0.98),
    )
    criterion = import_open_clip().loss.ClipLoss()
    losses: list[float] = []
    batches = Batches(len(crops.images), config.batch_size, rng)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, config.lr, config.warmup)
        index = batches.take()
        images = normalize(augment(crops.images[index], config.image_size, config.color, rng))
        text = tokens[torch.from_numpy(index)]
        hidden = torch.from_numpy(rng.random(text.shape) < config.unknown)
        hidden &= (text > UNKNOWN + 1) & (text < tokenizer.end)
        text = text.masked_fill(hidden, UNKNOWN)
        # The fused attention kernel of the CPU is slow backwards on so few tokens.
        fused = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()
        with fused, torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            image_features, places = _look(model, images.to(device))
            text_features = model.encode_text(text.to(device), normalize=True)  # type: ignore[operator]
        image_features = image_features.float()
        read = reader(nn.functional.normalize(image_features, dim=-1) * config.dim**0.5)
        wanted = targets[torch.from_numpy(index)].to(device)
        loss = criterion(
            nn.functional.normalize(image_features, dim=-1),
            text_features.float(),
            model.logit_scale.exp(),  # type: ignore[operator]
        ) + config.words * word_loss(read, wanted)
        if config.places:
            loss = loss + config.places * place_loss(places, text_features.float(), model.logit_scale.exp())  # type: ignore[operator]
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise TrainingError(f"step {step}: the loss of crops and captions is {losses[-1]}; lower image_text.lr")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, float(np.log(100)))  # type: ignore[operator]
        if progress is not None:
            progress(step + 1, steps)
    return model.cpu().eval(), model_cfg, losses


def _look(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (B, D) of whole images and (B, P, D) of their places, in the text's space."""
    tower = model.visual
    before, tower.output_tokens = tower.output_tokens, True
    try:
        whole, tokens = tower(images)
    finally:
        tower.output_tokens = before
    # Of a class token's model the last norm is the pool's; a place needs it, too.
    return whole, tokens @ tower.proj


def place_loss(places: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Match captions with images by their best places (fine-grained interaction, FILIP, arXiv 2111.07783).

    The mean of all places alone would teach the asphalt beside a car to be a car. A log-sum-exp stands for the maximum,
    so that every place learns.

    Args:
        places: (B, P, D). text: (B, D) of length 1. scale: of the logits.
    """
    similarity = scale * torch.einsum("bpd,cd->bcp", nn.functional.normalize(places.float(), dim=-1), text)
    logits = similarity.logsumexp(2)
    target = torch.arange(len(logits), device=logits.device)
    return (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2


class Batches:
    """Indices of batches: every one of `count` once, in a new order each time round."""

    def __init__(self, count: int, size: int, rng: np.random.Generator) -> None:
        self._count, self._size, self._rng = count, min(size, count), rng
        self._left: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def take(self) -> npt.NDArray[np.int64]:
        """The next (size,) indices."""
        if len(self._left) < self._size:
            self._left = self._rng.permutation(self._count)
        batch, self._left = self._left[: self._size], self._left[self._size :]
        return batch


def word_targets(captions: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """(N, words) float32: 1 where a caption uses a word that names a thing."""
    column = {word: i for i, word in enumerate(content_words())}
    targets = np.zeros((len(captions), len(column)), dtype=np.float32)
    for row, caption in zip(targets, captions, strict=True):
        row[[column[word] for word in split_words(caption) if word in column]] = 1
    return targets


def word_head(channels: int, targets: Tensor) -> nn.Linear:
    """A linear layer to logits of words; it starts at their frequencies in targets (N, W), as if it had learnt them."""
    head = nn.Linear(channels, targets.shape[1])
    nn.init.normal_(head.weight, std=0.01)
    share = targets.mean(0).clamp(1e-4, 0.5)
    with torch.no_grad():
        head.bias.copy_(torch.log(share / (1 - share)))
    return head


def word_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of words (N, W), mean over the crops; a mean over words would be all but nothing."""
    total = nn.functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
    return total / max(len(targets), 1)


def augment(images: npt.NDArray[np.uint8], size: int, color: float, rng: np.random.Generator) -> Tensor:
    """Cut out, mirror and recolour: (N, S, S, 3) uint8 to (N, 3, size, size) float32 in 0..1."""
    room = images.shape[1] - size
    corner = rng.integers(room + 1, size=(len(images), 2)) if room > 0 else np.zeros((len(images), 2), dtype=np.int64)
    cut = np.stack([image[y : y + size, x : x + size] for image, (y, x) in zip(images, corner, strict=True)])
    mirror = rng.random(len(cut)) < 0.5
    cut[mirror] = cut[mirror, :, ::-1]
    pixels = torch.from_numpy(cut).permute(0, 3, 1, 2).float() / 255
    gain, contrast, saturation = torch.from_numpy(rng.uniform(1 - color, 1 + color, (3, len(cut), 1, 1, 1))).float()
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = (mean + (pixels - mean) * contrast) * gain
    gray = pixels.mean(1, keepdim=True)
    result: Tensor = (gray + (pixels - gray) * saturation).clamp(0, 1)
    return result


def normalize(pixels: Tensor) -> Tensor:
    """Subtract the mean and divide by the deviation that the model's `preprocess_cfg` names."""
    shape = (1, 3, 1, 1)
    return (pixels - torch.tensor(MEAN).view(shape)) / torch.tensor(DEVIATION).view(shape)


def save_image_text(folder: Path, model: nn.Module, model_cfg: dict[str, Any], about: dict[str, Any]) -> None:
    """Write what `open_clip.create_model("local-dir:...")` reads, and the tokenizer, into a new folder."""
    folder.mkdir()
    config = {
        "model_cfg": model_cfg,
        "preprocess_cfg": {"mean": list(MEAN), "std": list(DEVIATION), "interpolation": "bilinear"},
        "pretraining": about,
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    state = {key: value.detach().float().contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    caption_tokenizer().save(folder)
