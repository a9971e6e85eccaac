"""Train the point network from few labels.

    python training/train.py --config config/train/nuscenes_lidarseg.yaml data.percent=1 out=runs/one_percent
    python training/train.py --config config/train/nuscenes_lidarseg.yaml out=runs/one_percent resume=true
    torchrun --nproc_per_node 2 training/train.py --config config/train/semantickitti.yaml data.root=/data/semantickitti

Settings are those of training/config.py: a recipe, then `section.key=value` in any number. The run's folder gets
`state.safetensors` (to resume from, also after Ctrl-C), `model.safetensors` (the vehicle's checkpoint), `log.csv`,
TensorBoard events and `config.yaml`. The same seed gives the same run, interrupted or not; several processes share each
batch and do what one process does with all of it.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from rich.progress import Progress
from torch.utils.data import DataLoader

from mdkt_ros.device import machine_name
from mdkt_ros.errors import ConfigError, OutputError
from mdkt_ros.output import atomic_output
from mdkt_ros.sparse import block_threads, use_engine
from training.command import Interrupted, exit_code
from training.config import TrainConfig, load_config, to_yaml, uses_teacher
from training.data.dataset import StreamSampler, TrainingStream, make_batch
from training.data.draw import LabelDraw, stored_draw
from training.data.image_text import ImageTextCache
from training.data.source import Source, open_source
from training.data.towns import make_towns
from training.export import export_state, make_grid
from training.learner import make_learner
from training.log import RunLog, console
from training.processes import Processes, join_processes, leave_signals_to_parent, stop_requests
from training.scheme.distillation import open_teacher
from training.state import RunState, check_same_run, load_state, restore, save_state


def describe(config: TrainConfig, processes: Processes, source: Source, draw: LabelDraw) -> dict[str, Any]:
    """What the state and the checkpoint say about data and machine."""
    machine = machine_name(processes.device, torch.get_num_threads())
    return {
        "labels": source.labels.to_dict(),
        "axes": source.axes,
        "intensity_scale": source.intensity_scale,
        "fingerprint": draw.fingerprint,
        "budget": draw.budget(),
        "machine": machine if processes.world == 1 else f"{processes.world} x {machine}",
    }


def shared_draw(config: TrainConfig, processes: Processes, source: Source) -> LabelDraw:
    """The stored label draw; where it is missing the first process makes it, the others wait."""

    def draw() -> LabelDraw:
        data = config.data
        with Progress(console=console, transient=True, disable=not (processes.first and console.is_terminal)) as bar:
            task = bar.add_task("label draw", total=len(source))

            def progress(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            return stored_draw(
                source, data.percent, data.draw_seed, Path(data.draws), unit=data.budget, progress=progress
            )

    made = draw() if processes.first else None
    processes.barrier()
    return made or draw()


def prepare_out(config: TrainConfig, processes: Processes) -> RunState | None:
    """Create the run's folder, or read the state in it when resuming.

    Raises:
        ConfigError: no `out`, or another configuration than the run's. CheckpointError: no state to resume from.
        OutputError: a run is there already.
    """
    if not config.out:
        raise ConfigError("out is not set: give the folder of the run, e.g. out=runs/first")
    out = Path(config.out)
    if config.resume:
        state = load_state(out / "state.safetensors")
        check_same_run(state, config)
        return state
    if processes.first:
        if out.exists() and not out.is_dir():
            raise OutputError(f"{out}: is a file; out names the folder of the run")
        if out.exists() and any(out.iterdir()):
            if not config.force:
                raise OutputError(f"{out}: holds a run already; resume=true goes on with it, force=true replaces it")
            for pattern in (
                "state.safetensors",
                "model.safetensors",
                "log.csv",
                "config.yaml",
                "events.out.tfevents.*",
            ):
                for path in out.glob(pattern):
                    path.unlink()
        out.mkdir(parents=True, exist_ok=True)
        with atomic_output(out / "config.yaml", force=True) as temporary:
            temporary.write_text(to_yaml(config), encoding="utf-8")
    return None


def check_same_lessons(
    state: RunState, config: TrainConfig, fingerprint: str, taught: dict[str, str | float] | None
) -> None:
    """Raises ConfigError where a run that goes on had other data or another trained teacher."""
    if state.facts["fingerprint"] != fingerprint:
        raise ConfigError(f"{config.data.root}: not the data that the run in {state.path} was trained on")
    if state.facts.get("taught_by") != taught:
        named, was = config.distill.checkpoint, state.facts.get("taught_by") or "none"
        raise ConfigError(f"distill.checkpoint = {named!r}: the run in {state.path} has another teacher, {was}")


def open_image_text(config: TrainConfig, source: Source) -> ImageTextCache | None:
    """The scores of the image-text model that the recipe names, None where it names none."""
    if not config.pseudo.cache or not uses_teacher(config):
        return None
    return ImageTextCache.open(Path(config.pseudo.cache), source)


def make_loader(stream: TrainingStream, start: int, steps: int, processes: Processes) -> DataLoader[Any]:
    """This process's share of the batches from step `start` to the last."""
    config = stream.config
    sampler = StreamSampler(config.optim.batch_size, start, steps, processes.rank, processes.world)
    return DataLoader(
        stream,
        batch_sampler=sampler,
        collate_fn=make_batch,
        num_workers=config.workers,
        worker_init_fn=leave_signals_to_parent,
    )


def open_data(config: TrainConfig, processes: Processes) -> Source:
    """The scans to train on; synthetic towns that are missing are made first.

    Raises:
        ConfigError: processes that cannot share a batch. DriveError, LabelError: data that cannot be used.
    """
    if config.optim.batch_size % processes.world:
        raise ConfigError(
            f"optim.batch_size = {config.optim.batch_size}: {processes.world} processes cannot share it evenly"
        )
    if config.data.kind == "synthetic":
        if processes.first:
            make_towns(config.data)
        processes.barrier()
    return open_source(config.data)


def train(config: TrainConfig, processes: Processes) -> Path:
    """Train as configured. Returns the vehicle's checkpoint.

    Raises:
        ConfigError, DriveError, LabelError, OutputError, CheckpointError: before the first step, one line each.
        TrainingError: a loss that is not finite. Interrupted: stopped early, the state is saved.
    """
    grid, source = make_grid(config), open_data(config, processes)
    teacher = open_teacher(config, source, processes)
    state = prepare_out(config, processes)
    draw = shared_draw(config, processes, source)
    taught = None if teacher is None else teacher.describe()
    if state is not None:
        check_same_lessons(state, config, draw.fingerprint, taught)
    sight = None if teacher is None else teacher.sight
    stream = TrainingStream(source, draw, config, grid, open_image_text(config, source), sight)
    learner = make_learner(config, processes, stream, teacher)
    start, seconds = 0, 0.0
    if state is not None:
        restore(state, learner.student, learner.average, learner.optimizer, learner.scaler)
        start, seconds = state.step, float(state.facts["seconds"])
        learner.confusion += state.tensors["confusion"] if processes.first else 0
    batch_size, scans = config.optim.batch_size, len(source)
    steps = config.optim.steps or max(1, math.ceil(config.optim.epochs * scans / batch_size))
    facts = {**describe(config, processes, source, draw), "steps": steps}
    if taught is not None:
        facts["taught_by"] = taught
    if stream.image_text is not None:
        head = stream.image_text.head
        facts["text_model"] = {**head.description, "prompts": head.settings["prompts"]}
    if processes.first:
        budget = facts["budget"]
        console.print(
            f"{scans} scans, {budget['labels']:,} of {budget['points']:,} points labelled "
            f"({budget['labels_percent_of_points']:.3g} %), {steps} steps, {facts['machine']}"
        )
    loader = make_loader(stream, start, steps, processes)
    path, began = Path(config.out) / "state.safetensors", time.monotonic() - seconds

    def save(step: int) -> None:
        # Before the first process writes, since all take part in the sum.
        confusion = processes.sum_tensor(learner.confusion)
        if processes.first:
            facts["seconds"] = round(time.monotonic() - began, 1)
            save_state(
                path,
                config=config,
                step=step,
                facts=facts,
                student=learner.student,
                average=learner.average,
                optimizer=learner.optimizer,
                scaler=learner.scaler,
                confusion=confusion,
            )

    columns = ["epoch", "lr", "loss", *learner.terms, "gradient_norm", "labels"]
    columns += [*learner.columns, "miou", "seconds"]
    log = RunLog(path.parent, columns, start, steps, quiet=not processes.first)
    with log, stop_requests() as signals:
        for step, batch in enumerate(loader, start):
            with block_threads():
                values = learner.step(batch.to(processes.device), step, steps)
            done = step + 1
            epoch_ends = done * batch_size // scans > step * batch_size // scans
            values |= {"epoch": done * batch_size / scans, "miou": learner.miou() if epoch_ends else None}
            log.row(done, {**values, "seconds": round(time.monotonic() - began, 2)})
            # A signal reaches the processes at different steps: all stop at the same one.
            stop = processes.sum([len(signals)])[0] > 0
            if stop or done == steps or done % config.save_every == 0:
                save(done)
            if stop and done < steps:
                raise Interrupted(
                    f"{path.parent}: stopped after step {done} of {steps}; resume=true goes on from there"
                )
    model = path.parent / "model.safetensors"
    if processes.first:
        export_state(load_state(path), model, force=True)
        minutes = (time.monotonic() - began) / 60
        console.print(f"{model}: trained for {steps} steps in {minutes:.1f} minutes", soft_wrap=True)
    return model


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0, 1 with the error on one line, or 130 when interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="recipe, .yaml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings over the recipe's")
    options = parser.parse_args(arguments)

    def work() -> None:
        config = load_config(options.config, options.overrides)
        with join_processes(config.device) as processes, use_engine(config.engine):
            train(config, processes)

    return exit_code(work, out="the run's folder", interrupted="interrupted; what the last state holds is kept")


if __name__ == "__main__":
    sys.exit(main())
