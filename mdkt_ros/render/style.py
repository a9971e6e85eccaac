"""What all pictures share: colours on a dark ground, type, legend, scale bar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from mdkt_ros.drive.frame import Axes
from mdkt_ros.labels import LabelSpace

BACKGROUND = (13, 17, 23)
PANEL = (22, 27, 34)
INK = (230, 237, 243)
FAINT = (139, 148, 158)
GUIDE = (38, 45, 54)
CORRECT = (72, 84, 99)
WRONG = (255, 72, 66)
IGNORED = (40, 46, 54)
UNLABELLED = (110, 118, 129)

_LEAST_LUMINANCE = 0.055


def display_palette(labels: LabelSpace) -> npt.NDArray[np.uint8]:
    """(256, 3) uint8 RGB by class id: the palette, with colours too dark for a dark ground raised; 255 is grey.

    SemanticKITTI and nuScenes paint sidewalks (75, 0, 75), which is next to invisible on black. The hue stays; the
    colour is scaled until its relative luminance (WCAG 2.1) stands about twice as bright as the background.
    """
    table = np.full((256, 3), UNLABELLED, dtype=np.uint8)
    srgb = labels.palette.astype(np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    gain = np.where(luminance < _LEAST_LUMINANCE, _LEAST_LUMINANCE / np.maximum(luminance, 1e-4), 1.0)
    raised = np.clip(linear * gain[:, None], 0, 1)
    back = np.where(raised <= 0.0031308, raised * 12.92, 1.055 * raised ** (1 / 2.4) - 0.055)
    table[: len(labels)] = np.where(gain[:, None] > 1, np.round(back * 255), labels.palette).astype(np.uint8)
    return table


def to_x_forward(points: npt.NDArray[np.floating], axes: Axes) -> npt.NDArray[np.float32]:
    """Points (N, 3) float32 with x forward, y left, z up, from either axis convention."""
    xyz = np.asarray(points, dtype=np.float32)
    if axes == "y_forward":
        xyz = np.stack([xyz[:, 1], -xyz[:, 0], xyz[:, 2]], axis=1)
    return xyz


def height_range(z: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Ground and top of a cloud, metres: the 2nd and 98th percentile of the finite heights, at least 1 m apart."""
    finite = z[np.isfinite(z)]
    if not len(finite):
        return -1.7, 3.0
    low, high = np.percentile(finite, [2, 98])
    return float(low), float(max(high, low + 1.0))


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface at a size in pixels, so that pictures look the same on every machine."""
    try:
        return ImageFont.load_default(size=size)
    except TypeError:  # Pillow before 10.1 has one bitmap size
        return ImageFont.load_default()


def draw_legend(
    draw: ImageDraw.ImageDraw,
    entries: Sequence[tuple[str, tuple[int, int, int], str]],
    left: int,
    top: int,
    width: int,
    *,
    scale: float = 1.0,
) -> int:
    """Draw rows of swatch, name and right-aligned note from (left, top); return the y below the last row."""
    text = font(round(15 * scale))
    row = round(23 * scale)
    for name, color, note in entries:
        middle = top + row // 2
        swatch = round(6 * scale)
        draw.rounded_rectangle(
            (left, middle - swatch, left + 2 * swatch, middle + swatch), radius=round(3 * scale), fill=color
        )
        draw.text((left + 2 * swatch + round(9 * scale), middle), name, font=text, fill=INK, anchor=_anchor(text, "lm"))
        if note:
            draw.text((left + width, middle), note, font=text, fill=FAINT, anchor=_anchor(text, "rm"))
        top += row
    return top


def _anchor(text: ImageFont.FreeTypeFont | ImageFont.ImageFont, anchor: str) -> str | None:
    return anchor if isinstance(text, ImageFont.FreeTypeFont) else None


def class_entries(class_id: npt.NDArray[np.uint8], labels: LabelSpace) -> list[tuple[str, tuple[int, int, int], str]]:
    """Legend rows of the classes that occur, most points first, with their share; unlabelled points last."""
    counts = np.bincount(class_id, minlength=256)
    palette = display_palette(labels)
    known = [c for c in np.argsort(-counts[: len(labels)], kind="stable") if counts[c]]
    rows = [(labels.names[c], c, int(counts[c])) for c in known]
    if rest := int(counts[len(labels) :].sum()):
        rows.append(("not labelled", 255, rest))
    total = max(len(class_id), 1)
    return [(name, _rgb(palette[c]), _share(count / total)) for name, c, count in rows]


def _share(part: float) -> str:
    return f"{part:.0%}" if part >= 0.0995 else f"{part:.1%}" if part >= 0.001 else "<0.1%"


def _rgb(color: npt.NDArray[np.uint8]) -> tuple[int, int, int]:
    return int(color[0]), int(color[1]), int(color[2])


def text_at(
    image: Image.Image, xy: tuple[float, float], content: str, size: int, fill: tuple[int, int, int], anchor: str = "lt"
) -> None:
    """Write one line of text; `anchor` as Pillow names it."""
    face = font(size)
    ImageDraw.Draw(image).text(xy, content, font=face, fill=fill, anchor=_anchor(face, anchor))
