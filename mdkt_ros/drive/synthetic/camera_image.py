"""Renders what a camera sees: rays to surfaces, then texture, sun and shadow, sky light, reflections and haze."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from mdkt_ros.drive.synthetic.light import Light
from mdkt_ros.drive.synthetic.materials import Material
from mdkt_ros.drive.synthetic.rig import Mount
from mdkt_ros.drive.synthetic.scene import Hits, Moment
from mdkt_ros.drive.synthetic.textures import Textures

Array = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
_SHADOW_LIFT = np.float32(0.015)

# Share of light mirrored head on, and what is added at grazing incidence.
_MIRROR = np.zeros((len(Material), 2), dtype=np.float32)
_MIRROR[Material.WINDOW] = (0.22, 0.6)
_MIRROR[Material.CAR_GLASS] = (0.12, 0.6)
_MIRROR[Material.CAR_PAINT] = (0.05, 0.35)


def pixel_rays(mount: Mount, world_from_camera: Matrix, reduction: int) -> tuple[Array, Array]:
    """Origin (3,) and unit directions (h*w, 3), row by row, of every `reduction`-th pixel's centre."""
    step = (reduction - 1) / 2
    u = np.arange(mount.width // reduction) * reduction + step
    v = np.arange(mount.height // reduction) * reduction + step
    inverse = np.linalg.inv(mount.matrix)
    # A projection's offset acts as a shift of the camera's centre.
    shift = inverse @ mount.offset
    across, down, ahead = (world_from_camera[:3, :3] @ inverse).astype(np.float32).T
    rows, columns = (v[:, None, None].astype(np.float32) * down + ahead), u[None, :, None].astype(np.float32) * across
    direction = (rows + columns).reshape(-1, 3)
    direction /= np.sqrt(np.einsum("ij,ij->i", direction, direction))[:, None]
    origin = world_from_camera[:3, :3] @ -shift + world_from_camera[:3, 3]
    return origin.astype(np.float32), direction


def look(moment: Moment, mount: Mount, world_from_camera: Matrix, reduction: int | None = None) -> Hits:
    """What each pixel sees, (h*w) row by row, in the mount's resolution divided by `reduction`."""
    origin, direction = pixel_rays(mount, world_from_camera, mount.reduction if reduction is None else reduction)
    return moment.cast(origin, direction)


class Renderer:
    """Renders images of one town under one light."""

    def __init__(self, textures: Textures, light: Light) -> None:
        self.textures, self.light = textures, light

    def render(
        self, moment: Moment, mount: Mount, world_from_camera: Matrix, rng: np.random.Generator
    ) -> npt.NDArray[np.uint8]:
        """One image (height, width, 3) RGB."""
        reduction = mount.reduction
        width, height = mount.width // reduction, mount.height // reduction
        origin, direction = pixel_rays(mount, world_from_camera, reduction)
        hits = moment.cast(origin, direction)
        radiance = np.empty((len(direction), 3), dtype=np.float32)
        seen = np.flatnonzero(hits.triangle >= 0)
        sky = np.flatnonzero(hits.triangle < 0)
        radiance[sky] = self.light.sky(direction[sky])
        footprint = reduction / np.float32(mount.matrix[0, 0])
        radiance[seen] = self._surfaces(moment, origin, direction, hits, seen, footprint, width)
        image = self._develop(radiance.reshape(height, width, 3), rng)
        if reduction > 1:
            image = np.asarray(Image.fromarray(image).resize((mount.width, mount.height), Image.Resampling.BICUBIC))
        return image

    def _surfaces(
        self,
        moment: Moment,
        origin: Array,
        direction: Array,
        hits: Hits,
        seen: npt.NDArray[np.int64],
        pixel: np.float32,
        width: int,
    ) -> Array:
        light = self.light
        triangle, distance, ray = hits.triangle[seen], hits.distance[seen], direction[seen]
        material = moment.of("material", triangle)
        normal = moment.normal(triangle)
        facing = np.einsum("ij,ij->i", normal, ray)
        normal *= np.where(facing > 0, np.float32(-1), np.float32(1))[:, None]
        cosine = np.abs(facing)
        footprint = distance * pixel / np.sqrt(np.maximum(cosine, np.float32(0.02)))
        albedo = moment.of("color", triangle) * self.textures.sample(material, hits.uv[seen], footprint)
        where = origin + ray * distance[:, None] + normal * (_SHADOW_LIFT + distance * np.float32(4e-4))[:, None]
        toward = normal @ light.toward_sun
        leaf = material == Material.LEAF
        # Leaves let light through.
        toward = np.where(leaf, 0.25 + 0.5 * np.abs(toward), toward)
        lit = np.flatnonzero(toward > 0)
        sun = np.zeros(len(seen), dtype=np.float32)
        clear = ~moment.occluded(where[lit], np.broadcast_to(light.toward_sun, (len(lit), 3)))
        sun[lit] = toward[lit] * clear
        open_sky = self._open_sky(moment, where, normal, seen, width)
        up = (0.5 + 0.5 * normal[:, 2]) * open_sky
        ambient = up[:, None] * (light.zenith * np.float32(0.6) + light.horizon * np.float32(0.4))
        bounce = (np.float32(0.16) * (1 - 0.5 * normal[:, 2]))[:, None] * (
            light.horizon * np.float32(0.6) + light.sun * np.float32(0.15)
        )
        color = albedo * (sun[:, None] * light.sun + ambient + bounce)
        mirrors = np.flatnonzero(_MIRROR[material, 1] > 0)
        if len(mirrors):
            share = _MIRROR[material[mirrors]]
            amount = (share[:, 0] + share[:, 1] * (1 - cosine[mirrors]) ** 4)[:, None]
            bent = ray[mirrors] + 2 * cosine[mirrors, None] * normal[mirrors]
            color[mirrors] = color[mirrors] * (1 - amount) + light.sky(bent) * amount * (
                0.35 + 0.65 * open_sky[mirrors, None]
            )
        veil = 1 - np.exp(-distance / np.float32(light.haze))[:, None]
        result: Array = color + (light.horizon - color) * veil
        return result

    def _open_sky(self, moment: Moment, where: Array, normal: Array, seen: npt.NDArray[np.int64], width: int) -> Array:
        """Share of the sky that a surface sees, from a ray for every fourth pixel, smoothed."""
        rows, columns = seen // width, seen % width
        height = int(rows.max()) + 1 if len(rows) else 1
        chosen = np.flatnonzero((rows % 2 == 0) & (columns % 2 == 0))
        # A fixed scatter of directions, so that the same view gives the same image.
        mix = (rows[chosen] * 73 + columns[chosen] * 151) % 251
        turn, rise = mix * np.float32(2.399963), np.sqrt((mix + np.float32(0.5)) / 251)
        aim = np.stack([rise * np.cos(turn), rise * np.sin(turn), np.sqrt(1 - rise * rise)], axis=1).astype(np.float32)
        aim = aim + normal[chosen] * np.float32(0.6)
        aim /= np.linalg.norm(aim, axis=1, keepdims=True)
        free = np.ones((height // 2 + 1, width // 2 + 1), dtype=np.float32)
        free[rows[chosen] // 2, columns[chosen] // 2] = ~moment.occluded(where[chosen], aim)
        for axis in (0, 1):
            free = _blur(free, axis)
        return np.float32(0.25) + np.float32(0.75) * free[rows // 2, columns // 2]

    def _develop(self, radiance: Array, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Exposure, tone curve, lens shading and sensor noise."""
        height, width = radiance.shape[:2]
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        shade = 1 - np.float32(0.14) * (x * x + y * y)
        exposed = radiance * (shade * np.float32(self.light.exposure))[..., None]
        tone = np.clip(1 - np.exp(-1.15 * exposed), 0, 1) ** np.float32(1 / 2.2)
        grain = rng.standard_normal((height, width), dtype=np.float32)[..., None] * np.float32(0.008)
        image: npt.NDArray[np.uint8] = (np.clip(tone + grain, 0, 1) * 255 + 0.5).astype(np.uint8)
        return image


def _blur(image: Array, axis: int) -> Array:
    """Mean over seven neighbours along an axis."""
    padded = np.concatenate(
        [np.repeat(image.take([0], axis), 4, axis), image, np.repeat(image.take([-1], axis), 3, axis)], axis
    )
    total = np.cumsum(padded, axis=axis)
    count = image.shape[axis]
    result: Array = (total.take(np.arange(7, 7 + count), axis) - total.take(np.arange(0, count), axis)) / np.float32(7)
    return result
