"""Class scores to labels in one pass, compiled by Numba: a third of the time of one PyTorch operation after another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mdkt_ros.labels import IGNORE
from mdkt_ros.sparse.native.loops import compiled

Array = npt.NDArray[Any]

_LANES = 64
"""Voxels side by side: loops over them become vector instructions, whatever the number of classes."""
_LOWEST = np.float32(-87)
"""exp() below it is no normal float32 any more, and nothing beside the 1 of the highest class."""


@compiled
def label_rows(logits: Array, class_id: Array, probability: Array, entropy: Array) -> None:  # pragma: no cover
    """Write the class, its probability and the entropy in nats of each row; 255, 0, 0 where a score is not finite.

    exp() is Cephes' single precision polynomial (expf.c), right to 2e-7.

    Args:
        logits: (V, C) float32. class_id: (V,) uint8 written. probability, entropy: (V,) float32 written.
    """
    count, classes = logits.shape
    scores = np.zeros((classes, _LANES), dtype=np.float32)
    best, total, product = (
        np.empty(_LANES, dtype=np.float32),
        np.empty(_LANES, dtype=np.float32),
        np.empty(_LANES, dtype=np.float32),
    )
    index, exponent = np.empty(_LANES, dtype=np.int32), np.empty(_LANES, dtype=np.int32)
    power = exponent.view(np.float32)
    for first in range(0, count, _LANES):
        lanes = min(_LANES, count - first)
        for lane in range(lanes):
            for name in range(classes):
                scores[name, lane] = logits[first + lane, name]
        best[:] = scores[0]
        index[:] = 0
        for name in range(1, classes):
            for lane in range(_LANES):
                value = scores[name, lane]
                higher = value > best[lane]
                index[lane] = name if higher else index[lane]
                best[lane] = value if higher else best[lane]
        total[:] = 0
        product[:] = 0
        for name in range(classes):
            for lane in range(_LANES):
                below = scores[name, lane] - best[lane]
                x = below if below > _LOWEST else _LOWEST  # so is NaN, which the product keeps
                n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
                x = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
                p = np.float32(1.9875691500e-4) * x + np.float32(1.3981999507e-3)
                p = p * x + np.float32(8.3334519073e-3)
                p = p * x + np.float32(4.1665795894e-2)
                p = p * x + np.float32(1.6666665459e-1)
                p = p * x + np.float32(5.0000001201e-1)
                exponent[lane] = (np.int32(n) + np.int32(127)) << np.int32(23)
                weight = (p * x * x + x + np.float32(1)) * power[lane]
                total[lane] += weight
                product[lane] += weight * below
        for lane in range(lanes):
            row = first + lane
            nats = np.float32(math.log(total[lane])) - product[lane] / total[lane]
            sound = math.isfinite(nats)
            class_id[row] = index[lane] if sound else IGNORE
            probability[row] = np.float32(1) / total[lane] if sound else np.float32(0)
            entropy[row] = max(nats, np.float32(0)) if sound else np.float32(0)
