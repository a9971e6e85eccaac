"""When the parts that need no label join: nothing at first, a linear rise, then all of it."""

from __future__ import annotations

from training.scheme.config import ScheduleConfig


def ramp(step: int, steps: int, schedule: ScheduleConfig) -> float:
    """Factor 0..1 on the weight of pseudo labels, contrast and teacher at `step` (from 0) of `steps`.

    0 during the first `labels_only` share of the steps, then the linear rise over the share `ramp`, whose last step has
    the whole weight. It is a function of the step alone, so that a resumed run goes on where it was.
    """
    before, rise = round(schedule.labels_only * steps), round(schedule.ramp * steps)
    if step < before:
        return 0.0
    return min(1.0, (step - before + 1) / max(1, rise))
