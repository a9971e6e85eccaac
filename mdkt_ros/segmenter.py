"""Segmenter: points in, a label for every point out. The whole product in one call."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from mdkt_ros.checkpoint import CheckpointMeta, load_checkpoint
from mdkt_ros.checkpoint_meta import AXES
from mdkt_ros.device import resolve_device
from mdkt_ros.errors import ConfigError
from mdkt_ros.intensity import IntensityWarning, intensity_doubt
from mdkt_ros.label_tables import label_tables, take
from mdkt_ros.labels import LabelSpace
from mdkt_ros.network import PointNetwork
from mdkt_ros.point_arrays import check_points
from mdkt_ros.point_limit import PointLimitWarning, limit_points
from mdkt_ros.prompts import PromptScorer
from mdkt_ros.resources import checkpoint_path
from mdkt_ros.scan_graph import STRIDES, GraphLabels, ScanGraph
from mdkt_ros.segmentation import Segmentation
from mdkt_ros.sparse import current_engine, fuse, in_precision, resolve_precision, use_engine
from mdkt_ros.sparse.parallel import block_threads
from mdkt_ros.voxels import TensorVoxels, collate, voxelize, voxelize_tensor

MAX_POINTS = 600_000
"""More than one scan of today's sensors (128 beams x 2048 columns, two returns: 524 k)."""


class ScanGraphWarning(UserWarning):
    """Scans cannot be labelled by a CUDA graph on this machine, though they could be on one like it."""


class Segmenter:
    """Labels clouds with one network on one device.

    Attributes:
        labels: the classes that a class id indexes.
        meta: all that the checkpoint says about the network.
        device: where the network runs.
        engine: what computes its convolutions there, never `auto`. engine_reason: why not a faster one.
        precision: what they are computed in.
        intensity_scale: what multiplies the sensor's intensity.
        axes: axis convention of the clouds that come, `x_forward` or `y_forward`.
        max_points: the most points that the network is given.
        prompts: what scores points by name, or None.
        clock: seconds, for `timings`; `time.thread_time` counts the thread's own work alone.
    """

    def __init__(
        self,
        network: PointNetwork,
        meta: CheckpointMeta,
        *,
        device: str | torch.device = "cpu",
        engine: str = "auto",
        precision: str = "fp32",
        intensity_scale: float | None = None,
        axes: str | None = None,
        max_points: int = MAX_POINTS,
        prompts: PromptScorer | None = None,
    ):
        """Take over `network`: it is moved to `device` and put into evaluation mode. See `load` for the parameters."""
        scale = meta.intensity_scale if intensity_scale is None else intensity_scale
        if not (math.isfinite(scale) and scale > 0):
            raise ConfigError(f"intensity_scale: {scale} is not a positive number")
        axes = meta.axes if axes is None else axes
        if axes not in AXES:
            raise ConfigError(f"axes: {axes!r} is neither {' nor '.join(AXES)}")
        if max_points < 1:
            raise ConfigError(f"max_points: {max_points} is not at least 1")
        self.device = resolve_device(device)
        with use_engine(engine):
            choice = current_engine(self.device)
        self.engine, self.engine_reason = choice.name, choice.reason
        self.precision = resolve_precision(precision, self.device, self.engine)
        self.network = in_precision(network.to(self.device).eval(), self.precision.dtype)
        self.meta = meta
        self.intensity_scale = float(scale)
        self.axes = axes
        self.max_points = int(max_points)
        self.prompts = prompts
        self.clock = time.perf_counter
        self._graph: ScanGraph | None = None
        if prompts is None and ScanGraph.serves(self.network, meta.grid, self.device, self.engine):
            self._graph = ScanGraph(self.network, meta.grid, meta.features, self.device)
        self._warned: set[type[Warning]] = set()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        device: str | torch.device = "auto",
        *,
        engine: str = "auto",
        precision: str = "fp32",
        intensity_scale: float | None = None,
        axes: str | None = None,
        max_points: int = MAX_POINTS,
        prompts: Sequence[str] = (),
        text_model: str = "",
        text_weights: str = "",
    ) -> Segmenter:
        """Load a checkpoint.

        Args:
            path: a `.safetensors` checkpoint, or one that ships with the package by name; None: `resources.SHIPPED`.
            device: `cpu`, `cuda`, `cuda:1`, or `auto`: CUDA where there is one.
            engine: a name of `sparse.engines()`: `auto` is the fastest that runs on the device.
            precision: a name of `sparse.PRECISIONS`: `fp32`, `bf16`, `fp16`, or `auto`: bf16 where it is quicker.
            intensity_scale: multiplies the sensor's intensity, so that it lies in 0..1; None: as the checkpoint says.
            max_points: a cloud with more points in range is subsampled evenly to so many; see `segment`.
            axes: `x_forward` or `y_forward` (nuScenes), where the clouds that come have other axes than the
                checkpoint's training had; they are turned for the network.
            prompts: words to score each point by, such as `traffic cone`; the checkpoint must hold a projection head.
            text_model, text_weights: the text model that embeds prompts which are no words of the classes:
                `local-dir:FOLDER`, or an open_clip name and a weights file (or tag).

        Raises:
            CheckpointError: the file cannot be used. ConfigError: a parameter cannot.
        """
        device = resolve_device(device)
        path = checkpoint_path(path)
        network, meta = load_checkpoint(path)
        scorer = None
        if prompts:
            scorer = PromptScorer.load(
                path, meta, prompts, text_model=text_model, text_weights=text_weights, device=device
            )
        return cls(
            fuse(network),
            meta,
            device=device,
            engine=engine,
            precision=precision,
            intensity_scale=intensity_scale,
            axes=axes,
            max_points=max_points,
            prompts=scorer,
        )

    def for_sensor(self, *, intensity_scale: float | None = None, axes: str | None = None) -> Segmenter:
        """A segmenter for another sensor on the same network and device, which are shared; None: as this one.

        Raises:
            ConfigError: a value out of range.
        """
        return Segmenter(
            self.network,
            self.meta,
            device=self.device,
            engine=self.engine,
            precision=self.precision.name,
            intensity_scale=self.intensity_scale if intensity_scale is None else intensity_scale,
            axes=self.axes if axes is None else axes,
            max_points=self.max_points,
            prompts=self.prompts,
        )

    @property
    def labels(self) -> LabelSpace:
        return self.meta.labels

    # Small operations that PyTorch splits wait for threads that a busy machine does not let run: 220 ms instead of 3.
    @block_threads()
    def segment(self, points: npt.ArrayLike, intensity: npt.ArrayLike | None = None) -> Segmentation:
        """Label points (N, 3), metres in the LiDAR frame; `intensity` (N,) as the sensor gives it, or None.

        All points of a voxel get one label. Points that are NaN, infinite or outside the grid come back as 255. Above
        `max_points` the network gets the voxels of evenly chosen points, and a voxel that none of them is in takes the
        label of the nearest one that has it (`nearest.nearest_voxel`). N and order are kept; the input is not modified.

        Raises:
            CloudError: wrong shapes or types.
        """
        start = self.clock()
        xyz, values = check_points(points, intensity)
        turned, scaled = self._turned(xyz), self._scaled(values)
        if (labels := self._by_graph(turned, scaled)) is not None:
            records = labels.records if turned is xyz else None
            return Segmentation(labels.class_id, labels.probability, labels.entropy, labels.timings, records=records)
        voxels = self._voxelize(turned, scaled)
        voxels, row_of_point = self._limit(voxels)
        with use_engine(self.engine):
            batch, _ = collate([voxels])
        self._wait()
        ready = self.clock()
        with torch.inference_mode(), use_engine(self.engine):
            if len(voxels):
                output = self.network(batch)
                logits, features = output.logits, output.features[1].features
            else:
                logits = batch.features.new_zeros(0, len(self.labels))
                features = logits.new_zeros(0, self.network.feature_channels[1])
            self._wait()
            inferred = self.clock()
            class_id, probability, entropy = (take(table, row_of_point) for table in label_tables(logits))
            prompts = None if self.prompts is None else self.prompts(features.float(), row_of_point)
        end = self.clock()
        timings = {
            "preprocess": 1e3 * (ready - start),
            "inference": 1e3 * (inferred - ready),
            "postprocess": 1e3 * (end - inferred),
            "total": 1e3 * (end - start),
        }
        return Segmentation(class_id, probability, entropy, timings, prompts)

    def _by_graph(self, xyz: npt.NDArray[np.float32], intensity: npt.NDArray[np.float32] | None) -> GraphLabels | None:
        """Labels by a CUDA graph, which is recorded where there is none or it has no room; None where none serves."""
        if self._graph is None or not 0 < len(xyz) <= self.max_points:
            return None
        labels = self._graph.label(xyz, intensity, self.clock)
        if labels is None:
            voxels = self._voxelize(xyz, intensity)
            if not len(voxels):
                return None
            try:
                with use_engine(self.engine):
                    maps = collate([voxels])[0].maps
                    self._graph.make_room(xyz, intensity, [len(maps.coordinates(stride)) for stride in STRIDES])
                labels = self._graph.label(xyz, intensity, self.clock)
            except RuntimeError as error:  # no memory left, most likely
                self._graph = None
                self._warn(
                    ScanGraphWarning,
                    f"scans are labelled operation by operation, which is slower, because no CUDA graph could be "
                    f"recorded: {' '.join(str(error).split())[:200]}",
                )
        return labels

    def _voxelize(self, xyz: npt.NDArray[np.float32], intensity: npt.NDArray[np.float32] | None) -> TensorVoxels:
        if self.device.type != "cpu":
            values = None if intensity is None else _to_device(intensity, self.device)
            return voxelize_tensor(_to_device(xyz, self.device), values, self.meta.grid, self.meta.features)
        voxels = voxelize(xyz, intensity, self.meta.grid, self.meta.features)
        return TensorVoxels(
            torch.from_numpy(voxels.coordinates),
            torch.from_numpy(voxels.features),
            torch.from_numpy(voxels.point_to_voxel),
        )

    def _turned(self, xyz: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self.axes == self.meta.axes:
            return xyz
        x, y, z = xyz.T
        return np.stack([y, -x, z] if self.axes == "y_forward" else [-y, x, z], axis=1)

    def _limit(self, voxels: TensorVoxels) -> tuple[TensorVoxels, torch.Tensor]:
        """The voxels for the network, and the row of each point among them (-1: in none)."""
        rows = voxels.point_to_voxel
        if len(rows) <= self.max_points or (count := int((rows >= 0).sum())) <= self.max_points:
            return voxels, rows
        self._warn(
            PointLimitWarning,
            f"{count} points in range are more than max_points = {self.max_points}: the network gets one in "
            f"{count / self.max_points:.3g}, the others take the nearest label; raise max_points, or crop the cloud",
        )
        return limit_points(voxels, self.max_points)

    def _scaled(self, intensity: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32] | None:
        if "intensity" not in self.meta.features:
            return None
        if intensity is None:
            self._warn(
                IntensityWarning, "intensity: the cloud has none, but the network was trained with it; 0 is used"
            )
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            scaled: npt.NDArray[np.float32] = intensity * np.float32(self.intensity_scale)
        if IntensityWarning not in self._warned and (doubt := intensity_doubt(scaled, intensity, self.intensity_scale)):
            self._warn(IntensityWarning, doubt)
        return scaled

    def _warn(self, category: type[Warning], message: str) -> None:
        """Once per segmenter, not per scan."""
        if category not in self._warned:
            self._warned.add(category)
            warnings.warn(message, category, stacklevel=5)  # past the decorator of `segment`

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _to_device(array: npt.NDArray[np.float32], device: torch.device) -> torch.Tensor:
    # PyTorch takes neither read-only nor backward arrays.
    return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)
