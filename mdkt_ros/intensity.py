"""Whether the intensity that a sensor gives is on the scale that a network knows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_SATURATED, _DARK = 2.0, 0.01
_FULL_SCALES = (1.0, 255.0, 65535.0)


class IntensityWarning(UserWarning):
    """The intensity does not look like what the network was trained on."""


def intensity_doubt(scaled: npt.NDArray[np.float32], raw: npt.NDArray[np.float32], scale: float) -> str | None:
    """What contradicts that `scaled` intensity lies in 0..1, with the option to set; None if nothing does."""
    step = max(1, len(scaled) // 4096)
    sample = scaled[::step]
    sample = sample[np.isfinite(sample)]
    if len(sample) < 100:
        return None
    high = float(np.quantile(sample, 0.99))
    if high <= _SATURATED and sample.max() >= _DARK:
        return None
    top = float(np.max(raw, where=np.isfinite(raw), initial=0))
    if high > _SATURATED:
        finding = f"1 % of the values are above {high:.4g}"
    elif top * scale >= _DARK:
        return None
    elif top <= 0:
        return f"intensity: no value is above 0, but the network was trained with 0..1 (intensity_scale = {scale:.4g})"
    else:
        finding = f"all values are below {_DARK}"
    full = top if top < 0.1 else next((value for value in _FULL_SCALES if top <= value), top)
    return (
        f"intensity: with intensity_scale = {scale:.4g}, {finding}, but the network was trained with 0..1; the cloud's "
        f"values reach {top:.4g}: set intensity_scale to about {1 / full:.3g}"
    )
