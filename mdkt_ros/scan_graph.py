"""From points to labels on a GPU without asking it anything on the way: one CUDA graph for scans of every size.

Launched one by one, the hundreds of small operations of a scan cost the CPU more time than all of them take on a large
GPU. A graph replays them in memory of a fixed size, which has room for the largest scan seen and some more; for a scan
that does not fit it is recorded anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mdkt_ros.network import PointNetwork
from mdkt_ros.pointcloud2 import publishable
from mdkt_ros.sparse import use_engine
from mdkt_ros.sparse.triton_backend.loading import load
from mdkt_ros.sparse.triton_backend.tiling import device_of
from mdkt_ros.static_scan import StaticScan
from mdkt_ros.voxel_grid import VoxelGrid

STRIDES = (1, 2, 4, 8, 16)
"""Of the levels that the network has, the finest first."""
_MARGIN = 1.25
"""Room for points beyond those of the scan that a graph is recorded for."""
_MARGINS = (1.25, 1.4, 1.6, 2.0, 2.5)
"""And for voxels of each of the levels: coarse ones cost little, and differ most from scene to scene."""
_BLOCK = 256
_HEADER = 32
"""Bytes before the labels: how many voxels there are."""
_WORDS = 6
"""Of 32 bits that a point has in the result: x, y, z, class, probability, entropy."""


@dataclass(frozen=True)
class GraphLabels:
    """Labels of N points, as in `Segmentation`; all that the graph does counts as inference in `timings`.

    Attributes:
        records: (N, 24) uint8, points and labels as `cloud.build_segmentation` lays them out; the GPU does so in no
            time, the CPU takes a millisecond. The other arrays are parts of it.
    """

    class_id: npt.NDArray[np.uint8]
    probability: npt.NDArray[np.float32]
    entropy: npt.NDArray[np.float32]
    timings: dict[str, float]
    records: npt.NDArray[np.uint8] | None = None


class ScanGraph:
    """Labels scans with a network by the engine `triton`. One scan at a time: calls from several threads wait.

    Args:
        network: fused, on `device`.
        grid, features: of the checkpoint.
    """

    def __init__(self, network: PointNetwork, grid: VoxelGrid, features: Sequence[str], device: torch.device):
        self._network = network
        self._grid = grid
        self._features = tuple(features)
        self._device = device
        self._recording: _Recording | None = None
        self._lock = threading.Lock()

    @staticmethod
    def serves(network: PointNetwork, grid: VoxelGrid, device: torch.device, engine: str) -> bool:
        """Whether scans can be labelled by a graph; where not, they are labelled operation by operation."""
        return (
            device.type == "cuda"
            and engine == "triton"
            and network.classified == (1,)
            and StaticScan.fits(grid, len(STRIDES))
        )

    def label(
        self, xyz: npt.NDArray[np.float32], intensity: npt.NDArray[np.float32] | None, clock: Callable[[], float]
    ) -> GraphLabels | None:
        """Labels of (N, 3) points, metres, and their (N,) scaled intensity; None where the scan has no room."""
        with self._lock:
            recording = self._recording
            if recording is None or len(xyz) > recording.points:
                return None
            return recording.label(xyz, intensity, clock)

    def make_room(
        self, xyz: npt.NDArray[np.float32], intensity: npt.NDArray[np.float32] | None, voxels: Sequence[int]
    ) -> None:
        """Record a graph that has room for this scan, which has so many voxels at `STRIDES`."""
        with self._lock:
            points, rooms = len(xyz), list(voxels)
            if self._recording is not None:
                points = max(points, int(self._recording.points / _MARGIN))
                before = zip(self._recording.rooms, _MARGINS, strict=True)
                rooms = [max(new, int(old / margin)) for new, (old, margin) in zip(rooms, before, strict=True)]
            self._recording = None  # its memory first
            recording = _Recording(
                self._network,
                StaticScan(
                    load(),
                    self._device,
                    self._grid,
                    self._features,
                    int(_MARGIN * points),
                    [int(margin * room) for room, margin in zip(rooms, _MARGINS, strict=True)],
                ),
            )
            recording.record(xyz, intensity)
            self._recording = recording  # not before: what an error cut short must not be replayed


class _Recording:
    """A graph and the memory that it reads and writes; on a CPU, where there are none, the operations themselves."""

    def __init__(self, network: PointNetwork, scan: StaticScan):
        self._network = network
        self._scan = scan
        self.points, self.rooms = len(scan.points), scan.rooms
        on_gpu = scan.points.is_cuda
        self._given = torch.zeros(4 * self.points, pin_memory=on_gpu)
        self._count = torch.zeros(1, dtype=torch.int32, pin_memory=on_gpu)
        size = _HEADER + 4 * _WORDS * self.points
        self._found = torch.zeros(size, dtype=torch.uint8, device=scan.points.device)
        self._result = torch.zeros(size, dtype=torch.uint8, pin_memory=on_gpu)
        self._graph: torch.cuda.CUDAGraph | None = None

    def record(self, xyz: npt.NDArray[np.float32], intensity: npt.NDArray[np.float32] | None) -> None:
        """Run once on a scan, which compiles and tunes what has not been yet, then record."""
        self._fill(xyz, intensity)
        with torch.inference_mode(), use_engine("triton"):
            self._enqueue()
            if self._given.is_pinned():
                torch.cuda.synchronize(self._found.device)
                graph = torch.cuda.CUDAGraph()
                # Other threads may use the GPU meanwhile.
                with device_of(self._found), torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    self._enqueue()
                self._graph = graph

    def label(
        self, xyz: npt.NDArray[np.float32], intensity: npt.NDArray[np.float32] | None, clock: Callable[[], float]
    ) -> GraphLabels | None:
        """None where there are more voxels than there is room for."""
        start = clock()
        self._fill(xyz, intensity)
        filled = clock()
        if self._graph is not None:
            with device_of(self._found):
                self._graph.replay()
                torch.cuda.current_stream().synchronize()
        else:
            with torch.inference_mode(), use_engine("triton"):
                self._enqueue()
        done = clock()
        header, found = _parts(self._result)
        voxels = np.diff(header.numpy()[: len(self.rooms) + 1])
        if (voxels > np.array(self.rooms)).any():
            return None
        count = len(xyz)
        records = publishable(4 * _WORDS * count).reshape(count, 4 * _WORDS)
        words = records.view(np.int32)
        words[:] = found[:count].numpy()
        class_id, values = records[:, 12], words.view(np.float32)
        end = clock()
        timings = {
            "preprocess": 1e3 * (filled - start),
            "inference": 1e3 * (done - filled),
            "postprocess": 1e3 * (end - done),
            "total": 1e3 * (end - start),
        }
        return GraphLabels(class_id, values[:, 4], values[:, 5], timings, records)

    def _fill(self, xyz: npt.NDArray[np.float32], intensity: npt.NDArray[np.float32] | None) -> None:
        count = len(xyz)
        given = self._given.numpy()
        given[: 3 * count].reshape(count, 3)[:] = xyz
        given[3 * self.points : 3 * self.points + count] = 0 if intensity is None else intensity
        self._count[0] = count

    def _enqueue(self) -> None:
        scan = self._scan
        scan.cloud.copy_(self._given, non_blocking=True)
        scan.count.copy_(self._count, non_blocking=True)
        scan.enqueue()
        logits = self._network(scan.tensor).logits.float().contiguous()
        header, records = _parts(self._found)
        header[: len(scan.starts)].copy_(scan.starts)
        with device_of(logits):
            load().label_points[(self.points // _BLOCK,)](
                scan.points.view(torch.int32), logits, scan.voxel_of_point, records, self.points, self.rooms[0],
                logits.shape[1], BLOCK=_BLOCK,
            )  # fmt: skip
        self._result.copy_(self._found, non_blocking=True)


def _parts(memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of `memory`: the header int32, and the records (points, 6) int32."""
    return memory[:_HEADER].view(torch.int32), memory[_HEADER:].view(torch.int32).view(-1, _WORDS)
