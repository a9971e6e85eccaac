"""Trains the image network's backbone to say which words belong to a crop: the stand-in for ImageNet.

`training/pretrain.py` runs it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from training.data.captions import content_words
from training.data.crops import Crops
from training.losses import TrainingError
from training.optimization import learning_rate
from training.pretrain_image_text import Batches, Progress, augment, word_head, word_loss, word_targets
from training.scheme.backbone import make_backbone
from training.scheme.image_network import STRIDES


@dataclass
class BackboneConfig:
    """The backbone and how long it learns."""

    name: str = "resnet18"  # timm model, as image_network.name of a training recipe
    image_size: int = 72  # pixels of a side of what it looks at
    batch_size: int = 128
    epochs: float = 4.0  # passes over the crops; fractions are allowed
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05  # share of the steps
    color: float = 0.3  # brightness, contrast and saturation, uniform in 1 +-
    stages: float = 0.25  # weight of the same loss at each earlier stage; 0: the last alone


class WordClassifier(nn.Module):
    """A backbone, the mean over each feature map, and a linear layer a map to the words that captions use."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, targets: Tensor) -> None:
        super().__init__()
        self.backbone: Any = make_backbone(name, STRIDES)
        self.heads = nn.ModuleList(word_head(count, targets) for count in self.backbone.feature_info.channels())
        # What build_image_network subtracts and divides by.
        mean, std = (self.backbone.pretrained_cfg[key] for key in ("mean", "std"))
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits (N, words) of each stage for images (N, 3, H, W) in 0..1, the last stage's at the end."""
        maps = self.backbone(((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last))
        return [head(stage.mean((2, 3))) for head, stage in zip(self.heads, maps, strict=True)]


def train_image_network(
    crops: Crops,
    config: BackboneConfig,
    seed: int,
    device: torch.device,
    dtype: torch.dtype | None,
    progress: Progress | None = None,
) -> tuple[WordClassifier, list[float]]:
    """Teach a fresh backbone the words of the crops' captions.

    Args:
        device, dtype: to compute on; of its arithmetic, None for that of the weights.
        progress: called as (steps done, steps).

    Returns:
        The classifier and each step's loss (of the last stage).

    Raises:
        ConfigError: timm has no such model. TrainingError: the loss became NaN or infinite.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
    targets = torch.from_numpy(word_targets(crops.captions))
    model = WordClassifier(config.name, targets)
    steps = max(round(config.epochs * len(targets) / config.batch_size), 1)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=config.lr,
    )
    losses: list[float] = []
    batches = Batches(len(targets), config.batch_size, rng)
    model.to(device).train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, config.lr, config.warmup)
        index = batches.take()
        images = augment(crops.images[index], config.image_size, config.color, rng)
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            logits = model(images.to(device))
        wanted = targets[torch.from_numpy(index)].to(device)
        parts = [word_loss(stage, wanted) for stage in logits]
        losses.append(float(parts[-1].detach()))
        if not math.isfinite(losses[-1]):
            raise TrainingError(f"step {step}: the loss of the crops' words is {losses[-1]}; lower image_network.lr")
        loss = parts[-1] + config.stages * sum(parts[:-1], start=parts[-1] * 0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if progress is not None:
            progress(step + 1, steps)
    return model.cpu().eval(), losses


def save_image_network(path: Path, model: WordClassifier, name: str, about: dict[str, Any]) -> None:
    """Write the backbone, a timm model's `name`, without the words, as a recipe's `image_network.weights` reads it."""
    state = {key: value.detach().contiguous() for key, value in model.backbone.state_dict().items()}
    # Values of metadata are texts.
    metadata = {
        "name": name,
        "date": str(about["date"]),
        "seeds": str(about["towns"]),
        "pretraining": json.dumps(about),
    }
    save_file(state, path, metadata)


@torch.no_grad()
def mean_average_precision(model: WordClassifier, crops: Crops, size: int) -> dict[str, float]:
    """Average precision of every word that the captions of held-out crops use, as they use it (wrong ones included)."""
    start = (crops.images.shape[1] - size) // 2
    middle = np.ascontiguousarray(crops.images[:, start : start + size, start : start + size])
    scores = []
    for part in np.array_split(middle, max(len(middle) // 128, 1)):
        scores.append(model(torch.from_numpy(part).permute(0, 3, 1, 2).float() / 255)[-1])
    order = torch.cat(scores).argsort(0, descending=True).numpy()
    truth = np.take_along_axis(word_targets(crops.captions), order, 0)
    hits = truth.cumsum(0)
    precision = hits / np.arange(1, len(truth) + 1)[:, None]
    found = hits[-1] > 0
    average = (precision * truth).sum(0)[found] / hits[-1][found]
    return {word: float(value) for word, value in zip(np.array(content_words())[found], average, strict=True)}
