"""The LiDAR of synthetic drives in a room: noise, glass, wire mesh, what moves before what stands."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("embreex", reason="synthetic drives need the extra `synthetic` (embreex)")

from mdkt_ros.drive.synthetic.kinds import Kind
from mdkt_ros.drive.synthetic.lidar import HDL64E, beam_directions, scan
from mdkt_ros.drive.synthetic.materials import Material
from mdkt_ros.drive.synthetic.mesh import quads, surface
from mdkt_ros.drive.synthetic.scene import Scene
from mdkt_ros.drive.synthetic.town import stream


def room(material, kind=Kind.BUILDING):
    """A square room of 10 m around the origin, 40 m high."""
    corners = np.array([[-10, -10], [10, -10], [10, 10], [-10, 10]])
    walls = [[[*a, -20], [*b, -20], [*b, 20], [*a, 20]] for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)]
    return surface(quads(walls), material, (0.5, 0.5, 0.5), kind)


def sweep(mesh, lidar=HDL64E):
    rng = stream(0)
    beams = beam_directions(lidar, rng, stream(1))
    moment = Scene(mesh).at(surface(np.zeros((0, 3, 3)), Material.ASPHALT, (0, 0, 0)))
    return scan(moment, lidar, np.zeros((1, 3), np.float32), np.eye(3, dtype=np.float32)[None], beams, rng)


def test_range_noise_of_a_wall():
    taken = sweep(room(Material.PLASTER))
    solid = taken.kind == Kind.BUILDING
    distance = np.abs(taken.points[solid, :2]).max(1)
    assert abs(distance.mean() - 10) < 0.002
    assert 0.01 < distance.std() < 0.03
    assert 0.85 < solid.sum() / (64 * HDL64E.steps) <= 1.0


def test_glass_swallows_pulses_and_paint_does_not():
    wall, glass = (len(sweep(room(m)).points) for m in (Material.PLASTER, Material.CAR_GLASS))
    assert glass < 0.4 * wall


def test_wire_mesh_is_seen_through():
    outer = room(Material.PLASTER)
    inner = room(Material.WIRE_MESH, Kind.FENCE).placed((0, 0, 0), 0.0, 0.5)
    from mdkt_ros.drive.synthetic.mesh import concatenate

    taken = sweep(concatenate([outer, inner]))
    fence, wall = (taken.kind == Kind.FENCE).sum(), (taken.kind == Kind.BUILDING).sum()
    assert fence > 10_000
    assert wall > 10_000


def test_moving_triangles_hide_what_stands():
    front = room(Material.CLOTH, Kind.PERSON).placed((0, 0, 0), 0.0, 0.4)
    moment = Scene(room(Material.PLASTER)).at(front)
    hits = moment.cast(np.zeros(3, np.float32), np.array([[1, 0, 0], [0, 1, 0]], np.float32))
    np.testing.assert_allclose(hits.distance, 4.0, atol=1e-4)
    assert (hits.triangle >= moment.first_moving).all()
    assert moment.of("kind", hits.triangle).tolist() == [Kind.PERSON, Kind.PERSON]
    assert moment.occluded(np.zeros((1, 3), np.float32), np.array([[1, 0, 0]], np.float32)).all()
