"""Towns of synthetic drives: what is there, what moves and what stays, and the vehicle's way through them."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_frames import SEED, in_world

pytest.importorskip("embreex", reason="synthetic drives need the extra `synthetic` (embreex)")

from mdkt_ros.drive.synthetic import PRETRAINING_SEEDS, TEST_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS, SyntheticDrive
from mdkt_ros.drive.synthetic.drive import MIXES
from mdkt_ros.drive.synthetic.ground import split
from mdkt_ros.drive.synthetic.kinds import Kind, raw_nuscenes, raw_semantickitti
from mdkt_ros.drive.synthetic.town import build_town
from mdkt_ros.errors import ConfigError
from mdkt_ros.labels import LabelSpace


def test_seeds_of_different_purposes_are_disjoint():
    purposes = (TRAIN_SEEDS, VALIDATION_SEEDS, TEST_SEEDS, PRETRAINING_SEEDS)
    assert len(set().union(*purposes)) == sum(len(p) for p in purposes)


@pytest.mark.parametrize("space", ["semantickitti", "nuscenes"])
def test_every_kind_has_a_raw_id_and_every_class_a_kind(space):
    labels = LabelSpace.load(space)
    kinds = np.array(list(Kind), dtype=np.uint8)
    if space == "nuscenes":
        raw = raw_nuscenes(kinds)
    else:
        raw = np.concatenate([raw_semantickitti(kinds, np.full(len(kinds), m)) for m in (False, True)])
    assert set(range(len(labels))) <= set(labels.from_raw(raw, "kinds").tolist())


def test_a_town_has_what_nuscenes_asks_for(town):
    nuscenes = SyntheticDrive(SEED, format="nuscenes", scans=3, rate_hz=2.0, town=town)
    moving = {int(s.kind) for s in nuscenes.traffic.stock}
    kinds = set(np.unique(town.static.kind).tolist()) | moving
    assert kinds >= {int(k) for k in Kind} - {int(Kind.OUTLIER), int(Kind.EGO)}


def test_what_moves_has_moving_ids_and_stays_in_its_box(town):
    drive = SyntheticDrive(SEED, scans=12, rate_hz=2.0, images=False, town=town)
    movers = {m.instance: m for m in drive.traffic.movers}
    first: dict[int, np.ndarray] = {}
    compared = 0
    for index in range(0, 12, 2):
        frame = drive[index]
        world = in_world(frame)
        moving = (frame.raw_labels >= 252) & (frame.raw_labels <= 259)
        rider = np.isin(frame.raw_labels, [252, 253, 254, 255, 257, 258])
        assert (moving == rider).all()
        assert set(frame.instance[moving].tolist()) <= set(movers)
        assert not set(frame.instance[~moving].tolist()) & set(movers)
        things = {t.instance: t for t in drive.things(index)}
        assert len(things) == len(drive.things(index))
        for instance in np.unique(frame.instance[frame.instance > 0]):
            if instance not in things:
                continue
            thing = things[int(instance)]
            mine = frame.instance == instance
            offset = world[mine] - thing.center
            c, s = np.cos(thing.yaw), np.sin(thing.yaw)
            local = np.stack(
                [offset[:, 0] * c + offset[:, 1] * s, offset[:, 1] * c - offset[:, 0] * s, offset[:, 2]], 1
            )
            assert (np.abs(local) <= np.array(thing.size) / 2 + 0.35).mean() > 0.97, thing
            if instance in movers and thing.speed > 0 and not movers[int(instance)].walks:
                if instance in first:
                    travelled = np.linalg.norm(np.array(thing.center[:2]) - first[int(instance)][1:])
                    time = drive.time(index) - first[int(instance)][0]
                    assert travelled == pytest.approx(thing.speed * time, rel=0.05)
                    compared += 1
                first[int(instance)] = np.array([drive.time(index), *thing.center[:2]])
    assert compared > 0


def test_what_stands_stays_in_the_world(town):
    drive = SyntheticDrive(SEED, scans=30, rate_hz=10.0, images=False, beams=32, town=town)
    first, last = drive[0], drive[5]
    moved = np.linalg.norm(last.world_from_lidar[:3, 3] - first.world_from_lidar[:3, 3])
    assert 1.0 < moved < 8.0
    fixed = [drive.labels.index(n) for n in ("building", "fence", "traffic-sign", "pole", "trunk")]

    def cells(frame, size=0.6):
        world = in_world(frame)[np.isin(frame.labels, fixed) & (np.linalg.norm(frame.points, axis=1) < 25)]
        return np.floor(world[:, :2] / size).astype(int)

    near = {(x + i, y + j) for x, y in cells(first) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    here = cells(last)
    assert len(here) > 500
    assert np.mean([tuple(c) in near for c in here]) > 0.9


def test_the_vehicle_keeps_to_the_road_and_touches_nothing(town):
    drive = SyntheticDrive(SEED, scans=12, rate_hz=0.25, town=town)
    times = np.arange(0.2, 48, 0.25)
    xy, yaw = drive.ego.position(times), drive.ego.yaw(times)
    assert (town.network.ground(xy).road < -0.9).all()
    assert np.abs(np.diff(yaw)).max() < 0.6
    speed = np.linalg.norm(np.diff(xy, axis=0), axis=1) / 0.25
    assert speed.max() < 8.3
    assert speed.min() > 1.0
    for index in range(len(drive)):
        position, heading = drive.ego.position(drive.time(index)), float(drive.ego.yaw(drive.time(index)))
        for thing in drive.things(index, 12.0):
            gap = np.array(thing.center[:2]) - position
            ahead, beside = gap @ [np.cos(heading), np.sin(heading)], gap @ [-np.sin(heading), np.cos(heading)]
            if thing.kind in (Kind.CAR, Kind.TRUCK, Kind.BUS, Kind.TRAILER):
                assert abs(ahead - 1.4) > 2 or abs(beside) > 1.6, thing


def test_nuscenes_drives_through_a_city(town, city):
    """More of what a suburb has next to none of, on the same streets."""
    kinds = {}
    assert MIXES["nuscenes"] == city.mix != town.mix == MIXES["semantickitti"]
    assert [r.offset for r in city.network.roads] == [r.offset for r in town.network.roads]
    for form, of in (("semantickitti", town), ("nuscenes", city)):
        drive = SyntheticDrive(SEED, format=form, scans=4, rate_hz=0.2, images=False, town=of)
        standing = np.bincount(drive.town.static.kind, minlength=len(Kind))
        moving = np.bincount([drive.traffic.stock[m.stock].kind for m in drive.traffic.movers], minlength=len(Kind))
        kinds[form] = standing, moving
    for kind in (Kind.CONE, Kind.BARRIER):
        assert kinds["nuscenes"][0][kind] > 2 * kinds["semantickitti"][0][kind]
    for kind in (Kind.PERSON, Kind.TRUCK):
        assert kinds["nuscenes"][1][kind] > 1.3 * kinds["semantickitti"][1][kind]


def test_another_seed_is_another_town(town):
    other = build_town(SEED + 1)
    assert len(other.static) != len(town.static)
    assert [r.offset for r in other.network.roads] != [r.offset for r in town.network.roads]
    with pytest.raises(ConfigError, match=f"town is that of seed {SEED + 1}"):
        SyntheticDrive(SEED, town=other)


def test_splitting_keeps_area_and_separates_signs():
    rng = np.random.default_rng(0)
    triangles = np.concatenate([rng.normal(size=(500, 3, 2)), rng.normal(size=(500, 3, 1))], axis=2)

    def area(t):
        a, b = t[:, 1, :2] - t[:, 0, :2], t[:, 2, :2] - t[:, 0, :2]
        return np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / 2

    below, above, cuts = split(triangles, 2)
    assert area(below) + area(above) == pytest.approx(area(triangles))
    assert below[..., 2].max() < 1e-9
    assert above[..., 2].min() > -1e-9
    np.testing.assert_allclose(cuts[..., 2], 0, atol=1e-9)
