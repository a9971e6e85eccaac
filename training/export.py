"""Training state -> the vehicle's checkpoint: the point network alone, and what is needed to use it.

    python training/export.py runs/nuscenes_lidarseg/state.safetensors model.safetensors --half

Optimizer, random generators and whatever else only training needs stay behind. Where the run kept a running mean of the
weights (optim.average), that is what goes out; `--raw` takes the weights themselves.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from mdkt_ros.checkpoint import save_checkpoint
from mdkt_ros.checkpoint_meta import CheckpointMeta
from mdkt_ros.errors import CheckpointError, MdktError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.network import PointNetwork, build_network
from mdkt_ros.voxels import VoxelGrid
from training.config import TrainConfig, flatten
from training.state import RunState, load_state


def make_grid(config: TrainConfig) -> VoxelGrid:
    """The grid of the `model` section. Raises ConfigError."""
    (x0, y0, z0), (x1, y1, z1) = config.model.minimum, config.model.maximum
    return VoxelGrid(config.model.voxel_size, (x0, y0, z0), (x1, y1, z1))


def make_network(config: TrainConfig, classes: int) -> PointNetwork:
    """The network of the `model` section with fresh weights. Raises ConfigError."""
    model = config.model
    return build_network(model.preset, in_channels=len(model.features), classes=classes, width=model.width)


def export_state(state: RunState, out: Path, *, half: bool = False, raw: bool = False, force: bool = False) -> None:
    """Write the vehicle's checkpoint of a training state.

    Args:
        half: store weights as float16, at half the size.
        raw: the weights themselves, even where the run kept their running mean.

    Raises:
        CheckpointError: the state does not hold a network of its own configuration.
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
                # Where a run lay on someone's disk is nobody else's business.
                "config": {k: v for k, v in flatten(config).items() if k not in ("data.root", "data.draws", "out")},
                "step": state.step,
                "steps": facts["steps"],
                "seconds": facts["seconds"],
                "machine": facts["machine"],
                "averaged": bool(averaged) and not raw,
            },
            data={"fingerprint": facts["fingerprint"], "budget": facts["budget"]},
        )
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{state.path}: not a whole training state: {' '.join(str(error).split())}") from error
    save_checkpoint(out, network, meta, force=force, dtype="float16" if half else "float32")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0, or 1 with the error on one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path, help="state.safetensors of a run, or the run's folder")
    parser.add_argument("out", type=Path, help="checkpoint to write, .safetensors")
    parser.add_argument("--half", action="store_true", help="store weights as float16")
    parser.add_argument("--raw", action="store_true", help="not the running mean of the weights")
    parser.add_argument("--force", action="store_true", help="replace an existing checkpoint")
    options = parser.parse_args(arguments)
    path: Path = options.state / "state.safetensors" if options.state.is_dir() else options.state
    try:
        state = load_state(path)
        export_state(state, options.out, half=options.half, raw=options.raw, force=options.force)
    except MdktError as error:
        print(error, file=sys.stderr)
        return 1
    written, read = options.out.stat().st_size, path.stat().st_size
    print(f"{options.out}: {written / 1e6:.2f} MB (the training state: {read / 1e6:.2f} MB), after {state.step} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
