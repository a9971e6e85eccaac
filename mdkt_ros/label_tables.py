"""From class scores of voxels to the labels of their points."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch

from mdkt_ros.labels import IGNORE
from mdkt_ros.sparse.loaders import compiled_loops
from mdkt_ros.sparse.parallel import share

_BLOCK = 4096
"""Voxels that are turned into labels at a time on a CPU, where the memory of one block serves the next."""


def label_tables(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Class, probability and entropy of each voxel, and last those of a point in no voxel (255, 0, 0).

    A voxel with a score that is not finite (intensity of 1e30) has no prediction either.

    Args:
        logits: (V, C), on any device.

    Returns:
        (V + 1,) uint8, float32 and float32 nats, on the device.
    """
    count, on_cpu = len(logits), logits.device.type == "cpu"
    class_id = torch.full((count + 1,), IGNORE, dtype=torch.uint8, device=logits.device)
    probability, entropy = logits.new_zeros(2, count + 1, dtype=torch.float32)
    loops = compiled_loops("mdkt_ros.label_loops") if on_cpu else None
    block = _BLOCK if on_cpu else max(count, 1)

    def fill(first: int, last: int) -> None:
        rows = slice(first * block, min(last * block, count))
        tables = class_id[rows], probability[rows], entropy[rows]
        if loops is not None:
            loops.label_rows(logits[rows].float().contiguous().numpy(), *(table.numpy() for table in tables))
            return
        for parts in zip(*(tensor.split(block) for tensor in (logits[rows], *tables)), strict=True):
            _label_rows(*parts)

    if count:
        share([block] * -(-count // block), fill, on_cpu)
    return class_id, probability, entropy


def take(table: torch.Tensor, rows: torch.Tensor) -> npt.NDArray[Any]:
    """`table[rows]` as an array; a row of -1 is the last."""
    # NumPy takes a third of the time of PyTorch's indexing.
    return table.numpy().take(rows.numpy()) if table.device.type == "cpu" else table[rows].cpu().numpy()


def _label_rows(logits: torch.Tensor, class_id: torch.Tensor, probability: torch.Tensor, entropy: torch.Tensor) -> None:
    """`label_loops.label_rows` in PyTorch's operations."""
    best, index = logits.float().max(dim=1)
    shifted = logits.float() - best[:, None]
    weight = shifted.exp()
    total = weight.sum(dim=1)
    nats = (total.log() - shifted.mul_(weight).sum(dim=1) / total).clamp_(min=0)
    # Any score that is not finite makes the entropy NaN.
    sound = torch.isfinite(nats)
    class_id.copy_(torch.where(sound, index, IGNORE))
    probability.copy_(torch.where(sound, total.reciprocal(), 0))
    entropy.copy_(torch.where(sound, nats, 0))
