"""Image-text models of random weights, a few thousand of them, in folders that open_clip loads."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from mdkt_ros.tokenizer import WordTokenizer
from mdkt_ros.vision_ops import import_open_clip

VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def clip_config(vision: dict, vocabulary: int = 49408) -> dict:
    text = {"context_length": 16, "vocab_size": vocabulary, "width": 16, "heads": 2, "layers": 1}
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}


def random_clip(vision: dict, vocabulary: int = 49408, seed: int = 0) -> nn.Module:
    """open_clip's own class with weights that make every part of it matter."""
    import_open_clip()
    from open_clip.model import CLIP

    torch.manual_seed(seed)
    network = CLIP(**copy.deepcopy(clip_config(vision, vocabulary)))
    with torch.no_grad():
        # The library starts biases at zero and norms at one, where their absence would not show.
        for parameter in network.parameters():
            if parameter.ndim <= 1:
                parameter += 0.1 * torch.randn(parameter.shape)
        network.logit_scale.fill_(3.0)
    return network.eval()


def write_clip(folder: Path, vision: dict, words: list[str] | None = None, seed: int = 0) -> str:
    """Write a model of random weights; `words`: a vocabulary of its own. Returns its name for open_clip."""
    folder.mkdir(parents=True, exist_ok=True)
    size = 49408
    if words is not None:
        tokenizer = WordTokenizer(words, 16)
        tokenizer.save(folder)
        size = tokenizer.vocab_size
    network = random_clip(vision, size, seed)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "open_clip_model.safetensors")
    config = {"model_cfg": clip_config(vision, size), "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return f"local-dir:{folder}"
