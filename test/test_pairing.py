"""Pairing of scans and images."""

from __future__ import annotations

import pytest

from mdkt_ros.pairing import ImagePairing

MS = 1_000_000


def test_nearest_image_of_each_camera_before_or_after_the_scan():
    pairing: ImagePairing[str, str] = ImagePairing(max_delay=50 * MS)
    for stamp in (0, 40, 80, 120):
        pairing.add("left", stamp * MS, f"l{stamp}")
    pairing.add("right", 110 * MS, "r110")
    found = pairing.match(90 * MS)
    assert {camera: paired.image for camera, paired in found.items()} == {"left": "l80", "right": "r110"}
    assert found["right"].stamp == 110 * MS


def test_the_limit_counts_in_both_directions_and_is_inclusive():
    pairing: ImagePairing[str, str] = ImagePairing(max_delay=50 * MS)
    pairing.add("late", 150 * MS, "x")
    pairing.add("early", 50 * MS, "y")
    pairing.add("far", 151 * MS, "z")
    assert sorted(pairing.match(100 * MS)) == ["early", "late"]


def test_a_silent_camera_does_not_silence_the_others():
    pairing: ImagePairing[int, str] = ImagePairing(max_delay=50 * MS)
    pairing.add(1, 0, "once")
    for i in range(1, 20):
        pairing.add(0, i * 100 * MS, "live")
        assert list(pairing.match(i * 100 * MS)) == [0]


def test_every_scan_of_a_looping_bag_finds_its_own_image():
    # The order within a loop differs from loop to loop, as it does with several subscriptions.
    pairing: ImagePairing[int, tuple[int, int]] = ImagePairing(max_delay=50 * MS)
    matched = 0
    for loop in range(4):
        for i in range(20):
            stamp = i * 100 * MS
            for camera in ((0, 1), (1, 0))[loop % 2]:
                pairing.add(camera, stamp + camera * 10 * MS, (loop, i))
            found = pairing.match(stamp)
            assert {paired.image for paired in found.values()} == {(loop, i)}
            matched += len(found)
    assert matched == 4 * 20 * 2


def test_the_scan_may_be_the_first_to_jump_back():
    pairing: ImagePairing[int, str] = ImagePairing(max_delay=50 * MS)
    pairing.add(0, 500 * MS, "old")
    pairing.match(500 * MS)
    assert pairing.match(400 * MS) == {}
    pairing.add(0, 400 * MS, "new")
    assert pairing.match(400 * MS)[0].image == "new"


def test_a_late_camera_is_no_jump():
    pairing: ImagePairing[int, str] = ImagePairing(max_delay=50 * MS)
    pairing.match(1000 * MS)
    pairing.add(0, 700 * MS, "behind")
    pairing.match(1100 * MS)
    pairing.add(0, 690 * MS, "slightly out of order")
    pairing.add(0, 1090 * MS, "now")
    assert pairing.match(1100 * MS)[0].image == "now"


def test_memory_is_bounded():
    pairing: ImagePairing[int, int] = ImagePairing(keep=3)
    for i in range(100):
        pairing.add(0, i, i)
    assert len(pairing._images[0]) == 3


def test_reset_and_wrong_arguments():
    pairing: ImagePairing[int, int] = ImagePairing()
    pairing.add(0, 0, 1)
    pairing.reset()
    assert pairing.match(0) == {}
    with pytest.raises(ValueError, match="max_delay"):
        ImagePairing(max_delay=-1)


def test_stragglers_of_the_old_run_are_no_second_jump():
    pairing: ImagePairing[str, str] = ImagePairing(100)
    for stamp in range(0, 20_000, 50):
        pairing.add("left", stamp, f"old {stamp}")
        pairing.add("right", stamp, f"old {stamp}")
        pairing.advance(stamp)
    assert pairing.advance(0)
    assert not pairing.add("left", 0, "new 0")
    # Another stream's last message comes after the others have begun again.
    assert not pairing.add("right", 19_980, "old")
    assert not pairing.advance(19_950)
    assert not pairing.add("right", 0, "new 0")
    assert {camera: paired.image for camera, paired in pairing.match(10).items()} == dict.fromkeys(
        ("left", "right"), "new 0"
    )
    # The new run comes to the old one's times in its turn, and jumps again.
    for stamp in range(50, 20_000, 50):
        assert not pairing.add("right", stamp, f"new {stamp}")
        assert not pairing.advance(stamp)
    assert pairing.match(19_950)["right"].image == "new 19950"
    assert pairing.add("right", 0, "third")


def test_time_that_jumps_by_a_moment_loses_nothing_for_long():
    pairing: ImagePairing[str, int] = ImagePairing(100)
    pairing.add("left", 1000, 1000)
    assert pairing.add("left", 800, 800)
    for stamp in range(810, 1300, 10):
        pairing.add("left", stamp, stamp)
    assert pairing.match(1290)["left"].image == 1290


def test_a_single_wrong_stamp_costs_no_more_than_a_moment():
    pairing: ImagePairing[str, int] = ImagePairing(100)
    for stamp in range(10_000, 20_000, 50):
        pairing.add("left", stamp, stamp)
        pairing.advance(stamp)
    assert pairing.add("left", 7, 7)
    lost = 0
    for stamp in range(20_000, 21_000, 50):
        pairing.add("left", stamp, stamp)
        lost += pairing.match(stamp).get("left") is None
    assert lost <= 3
    assert pairing.match(20_950)["left"].image == 20_950
