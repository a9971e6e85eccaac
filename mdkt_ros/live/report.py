"""The state of the node in words and numbers, as `/diagnostics` shows it."""

from __future__ import annotations

import torch

from mdkt_ros.live.statistics import Snapshot


def values(snapshot: Snapshot, device: torch.device, engine: str) -> dict[str, str]:
    """What a user asks first stands first: counts, then times by stage, then cameras, then memory."""
    found = {
        "scans received": str(snapshot.received),
        "scans labelled": str(snapshot.processed),
        "scans dropped for newer ones": str(snapshot.dropped),
        "scans that nobody listened to": str(snapshot.unwanted),
        "scans skipped": str(sum(snapshot.skipped.values())),
        **{f"scans skipped: {reason}": str(count) for reason, count in sorted(snapshot.skipped.items())},
        "scans missing by their stamps": str(snapshot.missing),
        "scans without stamp": str(snapshot.without_stamp),
        "backward jumps of time": str(snapshot.time_jumps),
    }
    for stage, (median, maximum) in snapshot.times.items():
        found[f"{stage} ms"] = f"{median:.1f} (max {maximum:.1f})"
    for camera, counts in snapshot.cameras.items():
        found[f"camera {camera} images"] = str(counts.received)
        found[f"camera {camera} overlays"] = str(counts.drawn)
        for reason, count in sorted(counts.skipped.items()):
            found[f"camera {camera} skipped: {reason}"] = str(count)
        if counts.delay_ms is not None:
            found[f"camera {camera} delay ms"] = f"{counts.delay_ms:.1f}"
    found["device"] = str(device)
    found["engine"] = engine
    if device.type == "cuda":
        found["GPU memory MiB"] = f"{torch.cuda.memory_reserved(device) / 2**20:.0f}"
        found["GPU memory in use MiB"] = f"{torch.cuda.memory_allocated(device) / 2**20:.0f}"
    return found
