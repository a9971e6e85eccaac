"""Training state -> the vehicle's checkpoint: the point network alone, and what is needed to use it.

    python training/export.py runs/nuscenes_lidarseg/state.safetensors model.safetensors --half

Optimizer, random generators and whatever else only training needs stay behind. Where the run kept a running mean of the
weights (optim.average), that is what goes out; `--raw` takes the weights themselves. `--open-vocabulary` adds the
projection head and the text embeddings of a run with `contrast`, so that points can be asked for by name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor

from mdkt_ros.checkpoint import save_checkpoint
from mdkt_ros.checkpoint_meta import CheckpointMeta, OpenVocabulary
from mdkt_ros.errors import CheckpointError
from mdkt_ros.image_text_model import LOCAL
from mdkt_ros.labels import LabelSpace
from mdkt_ros.network import PointNetwork, build_network
from mdkt_ros.projection import ProjectionHead
from mdkt_ros.voxel_grid import VoxelGrid
from training.command import exit_code
from training.config import TrainConfig, flatten
from training.state import RunState, load_state

CONTRAST = "scheme.contrast"
"""Where a state holds the projection head, and what it was taught with."""


def make_grid(config: TrainConfig) -> VoxelGrid:
    """The grid of the `model` section. Raises ConfigError."""
    (x0, y0, z0), (x1, y1, z1) = config.model.minimum, config.model.maximum
    return VoxelGrid(config.model.voxel_size, (x0, y0, z0), (x1, y1, z1))


def make_network(config: TrainConfig, classes: int) -> PointNetwork:
    """The network of the `model` section with fresh weights. Raises ConfigError."""
    model = config.model
    return build_network(model.preset, in_channels=len(model.features), classes=classes, width=model.width)


def export_state(
    state: RunState,
    out: Path,
    *,
    half: bool = False,
    raw: bool = False,
    open_vocabulary: bool = False,
    force: bool = False,
) -> None:
    """Write the vehicle's checkpoint of a training state.

    Args:
        half: store weights as float16, at half the size.
        raw: the weights themselves, even where the run kept their running mean.
        open_vocabulary: also the projection head and the text embeddings of the classes.

    Raises:
        CheckpointError: the state does not hold a network of its own configuration, or no projection head.
        OutputError: `out` exists and `force` is false, or cannot be written.
    """
    config, facts = state.config, state.facts
    try:
        labels = LabelSpace.from_dict(facts["labels"], str(state.path))
        network = make_network(config, len(labels))
        averaged = state.part("average")
        network.load_state_dict(state.part("network") if raw or not averaged else averaged)
        meta = CheckpointMeta(
            preset=config.model.preset,
            width=config.model.width,
            grid=make_grid(config),
            labels=labels,
            features=tuple(config.model.features),
            intensity_scale=float(facts["intensity_scale"]),
            axes=str(facts["axes"]),
            training={
                "config": _without_places(config),
                "step": state.step,
                "steps": facts["steps"],
                "seconds": facts["seconds"],
                "machine": facts["machine"],
                "averaged": bool(averaged) and not raw,
                **({"taught_by": facts["taught_by"]} if "taught_by" in facts else {}),
            },
            data={"fingerprint": facts["fingerprint"], "budget": facts["budget"]},
        )
        head = None
        if open_vocabulary:
            head, texts, words = projection_of(state)
            meta = replace(meta, open_vocabulary=words, text_embeddings=texts)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{state.path}: not a whole training state: {' '.join(str(error).split())}") from error
    save_checkpoint(out, network, meta, head=head, force=force, dtype="float16" if half else "float32")


def projection_of(state: RunState) -> tuple[ProjectionHead, Tensor, OpenVocabulary]:
    """The projection head of a run, the text embeddings (C, D) that it learnt, and the text model they come from.

    Raises:
        CheckpointError: the run has none.
    """
    part, text_model = state.part(CONTRAST), state.facts.get("text_model")
    if "text" not in part or text_model is None:
        raise CheckpointError(
            f"{state.path}: no projection head in a text model's space; a run with contrast.weight above 0 and a text "
            "model has one"
        )
    (hidden, channels), dim = part["head.0.weight"].shape, len(part["head.2.bias"])
    head = ProjectionHead(channels, hidden, dim)
    prefix = "head."
    head.load_state_dict({k.removeprefix(prefix): v for k, v in part.items() if k.startswith(prefix)})
    words = OpenVocabulary(
        model=_without_folders(str(text_model["model"])),
        pretrained=_without_folders(str(text_model["pretrained"])),
        weights=str(text_model["weights"]),
        prompts=tuple(str(prompt) for prompt in text_model["prompts"]),
        hidden=hidden,
        dim=dim,
        temperature=state.config.contrast.temperature,
    )
    # A class that the text model has no word for is where its points are.
    texts = torch.where(part["known"].bool()[:, None], part["text"], part["prototypes"])
    return head, texts, words


def _without_places(config: TrainConfig) -> dict[str, Any]:
    """Settings by `section.key`, files by their last names: where they lay on someone's disk is nobody's business."""
    named = ("pseudo.cache", "image_network.weights", "distill.checkpoint")
    settings = {k: v for k, v in flatten(config).items() if k not in ("data.root", "data.draws", "out")}
    return settings | {key: Path(settings[key]).name for key in named}


def _without_folders(name: str) -> str:
    """`local-dir:` and files by their last names: where they lay on someone's disk is nobody else's business."""
    if name.startswith(LOCAL):
        return LOCAL + Path(name[len(LOCAL) :]).name
    return Path(name).name if Path(name).suffix else name


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0, or 1 with the error on one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path, help="state.safetensors of a run, or the run's folder")
    parser.add_argument("out", type=Path, help="checkpoint to write, .safetensors")
    parser.add_argument("--half", action="store_true", help="store weights as float16")
    parser.add_argument("--raw", action="store_true", help="not the running mean of the weights")
    parser.add_argument(
        "--open-vocabulary", action="store_true", help="with the projection head and the classes' text embeddings"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing checkpoint")
    options = parser.parse_args(arguments)
    path: Path = options.state / "state.safetensors" if options.state.is_dir() else options.state

    def work() -> None:
        state = load_state(path)
        export_state(
            state,
            options.out,
            half=options.half,
            raw=options.raw,
            open_vocabulary=options.open_vocabulary,
            force=options.force,
        )
        written, read = (file.stat().st_size / 1e6 for file in (options.out, path))
        print(f"{options.out}: {written:.2f} MB (the training state: {read:.2f} MB), after {state.step} steps")

    return exit_code(work, out=options.out)


if __name__ == "__main__":
    sys.exit(main())
