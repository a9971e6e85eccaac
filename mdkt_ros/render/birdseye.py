"""A scan from above, coloured by class and lit by height; truth, prediction and error side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from mdkt_ros.drive.frame import Axes
from mdkt_ros.errors import LabelError
from mdkt_ros.labels import IGNORE, LabelSpace
from mdkt_ros.metrics import confusion_matrix, scores
from mdkt_ros.render import style
from mdkt_ros.render.raster import compose, eye_dome_lighting, rasterize, shrink

_SUPERSAMPLE = 2
_LEGEND_WIDTH = 230


def birdseye(
    points: npt.NDArray[np.floating],
    class_id: npt.NDArray[np.uint8],
    labels: LabelSpace,
    *,
    size: int = 900,
    extent: float = 50.0,
    axes: Axes = "x_forward",
    title: str | None = None,
    legend: bool = True,
) -> Image.Image:
    """Bird's-eye picture of a labelled scan, forward is up.

    Args:
        points: (N, 3) metres, LiDAR frame. Points that are not finite are left out.
        class_id: (N,) uint8, 255 is not labelled (drawn grey, below everything else).
        labels: names and palette.
        size: pixels of the square picture, without the legend.
        extent: metres from the vehicle to the edge.
        axes: axis convention of `points`.
        title: written above the picture.
        legend: add a column with the classes that occur and their share of the points.

    Returns:
        RGB image, `size` high and `size` wide, 230 pixels wider with the legend (both scale with `size`).

    Raises:
        LabelError: `class_id` is not one label a point.
    """
    _check(points, class_id, "class_id")
    picture = _draw(points, style.display_palette(labels)[class_id], size, extent, axes, under=class_id == IGNORE)
    if title:
        style.text_at(picture, (round(size * 0.022),) * 2, title, max(12, round(size * 0.024)), style.INK)
    if not legend:
        return picture
    return beside_legend(picture, style.class_entries(class_id, labels), "share of points")


def comparison(
    points: npt.NDArray[np.floating],
    truth: npt.NDArray[np.uint8],
    prediction: npt.NDArray[np.uint8],
    labels: LabelSpace,
    *,
    size: int = 620,
    extent: float = 50.0,
    axes: Axes = "x_forward",
) -> Image.Image:
    """Truth, prediction and error of one scan side by side, with the legend and the scan's figures.

    Args:
        points: (N, 3) metres, LiDAR frame.
        truth, prediction: (N,) uint8 class ids, 255 is ignored in the truth and not labelled in the prediction.
        labels: names and palette.
        size: pixels of each of the three square pictures.
        extent, axes: as in `birdseye`.

    Raises:
        LabelError: labels and points differ in number.
    """
    _check(points, truth, "truth")
    _check(points, prediction, "prediction")
    palette = style.display_palette(labels)
    ignored = truth == IGNORE
    wrong = ~ignored & (truth != prediction)
    error = np.full((len(truth), 3), style.CORRECT, dtype=np.uint8)
    error[ignored] = style.IGNORED
    error[wrong] = style.WRONG
    figures = scores(confusion_matrix(truth, prediction, len(labels)))
    miou = "" if np.isnan(figures.miou) else f"  ·  mIoU {figures.miou * 100:.1f} %"
    accuracy = "" if np.isnan(figures.accuracy) else f"  ·  {figures.accuracy * 100:.1f} % of points right"
    panels = [
        ("Truth", _draw(points, palette[truth], size, extent, axes, under=ignored)),
        (f"Prediction{miou}", _draw(points, palette[prediction], size, extent, axes, under=prediction == IGNORE)),
        (f"Error{accuracy}", _draw(points, error, size, extent, axes, under=~wrong)),
    ]
    gap = max(2, size // 150)
    sheet = Image.new("RGB", (3 * size + 2 * gap, size), style.GUIDE)
    for i, (name, picture) in enumerate(panels):
        style.text_at(picture, (round(size * 0.025),) * 2, name, max(12, round(size * 0.03)), style.INK)
        sheet.paste(picture, (i * (size + gap), 0))
    both = np.concatenate([truth, prediction])
    rows = [(name, color, _iou(figures.iou, labels, name)) for name, color, _ in style.class_entries(both, labels)]
    rows += [("wrong", style.WRONG, ""), ("right", style.CORRECT, ""), ("no truth", style.IGNORED, "")]
    return beside_legend(sheet, rows, "IoU %")


def _iou(iou: npt.NDArray[np.float64], labels: LabelSpace, name: str) -> str:
    value = iou[labels.names.index(name)] if name in labels.names else np.nan
    return "" if np.isnan(value) else f"{value * 100:.1f}"


def _check(points: npt.NDArray[np.floating], class_id: npt.NDArray[np.uint8], what: str) -> None:
    if points.ndim != 2 or points.shape[1] != 3 or class_id.shape != (len(points),):
        raise LabelError(f"{what} has shape {class_id.shape} for points of shape {points.shape}: need (N,) and (N, 3)")


def _draw(
    points: npt.NDArray[np.floating],
    colors: npt.NDArray[np.uint8],
    size: int,
    extent: float,
    axes: Axes,
    *,
    under: npt.NDArray[np.bool_],
) -> Image.Image:
    xyz = style.to_x_forward(points, axes)
    side = size * _SUPERSAMPLE
    per_metre = side / (2 * extent)
    pixels = np.stack([side / 2 - xyz[:, 1] * per_metre, side / 2 - xyz[:, 0] * per_metre], axis=1)
    pixels[~np.isfinite(xyz[:, 2])] = np.nan
    ground, top = style.height_range(xyz[:, 2])
    # Far rings are sparse and near ones dense: discs that grow with the range close the gaps without hiding detail.
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.hypot(xyz[:, 0], xyz[:, 1])
        radius = np.clip(0.9 + distance * 0.035, 0.9, 3.2) * side / 1800
        depth = np.clip(top + 8 - xyz[:, 2], 0, top - ground + 40)
    raster = rasterize(pixels, np.where(under, depth + 1000, depth), radius, side, side)
    light = eye_dome_lighting(np.where(raster.depth >= 1000, raster.depth - 1000, raster.depth), strength=0.9, step=2)
    rise = np.clip((xyz[:, 2] - ground) / (top - ground), 0, 1)
    shaded = colors * (0.80 + 0.20 * np.nan_to_num(rise))[:, None]
    picture = shrink(compose(raster, shaded, _ground(side, extent), light), _SUPERSAMPLE)
    _furniture(picture, extent)
    return picture


def _ground(side: int, extent: float) -> npt.NDArray[np.float32]:
    """Background with rings every 10 m."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 * extent - extent
    distance = np.hypot(axis[:, None], axis[None, :])
    ring = 10.0 if extent <= 80 else 50.0
    off = np.abs(distance - np.round(distance / ring) * ring) * side / (2 * extent)
    line = (np.clip(1.6 - off, 0, 1) * (distance > ring / 2))[:, :, None]
    flat = np.asarray(style.BACKGROUND, dtype=np.float32)
    return flat + line * (np.asarray(style.GUIDE, dtype=np.float32) - flat)


def _furniture(picture: Image.Image, extent: float) -> None:
    """The vehicle, pointing up, and a scale bar."""
    size = picture.width
    draw = ImageDraw.Draw(picture)
    middle, per_metre = size / 2, size / (2 * extent)
    length, half = max(2.2 * per_metre, size * 0.011), max(0.95 * per_metre, size * 0.0055)
    hood = [(middle - half, middle + length), (middle - half, middle - length * 0.45), (middle, middle - length)]
    draw.polygon(
        [*hood, (middle + half, middle - length * 0.45), (middle + half, middle + length)], style.INK, style.BACKGROUND
    )
    metres = next(m for m in (200, 100, 50, 20, 10, 5, 2, 1) if m * per_metre < size * 0.28 or m == 1)
    right, bottom = size - size * 0.025, size - size * 0.03
    left, tick = right - metres * per_metre, size * 0.008
    width = max(1, round(size / 450))
    draw.line([(left, bottom - tick), (left, bottom), (right, bottom), (right, bottom - tick)], style.INK, width)
    style.text_at(
        picture, ((left + right) / 2, bottom - tick), f"{metres} m", max(11, round(size * 0.018)), style.INK, "mb"
    )


def beside_legend(
    picture: Image.Image, entries: Sequence[tuple[str, tuple[int, int, int], str]], heading: str
) -> Image.Image:
    """The picture with a legend column on its right; rows are (name, RGB, note)."""
    scale = max(0.75, picture.height / 900)
    # Rows that do not fit would be cut off: shrink instead.
    scale = min(scale, picture.height / (23 * (len(entries) + 3)))
    width, margin = round(_LEGEND_WIDTH * scale), round(18 * scale)
    sheet = Image.new("RGB", (picture.width + width, picture.height), style.PANEL)
    sheet.paste(picture, (0, 0))
    left = picture.width + margin
    style.text_at(sheet, (picture.width + width - margin, margin), heading, round(13 * scale), style.FAINT, "rt")
    style.draw_legend(ImageDraw.Draw(sheet), entries, left, margin + round(24 * scale), width - 2 * margin, scale=scale)
    return sheet
