"""A picture of where points look in an image: an overview, and around each chosen point what every scale looks at."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from mdkt_ros.render.style import BACKGROUND, FAINT, INK, text_at
from training.scheme.deformable import Look

Color = tuple[int, int, int]
CELL = 208
"""Pixels of a side of a close-up."""
_MARGIN, _HEAD, _GAP = 104, 40, 4
_FINER = 2  # Pillow's circles have rough edges: drawn larger, then made smaller


def head_colors(heads: int) -> list[Color]:
    """Colours that differ as much as they can, one a head."""
    shades = [colorsys.hsv_to_rgb((0.08 + head / max(heads, 1)) % 1, 0.85, 1.0) for head in range(heads)]
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in shades]


def close_up(image: Image.Image, pixel: Sequence[float], look: Look, ratio: float, reach: float) -> Image.Image:
    """What is around a pixel, and the places that a point looks at.

    A circle is a place, its colour the head's, its area the attention: three pixels of radius where it is uniform.

    Args:
        image: as recorded.
        pixel: (u, v) of the point in it.
        look: of this point alone.
        ratio: pixels of `image` in one of the images that the network sees.
        reach: pixels of `image` from the middle to the edge.

    Returns:
        (CELL, CELL) RGB; what lies outside the image is dark.
    """
    size = CELL * _FINER
    u, v = pixel
    box = (u + 0.5 - reach, v + 0.5 - reach, u + 0.5 + reach, v + 0.5 + reach)
    around = image.transform((size, size), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)
    inside = Image.new("L", image.size, 255).transform((size, size), Image.Transform.EXTENT, box)
    cell = Image.composite(around, Image.new("RGB", (size, size), BACKGROUND), inside)
    draw = ImageDraw.Draw(cell)
    middle, zoom = size / 2, size / (2 * reach)
    colors = head_colors(look.offset.shape[1])
    _, heads, levels, places = look.weight.shape
    # Coarse levels reach farthest and lie beneath.
    for level in reversed(range(levels)):
        for head in range(heads):
            for place in range(places):
                weight = float(look.weight[0, head, level, place]) * levels * places
                x, y = (look.offset[0, head, level, place] * look.strides[level] * ratio * zoom + middle).tolist()
                r = 3 * _FINER * weight**0.5
                draw.ellipse((x - r, y - r, x + r, y + r), fill=colors[head], outline=BACKGROUND, width=_FINER)
    arm = 5 * _FINER
    for width, color in ((2 * _FINER, BACKGROUND), (_FINER, INK)):
        draw.line((middle - arm, middle, middle + arm, middle), fill=color, width=width)
        draw.line((middle, middle - arm, middle, middle + arm), fill=color, width=width)
    return cell.resize((CELL, CELL), Image.Resampling.BOX)


def looks_picture(
    image: npt.NDArray[np.uint8],
    pixel: npt.NDArray[np.floating],
    names: Sequence[str],
    looks: dict[int, Look],
    ratio: float,
    title: str = "",
) -> Image.Image:
    """An overview of the image with numbered points; below, a column for each point and a row for each scale.

    Args:
        image: (H, W, 3) uint8 RGB as recorded.
        pixel: (Q, 2) of the chosen points in it.
        names: Q, what the points are.
        looks: by stride, of these points (Q of them).
        ratio: pixels of `image` in one of the images that the network sees.
    """
    recorded, places = Image.fromarray(image), np.asarray(pixel, dtype=np.float64)
    width = _MARGIN + max(len(names), 3) * (CELL + _GAP)
    zoom = width / recorded.width
    height = round(recorded.height * zoom)
    rows_top = _HEAD + height + _HEAD
    out = Image.new("RGB", (width, rows_top + len(looks) * (CELL + _GAP)), BACKGROUND)
    out.paste(recorded.resize((width, height), Image.Resampling.BILINEAR), (0, _HEAD))
    text_at(out, (8, _HEAD / 2), title, 17, INK, "lm")
    heads = max((look.offset.shape[1] for look in looks.values()), default=0)
    draw = ImageDraw.Draw(out)
    for head, color in enumerate(head_colors(heads)):
        left, middle = width - 96 * (heads - head), _HEAD // 2
        draw.ellipse((left, middle - 6, left + 12, middle + 6), fill=color)
        text_at(out, (left + 20, middle), f"head {head + 1}", 15, INK, "lm")
    for number, (name, (u, v)) in enumerate(zip(names, places, strict=True), 1):
        x, y = (u + 0.5) * zoom, (v + 0.5) * zoom + _HEAD
        draw.ellipse((x - 12, y - 12, x + 12, y + 12), fill=BACKGROUND, outline=INK, width=2)
        text_at(out, (x, y), str(number), 13, INK, "mm")
        left = _MARGIN + (number - 1) * (CELL + _GAP)
        text_at(out, (left + CELL / 2, _HEAD + height + _HEAD / 2), f"{number} {name}", 15, INK, "mm")
    reach = _common_reach(looks, ratio)
    for row, (stride, look) in enumerate(looks.items()):
        top = rows_top + row * (CELL + _GAP)
        text_at(out, (8, top + CELL / 2 - 20), f"stride {stride}", 17, INK, "lm")
        text_at(out, (8, top + CELL / 2 + 2), "levels", 13, FAINT, "lm")
        text_at(out, (8, top + CELL / 2 + 19), " ".join(map(str, look.strides)), 13, FAINT, "lm")
        for number in range(len(names)):
            one = look[torch.tensor([number])]
            left = _MARGIN + number * (CELL + _GAP)
            out.paste(close_up(recorded, places[number], one, ratio, reach), (left, top))
            far = f"{float(one.reach()) * ratio:.0f} px"
            draw.rectangle((left, top + CELL - 20, left + 9 * len(far) + 4, top + CELL), fill=BACKGROUND)
            text_at(out, (left + 4, top + CELL - 10), far, 14, INK, "lm")
    return out


def _common_reach(looks: dict[int, Look], ratio: float) -> float:
    """Pixels of the recorded image, for all close-ups, within which nine tenths of the attention lie."""
    lengths, weights = [torch.zeros(1)], [torch.zeros(1)]
    for look in looks.values():
        stride = look.offset.new_tensor(look.strides)[:, None]
        lengths.append((look.offset.norm(dim=-1) * stride).flatten())
        weights.append(look.weight.flatten())
    length, order = torch.cat(lengths).sort()
    share = torch.cat(weights)[order].cumsum(0)
    far = float(length[min(int((share < 0.9 * share[-1]).sum()), len(length) - 1)]) * ratio
    return max(24.0, 1.15 * far)
