"""What a training run is made of: typed sections, a YAML recipe over them, `key=value` overrides over that.

    config = load_config(Path("config/train/nuscenes_lidarseg.yaml"), ["data.percent=1", "optim.epochs=40"])

A key that does not exist, a value of the wrong type and a value out of range are one `ConfigError` that names the key.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mdkt_ros.errors import ConfigError
from training.config_checks import check_values
from training.scheme.config import (
    ContrastConfig,
    DistillConfig,
    ImageNetworkConfig,
    ImagesConfig,
    PseudoConfig,
    ScheduleConfig,
    TeacherConfig,
    TransferConfig,
)


@dataclass
class DataConfig:
    """Which scans, and how many of their labels."""

    kind: str = "folder"  # semantickitti | scribblekitti | nuscenes | folder | synthetic
    root: str = ""  # folder of the data set
    label_space: str = ""  # name or .yaml; empty: the data set's own (a plain folder has none)
    sequences: list[str] = field(default_factory=list)  # SemanticKITTI, ScribbleKITTI: 00, 01, ...; empty: all
    scenes: list[str] = field(default_factory=list)  # nuScenes: scene names; empty: all
    split: str = ""  # nuScenes: instead of scenes, a split of the version's splits.json
    frames: str = ""  # of what is chosen so far: "0-20", "0-20,25"; empty: all
    towns: int = 0  # synthetic: how many towns, made under `root` where they are missing
    town_first: int = 0  # synthetic: seed of the first town; to train: towns below 1000
    town_format: str = "semantickitti"  # synthetic: whose sensors: semantickitti (one camera) | nuscenes (six)
    town_scans: int = 16  # synthetic: scans of the drive through each
    town_rate: float = 0.5  # synthetic: scans a second of driving; a low rate gives scans that differ
    town_images: bool = False  # synthetic: render the camera's images, which labels alone do not need
    budget: str = "points"  # how labels are given: points | clicks (one an instance) | frames (whole scans)
    percent: float = 100.0  # of the labelled points of each scan, or of the scans, at least one; clicks have none
    draw_seed: int = 0  # of the label draw, apart from the seed of the run
    draws: str = "runs/draws"  # folder where label draws are stored; a draw that is there is used, never redrawn
    cache: bool = False  # keep all scans in memory (small sets)


@dataclass
class ModelConfig:
    """The point network and its grid."""

    preset: str = "minkunet14s"  # mdkt_ros.network.PRESETS
    width: float = 1.0  # factor on all channels
    voxel_size: float = 0.1  # metres
    minimum: list[float] = field(default_factory=lambda: [-51.2, -51.2, -5.0])  # of the grid, metres, LiDAR frame
    maximum: list[float] = field(default_factory=lambda: [51.2, 51.2, 3.0])
    features: list[str] = field(default_factory=lambda: ["x", "y", "z", "intensity"])  # of a voxel


@dataclass
class OptimConfig:
    """AdamW, linear warm-up, cosine decay to nothing."""

    epochs: float = 20.0  # passes over the scans; fractions are allowed
    steps: int = 0  # instead of epochs, when above 0
    batch_size: int = 4  # scans a step, of all processes together
    lr: float = 2e-3  # at its peak
    weight_decay: float = 0.01
    warmup: float = 0.1  # share of the steps
    clip: float = 10.0  # largest gradient norm; 0: no limit
    # On CUDA auto is bf16 where it has that, else fp16. A CPU trains in fp32; with auto or bf16 the teacher and an
    # image network that stays compute in bf16 where the CPU multiplies it.
    amp: str = "auto"  # auto | off | bf16 | fp16
    balance_inputs: bool = True  # divide the first layer's fresh weights by the spread of its inputs
    average: float = 0.0  # momentum of the running mean of the weights that is exported; 0: the weights themselves


@dataclass
class LossConfig:
    """Weights of the losses' sum; 0 leaves one out."""

    cross_entropy: float = 1.0
    lovasz: float = 1.0
    class_weights: str = "none"  # none | sqrt: 1 / sqrt(share of the class among the drawn labels)
    label_smoothing: float = 0.0


@dataclass
class AugmentConfig:
    """Random changes of a scan; all zero: none."""

    yaw: float = 180.0  # degrees about z, uniform in +-
    flip: float = 0.5  # probability of mirroring x, and of mirroring y
    scale: float = 0.05  # uniform in 1 +-
    tilt: float = 1.0  # degrees about x and about y, uniform in +-
    shift: float = 0.1  # metres in z, uniform in +-
    jitter: float = 0.01  # metres, standard deviation of each coordinate, cut off at three of them
    drop: float = 0.2  # largest share of points left out, uniform from 0
    intensity: float = 0.1  # factor on the scan's intensity, uniform in 1 +-
    intensity_drop: float = 0.0  # probability of a scan without intensity (zeros)
    mix: float = 0.0  # probability of swapping in part of another scan, labels moving with their points
    mix_sectors: bool = True  # swap an azimuth sector (PolarMix)
    mix_bands: bool = True  # swap elevation bands (LaserMix)


@dataclass
class TrainConfig:
    """Everything that a run depends on; stored with its results."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    image_network: ImageNetworkConfig = field(default_factory=ImageNetworkConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    pseudo: PseudoConfig = field(default_factory=PseudoConfig)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    out: str = ""  # folder of the run: state.safetensors, model.safetensors, log.csv, config.yaml, events.*
    seed: int = 0  # of the weights, the order of the scans and the augmentation
    device: str = "auto"  # auto | cpu | cuda | cuda:1
    engine: str = "auto"  # of the convolutions: auto | torch | native | triton | torchsparse
    workers: int = 0  # processes that prepare scans; 0: the training process itself
    resume: bool = False  # go on from out/state.safetensors
    force: bool = False  # replace a run that is in `out`
    save_every: int = 200  # steps between states (the last step and an interruption always leave one)


PLACE_KEYS = {
    "out",
    "device",
    "engine",
    "workers",
    "resume",
    "force",
    "save_every",
    "data.root",
    "data.draws",
    "data.cache",
    "pseudo.cache",
    "image_network.weights",
    "distill.checkpoint",
}
"""Keys that say where a run happens, not what it computes: they may differ when it is resumed."""


def uses_images(config: TrainConfig) -> bool:
    """Whether a part of the scheme looks at the scans' images while it trains."""
    return config.transfer.weight > 0


def uses_teacher(config: TrainConfig) -> bool:
    """Whether a part of the scheme asks the running mean of the weights."""
    return max(config.pseudo.weight, config.teacher.weight, config.contrast.weight) > 0


def spreads_labels(config: TrainConfig) -> bool:
    """Whether drawn labels speak about the points around them."""
    return config.pseudo.weight * config.pseudo.spread > 0


def flatten(config: TrainConfig) -> dict[str, Any]:
    """`section.key` -> value of every setting, of JSON types only."""
    flat: dict[str, Any] = {}
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            flat.update({f"{name}.{key}": item for key, item in value.items()})
        else:
            flat[name] = value
    return flat


def to_yaml(config: TrainConfig) -> str:
    """The configuration as a recipe that `load_config` reads."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def from_dict(data: dict[str, Any], source: str) -> TrainConfig:
    """Build from a recipe's structure. Raises ConfigError that names `source` and the key."""
    return _build([(source, data)])


def load_config(recipe: Path | None, overrides: typing.Sequence[str] = ()) -> TrainConfig:
    """Read a recipe and lay `section.key=value` overrides over it, left to right.

    Raises:
        ConfigError: unreadable recipe, unknown key (with close matches), wrong type, value out of range.
    """
    layers: list[tuple[str, dict[str, Any]]] = []
    if recipe is not None:
        try:
            data = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{recipe}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{recipe}: not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{recipe}: a recipe is a mapping of sections, not {type(data).__name__}")
        layers.append((str(recipe), data))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"{override!r}: an override is written key=value, e.g. optim.epochs=40")
        try:
            value: Any = yaml.safe_load(text) if text else ""
        except yaml.YAMLError:
            value = text
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        layers.append((f"override {override!r}", value))
    return _build(layers)


def _check_keys(data: dict[str, Any], source: str) -> None:
    """Refuse keys that do not exist, naming the nearest ones, and values in the place of a section."""
    known = list(flatten(TrainConfig()))
    sections = {key.split(".")[0] for key in known if "." in key}
    for name, value in data.items():
        if name in sections and not isinstance(value, dict):
            keys = ", ".join(key for key in known if key.startswith(f"{name}."))
            raise ConfigError(f"{source}: {name} is a section with the keys {keys}")
        for key in [f"{name}.{k}" for k in value] if isinstance(value, dict) else [str(name)]:
            if key not in known:
                raise ConfigError(f"{source}: unknown key {key}; {_nearest(key, known)}")


def _nearest(key: str, known: list[str]) -> str:
    last = key.rsplit(".", 1)[-1]
    # The right name in the wrong section is the commonest slip, then a slip of the pen.
    scores = {k: difflib.SequenceMatcher(None, k.rsplit(".", 1)[-1], last).ratio() for k in known}
    near = [k for k in sorted(known, key=lambda k: -scores[k]) if scores[k] > 0.7]
    near = [k for k in near if k.split(".")[0] == key.split(".")[0]] or near
    if near:
        return f"did you mean {' or '.join(near[:3])}?"
    section = [k for k in known if k.startswith(f"{key.split('.')[0]}.")]
    return f"known: {', '.join(section or dict.fromkeys(k.split('.')[0] for k in known))}"


def _build(layers: list[tuple[str, dict[str, Any]]]) -> TrainConfig:
    merged = OmegaConf.structured(TrainConfig)
    for source, data in layers:
        _check_keys(data, source)
        try:
            merged = OmegaConf.merge(merged, data)
        except OmegaConfBaseException as error:
            first = str(error).splitlines()[0]
            key = getattr(error, "full_key", None) or ", ".join(map(str, data))
            raise ConfigError(f"{source}: {key}: {first}") from error
    config = OmegaConf.to_object(merged)
    assert isinstance(config, TrainConfig)
    check_values(flatten(config))
    return config
