"""Pre-train a small image-text model and the image network's backbone: a stand-in where real weights cannot be had.

    python training/pretrain.py --out runs/pretrained
    python training/pretrain.py --out runs/pretrained image_text.epochs=20 crops.towns=24 workers=8

Towns of the seeds 3000 to 3999, in which nobody trains or scores, are photographed: crops and captions, some captions
wrong, and no label. From them learn `image_text/` (a folder for `local-dir:`, as `training/pseudo_labels.py` takes it)
and `image_network.safetensors` (for `image_network.weights` of a recipe); `report.json` says how good both are in towns
of the validation seeds. What is there already, made with the same settings, is kept: run again after an interruption.
With weights of real CLIP and ImageNet at hand, use those.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.progress import Progress
from safetensors import SafetensorError, safe_open

from mdkt_ros.drive.synthetic import PRETRAINING_SEEDS
from mdkt_ros.errors import ConfigError, OutputError
from mdkt_ros.output import atomic_output
from training.command import exit_code
from training.data.crops import CropConfig, Crops, load_crops, photograph, save_crops
from training.log import console
from training.pool import run_all
from training.pretrain_image_network import BackboneConfig, save_image_network, train_image_network
from training.pretrain_image_text import ImageTextConfig, save_image_text, train_image_text
from training.pretrain_report import ReportConfig, write_report


@dataclass
class PretrainConfig:
    """Everything that the weights depend on, and where they are made."""

    crops: CropConfig = field(default_factory=CropConfig)
    image_text: ImageTextConfig = field(default_factory=ImageTextConfig)
    image_network: BackboneConfig = field(default_factory=BackboneConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    seed: int = 0  # of the weights and of the order of the crops; the towns have their own
    device: str = "auto"  # auto | cpu | cuda | cuda:1
    precision: str = "auto"  # bf16 | fp32 | auto: bf16 where the hardware computes in it
    threads: int = 0  # of PyTorch; 0: as it likes. Another number gives slightly other weights
    workers: int = 0  # processes that render; 0: one a core


def load_pretrain_config(recipe: Path | None, overrides: Sequence[str] = ()) -> PretrainConfig:
    """Read a recipe and lay `section.key=value` overrides over it. Raises ConfigError that names the key."""
    try:
        merged = OmegaConf.structured(PretrainConfig)
        if recipe is not None:
            merged = OmegaConf.merge(merged, yaml.safe_load(recipe.read_text(encoding="utf-8")) or {})
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(list(overrides)))
        config = OmegaConf.to_object(merged)
    except OSError as error:
        raise ConfigError(f"{recipe}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise ConfigError(f"{recipe or 'overrides'}: {' '.join(str(error).split())}") from error
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "settings"
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from error
    assert isinstance(config, PretrainConfig)
    _check(config)
    return config


def _check(config: PretrainConfig) -> None:
    """Ranges, so that a bad value is found before a town is built."""
    crops, text, network = config.crops, config.image_text, config.image_network
    for key, good, what in (
        ("crops.towns", 0 < crops.towns <= len(PRETRAINING_SEEDS), f"from 1 to {len(PRETRAINING_SEEDS)}"),
        ("crops.wrong", 0 <= crops.wrong < 1, "from 0 to below 1"),
        ("crops.smallest", 8 <= crops.smallest <= crops.largest, "at least 8 and at most crops.largest"),
        ("image_text.image_size", text.image_size <= crops.size, "at most crops.size"),
        (
            "image_text.patch",
            text.patch > 0 and text.image_size % text.patch == 0,
            "a divisor of image_text.image_size",
        ),
        ("image_text.head_width", text.head_width > 0 and text.width % text.head_width == 0, "a divisor of the width"),
        ("image_text.pool", text.pool in ("avg", "tok"), "avg or tok"),
        ("image_text.batch_size", text.batch_size > 1, "above 1"),
        ("image_network.image_size", 32 <= network.image_size <= crops.size, "from 32 to crops.size"),
        ("image_network.batch_size", network.batch_size > 1, "above 1"),
        ("precision", config.precision in ("auto", "bf16", "fp32"), "auto, bf16 or fp32"),
    ):
        if not good:
            raise ConfigError(f"{key}: must be {what}")
    for name, section in (("image_text", text), ("image_network", network)):
        for key in ("epochs", "lr"):
            if not 0 < getattr(section, key) < float("inf"):
                raise ConfigError(f"{name}.{key}: must be above 0")


def pretrain(out: Path, config: PretrainConfig, *, force: bool = False) -> dict[str, Any]:
    """Make what is missing in `out` of crops, both weights and the report; returns the report.

    Raises:
        OutputError: what is there was made with other settings, and `force` is false.
    """
    out.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    crops = _photos(out, config, force)
    settings = _settings(config)
    about = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "towns": f"{PRETRAINING_SEEDS[0]} to {PRETRAINING_SEEDS[config.crops.towns - 1]}",
        "crops": len(crops.captions),
        "wrong_captions": config.crops.wrong,
    }
    device, dtype = _device(config), _dtype(config)
    folder, weights = out / "image_text", out / "image_network.safetensors"
    if force or not _made(folder / "open_clip_config.json", settings["image_text"]):
        with Progress(console=console) as bar, atomic_output(folder, force=force) as temporary:
            task = bar.add_task("Image-text model")
            model, model_cfg, losses = train_image_text(
                crops, config.image_text, config.seed, device, dtype, _on(bar, task)
            )
            facts = {**about, "loss": float(np.mean(losses[-50:])), "settings": settings["image_text"]}
            save_image_text(temporary, model, model_cfg, facts)
    if force or not _made(weights, settings["image_network"]):
        with Progress(console=console) as bar, atomic_output(weights, force=force) as temporary:
            task = bar.add_task("Image network")
            network, losses = train_image_network(
                crops, config.image_network, config.seed, device, dtype, _on(bar, task)
            )
            facts = {**about, "loss": float(np.mean(losses[-50:])), "settings": settings["image_network"]}
            save_image_network(temporary, network, config.image_network.name, facts)
    if not config.report.towns:
        return {"summary": {}}
    with Progress(console=console) as bar:
        task = bar.add_task("Report")
        return write_report(out, config.report, force=True, progress=_on(bar, task))


def _settings(config: PretrainConfig) -> dict[str, Any]:
    """What each of the two weights depends on, of JSON types only."""
    shared = {"crops": dataclasses.asdict(config.crops), "seed": config.seed}
    return {
        name: {**shared, name: dataclasses.asdict(getattr(config, name))} for name in ("image_text", "image_network")
    }


def _made(path: Path, settings: dict[str, Any]) -> bool:
    """Whether `path` (a model's configuration or weights) is there. Raises OutputError when of other settings."""
    if not path.exists():
        return False
    try:
        if path.suffix == ".json":
            there = json.loads(path.read_text(encoding="utf-8"))["pretraining"]["settings"]
        else:
            with safe_open(path, "pt") as file:
                there = json.loads(file.metadata()["pretraining"])["settings"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path}: was not made here ({error}); give another --out, or --force") from error
    if there != settings:
        raise OutputError(f"{path}: was made with other settings; give another --out, or --force to replace it")
    return True


def _photos(out: Path, config: PretrainConfig, force: bool) -> Crops:
    """The crops of all towns, those that are missing made first."""
    folder, made = out / "crops", out / "crops" / "crops.json"
    folder.mkdir(exist_ok=True)
    # More towns of the same kind are no other setting: those that are there stay.
    settings = {key: value for key, value in dataclasses.asdict(config.crops).items() if key != "towns"}
    if made.is_file() and not force and json.loads(made.read_text(encoding="utf-8")) != settings:
        raise OutputError(f"{made}: the crops there were made with other settings; give another --out, or --force")
    with atomic_output(made, force=True) as temporary:
        temporary.write_text(json.dumps(settings), encoding="utf-8")
    seeds = PRETRAINING_SEEDS[: config.crops.towns]
    missing = [seed for seed in seeds if force or not (folder / f"{seed}.safetensors").is_file()]
    if missing:
        with Progress(console=console) as bar:
            workers = min(config.workers or os.cpu_count() or 1, len(missing))
            making = run_all(functools.partial(_photograph, folder, config.crops), missing, workers)
            for _ in bar.track(making, total=len(missing), description="Photographing towns"):
                pass
    parts = [load_crops(folder / f"{seed}.safetensors") for seed in seeds]
    captions = tuple(caption for part in parts for caption in part.captions)
    return Crops(np.concatenate([part.images for part in parts]), captions)


def _photograph(folder: Path, config: CropConfig, seed: int) -> None:
    save_crops(folder / f"{seed}.safetensors", photograph(seed, config).crops)


def _device(config: PretrainConfig) -> torch.device:
    name = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device = {name!r}: {str(error).splitlines()[0]}") from error
    return device


def _dtype(config: PretrainConfig) -> torch.dtype | None:
    """What autocast computes in: bfloat16 is four times as fast where it is in the hardware, and slow elsewhere."""
    fast = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if config.precision == "bf16" or (config.precision == "auto" and fast) else None


def _on(bar: Progress, task: Any) -> Any:
    return lambda done, total: bar.update(task, completed=done, total=total)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0, 1 with the error on one line, or 130 when interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for crops, weights and report")
    parser.add_argument("--config", type=Path, help="recipe, .yaml")
    parser.add_argument("--force", action="store_true", help="make everything anew")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings over the recipe's")
    options = parser.parse_args(arguments)

    def work() -> None:
        config = load_pretrain_config(options.config, options.overrides)
        report = pretrain(options.out, config, force=options.force)
        print(json.dumps(report["summary"], indent=2))

    return exit_code(work, out=options.out, interrupted="interrupted; towns and weights that are whole are kept")


if __name__ == "__main__":
    sys.exit(main())
