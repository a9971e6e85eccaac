"""Recipes and overrides: what is read, and the one line that a mistake gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdkt_ros.errors import ConfigError
from mdkt_ros.network import PRESETS
from mdkt_ros.resources import config_dir
from mdkt_ros.voxels import check_features
from training.config import TrainConfig, flatten, from_dict, load_config, to_yaml
from training.export import make_grid

RECIPES = sorted((config_dir() / "train").glob("*.yaml"))


def test_overrides_lie_over_the_recipe_in_order(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("optim: {lr: 0.5, epochs: 3}\nmodel: {preset: minkunet18}\n", encoding="utf-8")
    config = load_config(recipe, ["optim.lr=1e-3", "optim.lr=2e-3", "data.sequences=[00, 08]", "data.frames=0-20"])
    assert (config.optim.lr, config.optim.epochs, config.model.preset) == (2e-3, 3.0, "minkunet18")
    assert config.data.frames == "0-20"
    assert config.optim.weight_decay == TrainConfig().optim.weight_decay
    assert load_config(None, ["data.cache=true"]).data.cache is True


def test_yaml_round_trip(tmp_path: Path):
    config = load_config(None, ["optim.lr=1e-3", "data.scenes=[a, b]", "augment.mix=0.5", "out=runs/x"])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(path) == config
    assert set(flatten(config)) >= {"optim.lr", "out", "augment.mix"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=3", r"override 'optim.lrr=3': unknown key optim\.lrr; did you mean optim\.lr\?"),
        ("lr=3", r"unknown key lr; did you mean optim\.lr or image_network\.lr\?"),
        ("model.batch_size=3", r"unknown key model\.batch_size; did you mean optim\.batch_size\?"),
        ("augment.zzz=1", r"unknown key augment\.zzz; known: augment\.yaw, augment\.flip"),
        ("zzz=1", r"unknown key zzz; known: data, model, optim, loss, augment, images, .*, out"),
        ("optim.lr.x=1", r"optim\.lr"),
        ("optim.lr=fast", r"optim\.lr: Value 'fast' of type 'str' could not be converted to Float"),
        ("optim.batch_size=1.5", r"optim\.batch_size: Value '1\.5'"),
        ("optim=3", r"optim is a section with the keys optim\.epochs"),
        ("optim.epochs", r"'optim\.epochs': an override is written key=value"),
        ("optim.lr=nan", r"optim\.lr = nan: must be finite"),
        ("data.kind=kitti", r"data\.kind = 'kitti': must be one of semantickitti, .*synthetic"),
        ("data.percent=0", r"data\.percent = 0\.0: must be above 0 and at most 100"),
        ("model.minimum=[1,2]", r"model\.minimum = \[1\.0, 2\.0\]: must be three numbers"),
        ("model.maximum=[-60,0,0]", r"model\.maximum = .*: must be above minimum"),
        ("augment.drop=1", r"augment\.drop = 1\.0: must be 0 or more and below 1"),
        ("loss.class_weights=full", r"loss\.class_weights = 'full': must be one of none, sqrt"),
        ("transfer.weight=-1", r"transfer\.weight = -1\.0: must be 0 or more"),
        ("transfer.scales=[3]", r"transfer\.scales = \[3\]: must be different ones of 8, 4, 2, 1"),
        ("transfer.heads=7", r"transfer\.heads = 7: must be a divisor of image_network\.channels"),
        ("image_network.keep=true", r"image_network\.keep = True: must be false unless image_network\.weights"),
        ("images.scale=0", r"images\.scale = 0\.0: must be above 0"),
        ("pseudo.sure=2", r"pseudo\.sure = 2\.0: must be from 0 to 1"),
        ("teacher.weight=1", r"optim\.average = 0\.0: must be above 0 for a teacher"),
        ("schedule.labels_only=1", r"schedule\.labels_only = 1\.0: must be 0 or more and below 1"),
    ],
)
def test_mistakes_name_the_key_on_one_line(override: str, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(None, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: [1]", "optim is a section"),
        ("optim: {epoch: 3}", r"recipe\.yaml: unknown key optim\.epoch; did you mean optim\.epochs\?"),
        ("- 1", "a recipe is a mapping of sections, not list"),
        ("a: [", "not YAML"),
        ("\x00", "not YAML"),
    ],
)
def test_mistakes_in_a_recipe_name_its_file(tmp_path: Path, text: str, message: str):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(recipe)
    assert str(recipe) in str(caught.value)
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        load_config(tmp_path / "none.yaml")


def test_a_stored_configuration_with_unknown_keys_is_refused():
    with pytest.raises(ConfigError, match=r"state: unknown key optim\.momentum"):
        from_dict({"optim": {"momentum": 0.9}}, "state")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(recipe: Path):
    config = load_config(recipe)
    assert config.model.preset in PRESETS
    assert min(make_grid(config).shape) >= 16  # stride 16 still has a voxel
    check_features(config.model.features)
    assert config.out == f"runs/{recipe.stem}"


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {
        "nuscenes_lidarseg",
        "synthetic_kitti",
        "synthetic_kitti_10hz",
        "semantickitti",
        "nuscenes",
        "scribblekitti",
    }
