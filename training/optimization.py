"""How the weights are moved: optimizer, learning rate, precision, and the weights of the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mdkt_ros.network import PointNetwork
from training.config import OptimConfig
from training.data.draw import LabelDraw


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear rise over the share `warmup` of the steps, then half a cosine down to zero; `step` counts from 0."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


class ParameterGroup(TypedDict):
    """Parameters that learn at `factor` times the rate."""

    params: list[nn.Parameter]
    factor: float


def make_optimizer(groups: Sequence[ParameterGroup], config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW; norms and biases do not decay."""
    split: list[dict[str, Any]] = []
    for group in groups:
        for decays in (True, False):
            params = [p for p in group["params"] if (p.ndim > 1) == decays]
            decay = config.weight_decay if decays else 0.0
            if params:
                split.append({"params": params, "weight_decay": decay, "factor": group["factor"]})
    return torch.optim.AdamW(split, lr=config.lr)


def half_precision(config: OptimConfig, device: torch.device) -> torch.dtype | None:
    """What autocast computes the networks that learn in, None for float32 throughout; a CPU always takes float32."""
    if device.type != "cuda" or config.amp == "off":
        return None
    bf16 = config.amp == "bf16" or (config.amp == "auto" and torch.cuda.is_bf16_supported())
    return torch.bfloat16 if bf16 else torch.float16


def half_of_readers(config: OptimConfig, device: torch.device) -> bool:
    """Whether what only reads, the teacher and an image network that stays, computes in bfloat16 on a CPU.

    No gradient of theirs is rounded, since there is none. On CUDA everything computes in `half_precision`.
    """
    return device.type == "cpu" and config.amp in ("auto", "bf16") and torch.cpu._is_avx512_bf16_supported()


@torch.no_grad()
def balance_inputs(network: PointNetwork, features: npt.NDArray[np.float32]) -> None:
    """Divide the first layer's fresh weights by the spread of their inputs, `features` (V, F) of some voxels.

    x varies by tens of metres, intensity by hundredths: left alone, the first normalisation would hide the latter.
    """
    spread = torch.from_numpy(np.maximum(features.std(0), 1e-3))
    kernel = network.stem[0].kernel
    assert isinstance(kernel, Tensor)
    kernel /= spread.to(kernel)[:, None]


def class_weights(kind: str, draw: LabelDraw) -> Tensor | None:
    """(C,) 1 / sqrt(share) of each class among the drawn labels (`sqrt`), so that their mean over those labels is 1.

    Classes rarer than one label in a thousand weigh as if they were that: a handful of labels cannot say more.
    """
    if kind == "none":
        return None
    share = draw.counts.sum(0) / draw.counts.sum()
    weight = np.where(share > 0, 1 / np.sqrt(np.maximum(share, 1e-3)), 0.0)
    return torch.from_numpy(weight / (weight * share).sum()).float()
