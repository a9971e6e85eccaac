"""What `mdkt bench` measures of engines, and the rows that it writes."""

from __future__ import annotations

from dataclasses import dataclass

from mdkt_ros.errors import ConfigError
from mdkt_ros.sparse import PRECISIONS, check_engine

PRESETS = (("minkunet_10hz", 1.0), ("minkunet14s", 1.0), ("minkunet18", 0.5))
"""Names and widths that are measured unless others are asked for."""
STAGES = ("maps", "forward", "forward_backward", "end_to_end")
GEMM = "gemm"
"""Stands beside the engines: the products of a forward pass alone, by PyTorch, of rows that lie ready."""


@dataclass(frozen=True)
class Case:
    """What is measured: one stage of a network by one engine."""

    engine: str
    precision: str
    preset: str
    width: float
    threads: int
    stage: str


@dataclass(frozen=True)
class Row:
    """A case's figures.

    Attributes:
        points, voxels, scans: size of the input, all scans together.
        parameters: trained values. gflop: 10^9 operations of a forward pass, a multiplication and an addition two.
        wall_ms: median by the clock. cpu_ms: median CPU time of all threads.
        spread: interquartile range of `cpu_ms` over its median.
        max_rel_error: largest deviation from PyTorch's engine in double precision over the largest value; of logits, of
            `forward_backward` of all gradients. None where it is not compared (maps, end_to_end, gemm).
    """

    engine: str
    preset: str
    width: float
    voxel_size: float
    points: int
    voxels: int
    scans: int
    threads: int
    dtype: str
    device: str
    stage: str
    parameters: int
    gflop: float
    wall_ms: float
    cpu_ms: float
    spread: float
    max_rel_error: float | None

    @property
    def who(self) -> str:
        """The engine, with the precision where that is none of the usual."""
        return self.engine if self.dtype == "float32" else f"{self.engine} {self.dtype}"

    @property
    def ms(self) -> float:
        """What to compare: CPU time where one thread does it all, which others on the machine hardly change."""
        return self.cpu_ms if self.device == "cpu" and self.threads == 1 else self.wall_ms


def stages_of(engine: str, precision: str, device: str) -> tuple[str, ...]:
    """Stages that an engine has in a precision: maps have none, and nothing is trained in half of one on a CPU."""
    if engine == GEMM:
        return ("forward",)
    if precision == "fp32":
        return STAGES
    return ("forward", "end_to_end") if device == "cpu" else ("forward", "forward_backward", "end_to_end")


def parse_engine(text: str) -> tuple[str, str]:
    """`NAME` or `NAME:PRECISION` as (name, precision). Raises ConfigError."""
    name, _, precision = text.partition(":")
    if precision not in ("", *PRECISIONS) or precision == "auto":
        raise ConfigError(f"engine: {text!r} is not NAME, NAME:bf16 or NAME:fp16, such as native:bf16")
    return name if name == GEMM else check_engine(name), precision or "fp32"


def parse_preset(text: str) -> tuple[str, float]:
    """`NAME` or `NAME:WIDTH` as (name, width). Raises ConfigError."""
    name, _, width = text.partition(":")
    try:
        return name, float(width or 1)
    except ValueError:
        raise ConfigError(f"preset: {text!r} is not NAME or NAME:WIDTH, such as minkunet18:0.5") from None
