"""The state of a run on disk: everything that going on as if nothing had happened needs. Nothing in it is pickled.

`state.safetensors` holds the tensors of network, weight average, optimizer and random generators by dotted names, and
JSON in its metadata for the rest.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mdkt_ros.errors import CheckpointError, ConfigError
from mdkt_ros.output import atomic_output
from training.average import WeightAverage
from training.config import PLACE_KEYS, TrainConfig, flatten, from_dict

FORMAT = "mdkt_ros training state 1"


@dataclass(frozen=True)
class RunState:
    """A state that was read.

    Attributes:
        path: its file.
        config: of the run.
        step: steps done.
        facts: JSON of what the run knows about its data and itself: label space, budget, seconds, machine, ...
        tensors: by dotted name: network.*, scheme.*, average.*, optimizer.<parameter>.*, random.*, confusion.
    """

    path: Path
    config: TrainConfig
    step: int
    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors below `name`, without it."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


def save_state(
    path: Path,
    *,
    config: TrainConfig,
    step: int,
    facts: dict[str, Any],
    student: nn.Module,
    average: WeightAverage | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    confusion: Tensor,
) -> None:
    """Write the state, replacing the last one only when the new one is whole. Raises OutputError."""
    # The student's own names: network.* and, where the scheme has modules, scheme.*.
    tensors = dict(student.state_dict())
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.network.state_dict().items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in values.items()}
    tensors |= {"random.cpu": torch.get_rng_state(), "confusion": confusion}
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    head = {"config": dataclasses.asdict(config), "step": step, "facts": facts, "scaler": scaler.state_dict()}
    with atomic_output(path, force=True) as temporary:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            temporary,
            metadata={"format": FORMAT, "head": json.dumps(head)},
        )


def load_state(path: Path) -> RunState:
    """Read a state. Raises CheckpointError when the file is missing, truncated or of another format."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; a run leaves its state there")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                found = metadata.get("format", "unknown")
                raise CheckpointError(f"{path}: its format is {found}, not {FORMAT}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        head = json.loads(metadata["head"])
        config = from_dict(head["config"], str(path))
        facts = {**head["facts"], "scaler": head["scaler"]}
        return RunState(path, config, int(head["step"]), facts, tensors)
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole training state: {' '.join(str(error).split())}") from error


def check_same_run(state: RunState, config: TrainConfig) -> None:
    """Raise ConfigError that names the first key by which `config` would compute something else than the stored run."""
    stored = flatten(state.config)
    for key, value in flatten(config).items():
        if key not in PLACE_KEYS and stored[key] != value:
            raise ConfigError(
                f"{key} = {value!r}: the run in {state.path} has {stored[key]!r}; resume with that, or start another"
            )


def restore(
    state: RunState,
    student: nn.Module,
    average: WeightAverage | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """Put a state back into the objects it was taken from. Raises CheckpointError when it does not fit them."""
    values: dict[int, dict[str, Tensor]] = {}
    for name, value in state.part("optimizer").items():
        number, key = name.split(".", 1)
        values.setdefault(int(number), {})[key] = value
    try:
        student.load_state_dict(
            {name: value for name, value in state.tensors.items() if name.startswith(("network.", "scheme."))}
        )
        if average is not None:
            average.network.load_state_dict(state.part("average"))
        optimizer.load_state_dict({**optimizer.state_dict(), "state": values})
        scaler.load_state_dict(state.facts["scaler"])
        torch.set_rng_state(state.tensors["random.cpu"])
        if torch.cuda.is_available() and "random.cuda" in state.tensors:
            torch.cuda.set_rng_state(state.tensors["random.cuda"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{state.path}: does not fit the network: {' '.join(str(error).split())}") from error
