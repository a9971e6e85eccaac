"""Ray casting against what stands (built once) and what moves (rebuilt for every moment)."""

from __future__ import annotations

import functools
import os
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh

from mdkt_ros.drive.synthetic.materials import Material
from mdkt_ros.drive.synthetic.mesh import Mesh

Array = npt.NDArray[np.float32]
_WIRE_PITCH, _WIRE_HALF = 0.055, 0.010
_PASSES = 3


class Hits(NamedTuple):
    """Where rays ended.

    Attributes:
        triangle: (R,) int32 as the moment numbers them, -1 for nothing.
        distance: (R,) float32 metres, inf for nothing.
        uv: (R, 2) float32 texture coordinates in metres.
    """

    triangle: npt.NDArray[np.int32]
    distance: Array
    uv: Array


def _embree(mesh: Mesh) -> rtcore_scene.EmbreeScene | None:
    if not len(mesh):
        return None
    _start_embree()
    scene = rtcore_scene.EmbreeScene()
    TriangleMesh(scene, np.ascontiguousarray(mesh.corners, dtype=np.float32))
    return scene


@functools.cache
def _start_embree() -> None:
    """Let Embree build its trees with one thread: a moment's are too small for more, which doubled the CPU time.

    Embree counts the cores that the calling thread may use when its device is made, with the process's first scene.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        rtcore_scene.EmbreeScene()
    finally:
        os.sched_setaffinity(0, allowed)


def _normals(mesh: Mesh) -> Array:
    c = mesh.corners
    a, b = c[:, 1] - c[:, 0], c[:, 2] - c[:, 0]
    normal: Array = np.stack(
        [
            a[:, 1] * b[:, 2] - a[:, 2] * b[:, 1],
            a[:, 2] * b[:, 0] - a[:, 0] * b[:, 2],
            a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0],
        ],
        axis=1,
    )
    length = np.sqrt(np.einsum("ij,ij->i", normal, normal))
    normal /= np.maximum(length, np.float32(1e-12))[:, None]
    return normal


class Scene:
    """What stands. `at` adds what moves."""

    def __init__(self, static: Mesh) -> None:
        self.static = static
        self.static_normals = _normals(static)
        self.static_scene = _embree(static)

    def at(self, dynamic: Mesh) -> Moment:
        """The scene at one moment."""
        return Moment(self, dynamic)


class Moment:
    """The scene at one moment. Triangles are numbered: first what stands, from `first_moving` on what moves."""

    def __init__(self, scene: Scene, dynamic: Mesh) -> None:
        self.static, self.dynamic = scene.static, dynamic
        self.first_moving = len(scene.static)
        self._normals = (scene.static_normals, _normals(dynamic))
        self._parts = [(scene.static_scene, 0), (_embree(dynamic), self.first_moving)]

    def _gather(
        self, still: npt.NDArray[Any], moving: npt.NDArray[Any], triangle: npt.NDArray[np.int32]
    ) -> npt.NDArray[Any]:
        values = still[np.clip(triangle, 0, self.first_moving - 1)]
        if len(moving):
            beyond = np.flatnonzero(triangle >= self.first_moving)
            values[beyond] = moving[triangle[beyond] - self.first_moving]
        return values

    def of(
        self, name: Literal["material", "kind", "instance", "color", "uv"], triangle: npt.NDArray[np.int32]
    ) -> npt.NDArray[Any]:
        """An attribute of the mesh for triangles (R,); those of -1 get some other's."""
        return self._gather(getattr(self.static, name), getattr(self.dynamic, name), triangle)

    def normal(self, triangle: npt.NDArray[np.int32]) -> Array:
        """(R, 3) unit normals, of either sign."""
        return self._gather(*self._normals, triangle)

    def cast(self, origins: Array, directions: Array) -> Hits:
        """First hits of rays (R, 3), (R, 3) with unit directions; wire mesh is passed between its wires."""
        count = len(directions)
        triangle = np.full(count, -1, dtype=np.int32)
        distance = np.full(count, np.inf, dtype=np.float32)
        uv = np.zeros((count, 2), dtype=np.float32)
        rays = np.arange(count)
        travelled = np.zeros(count, dtype=np.float32)
        start = np.ascontiguousarray(np.broadcast_to(origins, (count, 3)), dtype=np.float32)
        heading = np.ascontiguousarray(directions, dtype=np.float32)
        for step in range(_PASSES):
            found, far, where = self._first(start, heading)
            triangle[rays], distance[rays], uv[rays] = found, far + travelled, where
            hit = found >= 0
            wire = hit & (self.of("material", found) == Material.WIRE_MESH)
            if not wire.any() or step == _PASSES - 1:
                break
            cell = np.abs((where[wire] + [0.5 * _WIRE_PITCH, 0]) % _WIRE_PITCH - _WIRE_PITCH / 2)
            through = np.flatnonzero(wire)[(cell < _WIRE_PITCH / 2 - _WIRE_HALF).all(1)]
            if not len(through):
                break
            ahead = far[through] + np.float32(0.01)
            rays, travelled = rays[through], travelled[through] + ahead
            start, heading = start[through] + heading[through] * ahead[:, None], heading[through]
        return Hits(triangle, distance, uv)

    def _first(self, origins: Array, directions: Array) -> tuple[npt.NDArray[np.int32], Array, Array]:
        triangle = np.full(len(origins), -1, dtype=np.int32)
        distance = np.full(len(origins), np.inf, dtype=np.float32)
        bary = np.zeros((len(origins), 2), dtype=np.float32)
        for scene, offset in self._parts:
            if scene is None:
                continue
            result = scene.run(origins, directions, output=True)
            nearer = (result["primID"] >= 0) & (result["tfar"] < distance)
            triangle = np.where(nearer, result["primID"] + offset, triangle).astype(np.int32)
            distance = np.where(nearer, result["tfar"], distance)
            bary[nearer, 0], bary[nearer, 1] = result["u"][nearer], result["v"][nearer]
        corners = self.of("uv", triangle)
        uv = corners[:, 0] * (1 - bary.sum(1))[:, None] + corners[:, 1] * bary[:, :1] + corners[:, 2] * bary[:, 1:]
        return triangle, distance, uv

    def occluded(self, origins: Array, directions: Array) -> npt.NDArray[np.bool_]:
        """Whether anything stands in the way of rays (R, 3), (R, 3)."""
        blocked = np.zeros(len(origins), dtype=np.bool_)
        for scene, _ in self._parts:
            if scene is not None:
                blocked |= scene.run(origins, directions, query="OCCLUDED") >= 0
        return blocked
