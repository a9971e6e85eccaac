"""What a live labeller tells of itself, the topics of a label space, and how it gets warm and ends."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from live_setting import cloud_message
from small_models import random_meta, random_network

from mdkt_ros.errors import ConfigError
from mdkt_ros.live.gaps import Gaps
from mdkt_ros.live.interruption import make_interruptible
from mdkt_ros.live.labeller import check_groups
from mdkt_ros.live.report import values
from mdkt_ros.live.warmup import street, warm_up
from mdkt_ros.segmenter import Segmenter
from mdkt_ros.voxel_grid import VoxelGrid
from mdkt_ros.voxels import voxelize


def test_the_report_names_every_scan_that_came(setting):
    setting.process(cloud_message())
    setting.process(cloud_message(count=0))
    setting.statistics.count("dropped", 3)
    setting.statistics.image(1)
    setting.statistics.skip_image(1, "not usable")
    shown = values(setting.statistics.snapshot(), setting.segmenter.device, "native")
    assert shown["scans received"] == "2"
    assert shown["scans dropped for newer ones"] == "3"
    assert shown["scans skipped: empty"] == "1"
    assert shown["camera 1 skipped: not usable"] == "1"
    assert shown["device"] == "cpu"
    assert float(shown["total ms"].split()[0]) > 0


def test_groups_become_topics_or_the_checkpoint_is_refused(segmenter):
    check_groups(segmenter.labels, cameras=2)
    for name in ("segmentation", "overlay1", "label_info", "a b", "ü"):
        labels = SimpleNamespace(groups={name: ()})
        with pytest.raises(ConfigError, match=f"checkpoint: its group '{name}'"):
            check_groups(labels, cameras=2)


def test_the_invented_street_looks_like_a_scan(segmenter):
    points = street(1001)
    assert points.shape == (1001, 3)
    assert points.dtype == np.float32
    assert np.isfinite(points).all()
    assert np.linalg.norm(points, axis=1).max() < 81
    assert points[:, 2].min() == pytest.approx(-1.73, abs=0.1)
    # As many voxels of 0.1 m as of a KITTI scan of that size: 59,543 of 124,668 points.
    grid = VoxelGrid(0.1, (-60.0, -60.0, -4.0), (60.0, 60.0, 6.0))
    assert len(voxelize(street(120_000), None, grid, ("x",))) == pytest.approx(57_300, rel=0.05)
    assert warm_up(segmenter, 200, passes=1) > 0


# ------------------------------------------------------------------------------------------ scans that are missing


def missing(stamps):
    gaps = Gaps()
    return [gaps.add(stamp) for stamp in stamps]


def jittered(count, period=100, jitter=10):
    return 10_000 + period * np.arange(count) + np.random.default_rng(0).integers(-jitter, jitter, count, endpoint=True)


def test_even_stamps_miss_nothing_however_they_jitter():
    assert not any(missing(jittered(300).tolist()))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7])
def test_what_is_lost_on_the_way_is_counted(share):
    stamps = jittered(2000, jitter=5)
    came = np.random.default_rng(1).random(2000) >= share
    came[0] = came[-1] = True
    assert sum(missing(stamps[came].tolist())) == pytest.approx((~came).sum(), rel=0.01)


def test_a_pause_or_time_that_runs_backward_is_no_loss():
    stamps = [100 * k for k in range(1, 20)]
    assert not any(missing([*stamps, *(stamp + 10_000 for stamp in stamps), *stamps, *stamps]))
    assert missing([*stamps, 2200])[-1] == 2


# ---------------------------------------------------------------------------------------------------------- the end


def test_a_forward_pass_ends_before_its_next_layer_when_told():
    asked = []
    segmenter = Segmenter(random_network(), random_meta(), device="cpu")
    make_interruptible(segmenter.network, lambda: len(asked) > 5 or asked.append(0))
    with pytest.raises(InterruptedError):
        segmenter.segment(street(500), np.ones(500, np.float32))
    assert len(asked) == 6
    asked.clear()
    fresh = Segmenter(random_network(), random_meta(), device="cpu")
    make_interruptible(fresh.network, lambda: False)
    plain = Segmenter(random_network(), random_meta(), device="cpu").segment(street(500), np.ones(500, np.float32))
    assert np.array_equal(fresh.segment(street(500), np.ones(500, np.float32)).class_id, plain.class_id)
