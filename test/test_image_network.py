"""The image network: shapes, independence of images, weights from files, and errors that name what is wrong."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from mdkt_ros.errors import CheckpointError, ConfigError
from mdkt_ros.vision_ops import import_timm
from training.config import OptimConfig
from training.optimization import half_of_readers
from training.scheme.config import ImageNetworkConfig
from training.scheme.image_network import STRIDES, ImageNetwork, build_image_network

SMALL = "test_resnet"  # timm's smallest residual network


def config(**settings) -> ImageNetworkConfig:
    return ImageNetworkConfig(**{"name": SMALL, "channels": 16, **settings})


@pytest.fixture(scope="module")
def weights():
    """State of a whole timm model, classifier included, with running statistics of its own."""
    torch.manual_seed(1)
    model = import_timm().create_model(SMALL, pretrained=False)
    model.train()(torch.rand(4, 3, 64, 64))
    return model.state_dict()


@pytest.fixture
def weights_file(weights, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(weights, path, {"name": SMALL})
    return path


@pytest.mark.parametrize("name", [SMALL, "resnet18", "mobilenetv3_small_050"])
def test_levels_cover_the_padded_image(name):
    network = build_image_network(config(name=name))
    levels = network(torch.rand(2, 3, 50, 131))
    assert network.strides == STRIDES == (4, 8, 16, 32)
    assert [tuple(level.shape) for level in levels] == [(2, 16, 64 // s, 160 // s) for s in STRIDES]


@pytest.mark.parametrize("pretrained", [False, True])
def test_an_image_does_not_depend_on_the_others(pretrained, weights_file):
    network = build_image_network(config(weights=str(weights_file) if pretrained else "")).train()
    images = torch.rand(3, 3, 64, 96)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for whole, alone in zip(network(images), network(images[1:2]), strict=True):
        torch.testing.assert_close(whole[1:2], alone, atol=1e-5, rtol=1e-4)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} was changed by looking"


def test_every_parameter_learns():
    network = build_image_network(config())
    for parameter in network.parameters():  # timm begins with residual branches that are shut
        nn.init.normal_(parameter, std=0.1)
    sum(level.square().sum() for level in network(torch.rand(1, 3, 64, 96))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_no_images():
    network = build_image_network(config())
    levels = network(torch.zeros(0, 3, 1, 1))
    assert [tuple(level.shape) for level in levels] == [(0, 16, 1, 1)] * 4
    sum(level.sum() for level in levels).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_whole_models_weights_are_used(weights, weights_file):
    network = build_image_network(config(weights=str(weights_file)))
    assert network.pretrained
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(value, weights[name]), name
    # As timm computes it: same normalisation of colours, running statistics.
    model = import_timm().create_model(SMALL, pretrained=False, features_only=True).eval()
    model.load_state_dict(network.backbone.state_dict())
    images = torch.rand(2, 3, 64, 96)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    for ours, theirs in zip(network.train().backbone((images - mean) / std), model((images - mean) / std), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_keys_of_either_form_of_a_model(tmp_path):
    """`stages.0.` of a whole model is `stages_0.` of one that gives features only."""
    timm = import_timm()
    whole = timm.create_model("convnext_atto", pretrained=False).state_dict()
    features = timm.create_model("convnext_atto", pretrained=False, features_only=True).state_dict()
    assert set(features) - set(whole)
    for state in (whole, features):
        save_file(state, tmp_path / "weights.safetensors")
        network = build_image_network(config(name="convnext_atto", weights=str(tmp_path / "weights.safetensors")))
        key = next(key for key in network.backbone.state_dict() if key.startswith("stages_1."))
        expected = state.get(key, state.get(key.replace("stages_1.", "stages.1.")))
        assert torch.equal(network.backbone.state_dict()[key], expected)


def test_files_that_do_not_fit(weights, tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: no such file \(image_network\.weights\)"):
        build_image_network(config(weights=str(path)))
    key = "layer1.0.conv1.weight"
    save_file({name: value for name, value in weights.items() if name != key}, path)
    with pytest.raises(CheckpointError, match=rf"weights\.safetensors: lacks {key} of {SMALL}"):
        build_image_network(config(weights=str(path)))
    save_file({**weights, key: torch.zeros(2, 3)}, path)
    with pytest.raises(CheckpointError, match=rf"{key} is \(2, 3\), {SMALL} needs \(32, 32, "):
        build_image_network(config(weights=str(path)))
    save_file(weights, path, {"name": "resnet18"})
    with pytest.raises(CheckpointError, match=f"weights of resnet18, but image_network.name is {SMALL}"):
        build_image_network(config(weights=str(path)))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"not a whole \.safetensors file"):
        build_image_network(config(weights=str(path)))


def test_names_that_do_not_fit():
    with pytest.raises(ConfigError, match=r"image_network\.name = 'resnet19': timm .* did you mean resnet18 or "):
        build_image_network(config(name="resnet19"))
    with pytest.raises(ConfigError, match=r"its feature maps have strides 16, 16, 16 .* such as resnet18"):
        build_image_network(config(name="test_vit"))
    with pytest.raises(ConfigError, match=r"'resnet18\.nobody': .* Invalid pretrained tag"):
        build_image_network(config(name="resnet18.nobody", weights="timm"))


def test_parameter_groups(weights_file):
    for network, rate in (
        (build_image_network(config(weights=str(weights_file), lr=0.25)), 0.25),
        (build_image_network(config(lr=0.25)), 1.0),
    ):
        groups = network.parameter_groups()
        assert [group["factor"] for group in groups] == [rate, 1.0]
        assert {id(p) for p in groups[0]["params"]} == {id(p) for p in network.backbone.parameters()}
        assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in network.parameters())


def test_a_backbone_that_stays(weights_file):
    network = build_image_network(config(weights=str(weights_file), lr=0.0)).train()
    sum(level.square().sum() for level in network(torch.rand(1, 3, 64, 96))).backward()
    learns = {id(p) for group in network.parameter_groups() for p in group["params"]}
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == name.startswith("backbone."), name
        assert (id(parameter) in learns) == parameter.requires_grad == (not name.startswith("backbone.")), name
    # One without weights has to learn, whatever the rate of those with weights.
    assert all(parameter.requires_grad for parameter in build_image_network(config(lr=0.0)).parameters())


@pytest.mark.parametrize(("lr", "half"), [(0, True), (0, False), (1, True)])
def test_a_backbone_that_stays_may_compute_in_half(weights_file, lr, half):
    network = build_image_network(config(weights=str(weights_file), lr=lr), half=half)
    seen = []
    network.backbone.register_forward_hook(lambda module, inputs, stages: seen.extend(stages))
    images = torch.rand(2, 3, 64, 96)
    levels = network(images)
    rounded = lr == 0 and half
    assert {stage.dtype for stage in seen} == {torch.bfloat16 if rounded else torch.float32}
    exact = build_image_network(config(weights=str(weights_file), lr=lr))
    exact.load_state_dict(network.state_dict())
    for level, wanted in zip(levels, exact(images), strict=True):
        assert level.dtype == torch.float32
        off = float((level - wanted).detach().norm() / wanted.detach().norm())
        assert (0 < off < 0.03) if rounded else off == 0
    sum(level.square().sum() for level in levels).backward()
    assert all(p.grad is not None for p in network.lateral.parameters())


@pytest.mark.parametrize("half", [False, True])
def test_a_backbone_that_stays_remembers_images(weights_file, half):
    """Whatever was new together, each image's features are the same bits, and none is looked at twice."""
    settings = config(weights=str(weights_file), lr=0.0, keep=True)
    network, other = (build_image_network(settings, half=half) for _ in range(2))
    other.load_state_dict(network.state_dict())
    images, origin = torch.rand(4, 3, 50, 70), torch.tensor([[0, 0], [0, 1], [3, 0], [3, 1]])
    looked = []
    network.backbone.register_forward_hook(lambda module, inputs, stages: looked.append(len(inputs[0])))
    sizes = []
    network.backbone.register_forward_hook(
        lambda module, inputs, stages: sizes.append(sum(stages[s].nbytes for s in network.stages))
    )
    network(images[:1], origin[:1])
    levels = network(images, origin)
    assert looked == [1] * 4
    assert all(torch.equal(a, b) for a, b in zip(network(images, origin), levels, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(other(images, origin), levels, strict=True))
    assert looked == [1] * 4
    for level, wanted in zip(levels, other(images), strict=True):  # of images that are not known, all at once
        torch.testing.assert_close(level, wanted, rtol=0, atol=0.05 if half else 1e-4)
    sum(level.square().sum() for level in levels).backward()
    assert all(p.grad is not None for p in network.lateral.parameters())
    network(F.pad(images[:1], (0, 9)), origin[:1])  # beside a larger one it is padded: other maps
    assert len(looked) == 5
    assert network.kept() == (5, sum(sizes))


@pytest.mark.parametrize("settings", [{"lr": 0.25, "weights": True}, {"lr": 0.0, "weights": False}])
def test_a_backbone_that_learns_remembers_nothing(weights_file, settings):
    weights = str(weights_file) if settings["weights"] else ""
    network = build_image_network(config(weights=weights, lr=settings["lr"], keep=True))
    looked = []
    network.backbone.register_forward_hook(lambda module, inputs, stages: looked.append(len(inputs[0])))
    for _ in range(2):
        network(torch.rand(2, 3, 32, 32), torch.tensor([[0, 0], [0, 1]]))
    assert looked == [2, 2]


@pytest.mark.parametrize(
    ("amp", "multiplies", "wanted"), [("auto", True, True), ("auto", False, False), ("off", True, False)]
)
def test_what_only_reads_computes_in_half_where_the_cpu_does(monkeypatch, amp, multiplies, wanted):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: multiplies)
    assert half_of_readers(OptimConfig(amp=amp), torch.device("cpu")) is wanted
    assert not half_of_readers(OptimConfig(amp=amp), torch.device("cuda"))


def test_batch_norms_without_weights_become_group_norms():
    network = build_image_network(config(name="mobilenetv3_small_050"))
    assert not [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert isinstance(network, ImageNetwork)
    assert not network.pretrained
    # What follows a fused batch norm is still there.
    norms = [module for module in network.modules() if isinstance(module, nn.Sequential)]
    assert any(isinstance(n[0], nn.GroupNorm) and isinstance(n[-1], nn.Hardswish) for n in norms if len(n))
