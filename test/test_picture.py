"""Pictures of one scan, from whatever the drive is."""

from __future__ import annotations

import numpy as np
import pytest
from fake_drive import FakeDrive
from PIL import Image

from mdkt_ros.drive.convert import convert
from mdkt_ros.errors import CameraError, DriveError, LabelError, OutputError
from mdkt_ros.render.picture import PICTURES, picture_for_path


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "bag"
    convert(FakeDrive(2), path)
    return path


@pytest.fixture
def bare(tmp_path):
    """A scan without labels and without images."""
    path = tmp_path / "000000.bin"
    np.random.default_rng(0).uniform(-9, 9, (100, 4)).astype("<f4").tofile(path)
    return path


@pytest.mark.parametrize("kind", PICTURES)
def test_each_kind_is_drawn_in_the_colours_of_the_truth(bag, tmp_path, kind):
    picture_for_path(bag, tmp_path / "a.png", kind, scan=1)
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 20
    assert not list(tmp_path.glob(".mdkt*"))


def test_the_camera_is_chosen_by_name(bag, tmp_path):
    camera = FakeDrive(1)[0].views[-1].camera
    # Topic names hold no spaces, and a bag's cameras are called as their topics.
    picture_for_path(bag, tmp_path / "a.jpg", "overlay", camera=camera.name.replace(" ", "_"))
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.size == (camera.width, camera.height)
    with pytest.raises(CameraError, match="has no image of 'CAM_NONE', but of "):
        picture_for_path(bag, tmp_path / "b.png", "overlay", camera="CAM_NONE")


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        ("birdseye", {}, LabelError, "neither a prediction nor a truth"),
        ("overlay", {}, LabelError, "neither a prediction nor a truth"),
        ("birdseye", {"scan": 1}, DriveError, "has no scan 1; there are 1, from 0"),
    ],
)
def test_what_cannot_be_drawn_says_why_and_leaves_nothing(bare, tmp_path, kind, options, error, message):
    with pytest.raises(error, match=message):
        picture_for_path(bare, tmp_path / "a.png", kind, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["000000.bin"]


def test_only_pictures_and_nothing_over_what_is_there(bag, tmp_path):
    with pytest.raises(OutputError, match=r"written as \.png or \.jpg"):
        picture_for_path(bag, tmp_path / "a.gif")
    (tmp_path / "a.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        picture_for_path(bag, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"mine"
