"""Dense scores against slow computations: one token, one pixel, one window at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_clip import MEAN, RESNET, STD, VIT, random_clip, write_clip
from torch import nn
from torch.nn import functional as F

from mdkt_ros.errors import ConfigError
from mdkt_ros.image_text_model import load_image_text
from mdkt_ros.labels import LabelSpace
from mdkt_ros.vision_ops import import_open_clip, import_timm
from training.scheme.dense_clip import DenseClip, DenseOptions, ScoreMaps
from training.scheme.dense_towers import dense_tower, own_values
from training.scheme.text import class_text

KITTI = LabelSpace.load("semantickitti")
WHOLE = DenseOptions(window=0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("clip")
    return {"vit": write_clip(root / "vit", VIT), "resnet": write_clip(root / "resnet", RESNET)}


def dense(name: str, options: DenseOptions = WHOLE) -> DenseClip:
    model = load_image_text(name)
    return DenseClip(model, class_text(model, KITTI, ("a photo of a {}.",)), options)


def pictures(height: int, width: int, count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def prepared(images: torch.Tensor) -> torch.Tensor:
    return (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def slow_vit(tower: nn.Module, images: torch.Tensor, residual: bool) -> torch.Tensor:
    """As the tower computes at its own size, but in the last block each token is a sequence of its own."""
    with torch.no_grad():
        x = tower._embeds(images)
        for block in tower.transformer.resblocks[:-1]:
            x = block(x)
        last, rows = tower.transformer.resblocks[-1], []
        for i in range(1, x.shape[1]):
            token = x[:, i : i + 1]
            y = last(token) if residual else last.attention(last.ln_1(token))
            rows.append(F.normalize(tower.ln_post(y[:, 0]) @ tower.proj, dim=-1))
        side = images.shape[2] // 8
        return torch.stack(rows, dim=2).reshape(len(images), -1, side, side)


@pytest.mark.parametrize(("last_block", "residual"), [("value", False), ("residual", True)])
def test_each_token_of_a_vit_attends_to_itself_alone(folders: dict[str, str], last_block: str, residual: bool):
    images = pictures(32, 32)
    features = dense(folders["vit"], DenseOptions(window=0, last_block=last_block)).features(images)
    torch.testing.assert_close(features, slow_vit(random_clip(VIT).visual, prepared(images), residual))


def test_the_unchanged_block_gives_the_towers_own_tokens(folders: dict[str, str]):
    images, tower = pictures(32, 32), random_clip(VIT).visual
    tower.output_tokens = True
    with torch.no_grad():
        _, tokens = tower(prepared(images))
        expected = F.normalize(tokens @ tower.proj, dim=-1).transpose(1, 2).reshape(2, -1, 4, 4)
    features = dense(folders["vit"], DenseOptions(window=0, last_block="attention")).features(images)
    torch.testing.assert_close(features, expected)


def test_positions_at_another_size_are_those_that_open_clip_would_load(folders: dict[str, str]):
    import_open_clip()
    from open_clip.model import resize_pos_embed

    larger = random_clip({**VIT, "image_size": 56})
    state = {name: tensor.clone() for name, tensor in random_clip(VIT).state_dict().items()}
    resize_pos_embed(state, larger)
    larger.load_state_dict(state)
    images = pictures(56, 56)
    features = dense(folders["vit"]).features(images)
    torch.testing.assert_close(
        features, slow_vit(larger.visual, prepared(images), residual=False), rtol=1e-4, atol=1e-5
    )


def test_auto_follows_what_the_text_was_matched_with():
    towers = {pool: random_clip({**VIT, "pool_type": pool}).visual for pool in ("tok", "avg")}
    assert dense_tower(towers["tok"], "auto", "x").last_block == "value"
    assert dense_tower(towers["avg"], "auto", "x").last_block == "attention"


def test_the_extras_of_custom_blocks():
    extras = {"scale_heads": True, "scale_attn_inner": True, "scale_attn": True, "ls_init_value": 0.3}
    block = random_clip({**VIT, **extras}).visual.transformer.resblocks[-1]
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        block.attn.head_scale.copy_(torch.rand(block.attn.head_scale.shape) + 0.5)
        whole = torch.cat([block(x[:, i : i + 1]) for i in range(5)], dim=1)
        torch.testing.assert_close(own_values(block, x, residual=True), whole)
        alone = torch.cat([block.ln_attn(block.attn(block.ln_1(x[:, i : i + 1]))) for i in range(5)], dim=1)
        torch.testing.assert_close(own_values(block, x, residual=False), alone)


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (160, 64)])
def test_each_pixel_of_a_resnet_is_pooled_alone(folders: dict[str, str], size: tuple[int, int]):
    images, tower = pictures(*size), random_clip(RESNET).visual
    pool = tower.attnpool
    with torch.no_grad():
        x = tower.stem(prepared(images))
        for layer in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
            x = layer(x)
        # Attention over a single key is that key's value, whatever the query.
        expected = torch.empty(2, 16, *x.shape[2:])
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                pixel = x[:, :, i, j][None]
                out, _ = F.multi_head_attention_forward(
                    pixel, pixel, pixel, pixel.shape[2], pool.num_heads,
                    q_proj_weight=pool.q_proj.weight, k_proj_weight=pool.k_proj.weight,
                    v_proj_weight=pool.v_proj.weight, in_proj_weight=None, use_separate_proj_weight=True,
                    in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
                    bias_k=None, bias_v=None, add_zero_attn=False, dropout_p=0.0, training=False,
                    out_proj_weight=pool.c_proj.weight, out_proj_bias=pool.c_proj.bias,
                )  # fmt: skip
                expected[:, :, i, j] = F.normalize(out[0], dim=-1)
    torch.testing.assert_close(dense(folders["resnet"]).features(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "grid"), [(5, 3, (1, 1)), (8, 8, (1, 1)), (30, 75, (4, 9)), (13, 64, (2, 8))]
)
@pytest.mark.parametrize("window", [0, None, 16])
def test_any_size_of_image(folders: dict[str, str], height: int, width: int, grid: tuple[int, int], window: int | None):
    maps = dense(folders["vit"], DenseOptions(window=window)).scores(pictures(height, width, 1))
    assert maps.scores.shape == (1, len(KITTI), *grid)
    assert maps.scores.isfinite().all()
    assert maps.scores.abs().max() <= 1 + 1e-5


def test_windows_are_summed_where_they_overlap(folders: dict[str, str]):
    options = DenseOptions(window=32, step=24)
    images, reader = pictures(40, 72), dense(folders["vit"], options)
    tower, total = random_clip(VIT).visual, torch.zeros(2, 16, 5, 9)
    # Windows of 4 places, 3 apart, the last flush with the end of 5 and of 9.
    for top in (0, 1):
        for left in (0, 3, 5):
            part = prepared(images)[:, :, 8 * top : 8 * top + 32, 8 * left : 8 * left + 32]
            total[:, :, top : top + 4, left : left + 4] += slow_vit(tower, part, residual=False)
    torch.testing.assert_close(reader.features(images), F.normalize(total, dim=1), rtol=1e-4, atol=1e-5)


def test_the_window_is_the_size_of_training_unless_said_otherwise(folders: dict[str, str]):
    images = pictures(40, 72)
    auto, said = dense(folders["vit"], DenseOptions()), dense(folders["vit"], DenseOptions(window=32, step=16))
    assert torch.equal(auto.features(images), said.features(images))
    assert not torch.allclose(auto.features(images), dense(folders["vit"]).features(images), atol=1e-3)


def test_scores_are_cosines_with_the_best_word(folders: dict[str, str]):
    reader, images = dense(folders["vit"]), pictures(32, 48)
    maps, features, text = reader.scores(images), reader.features(images), reader.text
    for class_id in range(len(KITTI)):
        words = [e for e, o in zip(text.embeddings, text.owner.tolist(), strict=True) if o == class_id]
        best = torch.stack([torch.einsum("bdhw,d->bhw", features, word) for word in words]).amax(0)
        torch.testing.assert_close(maps.scores[:, class_id], best)
    assert maps.present.all()


def test_bytes_are_the_same_image(folders: dict[str, str]):
    images = torch.randint(0, 256, (1, 3, 24, 32), dtype=torch.uint8)
    reader = dense(folders["vit"])
    torch.testing.assert_close(reader.scores(images).scores, reader.scores(images.float() / 255).scores)


def test_scales_are_averaged_on_the_finest(folders: dict[str, str]):
    images = pictures(32, 64, 1)
    both = dense(folders["vit"], DenseOptions(scales=(0.5, 1.0), window=0)).scores(images).scores
    half = dense(folders["vit"], DenseOptions(scales=(0.5,), window=0)).scores(images).scores
    one = dense(folders["vit"], WHOLE).scores(images).scores
    assert half.shape[2:] == (2, 4)
    enlarged = F.interpolate(half, size=(4, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(both, (enlarged + one) / 2)


def test_classes_that_are_nowhere_likely_are_dropped(folders: dict[str, str]):
    images = pictures(32, 48, 3)
    plain = dense(folders["vit"]).scores(images)
    scale = load_image_text(folders["vit"]).logit_scale
    surest = (plain.scores * scale).softmax(1).amax((2, 3)).numpy()
    limit = float(np.median(surest))
    maps = dense(folders["vit"], DenseOptions(window=0, absent=limit)).scores(images)
    assert np.array_equal(maps.present, surest >= limit)
    assert 0 < maps.present.sum() < maps.present.size
    values = maps.at(1, np.array([[3.0, 4.0]]))
    assert np.array_equal(np.isnan(values[0]), ~maps.present[1])
    # Never all of them: something has to be named.
    alone = dense(folders["vit"], DenseOptions(window=0, absent=0.999)).scores(images)
    assert alone.present.sum(1).tolist() == [1, 1, 1]
    assert np.array_equal(alone.present.argmax(1), surest.argmax(1))


def test_scores_between_places_are_bilinear():
    scores = torch.randn(2, 3, 4, 6)
    maps = ScoreMaps(scores, np.ones((2, 3), dtype=bool), height=24, width=48)
    pixels = np.array([[3.5, 2.5], [40.25, 11.0], [0, 0], [47.49, 23.49], [11.5, 8.5]])
    found = maps.at(1, pixels)
    for (u, v), values in zip(pixels, found, strict=True):
        # Place j covers pixels 8 j - 0.5 .. 8 j + 7.5, its centre is 8 j + 3.5; rows likewise with 6.
        x, y = np.clip((u - 3.5) / 8, 0, 5), np.clip((v - 2.5) / 6, 0, 3)
        x0, y0 = min(int(x), 4), min(int(y), 2)
        block = scores[1, :, y0 : y0 + 2, x0 : x0 + 2].numpy()
        weights = np.outer([1 - (y - y0), y - y0], [1 - (x - x0), x - x0])
        np.testing.assert_allclose(values, (block * weights).sum((1, 2)), rtol=1e-4, atol=1e-5)
    assert maps.at(0, np.zeros((0, 2))).shape == (0, 3)


def test_a_class_without_a_known_word_is_never_named(tmp_path: Path):
    model = load_image_text(write_clip(tmp_path, VIT, ["car", "road"]))
    maps = DenseClip(model, class_text(model, KITTI), WHOLE).scores(pictures(32, 32, 1))
    assert [KITTI.names[i] for i in np.flatnonzero(maps.present[0])] == ["car", "road"]


def timm_tower(trunk: nn.Module, head: nn.Module) -> nn.Module:
    """open_clip's wrapper round a model that timm would only make large."""
    import_open_clip()
    from open_clip.timm_model import TimmModel

    tower = TimmModel.__new__(TimmModel)
    nn.Module.__init__(tower)
    tower.trunk, tower.head = trunk, head
    return tower.eval()


def test_siglips_attention_pool_gets_each_token_alone():
    timm = import_timm()
    torch.manual_seed(0)
    size = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "class_token": False, "num_classes": 0}
    make = timm.models.vision_transformer.VisionTransformer
    trunk = make(img_size=32, global_pool="map", **size)
    nn.init.normal_(trunk.pos_embed)
    reference = make(img_size=32, global_pool="map", **size).eval()
    reference.load_state_dict(trunk.state_dict())
    tower = dense_tower(timm_tower(trunk, nn.Sequential()), "auto", "siglip")
    images = pictures(32, 32)
    with torch.no_grad():
        tokens = reference.forward_features(images)
        alone = torch.stack([reference.forward_head(tokens[:, i : i + 1]) for i in range(16)], dim=2)
        torch.testing.assert_close(tower(images), alone.reshape(2, 32, 4, 4), rtol=1e-4, atol=1e-5)
        # Other sizes: positions as timm itself resamples them.
        wide = make(img_size=(16, 56), global_pool="map", **size).eval()
        state = reference.state_dict()
        resample = timm.layers.resample_abs_pos_embed
        state["pos_embed"] = resample(state["pos_embed"], new_size=(2, 7), old_size=(4, 4), num_prefix_tokens=0)
        wide.load_state_dict(state)
        tokens = wide.forward_features(pictures(16, 56))
        alone = torch.stack([wide.forward_head(tokens[:, i : i + 1]) for i in range(14)], dim=2)
        torch.testing.assert_close(tower(pictures(16, 56)), alone.reshape(2, 32, 2, 7), rtol=1e-4, atol=1e-5)


def test_convnext_norms_and_projects_each_pixel():
    timm = import_timm()
    torch.manual_seed(0)
    trunk = timm.models.convnext.ConvNeXt(
        depths=(1, 1, 1, 1), dims=(4, 8, 12, 16), num_classes=0, head_norm_first=False, global_pool="avg"
    ).eval()
    nn.init.normal_(trunk.head.norm.weight)
    projection = nn.Linear(16, 5, bias=False)
    images = pictures(64, 96)
    with torch.no_grad():
        features = dense_tower(timm_tower(trunk, nn.Sequential(projection)), "auto", "convnext")(images)
        x = trunk.forward_features(images)
        assert features.shape == (2, 5, 2, 3)
        for i in range(2):
            for j in range(3):
                pixel = F.layer_norm(x[:, :, i, j], (16,), trunk.head.norm.weight, trunk.head.norm.bias, 1e-6)
                torch.testing.assert_close(features[:, :, i, j], projection(pixel))


class OtherTower(nn.Module):
    """What a tower of another kind looks like from outside."""

    trunk = nn.Identity()


def test_towers_that_cannot_be_read_densely_are_named():
    with pytest.raises(ConfigError, match=r"some-model: its image tower \(Identity\) cannot be read densely"):
        dense_tower(OtherTower(), "auto", "some-model")
    pooled = random_clip({**VIT, "attentional_pool": True}).visual
    with pytest.raises(ConfigError, match="cannot be read densely"):
        dense_tower(pooled, "auto", "coca")


@pytest.mark.parametrize(
    "bad",
    [{"scales": ()}, {"scales": (0.0,)}, {"window": -1}, {"step": -1}, {"window": 8, "step": 16}, {"absent": 1.0}],
)
def test_options_out_of_range(bad: dict):
    with pytest.raises(ConfigError, match=next(reversed(bad))):
        DenseOptions(**bad)


def test_an_unknown_last_block(folders: dict[str, str]):
    with pytest.raises(ConfigError, match="one of auto, value, residual, attention"):
        dense(folders["vit"], DenseOptions(last_block="mlp"))
