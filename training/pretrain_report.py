"""How good the weights of `training/pretrain.py` are in towns of the validation seeds, for people to read.

This alone looks at labels, those of towns where nothing is pre-trained, trained or tested; no weight depends on it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor, nn

from mdkt_ros.drive.synthetic import VALIDATION_SEEDS
from mdkt_ros.drive.synthetic.camera_image import look
from mdkt_ros.drive.synthetic.drive import SyntheticDrive
from mdkt_ros.drive.synthetic.kinds import raw_nuscenes
from mdkt_ros.drive.synthetic.town import stream
from mdkt_ros.image_text_model import load_image_text
from mdkt_ros.labels import IGNORE, LabelSpace
from mdkt_ros.metrics import confusion_matrix
from mdkt_ros.output import atomic_output
from training.scheme.config import ImageNetworkConfig
from training.scheme.dense_clip import DenseClip, DenseOptions
from training.scheme.image_network import STRIDES, build_image_network
from training.scheme.text import class_text

_PROBE_PIXELS, _PROBE_STEPS = 6000, 60


@dataclass
class ReportConfig:
    """Which views are looked at."""

    towns: int = (
        4  # of VALIDATION_SEEDS, from the first; the probe learns in one half, the other half scores; 0: no report
    )
    views: int = 4  # of each, as the vehicle's camera sees it
    step: int = 4  # every how many pixels, across and down


@dataclass(frozen=True)
class Sight:
    """One view: image (H, W, 3) uint8, and class ids (P,) uint8 of pixels (P, 2), those of the sky left out."""

    town: int
    image: npt.NDArray[np.uint8]
    pixels: npt.NDArray[np.int64]
    truth: npt.NDArray[np.uint8]


def take_sights(config: ReportConfig, labels: LabelSpace) -> list[Sight]:
    """Views of the validation towns with the truth of their pixels."""
    sights = []
    for seed in VALIDATION_SEEDS[: config.towns]:
        drive = SyntheticDrive(seed, format="nuscenes", scans=2 * config.views, rate_hz=0.4)
        mount = drive.rig.cameras[0]
        for index in range(0, len(drive), 2):
            time = drive.time(index)
            moment = drive.moment(time)
            pose = drive.ego.pose(time) @ mount.ego_from_camera
            hits = look(moment, mount, pose, 1)
            kind = moment.of("kind", hits.triangle)
            truth = labels.from_raw(raw_nuscenes(kind), drive.name)
            truth = np.where(hits.triangle < 0, IGNORE, truth).reshape(mount.height, mount.width)
            y, x = (a.ravel() for a in np.mgrid[0 : mount.height : config.step, 0 : mount.width : config.step])
            known = truth[y, x] != IGNORE
            image = drive.renderer.render(moment, mount, pose, stream(seed, 24, index, 0))
            sights.append(Sight(seed, image, np.stack([x, y], axis=1)[known], truth[y, x][known]))
    return sights


def class_figures(confusion: npt.NDArray[np.int64], names: tuple[str, ...]) -> dict[str, Any]:
    """Precision, recall and IoU (%) of each class that is there, their mean IoU, and the share of right pixels."""
    right, truth, said = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    there = truth > 0
    share = {
        "precision": right / np.maximum(said, 1),
        "recall": right / np.maximum(truth, 1),
        "iou": right / np.maximum(truth + said - right, 1),
    }
    by_class = {
        name: {key: round(100 * float(value[i]), 1) for key, value in share.items()}
        for i, name in enumerate(names)
        if there[i]
    }
    return {
        "miou": round(100 * float(share["iou"][there].mean()), 1),
        "accuracy": round(100 * float(right.sum() / max(truth.sum(), 1)), 1),
        "classes": by_class,
    }


def dense_figures(folder: Path, sights: list[Sight], labels: LabelSpace) -> dict[str, Any]:
    """What an image-text model says of each pixel (MaskCLIP, best class, nothing calibrated) against the truth."""
    model = load_image_text(f"local-dir:{folder}")
    dense = DenseClip(model, class_text(model, labels), DenseOptions(half=True))
    total = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for sight in sights:
        maps = dense.scores(torch.from_numpy(sight.image.transpose(2, 0, 1).copy())[None])
        said = np.nanargmax(maps.at(0, sight.pixels.astype(np.float64)), axis=1).astype(np.uint8)
        total += confusion_matrix(sight.truth, said, len(labels))[:, : len(labels)]
    return {**class_figures(total, labels.names), "settings": dense.settings, "weights": model.fingerprint}


def probe_figures(weights: Path, name: str, sights: list[Sight], labels: LabelSpace, scale: float) -> dict[str, Any]:
    """What a linear layer on all stages of the backbone says of each pixel, learnt in the other half of the towns."""
    network = build_image_network(ImageNetworkConfig(name=name, weights=str(weights) if weights.name else "")).eval()
    towns = sorted({sight.town for sight in sights})
    learn = set(towns[: (len(towns) + 1) // 2])
    rows = [
        (_stage_features(network, sight, scale), torch.from_numpy(sight.truth), sight.town in learn) for sight in sights
    ]
    features = torch.cat([part for part, _, learnt in rows if learnt])
    truth = torch.cat([right for _, right, learnt in rows if learnt])
    generator = torch.Generator().manual_seed(0)
    # As many pixels of every class, as far as there are.
    rank = torch.rand(len(truth), generator=generator)
    chosen = torch.cat([
        (rank + (truth != c) * 2).argsort()[: min(int((truth == c).sum()), _PROBE_PIXELS // len(labels))]
        for c in range(len(labels))
    ])  # fmt: skip
    mean, deviation = features[chosen].mean(0), features[chosen].std(0) + 1e-6
    probe = nn.Linear(features.shape[1], len(labels))
    nn.init.zeros_(probe.weight)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=_PROBE_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = probe((features[chosen] - mean) / deviation)
        loss = nn.functional.cross_entropy(logits, truth[chosen].long()) + 1e-3 * probe.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    total = np.zeros((len(labels), len(labels)), dtype=np.int64)
    with torch.no_grad():
        for part, right, learnt in rows:
            if not learnt or len(towns) == 1:
                said = probe((part - mean) / deviation).argmax(1).numpy().astype(np.uint8)
                total += confusion_matrix(right.numpy(), said, len(labels))[:, : len(labels)]
    return class_figures(total, labels.names)


@torch.no_grad()
def _stage_features(network: Any, sight: Sight, scale: float) -> Tensor:
    """Features (P, channels of all stages) of the backbone at a view's pixels."""
    image = torch.from_numpy(sight.image.transpose(2, 0, 1).copy())[None].float() / 255
    size = [round(side * scale) for side in image.shape[2:]]
    image = nn.functional.interpolate(image, size=size, mode="bilinear", antialias=True)
    image = (image - network.mean) / network.std
    image = nn.functional.pad(image, (0, -size[1] % STRIDES[-1], 0, -size[0] % STRIDES[-1]))
    where = torch.from_numpy((sight.pixels + 0.5) * scale).float()
    where = where / torch.tensor([image.shape[3], image.shape[2]]) * 2 - 1
    sampled = [
        nn.functional.grid_sample(stage, where[None, None], mode="bilinear", align_corners=False)[0, :, 0].T
        for stage in network.backbone(image)
    ]
    return torch.cat(sampled, dim=1)


def write_report(
    out: Path, config: ReportConfig, *, force: bool = False, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Write `out/report.json` about the weights in `out`, and return it."""
    labels = LabelSpace.load("nuscenes")
    weights, model = out / "image_network.safetensors", out / "image_text" / "open_clip_config.json"
    with safe_open(weights, "pt") as file:
        metadata = file.metadata()
    sights = take_sights(config, labels)
    report: dict[str, Any] = {
        "towns": list(VALIDATION_SEEDS[: config.towns]),
        "image_text": json.loads(model.read_text(encoding="utf-8"))["pretraining"],
        "image_network": json.loads(metadata["pretraining"]),
    }
    jobs: tuple[tuple[str, Callable[[], dict[str, Any]]], ...] = (
        ("dense_labels", lambda: dense_figures(out / "image_text", sights, labels)),
        ("probe", lambda: probe_figures(weights, metadata["name"], sights, labels, 0.5)),
        ("probe_of_fresh_weights", lambda: probe_figures(Path(), metadata["name"], sights, labels, 0.5)),
    )
    for done, (name, job) in enumerate(jobs):
        report[name] = job()
        if progress is not None:
            progress(done + 1, len(jobs))
    report["summary"] = {name: {key: report[name][key] for key in ("miou", "accuracy")} for name, _ in jobs}
    with atomic_output(out / "report.json", force=force) as temporary:
        temporary.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return report
