"""The node's parameters: declared with description and range, read and checked at configure."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from mdkt_ros.errors import ConfigError
from mdkt_ros.live.health import Limits
from mdkt_ros.resources import checkpoint_path, shipped_checkpoints
from mdkt_ros.sparse import PRECISIONS, engines

MAX_CAMERAS = 16


@dataclass(frozen=True)
class _Entry:
    """A parameter: its default gives the type; `choices` of a text, `range` of a number; fixed once the node runs."""

    name: str
    default: bool | int | float | str
    description: str
    range: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    read_only: bool = False

    def descriptor(self) -> ParameterDescriptor:
        found = ParameterDescriptor(name=self.name, description=self.description, read_only=self.read_only)
        if self.choices:
            found.additional_constraints = "one of " + ", ".join(repr(choice) for choice in self.choices)
        if self.range is not None and isinstance(self.default, float):
            found.floating_point_range = [FloatingPointRange(from_value=self.range[0], to_value=self.range[1])]
        elif self.range is not None:
            found.integer_range = [IntegerRange(from_value=int(self.range[0]), to_value=int(self.range[1]), step=1)]
        return found


_ENTRIES = (
    _Entry(
        "checkpoint",
        "",
        "A .safetensors checkpoint, or one that ships with the package by name; empty: mdkt_synthetic_kitti.",
    ),
    _Entry("device", "auto", "Where the network runs: auto (CUDA where there is one), cpu, cuda or cuda:N."),
    _Entry(
        "engine",
        "auto",
        f"What computes the convolutions: {', '.join(engines())}; auto: the fastest that runs on the device.",
        choices=engines(),
    ),
    _Entry(
        "precision",
        "fp32",
        "What the convolutions are computed in: fp32, bf16, fp16 (CUDA), or auto, which is bf16 where it is quicker.",
        choices=PRECISIONS,
    ),
    _Entry("threads", 0, "CPU threads of the network; 0: as PyTorch chooses.", (0, 256)),
    _Entry(
        "intensity_scale",
        0.0,
        "Brings the sensor's intensity to 0..1 (0.00392157 for 0..255); 0: as the checkpoint says.",
        (0.0, 1e6),
    ),
    _Entry(
        "axes",
        "",
        "Axes of the LiDAR frame: x_forward (REP 103) or y_forward (nuScenes); empty: as the checkpoint says.",
        choices=("", "x_forward", "y_forward"),
    ),
    _Entry(
        "max_points",
        600_000,
        "A scan with more points in range is subsampled to so many; all points get a label.",
        (1, 10_000_000),
    ),
    _Entry("warmup_points", 120_000, "Points of the invented scan that warms the network up; 0: none.", (0, 1_000_000)),
    _Entry("keep_input_fields", False, "Append the input's own fields to output/segmentation."),
    _Entry("input_depth", 1, "Queue of the cloud subscription; above 1 only to lose nothing of a bag.", (1, 1000)),
    _Entry(
        "input_reliability",
        "best_effort",
        "Of the cloud subscription: best_effort takes every publisher, reliable asks again for what was lost.",
        choices=("best_effort", "reliable"),
    ),
    _Entry("cameras", 0, "How many cameras: input/image0, input/camera_info0, ...", (0, MAX_CAMERAS), read_only=True),
    _Entry(
        "image_transport",
        "raw",
        "What the image topics carry: raw (Image) or compressed (CompressedImage).",
        choices=("raw", "compressed"),
        read_only=True,
    ),
    _Entry("rectified", False, "The images are rectified: projected by P of their CameraInfo alone."),
    _Entry("max_camera_lidar_delay", 0.1, "Seconds between a scan and its image at most.", (0.0, 10.0)),
    _Entry(
        "fixed_frame",
        "odom",
        "tf frame in which the world stands still: the motion between scan and image is corrected for; empty: not.",
    ),
    _Entry(
        "diagnostics.max_allowed_processing_time_ms",
        100.0,
        "Milliseconds that a scan may take; above it the state is WARN.",
        (0.0, 1e6),
    ),
    _Entry(
        "diagnostics.max_acceptable_consecutive_delay_ms",
        1000.0,
        "Milliseconds for which every scan may take longer than allowed; beyond it the state is ERROR.",
        (0.0, 1e6),
    ),
    _Entry(
        "diagnostics.period",
        1.0,
        "Seconds between two messages on /diagnostics.",
        (0.05, 60.0),
        read_only=True,
    ),
    _Entry("input_timeout", 1.0, "Seconds without a scan after which the state is ERROR.", (0.0, 3600.0)),
)


@dataclass(frozen=True)
class Settings:
    """The parameters' values; those that stand for "as the checkpoint says" are None. `max_delay` in nanoseconds."""

    checkpoint: Path
    device: str
    engine: str
    precision: str
    threads: int
    intensity_scale: float | None
    axes: str | None
    max_points: int
    warmup_points: int
    keep_input_fields: bool
    input_depth: int
    input_reliability: str
    cameras: int
    compressed: bool
    rectified: bool
    max_delay: int
    fixed_frame: str
    limits: Limits


class Parameters:
    """Declares the parameters on a node.

    An override that cannot be (wrong type, out of range) does not end the node: `read` reports it, until it is set to
    something else. While `frozen`, changes are refused.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._problems: dict[str, str] = {}
        self.frozen = False
        for entry in _ENTRIES:
            try:
                node.declare_parameter(entry.name, entry.default, entry.descriptor())
            except (InvalidParameterTypeException, InvalidParameterValueException) as error:
                self._problems[entry.name] = self._reason(entry, error)
                node.declare_parameter(entry.name, entry.default, entry.descriptor(), ignore_override=True)
        node.add_on_set_parameters_callback(self._check)

    def _overrides(self) -> dict[str, Parameter]:
        # rclpy has no public name for what the command line and the parameter files said.
        return getattr(self._node, "_parameter_overrides", {})

    def _reason(self, entry: _Entry, error: Exception) -> str:
        """What an override should have been, in the words of a parameter file."""
        kinds = {bool: "true or false", int: "a whole number", float: "a number with a decimal point, like 1.0"}
        wanted = kinds.get(type(entry.default), "text")
        if entry.range is not None:
            wanted += f", {entry.range[0]:g} to {entry.range[1]:g}"
        if entry.name not in self._overrides():
            return " ".join(str(error).split())
        return f"{self._overrides()[entry.name].value!r} is not {wanted}"

    def unknown(self) -> list[str]:
        """What is wrong about overrides that no parameter has the name of; ROS itself ignores them silently."""
        names = [*(entry.name for entry in _ENTRIES), "use_sim_time", "start_type_description_service"]
        found = []
        for name in sorted(set(self._overrides()) - set(names)):
            if not name.startswith("qos_overrides."):
                near = difflib.get_close_matches(name, names, 1)
                found.append(f"parameter {name!r} is not known" + (f"; did you mean {near[0]!r}?" if near else ""))
        return found

    def _check(self, changes: Iterable[Parameter]) -> SetParametersResult:
        own = {entry.name: entry for entry in _ENTRIES}
        for change in changes:
            if change.name not in own:
                continue
            if self.frozen:
                reason = f"{change.name} takes effect at configure: deactivate and clean up the node first"
                return SetParametersResult(successful=False, reason=reason)
            self._problems.pop(change.name, None)
        return SetParametersResult(successful=True)

    def read(self) -> Settings:
        """All values, checked. Raises ConfigError that names the parameter."""
        for name, problem in self._problems.items():
            raise ConfigError(f"parameter {name}: {problem}")
        value: dict[str, Any] = {}
        for entry in _ENTRIES:
            value[entry.name] = self._node.get_parameter(entry.name).value
            if entry.choices and value[entry.name] not in entry.choices:
                listed = ", ".join(repr(choice) for choice in entry.choices)
                raise ConfigError(f"parameter {entry.name}: {value[entry.name]!r} is not one of {listed}")
            if isinstance(entry.default, float) and not math.isfinite(value[entry.name]):
                raise ConfigError(f"parameter {entry.name}: {value[entry.name]} is not a finite number")
        checkpoint = checkpoint_path(value["checkpoint"] or None)
        if not checkpoint.is_file():
            shipped = ", ".join(shipped_checkpoints())
            raise ConfigError(f"parameter checkpoint: there is no file {checkpoint}, nor is it one of {shipped}")
        same = (
            "device",
            "engine",
            "precision",
            "threads",
            "max_points",
            "warmup_points",
            "keep_input_fields",
            "input_depth",
        )
        return Settings(
            **{name: value[name] for name in (*same, "input_reliability", "cameras", "rectified", "fixed_frame")},
            checkpoint=checkpoint,
            intensity_scale=value["intensity_scale"] or None,
            axes=value["axes"] or None,
            compressed=value["image_transport"] == "compressed",
            max_delay=round(1e9 * value["max_camera_lidar_delay"]),
            limits=Limits(
                value["diagnostics.max_allowed_processing_time_ms"],
                value["diagnostics.max_acceptable_consecutive_delay_ms"],
                value["input_timeout"],
            ),
        )
