"""Sun, sky and haze of a day."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Light:
    """The light of a drive.

    Attributes:
        toward_sun: (3,) unit vector. sun, zenith, horizon: (3,) linear RGB radiance.
        haze: metres after which a surface has lost 63 % of its colour to the horizon's.
        exposure: factor before the tone curve. cover: share of clouds.
    """

    toward_sun: Array
    sun: Array
    zenith: Array
    horizon: Array
    haze: float
    exposure: float
    cover: float

    def sky(self, direction: Array) -> Array:
        """Radiance (N, 3) of the sky, seen or mirrored, in unit directions (N, 3); of the ground below the horizon."""
        up = np.clip(direction[:, 2:], 0, 1)
        color = self.horizon + (self.zenith - self.horizon) * np.sqrt(up)
        # Clouds on a plane far above, as sums of waves.
        scale = 1.0 / (up[:, 0] + 0.12)
        x, y = direction[:, 0] * scale, direction[:, 1] * scale
        wave = (
            np.sin(2.1 * x + 1.3 * np.sin(1.7 * y + 0.6))
            + np.sin(2.7 * y - 0.8 * np.sin(2.3 * x))
            + 0.5 * np.sin(6.3 * x + 4.1 * y)
        )
        cloud = np.clip((wave - 2.5 * (1 - 2 * self.cover)) * 0.5, 0, 1)[:, None] * (0.75 * up + 0.2)
        bright = np.float32(1.1) * self.horizon.max()
        color = color * (1 - cloud) + bright * cloud
        glow = np.clip(direction @ self.toward_sun, 0, 1)[:, None]
        color = color + self.sun * (0.25 * glow**24 + 3.0 * glow**900)
        below = direction[:, 2:] < 0
        result: Array = np.where(below, self.horizon * 0.35, color).astype(np.float32)
        return result


def draw_light(rng: np.random.Generator) -> Light:
    """Draw a day: from low warm sun to an overcast sky."""
    height, azimuth = np.radians(rng.uniform(18, 62)), rng.uniform(0, 2 * np.pi)
    toward = np.array([np.cos(height) * np.cos(azimuth), np.cos(height) * np.sin(azimuth), np.sin(height)])
    overcast = rng.random() < 0.3
    cover = rng.uniform(0.75, 0.95) if overcast else rng.uniform(0.1, 0.55)
    warm = np.clip((np.degrees(height) - 15) / 35, 0, 1)
    strength = rng.uniform(0.15, 0.5) if overcast else rng.uniform(2.0, 3.0)
    sun = strength * np.array([1.0, 0.80 + 0.15 * warm, 0.58 + 0.30 * warm])
    zenith = np.array([0.62, 0.66, 0.72]) if overcast else np.array([0.22, 0.38, 0.72])
    horizon = np.array([0.80, 0.82, 0.85]) if overcast else np.array([0.62, 0.74, 0.88])
    sky = rng.uniform(0.9, 1.2) if overcast else rng.uniform(0.65, 0.95)
    ground_light = strength * np.sin(height) + 0.8 * sky
    return Light(
        toward.astype(np.float32),
        sun.astype(np.float32),
        (zenith * sky).astype(np.float32),
        (horizon * sky).astype(np.float32),
        float(rng.uniform(350, 1500)),
        float(rng.uniform(0.9, 1.25) * (1.45 if overcast else 2.1) / ground_light),
        float(cover),
    )
