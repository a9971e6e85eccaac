"""Cameras: intrinsics, distortion, extrinsics; points to pixels; which points the camera really sees."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.polynomial import Polynomial

from mdkt_ros.beams import DEFAULT_SPACING
from mdkt_ros.errors import CameraError
from mdkt_ros.products import times_small

Distortion = Literal["none", "plumb_bob", "rational_polynomial", "equidistant"]
MIN_DEPTH = 0.5
"""Metres: nearer points are the vehicle itself or behind the lens."""


class Projection(NamedTuple):
    """Where points fall in an image.

    Attributes:
        pixels: (N, 2) float64, u right and v down; the centre of the top left pixel is (0, 0). NaN where not in view.
        depth: (N,) float64 metres along the optical axis.
        in_view: (N,) bool, in front of the camera and inside the image.
    """

    pixels: npt.NDArray[np.float64]
    depth: npt.NDArray[np.float64]
    in_view: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Camera:
    """A calibrated camera beside a LiDAR.

    Attributes:
        name: `CAM_FRONT`, `image_2`, ...
        width, height: pixels.
        matrix: (3, 3) float64 intrinsics.
        camera_from_lidar: (4, 4) float64, metres; optical frame (x right, y down, z forward).
        distortion: ROS name of the model (`sensor_msgs/CameraInfo`), `none` for rectified images.
        coefficients: plumb_bob k1 k2 p1 p2 k3; rational_polynomial k1 k2 p1 p2 k3 k4 k5 k6; equidistant k1 k2 k3 k4.
        projection_offset: (3,) float64 added after the matrix, the fourth column of a 3x4 projection (KITTI's P2).

    Raises:
        CameraError: the calibration is incomplete or not finite; the message names the camera.
    """

    name: str
    width: int
    height: int
    matrix: npt.NDArray[np.float64]
    camera_from_lidar: npt.NDArray[np.float64]
    distortion: Distortion = "none"
    coefficients: tuple[float, ...] = ()
    projection_offset: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))

    def __post_init__(self) -> None:
        needed = {"none": 0, "plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}
        if self.distortion not in needed:
            raise CameraError(
                f"camera {self.name}: distortion model {self.distortion!r} is not one of {', '.join(needed)}"
            )
        if self.distortion != "none" and len(self.coefficients) != needed[self.distortion]:
            count = f"{needed[self.distortion]} coefficients, got {len(self.coefficients)}"
            raise CameraError(f"camera {self.name}: {self.distortion} takes {count}")
        if (
            np.shape(self.matrix) != (3, 3)
            or not np.isfinite(self.matrix).all()
            or abs(np.linalg.det(self.matrix)) < 1e-9
        ):
            raise CameraError(f"camera {self.name}: the 3x3 camera matrix is singular or not finite: not calibrated?")
        if np.shape(self.camera_from_lidar) != (4, 4) or not np.isfinite(self.camera_from_lidar).all():
            raise CameraError(f"camera {self.name}: camera_from_lidar must be a finite 4x4 matrix")
        if np.shape(self.projection_offset) != (3,) or not np.isfinite(self.projection_offset).all():
            raise CameraError(f"camera {self.name}: projection_offset must be 3 finite numbers")
        if not np.isfinite(self.coefficients).all():
            raise CameraError(f"camera {self.name}: the distortion coefficients {self.coefficients} are not finite")
        if self.width <= 0 or self.height <= 0:
            raise CameraError(f"camera {self.name}: image size {self.width}x{self.height}")

    def project(self, points: npt.NDArray[np.floating]) -> Projection:
        """Project points (N, 3), metres, LiDAR frame. Non-finite points are never in view."""
        # Points that are not finite, or so far away that squares overflow, come out as NaN or inf: not in view.
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            rotation, translation = self.camera_from_lidar[:3, :3], self.camera_from_lidar[:3, 3]
            xyz = times_small(np.asarray(points, dtype=np.float64), rotation.T) + translation
            # KITTI's rectified right cameras: the offset shifts the point before the division, depth included.
            depth = xyz[:, 2] + self.projection_offset[2]
            front = depth > MIN_DEPTH
            homogeneous = np.where(front[:, None], xyz, (0.0, 0.0, 1.0))
            if self.distortion != "none":
                x, y = self._distort(homogeneous[:, 0] / homogeneous[:, 2], homogeneous[:, 1] / homogeneous[:, 2])
                homogeneous = np.stack([x, y, np.ones_like(x)], axis=1) * homogeneous[:, 2:]
            image = times_small(homogeneous, self.matrix.T) + self.projection_offset
            pixels = image[:, :2] / image[:, 2:]
            inside = (pixels[:, 0] < self.width - 0.5) & (pixels[:, 1] < self.height - 0.5)
            in_view = front & (pixels > -0.5).all(1) & inside
        pixels[~in_view] = np.nan
        return Projection(pixels, depth, in_view)

    def _polynomials(self) -> tuple[Polynomial, Polynomial]:
        """Numerator and denominator of the radial factor, in squared radius (squared angle for equidistant)."""
        k = self.coefficients
        if self.distortion == "equidistant":
            return Polynomial([1.0, *k]), Polynomial([1.0])
        denominator = [1.0, *k[5:]] if self.distortion == "rational_polynomial" else [1.0]
        return Polynomial([1.0, k[0], k[1], k[4]]), Polynomial(denominator)

    @functools.cached_property
    def _fold(self) -> float:
        """Squared radius (angle) where the distorted radius stops growing: the end of what the model describes.

        Beyond it the polynomial turns back, and points far outside the lens would fold into the image.
        """
        n, d = self._polynomials()
        t = Polynomial([0.0, 1.0])
        # d/dr of r n(r^2)/d(r^2), times d^2; a root of d is a pole.
        slope = n * d + 2 * t * (n.deriv() * d - n * d.deriv())
        roots = np.concatenate([np.atleast_1d(slope.trim().roots()), np.atleast_1d(d.trim().roots())])
        real = roots.real[(np.abs(roots.imag) < 1e-9 * np.maximum(1.0, np.abs(roots))) & (roots.real > 0)]
        return float(real.min(initial=np.inf))

    def _distort(
        self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Normalised image coordinates to distorted ones, as OpenCV's calib3d and fisheye modules define them."""
        numerator, denominator = self._polynomials()
        r2 = x * x + y * y
        if self.distortion == "equidistant":
            r = np.sqrt(r2)
            theta = np.arctan(r)
            scale = np.where(r > 1e-8, theta / np.maximum(r, 1e-8), 1.0) * numerator(theta * theta)
            folded = theta * theta >= self._fold
            return np.where(folded, np.inf, x * scale), np.where(folded, np.inf, y * scale)
        p1, p2 = self.coefficients[2:4]
        radial = numerator(r2) / denominator(r2)
        folded = r2 >= self._fold
        bent_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        bent_y = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        return np.where(folded, np.inf, bent_x), np.where(folded, np.inf, bent_y)


def visible(
    projection: Projection,
    camera: Camera,
    *,
    beam_spacing: float = DEFAULT_SPACING,
    azimuth_spacing: float = 0.32,
    margin: float = 0.05,
) -> npt.NDArray[np.bool_]:
    """Which points in view the camera sees, (N,) bool: not those behind a surface that the LiDAR looks past.

    The LiDAR sits elsewhere than the camera. A point is hidden when nearer points, by more than `margin` of their depth
    plus half a metre, lie in the image both above and below it (in its own row counts as both), within a beam's spacing
    up and down and a cell of the azimuth's spacing to either side. On one side alone they hide nothing: below a far
    point of the road there is always nearer road.

    Args:
        projection: of one scan in `camera`.
        camera: its camera.
        beam_spacing: degrees between the LiDAR's beams, as `mdkt_ros.beams.beam_spacing` measures it on the scan.
        azimuth_spacing: degrees, about twice the step between two shots of a beam.
        margin: share of the depth.
    """
    seen = projection.in_view.copy()
    index = np.flatnonzero(seen)
    if not len(index):
        return seen
    cell = max(float(camera.matrix[0, 0]) * np.radians(azimuth_spacing), 1.0)
    reach = max(math.ceil(float(camera.matrix[1, 1]) * np.radians(beam_spacing)), 1)
    u = (np.clip(projection.pixels[index, 0], 0, None) / cell).astype(np.int64) + 1
    v = np.clip(np.rint(projection.pixels[index, 1]), 0, camera.height - 1).astype(np.int64)
    nearest = np.full((camera.height, int(camera.width / cell) + 3), np.inf)
    np.minimum.at(nearest, (v, u), projection.depth[index])
    wide = nearest.copy()
    wide[:, 1:] = np.minimum(wide[:, 1:], nearest[:, :-1])
    wide[:, :-1] = np.minimum(wide[:, :-1], nearest[:, 1:])
    front = np.maximum(_nearest_above(wide, reach), _nearest_above(wide[::-1], reach)[::-1])[v, u]
    seen[index] = projection.depth[index] <= front * (1 + margin) + 0.5
    return seen


def _nearest_above(depth: npt.NDArray[np.float64], reach: int) -> npt.NDArray[np.float64]:
    """Least depth of each pixel and the `reach` rows above it, by doubling."""
    out, done = depth.copy(), 0
    while done < reach and done + 1 < len(depth):
        step = min(done + 1, reach - done)
        out[step:] = np.minimum(out[step:], out[:-step])
        done += step
    return out
