"""Components of an image network's features: what they are, where they are read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_clip import VIT, write_clip
from small_drives import write_kitti

from mdkt_ros.errors import ConfigError
from training.config import load_config
from training.data.image_components import (
    BASIS,
    Basis,
    ImageComponents,
    find_components,
    open_components,
    save_basis,
)
from training.data.image_text import ImageTextCache, calibrate
from training.data.image_text_head import HEAD
from training.data.image_text_maker import read_shots
from training.data.pair_finder import scale_image
from training.data.shape import COLUMNS, shape_columns, shape_measures
from training.data.source import Source, open_source
from training.pseudo_labels import label_draw, main
from training.scheme.backbone import make_backbone
from training.scheme.calibration_map import COMPONENT_SCALE
from training.scheme.image_network import STRIDES, ImageNetwork, build_image_network

SMALL = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight scans with two cameras, weights of an image network, and an image-text model."""
    root = tmp_path_factory.mktemp("components")
    write_kitti(root / "data", count=8)
    torch.manual_seed(1)
    backbone = make_backbone(SMALL, STRIDES)
    backbone.train()(torch.rand(4, 3, 64, 64))
    save_file(backbone.state_dict(), root / "weights.safetensors", {"name": SMALL})
    write_clip(root / "clip", VIT)
    return root


def config_of(root: Path):
    names = {"data.kind": "semantickitti", "data.root": root / "data", "data.draws": root / "draws"}
    names |= {"data.percent": 40, "image_network.name": SMALL, "image_network.weights": root / "weights.safetensors"}
    return load_config(None, [f"{key}={value}" for key, value in names.items()])


def network_and_source(root: Path) -> tuple[ImageNetwork, Source]:
    config = config_of(root)
    return build_image_network(config.image_network), open_source(config.data)


def test_components_are_the_features_seen_along_their_directions(drive: Path):
    network, source = network_and_source(drive)
    components = ImageComponents(network, 0.5, find_components(network, 0.5, source, 12))
    shot = read_shots(source[2])[0]
    features, seen = (of(shot.image, shot.pixels) for of in (components.features, components.at))
    basis = components.basis
    np.testing.assert_allclose(seen, np.clip((features - basis.mean) @ basis.matrix, -0.99, 0.99), atol=1e-5)
    assert seen.dtype == np.float32
    assert seen.shape == (len(shot.pixels), components.count) == (len(shot.pixels), 12)
    # At the centre of a place of the finest map its feature itself, wherever the padding is.
    small, _ = scale_image(shot.image, 0.5)
    (maps, *_) = network.maps(torch.from_numpy(small)[None].float() / 255)
    y, x = 1, 2
    centre = (np.array([[x, y]]) + 0.5) * 4 / 0.5 - 0.5
    at = components.features(shot.image, centre)[0, : maps.shape[1]]
    np.testing.assert_allclose(at, maps[0, :, y, x].detach().numpy(), atol=1e-5)


def test_directions_are_principal_and_of_one_size(drive: Path):
    network, source = network_and_source(drive)
    basis = find_components(network, 1.0, source, 8)
    plain = ImageComponents(network, 1.0, basis)
    shots = [shot for index in range(8) for shot in read_shots(source[index])]
    features = np.concatenate([plain.features(shot.image, shot.pixels) for shot in shots])
    np.testing.assert_allclose(features.mean(0), basis.mean, atol=1e-4)
    seen = (features - basis.mean) @ basis.matrix
    assert np.sqrt((seen**2).mean()) == pytest.approx(1 / COMPONENT_SCALE, rel=1e-3)
    spread = seen.std(0)
    assert np.all(np.diff(spread) <= 1e-6)  # the largest first
    correlation = np.corrcoef(seen.T) - np.eye(8)
    assert np.abs(correlation).max() < 1e-2
    again = find_components(network, 1.0, source, 8)
    np.testing.assert_array_equal(again.matrix, basis.matrix)


def test_what_cannot_be_found_is_named(drive: Path, tmp_path: Path):
    network, source = network_and_source(drive)
    width = sum(network.backbone.feature_info.channels()[stage] for stage in network.stages)
    with pytest.raises(ConfigError, match=rf"--components 9999: {SMALL} has {width} features"):
        find_components(network, 1.0, source, 9999)
    few = Source(source.kind, source.root, source.names[:1], source.labels, source.drive)
    with pytest.raises(ConfigError, match=r"--components 100: only \d+ points of 1 scans are in an image"):
        find_components(network, 1.0, few, 100)
    (tmp_path / BASIS).write_bytes(b"rubbish")
    (tmp_path / HEAD).touch()
    with pytest.raises(ConfigError, match=r"components\.safetensors: damaged"):
        open_components(tmp_path, config_of(drive).image_network, 1.0, source, 8, torch.device("cpu"))


def test_a_cache_goes_on_with_the_components_that_it_was_begun_with(drive: Path, tmp_path: Path):
    _, source = network_and_source(drive)
    rng = np.random.default_rng(0)
    settings, device = config_of(drive).image_network, torch.device("cpu")
    width = len(open_components(tmp_path, settings, 1.0, source, 4, device).basis.mean)
    there = Basis(np.zeros(width, np.float32), rng.normal(size=(width, 4)).astype(np.float32))
    save_basis(tmp_path, there)
    found = open_components(tmp_path, settings, 1.0, source, 4, device)  # left over: there is no cache
    assert not np.array_equal(found.basis.matrix, there.matrix)
    (tmp_path / HEAD).touch()
    opened = open_components(tmp_path, settings, 1.0, source, 4, device)
    np.testing.assert_array_equal(opened.basis.matrix, there.matrix)
    assert open_components(tmp_path, settings, 1.0, source, 5, device).count == 5  # of another count: found anew


def test_the_command_stores_them_behind_the_scores(drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, config = tmp_path / "cache", config_of(drive)
    data = [f"data.root={drive / 'data'}", f"data.draws={drive / 'draws'}", "data.kind=semantickitti"]
    data += ["data.percent=40", f"image_network.name={SMALL}"]
    network = [*data, f"image_network.weights={drive / 'weights.safetensors'}"]
    model = ["--model", f"local-dir:{drive / 'clip'}", "--device", "cpu", "--window", "0", "--full-precision"]
    arguments = ["--out", str(out), *model, "--components", "6", "--pictures", str(tmp_path / "pictures")]
    assert main([*arguments, "--neighbours", "0", "--cluster", "0", *network]) == 0
    source = open_source(config.data)
    cache = ImageTextCache.open(out, source)
    classes = len(source.labels)
    assert cache.head.columns == classes + 6 + COLUMNS
    assert cache.head.pixel_columns == classes + 6
    components = open_components(out, config.image_network, config.images.scale, source, 6, torch.device("cpu"))
    assert cache.head.settings["components"] == components.settings
    rows, values = cache.scan(1)
    by_point: dict[int, list[np.ndarray]] = {}
    for shot in read_shots(source[1]):
        for row, seen in zip(shot.rows.tolist(), components.at(shot.image, shot.pixels), strict=True):
            by_point.setdefault(row, []).append(seen)
    assert rows.tolist() == sorted(by_point)
    wanted = np.stack([np.mean(by_point[row], axis=0) for row in rows.tolist()])
    np.testing.assert_allclose(values[:, classes : classes + 6], wanted, atol=1e-3)
    shape = shape_columns(shape_measures(source[1].points, source[1].intensity, rows))
    np.testing.assert_allclose(values[:, classes + 6 :], shape, atol=1e-2)
    assert json.loads((out / "report.json").read_text())["settings"]["components"]["count"] == 6
    assert len(list((tmp_path / "pictures").iterdir())) == 8
    assert calibrate(cache, label_draw(config, source), config.pseudo).matrix.shape == (
        cache.head.columns,
        classes,
    )

    capsys.readouterr()
    before = (out / BASIS).read_bytes()
    other = [part if part != "6" else "7" for part in arguments]
    assert main([*other, "--neighbours", "0", "--cluster", "0", *network]) == 1
    assert "holds scores made with other settings (components: " in capsys.readouterr().err
    assert (out / BASIS).read_bytes() == before
    missing = [*data, f"image_network.weights={drive / 'gone.safetensors'}"]
    assert main([*other, "--neighbours", "0", "--cluster", "0", "--force", *missing]) == 1
    assert "gone.safetensors: no such file (image_network.weights)" in capsys.readouterr().err
    assert (out / BASIS).read_bytes() == before  # a mistake costs no scores
    assert 1 in ImageTextCache.open(out, source)
    assert main([*other, "--neighbours", "0", "--cluster", "0", "--force", *network]) == 0
    assert ImageTextCache.open(out, source).head.columns == classes + 7 + COLUMNS
    capsys.readouterr()
    assert main(["--out", str(tmp_path / "no"), *model, "--components", "6", *data]) == 1
    assert capsys.readouterr().err == (
        "--components 6: the recipe has no image_network.weights, and fresh ones know nothing\n"
    )
    assert not (tmp_path / "no").exists()
