"""Deformable transfer: against a slow reference, against differences, and at step 0 exactly one-to-one."""

import numpy as np
import pytest
import torch

from mdkt_ros.errors import ConfigError
from training.scheme.deformable import DeformableTransfer, Look, Pyramid, home_level, level_pixels, rings

STRIDES = (4, 8, 16, 32)


def make_pyramid(points, channels=8, images=2, size=(64, 96), dtype=torch.float64, beyond=6.0, seed=0):
    """Random levels; pixels inside and up to `beyond` outside of the image, none of them in image 1 if there are 3."""
    g = torch.Generator().manual_seed(seed)
    levels = [torch.randn(images, channels, size[0] // s, size[1] // s, generator=g, dtype=dtype) for s in STRIDES]
    image = torch.randint(0, images, (points,), generator=g).sort().values
    if images == 3:
        image[image == 1] = 0
    spread = torch.tensor([size[1] + 2 * beyond, size[0] + 2 * beyond], dtype=dtype)
    pixel = torch.rand(points, 2, generator=g, dtype=dtype) * spread - beyond
    return Pyramid(levels, STRIDES, image, pixel)


def make_transfer(stride=2, in_channels=5, channels=8, heads=2, levels=4, offsets=3, learnt=True, seed=0):
    torch.manual_seed(seed)
    transfer = DeformableTransfer(stride, in_channels, channels, STRIDES, heads=heads, levels=levels, offsets=offsets)
    if learnt:  # fresh, it ignores what it finds
        for parameter in transfer.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return transfer.double()


def bilinear(level, x, y):
    """(D,) value of a level (D, h, w) at a place, zeros outside."""
    _, height, width = level.shape
    total = np.zeros(level.shape[0])
    for column in (int(np.floor(x)), int(np.floor(x)) + 1):
        for row in (int(np.floor(y)), int(np.floor(y)) + 1):
            if 0 <= column < width and 0 <= row < height:
                total += (1 - abs(x - column)) * (1 - abs(y - row)) * level[:, row, column]
    return total


def reference(transfer, features, pyramid):
    """The formula, one place after another."""
    state = {name: value.numpy() for name, value in transfer.state_dict().items()}
    levels = [level.numpy() for level in pyramid.levels]
    heads, places = transfer.heads, transfer.offsets
    out = []
    for f3, image, pixel in zip(features.numpy(), pyramid.image.tolist(), pyramid.pixel.numpy(), strict=True):
        q = state["query.0.weight"] @ f3 + state["query.0.bias"]
        q = (q - q.mean()) / np.sqrt(q.var() + 1e-5) * state["query.1.weight"] + state["query.1.bias"]
        shape = (heads, len(transfer.levels), places)
        offset = (state["place.weight"] @ q + state["place.bias"]).reshape(*shape, 2)
        attention = (state["attention.weight"] @ q + state["attention.bias"]).reshape(heads, -1)
        attention = np.exp(attention - attention.max(1, keepdims=True))
        attention = (attention / attention.sum(1, keepdims=True)).reshape(shape)
        found = np.zeros((heads, levels[0].shape[1] // heads))
        for m in range(heads):
            channels = slice(m * found.shape[1], (m + 1) * found.shape[1])
            for number, level in enumerate(transfer.levels):
                values = np.einsum("dc,chw->dhw", state["value.weight"], levels[level][image])
                centre = (pixel + 0.5) / STRIDES[level] - 0.5
                for k in range(places):
                    place = centre + offset[m, number, k]
                    found[m] += attention[m, number, k] * bilinear(values, *place)[channels]
        centre = (pixel + 0.5) / STRIDES[transfer.home] - 0.5
        out.append(bilinear(levels[transfer.home][image], *centre) + state["out.weight"] @ found.flatten())
    return np.array(out)


@pytest.mark.parametrize("stride", [1, 8])
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_agrees_with_the_formula(stride, levels):
    transfer = make_transfer(stride, levels=levels)
    features, pyramid = torch.randn(7, 5, dtype=torch.float64), make_pyramid(20, images=3)
    voxel = torch.randint(0, 7, (20,))
    got = transfer(features, voxel, pyramid)
    np.testing.assert_allclose(got.detach().numpy(), reference(transfer, features[voxel], pyramid), atol=1e-12)


@pytest.mark.parametrize("levels", [1, 4])
@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_step_zero_is_one_to_one(stride, levels):
    features, voxel = torch.randn(9, 5, dtype=torch.float64), torch.arange(40) % 9
    pyramid = make_pyramid(40)
    fresh = make_transfer(stride, levels=levels, learnt=False)
    single = make_transfer(stride, levels=levels, offsets=0, learnt=False)
    assert not list(single.parameters())
    one_to_one = single(features, voxel, pyramid)
    assert one_to_one.abs().max() > 1
    torch.testing.assert_close(fresh(features, voxel, pyramid), one_to_one, atol=1e-6, rtol=0)
    assert not torch.allclose(make_transfer(stride, levels=levels)(features, voxel, pyramid), one_to_one)


def test_fresh_attention_is_uniform_and_places_are_rings():
    look = make_transfer(heads=4, offsets=2, learnt=False).look(torch.randn(3, 5, dtype=torch.float64))
    assert torch.allclose(look.weight, torch.full_like(look.weight, 1 / 8))
    assert torch.allclose(look.offset, rings(4, 2)[:, None].expand(4, 4, 2, 2).double())
    assert torch.allclose(rings(4, 2)[:, 0], torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]), atol=1e-6)
    assert torch.allclose(rings(6, 5).norm(dim=-1), torch.arange(1.0, 6).expand(6, 5))


@pytest.mark.parametrize("offsets", [0, 2])
def test_gradients_agree_with_differences(offsets):
    transfer = make_transfer(offsets=offsets)
    pyramid = make_pyramid(6, beyond=2.0)
    voxel = torch.tensor([0, 1, 2, 2, 1, 0])
    parameters = list(transfer.parameters())

    def function(features, level0, level1, *_):
        levels = [level0, level1, *pyramid.levels[2:]]
        return transfer(features, voxel, Pyramid(levels, STRIDES, pyramid.image, pyramid.pixel))

    features = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    levels = [level.requires_grad_() for level in pyramid.levels[:2]]
    assert torch.autograd.gradcheck(function, (features, *levels, *parameters), eps=1e-7, fast_mode=True)


def test_pixel_centres():
    """Each level holds the image coordinates of its own cells' centres, so that sampling at u must give u."""
    u, v = torch.tensor([40.25, 50.0, 17.5]), torch.tensor([20.0, 33.125, 40.5])
    levels = []
    for stride in STRIDES:
        x = (torch.arange(128 // stride) + 0.5) * stride - 0.5
        y = (torch.arange(64 // stride) + 0.5) * stride - 0.5
        levels.append(torch.stack(torch.meshgrid(x, y, indexing="xy"))[None])
    pyramid = Pyramid(levels, STRIDES, torch.zeros(3, dtype=torch.int64), torch.stack([u, v], 1))
    for level in range(4):
        torch.testing.assert_close(pyramid.centre(level), pyramid.pixel)
    assert level_pixels(torch.tensor([[1.5, 5.5]]), 4).tolist() == [[0.0, 1.0]]


def test_zeros_outside():
    levels = [torch.ones(1, 8, 64 // s, 96 // s) for s in STRIDES]
    pixel = torch.tensor([[-3.0, 30], [-2.5, 30], [-1.5, 30], [-0.5, 30], [1.5, 30]])
    pyramid = Pyramid(levels, STRIDES, torch.zeros(5, dtype=torch.int64), pixel)
    assert pyramid.centre(0)[:, 0].tolist() == pytest.approx([0, 0, 0.25, 0.5, 1], abs=1e-5)


def test_points_do_not_depend_on_their_neighbours():
    transfer, pyramid = make_transfer(), make_pyramid(30, images=3)
    features = torch.randn(30, 5, dtype=torch.float64)
    whole = transfer(features, torch.arange(30), pyramid)
    some = torch.tensor([3, 17, 29])
    part = Pyramid(pyramid.levels, STRIDES, pyramid.image[some], pyramid.pixel[some])
    torch.testing.assert_close(transfer(features[some], torch.arange(3), part), whole[some])


@pytest.mark.parametrize("offsets", [0, 3])
@pytest.mark.parametrize("images", [0, 2])
def test_no_points(images, offsets):
    transfer = make_transfer(offsets=offsets)
    nothing = make_pyramid(0, images=images) if images else make_pyramid(0, images=1)
    if not images:
        levels = [level[:0] for level in nothing.levels]
        nothing = Pyramid(levels, STRIDES, nothing.image, nothing.pixel)
    out = transfer(torch.zeros(0, 5, dtype=torch.float64), torch.zeros(0, dtype=torch.int64), nothing)
    assert out.shape == (0, 8)


def test_levels():
    assert [home_level(stride, STRIDES) for stride in (1, 2, 4, 8, 16)] == [0, 0, 0, 1, 2]
    chosen = {
        (stride, levels): list(make_transfer(stride, levels=levels).levels) for stride in (1, 8) for levels in (1, 3, 4)
    }
    assert chosen == {
        (1, 1): [0], (1, 3): [0, 1, 2], (1, 4): [0, 1, 2, 3],
        (8, 1): [1], (8, 3): [1, 2, 3], (8, 4): [0, 1, 2, 3],
    }  # fmt: skip


@pytest.mark.parametrize(("key", "value"), [("levels", 5), ("levels", 0), ("heads", 3), ("heads", 0)])
def test_sizes_that_do_not_fit(key, value):
    with pytest.raises(ConfigError, match=f"transfer.{key} = {value}"):
        make_transfer(**{key: value})


def test_reach_is_in_pixels_of_the_image():
    offset = torch.zeros(1, 1, 2, 2, 2)
    offset[0, 0, 0, 0] = torch.tensor([3.0, 4.0])  # five pixels of stride 4
    offset[0, 0, 1, 1] = torch.tensor([0.0, 2.0])  # two pixels of stride 8
    weight = torch.tensor([0.5, 0.125, 0.125, 0.25]).view(1, 1, 2, 2)
    assert Look((4, 8), offset, weight).reach().item() == pytest.approx(0.5 * 20 + 0.25 * 16)
