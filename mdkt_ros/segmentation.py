"""Segmentation: what is known about the points of a cloud once they are labelled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mdkt_ros.prompts import PromptScores


@dataclass(frozen=True)
class Segmentation:
    """Labels of N points, in their order.

    Attributes:
        class_id: (N,) uint8, index into the segmenter's `labels.names`; 255 = not labelled (NaN, inf, out of range).
        probability: (N,) float32 of `class_id`; 0 where not labelled.
        entropy: (N,) float32 nats of the class distribution; 0 where not labelled.
        timings: milliseconds by stage: preprocess, inference, postprocess, total.
        prompts: scores by name, where the segmenter was loaded with prompts.
        records: (N, 24) uint8, the points with these labels as `cloud.build_segmentation` lays them out, where the
            device has done so beside the labels.
    """

    class_id: npt.NDArray[np.uint8]
    probability: npt.NDArray[np.float32]
    entropy: npt.NDArray[np.float32]
    timings: dict[str, float]
    prompts: PromptScores | None = None
    records: npt.NDArray[np.uint8] | None = None

    @property
    def prompt_score(self) -> npt.NDArray[np.float32]:
        """(N, P) float32, 0 .. 1, of each prompt, see `PromptScores`; P is 0 without prompts."""
        return np.zeros((len(self), 0), np.float32) if self.prompts is None else self.prompts.score

    def __len__(self) -> int:
        return len(self.class_id)
