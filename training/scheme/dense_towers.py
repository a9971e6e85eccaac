"""Image towers read densely: the feature of each place in the text model's space, before any pooling mixes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdkt_ros.errors import ConfigError
from mdkt_ros.vision_ops import import_open_clip

LAST_BLOCKS = ("auto", "value", "residual", "attention")
"""What the last block of a vision transformer gives a token.

value: its own value projection alone, without residual and MLP (arXiv 2407.12442 finds it the cleanest).
residual: value projection, residual and MLP; the code that came with MaskCLIP.
attention: the block as it was trained, which mixes the places.
auto: `value` where a class token was matched with the text, which saw the places through their values alone;
`attention` where the mean of the tokens was, since each of them as it comes out then is a part of what was matched.
"""


class DenseTower(nn.Module):
    """An image tower without its pooling.

    Attributes:
        stride: pixels of a place, down and across; the sides of an image must be multiples.
    """

    stride: tuple[int, int]

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D, H / stride, W / stride) of prepared images (B, 3, H, W)."""
        raise NotImplementedError


def dense_tower(tower: Any, last_block: str, name: str) -> DenseTower:
    """Wrap the image tower of an open_clip model; weights are shared.

    Raises:
        ConfigError: a kind of tower that has no dense reading here, or an unknown `last_block`.
    """
    if last_block not in LAST_BLOCKS:
        raise ConfigError(f"last_block = {last_block!r}: one of {', '.join(LAST_BLOCKS)}")
    import_open_clip()
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    if isinstance(tower, VisionTransformer) and tower.attn_pool is None:
        return DenseVisionTransformer(tower, last_block)
    if isinstance(tower, ModifiedResNet):
        return DenseResNet(tower)
    if isinstance(tower, TimmModel) and (stride := _timm_stride(tower.trunk)):
        return DenseTimm(tower, stride)
    kind = type(getattr(tower, "trunk", tower)).__name__
    raise ConfigError(
        f"{name}: its image tower ({kind}) cannot be read densely; those of open_clip's ViT, RN, SigLIP and convnext "
        "models can, e.g. ViT-B-16"
    )


class DenseResNet(DenseTower):
    """CLIP's ResNet: the attention pool's value and output projections at each pixel of the last feature map.

    Without the pool's positional embedding, as in MaskCLIP's code.
    """

    stride = (32, 32)

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, images: Tensor) -> Tensor:
        x = self.tower.stem(images)
        for layer in (self.tower.layer1, self.tower.layer2, self.tower.layer3, self.tower.layer4):
            x = layer(x)
        pool = self.tower.attnpool
        features: Tensor = pool.c_proj(pool.v_proj(x.permute(0, 2, 3, 1)))
        return features.permute(0, 3, 1, 2)


class DenseTimm(DenseTower):
    """A tower of timm whose places the model's own pooling gets one by one: SigLIP's transformers and ConvNeXt.

    Attention over a single place is the value of that place.
    """

    def __init__(self, tower: Any, stride: tuple[int, int]) -> None:
        super().__init__()
        self.tower, self.stride = tower, stride
        if hasattr(tower.trunk, "patch_embed"):
            from timm.layers.format import Format

            # What timm's own `dynamic_img_size` sets when a model is created with it.
            tower.trunk.dynamic_img_size = True
            embedding = tower.trunk.patch_embed
            embedding.strict_img_size, embedding.flatten, embedding.output_fmt = False, False, Format.NHWC

    def forward(self, images: Tensor) -> Tensor:
        height, width = (size // step for size, step in zip(images.shape[2:], self.stride, strict=True))
        x = self.tower.trunk.forward_features(images)
        places = x.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None] if x.ndim == 4 else x.flatten(0, 1)[:, None]
        features: Tensor = self.tower.head(self.tower.trunk.forward_head(places))
        return features.reshape(len(images), height, width, -1).permute(0, 3, 1, 2)


def _timm_stride(trunk: Any) -> tuple[int, int] | None:
    """Pixels of a place of timm's models that are pooled place by place without loss; None for others."""
    kind = type(trunk).__name__
    if kind == "VisionTransformer" and trunk.attn_pool is not None and trunk.num_prefix_tokens == 0:
        height, width = trunk.patch_embed.patch_size
        return int(height), int(width)
    if kind == "ConvNeXt":
        step = int(trunk.feature_info[-1]["reduction"])
        return step, step
    return None


class DenseVisionTransformer(DenseTower):
    """open_clip's vision transformer, its last block changed; positions are interpolated to the image's grid."""

    def __init__(self, tower: Any, last_block: str) -> None:
        super().__init__()
        self.tower = tower
        self.stride = tuple(tower.patch_size)
        if last_block == "auto":
            last_block = "value" if tower.pool_type == "tok" else "attention"
        self.last_block = last_block

    def forward(self, images: Tensor) -> Tensor:
        tower = self.tower
        x = tower.conv1(images)
        height, width = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([tower.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        x = tower.ln_pre(x + self._positions(height, width).to(x.dtype))
        *first, last = tower.transformer.resblocks
        for block in first:
            x = block(x)
        x = last(x) if self.last_block == "attention" else own_values(last, x, residual=self.last_block == "residual")
        features: Tensor = tower.ln_post(x[:, 1:]) @ tower.proj
        return features.transpose(1, 2).reshape(len(x), -1, height, width)

    def _positions(self, height: int, width: int) -> Tensor:
        """Positional embedding (1 + height * width, width of the tower), class token first."""
        positions: Tensor = self.tower.positional_embedding
        if (height, width) == tuple(self.tower.grid_size):
            return positions
        grid = positions[1:].T.reshape(1, -1, *self.tower.grid_size)
        # As open_clip does it when it loads weights of another image size.
        grid = F.interpolate(grid.float(), size=(height, width), mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([positions[:1], grid[0].flatten(1).T.to(positions.dtype)])


def own_values(block: Any, x: Tensor, *, residual: bool) -> Tensor:
    """What a transformer block gives tokens (B, L, C) when each attends to itself alone.

    Args:
        block: one of open_clip's residual attention blocks.
        x: its input.
        residual: add the input and go through the MLP, as the block does; otherwise the attention's output alone.
    """
    attention, width = block.attn, x.shape[2]
    bias = attention.in_proj_bias
    value = F.linear(block.ln_1(x), attention.in_proj_weight[2 * width :], None if bias is None else bias[2 * width :])
    # The custom block's extras, each an identity in the plain one.
    if getattr(attention, "head_scale", None) is not None:
        heads = value.reshape(*value.shape[:2], attention.num_heads, -1)
        value = (heads * attention.head_scale[:, 0, :]).flatten(2)
    if hasattr(attention, "ln_inner"):
        value = attention.ln_inner(value)
    out: Tensor = attention.out_proj(value)
    if hasattr(block, "ln_attn"):
        out = block.ln_attn(out)
    if not residual:
        return out
    x = x + block.ls_1(out)
    perceived: Tensor = block.ls_2(block.mlp(block.ln_2(x)))
    return x + perceived
