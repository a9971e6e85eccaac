"""When the parts that need no label join: nothing at first, a linear rise, then all of it."""

from __future__ import annotations

from typing import NamedTuple

from training.scheme.config import ScheduleConfig


class Shares(NamedTuple):
    """Factors 0..1 on the weights of a step.

    Attributes:
        opinions: on what the image-text model says, which is as good in the first step as in the last.
        teacher: on what asks the teacher, which has to learn first: agreement, contrast, and the teacher itself.
    """

    opinions: float
    teacher: float


def shares(step: int, steps: int, schedule: ScheduleConfig) -> Shares:
    """The factors at `step` (from 0) of `steps`, of the step alone, so that a resumed run goes on where it was."""
    return Shares(
        ramp(step, steps, schedule.opinions, schedule.ramp), ramp(step, steps, schedule.labels_only, schedule.ramp)
    )


def ramp(step: int, steps: int, before: float, rise: float) -> float:
    """0 in the first `before` share of the steps, then a linear rise over the share `rise`, whose last step has 1."""
    first, rising = round(before * steps), round(rise * steps)
    if step < first:
        return 0.0
    return min(1.0, (step - first + 1) / max(1, rising))
