"""Score the points of a data set by an image-text model, and say how right the labels are that follow.

    python training/pseudo_labels.py --config config/train/semantickitti.yaml data.root=/data/semantickitti \
        --model ViT-B-16 --pretrained laion2b_s34b_b88k --out runs/image_text/semantickitti
    python training/pseudo_labels.py --config config/train/mdkt_towns.yaml \
        --model local-dir:runs/pretrained/image_text --out runs/image_text/towns --pictures pictures

Every scan and image of the recipe's data, once. The scores go to the folder `--out`, which `pseudo.cache` of the recipe
names for training; a run that was stopped goes on where it was. Then they are calibrated by the recipe's label draw,
and by nothing else, as training will do it; the figures against the truth, for people to read, go to `report.json`.
Beside the scores are stored components of the features of the recipe's image network, where that has weights, and the
shape of what surrounds each point: the labels may tell by them what the text has no word for.
Weights are downloaded only when `--pretrained` is the tag of published ones, or `image_network.weights` is `timm`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from mdkt_ros.device import resolve_device
from mdkt_ros.drive.synthetic import TRAIN_SEEDS
from mdkt_ros.errors import ConfigError
from mdkt_ros.image_text_model import load_image_text
from mdkt_ros.output import atomic_output
from training.command import exit_code
from training.config import TrainConfig, load_config
from training.data.draw import LabelDraw, stored_draw
from training.data.image_components import BASIS, COMPONENTS, ImageComponents, open_components, save_basis
from training.data.image_text import ImageTextCache, calibrate
from training.data.image_text_head import HEAD, TEXT, CacheHead, write_head
from training.data.image_text_maker import cache_head, make_scores
from training.data.image_text_picture import picture, write_picture
from training.data.image_text_report import Report, make_report
from training.data.source import Source, open_source
from training.data.superpoints import Superpoints
from training.data.towns import make_towns
from training.log import console
from training.scheme.calibration import Calibration
from training.scheme.dense_clip import DenseClip, DenseOptions
from training.scheme.dense_towers import LAST_BLOCKS
from training.scheme.text import class_text, load_prompts


def arguments_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", type=Path, help="recipe, .yaml: its data and its label draw")
    add("--model", required=True, help="an open_clip model, local-dir:FOLDER or hf-hub:OWNER/NAME")
    add("--pretrained", default="", help="weights of an open_clip model: a file, or the tag of published ones")
    add("--out", type=Path, help="folder of the scores; by default the recipe's pseudo.cache")
    add("--prompts", type=Path, help="YAML list of texts with {} in the place of the word; by default street scenes")
    add("--scales", default="1", help="sizes of the images, as factors: 1 or 0.5,1; their scores are averaged")
    add("--window", default="auto", help="pixels of a sliding window; 0: whole images; auto: as the model was trained")
    add("--step", type=int, default=0, help="pixels from window to window; 0: half a window")
    add("--last-block", default="auto", choices=LAST_BLOCKS, help="of a ViT: what a token keeps in the last block")
    add("--absent", type=float, default=0.0, help="drop a class that nowhere in an image is as probable; 0: none")
    add("--neighbours", type=int, default=12, help="average the scores of so many nearest points; 0: of none")
    add("--cluster", type=float, default=0.5, help="average clusters above the ground, metres apart; 0: none")
    add("--components", type=int, help="of the image network's features, for the labels to use; 0: none; default 32")
    add("--no-shape", action="store_true", help="leave out the shape of the points' surroundings")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--full-precision", action="store_true", help="float32 throughout, whatever the hardware is fast in")
    add("--workers", type=int, default=2, help="threads that read scans and images ahead")
    add("--pictures", type=Path, help="folder for pictures: dense labels beside the points' labels")
    add("--picture-scans", type=int, default=20, help="how many scans to draw, spread over the data")
    add("--score-scans", type=int, default=500, help="how many scans to compare with the truth, spread over the data")
    add("--force", action="store_true", help="replace scores that were made with other settings")
    add("overrides", nargs="*", metavar="section.key=value", help="settings over the recipe's")
    return parser


def dense_options(options: argparse.Namespace) -> DenseOptions:
    """How images are looked at. Raises ConfigError that names the argument."""
    try:
        scales = tuple(float(part) for part in options.scales.split(","))
        window = None if options.window == "auto" else int(options.window)
    except ValueError as error:
        raise ConfigError(f"--scales {options.scales} --window {options.window}: {error}") from None
    return DenseOptions(scales, window, options.step, options.last_block, options.absent, not options.full_precision)


def open_recipe(config: TrainConfig) -> Source:
    """The scans of a recipe; towns that are missing are built. Raises as `open_source` does."""
    if config.data.kind == "synthetic":
        # Towns for scoring too: here only the figures against the truth depend on them.
        make_towns(config.data, scoring=config.data.town_first not in TRAIN_SEEDS)
    return open_source(config.data)


@contextmanager
def bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that is gone when the work is done."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(name, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def clear(out: Path) -> None:
    """Remove a cache, and nothing else that may be in the folder."""
    if (out / HEAD).is_file():
        for path in (out / HEAD, out / TEXT, out / BASIS, out / "report.json"):
            path.unlink(missing_ok=True)
        shutil.rmtree(out / "scans", ignore_errors=True)


def image_components(
    options: argparse.Namespace, config: TrainConfig, out: Path, source: Source, device: torch.device
) -> ImageComponents | None:
    """Of the recipe's image network, if its backbone has weights. Raises MdktError."""
    weights = config.image_network.weights
    count = options.components if options.components is not None else COMPONENTS if weights else 0
    if count and not weights:
        raise ConfigError(f"--components {count}: the recipe has no image_network.weights, and fresh ones know nothing")
    if count <= 0:
        return None
    there = None if options.force else out
    return open_components(there, config.image_network, config.images.scale, source, count, device)


def begin(out: Path, head: CacheHead, components: ImageComponents | None, source: Source) -> ImageTextCache:
    """The cache to fill. Raises ConfigError when it has other settings or other scans."""
    write_head(out, head)
    if components is not None:
        save_basis(out, components.basis)
    cache = ImageTextCache.open(out, source, check=False)
    for index in sorted({0, len(source) - 1}):
        if index in cache:
            cache.check(index, source[index])
    return cache


def draw_pictures(
    folder: Path,
    scans: int,
    cache: ImageTextCache,
    dense: DenseClip,
    calibrations: tuple[Calibration, Calibration],
    components: ImageComponents | None,
) -> None:
    """Write pictures of some scans, spread over the data. `calibrations`: of points and of pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = np.unique(np.linspace(0, len(cache.source) - 1, scans).astype(int)).tolist()
    with bar("pictures") as progress:
        for done, index in enumerate(chosen, 1):
            frame, seen = cache.source[index], cache.scan(index)
            image = picture(dense, *calibrations, frame, *seen, cache.source.labels, components)
            if image is not None:
                name = Path(cache.source.names[index]).with_suffix("").as_posix().replace("/", "_")
                write_picture(folder / f"{name}.png", image)
            progress(done, len(chosen))


def label_draw(config: TrainConfig, source: Source) -> LabelDraw:
    """The label draw of a recipe, as training reads it."""
    data = config.data
    with bar("label draw") as progress:
        return stored_draw(source, data.percent, data.draw_seed, Path(data.draws), unit=data.budget, progress=progress)


def run(options: argparse.Namespace) -> Report:
    """Score, calibrate, compare and draw as the arguments say. Raises MdktError."""
    config = load_config(options.config, options.overrides)
    out = options.out or (Path(config.pseudo.cache) if config.pseudo.cache else None)
    if out is None:
        raise ConfigError("--out is not given, and the recipe has no pseudo.cache: name the folder of the scores")
    superpoints = Superpoints(options.neighbours, options.cluster)
    looks, prompts, device = dense_options(options), load_prompts(options.prompts), resolve_device(options.device)
    source = open_recipe(config)
    model = load_image_text(options.model, options.pretrained, device)
    dense = DenseClip(model, class_text(model, source.labels, prompts), looks)
    unknown = [name for name, known in zip(source.labels.names, dense.text.known, strict=True) if not known]
    if unknown:
        console.print(f"{model.name} knows no word of {', '.join(unknown)}: never named")
    shape = not options.no_shape
    components = image_components(options, config, out, source, device)
    head = cache_head(dense, source.labels, superpoints, components, shape=shape)
    if options.force:
        clear(out)
    cache = begin(out, head, components, source)
    with bar("scores") as progress:
        made = make_scores(
            cache, dense, superpoints, components=components, shape=shape, workers=options.workers, progress=progress
        )
    console.print(f"{out}: {made} scans scored, {len(source) - made} were there", soft_wrap=True)
    draw = label_draw(config, source)
    with bar("calibration") as progress:
        calibration = calibrate(cache, draw, config.pseudo, progress=progress)
    with bar("comparison") as progress:
        report = make_report(
            cache, calibration, config.pseudo.sure, most=max(1, options.score_scans), progress=progress
        )
    facts = {**cache.description, "budget": draw.budget(), "settings": cache.head.settings, **report.to_dict()}
    with atomic_output(out / "report.json", force=True) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if options.pictures is not None:
        both = calibration, calibrate(cache, draw, config.pseudo, columns=cache.head.pixel_columns)
        draw_pictures(options.pictures, max(1, options.picture_scans), cache, dense, both, components)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0, 1 with the error on one line, or 130 when interrupted."""
    options = arguments_parser().parse_intermixed_args(arguments)  # overrides may stand anywhere

    def work() -> None:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: console.print(str(message))
            report = run(options)
        Console().print(report.table())
        fitted = report.calibration
        Console().print(
            f"calibrated by {int(fitted.labels.sum()):,} labels in view ({fitted.method}): mean negative log "
            f"likelihood {fitted.loss[0]:.3f} -> {fitted.loss[1]:.3f}; {report.scans} scans compared with the truth"
        )

    kept = "interrupted; what is scored is kept, and the same command goes on from there"
    return exit_code(work, out=options.out, interrupted=kept)


if __name__ == "__main__":
    sys.exit(main())
