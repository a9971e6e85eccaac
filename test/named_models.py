"""Untrained checkpoints that can be asked by name, for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from small_models import random_meta, random_network

from mdkt_ros.checkpoint_meta import CheckpointMeta, OpenVocabulary
from mdkt_ros.projection import ProjectionHead

PROMPTS = ("a photo of a {}.", "a {}")
HIDDEN, DIM, TAU = 7, 16, 0.07


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def projection(seed: int = 1) -> ProjectionHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ProjectionHead(random_network().feature_channels[1], HIDDEN, DIM)


def words(weights: str = "") -> OpenVocabulary:
    return OpenVocabulary("ViT-B-16", "street_tag", weights, PROMPTS, HIDDEN, DIM, TAU)


def asked_by_name(**changes: Any) -> CheckpointMeta:
    base = replace(random_meta(), text_embeddings=unit(19, DIM, seed=4), open_vocabulary=words())
    return replace(base, **changes)


def scan(count: int = 600) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    points = rng.normal(0, [8, 8, 0.5], (count, 3)).astype(np.float32)
    points[::50] = np.nan
    return points, rng.random(count, dtype=np.float32)
