"""The back end: launches the kernels on what the tilings and pairs of a map say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mdkt_ros.sparse.backend import EngineUnavailable
from mdkt_ros.sparse.kernel_map import KernelMap
from mdkt_ros.sparse.tf32 import tf32_is_allowed
from mdkt_ros.sparse.torch_backend import TorchBackend
from mdkt_ros.sparse.triton_backend.loading import load
from mdkt_ros.sparse.triton_backend.maps import TritonMaps
from mdkt_ros.sparse.triton_backend.pairs import Pairs
from mdkt_ros.sparse.triton_backend.tiling import MAX_OFFSETS, TILING, Tiling, device_of
from mdkt_ros.sparse.triton_backend.tuning import (
    Launch,
    Shape,
    Tuner,
    forward_launches,
    gradient_launches,
    interpreted,
    shape_class,
    shared_memory,
)

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_PROGRAMS_PER_PROCESSOR = 4
"""The gradient of the kernel is split into so many programs for every multiprocessor; a guess."""
_SUMMED_ROWS, _SUMMED_CHANNELS = 16, 64
"""The part of the output that a program adds up where several share a tile."""


def available(device: torch.device) -> str | None:
    """Why the back end cannot compute on a device, in a sentence; None where it can."""
    try:
        kernels = load()
    except EngineUnavailable as error:
        return str(error)
    if kernels.INTERPRETED:
        return None
    if device.type != "cuda":
        return "it computes on CUDA devices alone"
    major, minor = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and major < 8:
        return f"its kernels are made for compute capability 8.0 and up, and this device has {major}.{minor}"
    return None


class TritonBackend:
    """Implicit GEMM in Triton for float32, float16 and bfloat16; sums are made in float32, in a fixed order.

    What it cannot compute goes to the back end `torch`: float64, kernels of more than 27 offsets, tensors on the CPU
    (but under TRITON_INTERPRET=1). 1^3 convolutions are PyTorch's own products. Products of float32 are in TF32 where
    PyTorch's own are (`torch.backends.cuda.matmul.allow_tf32`).

    Nothing here waits for the device but tuning, which is off unless asked for: the first call of a class of shapes
    (channels, dtype, octave of rows) then compiles and measures, which takes half a minute for a whole network, for a
    few hundredths of its time afterwards.

    Attributes:
        tuning: whether to measure shapes that have not come up yet; else they take what similar ones took, or what is
            best on an H100.

    Raises:
        EngineUnavailable: Triton is missing.
    """

    def __init__(self) -> None:
        self._kernels = load()
        self._interpreted: bool = self._kernels.INTERPRETED
        self.maps = TritonMaps(self._kernels)
        self._torch = TorchBackend()
        self._tuner = Tuner(*_gpu_timing())

    @property
    def tuning(self) -> bool:
        return self._tuner.active

    @tuning.setter
    def tuning(self, active: bool) -> None:
        self._tuner.active = active

    def gather_gemm_scatter(
        self, features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if kernel_map.identity:
            return features @ kernel[0] if bias is None else torch.addmm(bias.to(features.dtype), features, kernel[0])
        if not self._computes(features, kernel_map):
            return self._torch.gather_gemm_scatter(features, kernel, kernel_map, bias)
        out = features.new_empty((kernel_map.out_count, kernel.shape[2]))
        self._convolve(features, kernel, kernel_map, bias, None, False, out)
        return out

    def convolve(
        self,
        features: torch.Tensor,
        kernel: torch.Tensor,
        kernel_map: KernelMap,
        bias: torch.Tensor | None,
        add: torch.Tensor | None,
        relu: bool,
        out: torch.Tensor,
    ) -> bool:
        if kernel_map.identity or not self._computes(features, kernel_map):
            return False
        self._convolve(features, kernel, kernel_map, bias, add, relu, out)
        return True

    def _convolve(
        self,
        features: torch.Tensor,
        kernel: torch.Tensor,
        kernel_map: KernelMap,
        bias: torch.Tensor | None,
        add: torch.Tensor | None,
        relu: bool,
        out: torch.Tensor,
    ) -> None:
        if out.stride(1) != 1:
            raise ValueError("out: the channels of a row must lie side by side")
        if out.numel() == 0:
            return
        _, in_channels, out_channels = kernel.shape
        tiling = self._tiling(kernel_map)
        bias = None if bias is None else bias.contiguous()
        add = add if add is None or add.stride(1) == 1 else add.contiguous()

        def run(launch: Launch, target: torch.Tensor) -> None:
            tiles = tiling.offsets(launch.rows)
            programs = len(tiles.counts) * -(-out_channels // launch.out_channels) * launch.splits
            slots = len(tiling.rows)
            sums = target
            if launch.splits > 1:
                sums = target.new_empty((launch.splits, slots, out_channels), dtype=torch.float32)
            ends = {"HAS_BIAS": bias is not None, "HAS_ADD": add is not None, "RELU": relu, "SPLITS": launch.splits}
            from_bias = target if bias is None else bias  # never read where there is none
            from_add = target if add is None else add
            add_stride = 0 if add is None else add.stride(0)
            self._kernels.gather_gemm_scatter[(programs,)](
                features,
                kernel,
                from_bias,
                from_add,
                sums,
                tiling.rows,
                tiling.table,
                tiles.packed,
                tiles.counts,
                slots,
                in_channels,
                out_channels,
                *features.stride(),
                *kernel.stride(),
                add_stride,
                target.stride(0),
                BLOCK_ROWS=launch.rows,
                WHOLE_IN=in_channels % launch.in_channels == 0,
                WHOLE_OUT=out_channels % launch.out_channels == 0,
                LARGE=sum((size - 1) * stride for size, stride in zip(features.shape, features.stride(), strict=True))
                >= 2**31,
                **ends,
                **self._options(launch, features),
            )
            if launch.splits > 1:
                blocks = -(-slots // _SUMMED_ROWS), -(-out_channels // _SUMMED_CHANNELS)
                self._kernels.sum_splits[blocks](
                    sums, from_bias, from_add, target, tiling.rows, slots, out_channels, add_stride, target.stride(0),
                    BLOCK_ROWS=_SUMMED_ROWS, BLOCK_OUT=_SUMMED_CHANNELS, **ends,
                )  # fmt: skip

        def try_out(launch: Launch) -> None:
            run(launch, torch.empty_like(out))  # `out` may hold what is to be added

        with device_of(features):
            run(self._launch("forward", features, kernel, kernel_map, forward_launches, try_out), out)

    def kernel_gradient(
        self, features: torch.Tensor, out_gradient: torch.Tensor, kernel_map: KernelMap
    ) -> torch.Tensor:
        if kernel_map.identity:
            return (features.t() @ out_gradient)[None]
        if not self._computes(features, kernel_map):
            return self._torch.kernel_gradient(features, out_gradient, kernel_map)
        offsets, in_channels, out_channels = kernel_map.offsets, features.shape[1], out_gradient.shape[1]
        pairs = _pairs(kernel_map)

        def run(launch: Launch) -> torch.Tensor:
            blocks = -(-in_channels // launch.in_channels) * -(-out_channels // launch.out_channels)
            splits = _splits(offsets * blocks, kernel_map.out_count // launch.rows, features.device)
            partial = features.new_empty((splits, offsets, in_channels, out_channels), dtype=torch.float32)
            self._kernels.kernel_gradient[(offsets * splits, blocks)](
                features,
                out_gradient,
                partial,
                pairs.in_rows,
                pairs.out_rows,
                pairs.counts,
                pairs.in_rows.shape[1],
                splits,
                in_channels,
                out_channels,
                *features.stride(),
                *out_gradient.stride(),
                BLOCK_PAIRS=launch.rows,
                **self._options(launch, features),
            )
            return partial.sum(dim=0).to(features.dtype)

        with device_of(features):
            return run(self._launch("gradient", features, out_gradient, kernel_map, gradient_launches, run))

    def _computes(self, features: torch.Tensor, kernel_map: KernelMap) -> bool:
        on_device = features.is_cuda or self._interpreted
        return on_device and features.dtype in _DTYPES and kernel_map.offsets <= MAX_OFFSETS

    def _launch(
        self,
        name: str,
        features: torch.Tensor,
        other: torch.Tensor,
        kernel_map: KernelMap,
        candidates: Callable[[Shape], tuple[Launch, ...]],
        run: Callable[[Launch], object],
    ) -> Launch:
        channels = features.shape[1], other.shape[-1]
        if self._interpreted:
            return interpreted(*channels)
        key = (name, *channels, kernel_map.offsets, features.dtype, features.device, _precision())
        rows = shape_class(kernel_map.out_count)
        shape = Shape(*channels, kernel_map.offsets, 1 << (rows - 1), features.dtype, shared_memory(features.device))
        return self._tuner.choose(key, rows, candidates(shape), run)

    def _tiling(self, kernel_map: KernelMap) -> Tiling:
        if TILING not in kernel_map.kept:
            with torch.inference_mode(False), torch.no_grad():  # the map may serve training later
                kernel_map.kept[TILING] = Tiling.of(kernel_map, self._kernels)
        tiling: Tiling = kernel_map.kept[TILING]
        return tiling

    def _options(self, launch: Launch, features: torch.Tensor) -> dict[str, Any]:
        return {
            "BLOCK_OUT": launch.out_channels,
            "BLOCK_IN": launch.in_channels,
            "PRECISION": _precision(),
            "WIDEN": self._interpreted and features.dtype == torch.bfloat16,
            "num_warps": launch.warps,
            "num_stages": launch.stages,
        }


def _pairs(kernel_map: KernelMap) -> Pairs:
    if "triton pairs" not in kernel_map.kept:
        with torch.inference_mode(False), torch.no_grad():
            kernel_map.kept["triton pairs"] = Pairs.of(kernel_map)
    pairs: Pairs = kernel_map.kept["triton pairs"]
    return pairs


def _splits(programs: int, most: int, device: torch.device) -> int:
    """Shares of the pairs of an offset: enough programs for the device, but with a step of the kernel each."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
    return int(max(min(_PROGRAMS_PER_PROCESSOR * processors // programs, most), 1))


def _precision() -> str:
    return "tf32" if tf32_is_allowed() else "ieee"


def _gpu_timing() -> tuple[Callable[[Callable[[], object]], float], tuple[type[Exception], ...]]:
    from triton.runtime.errors import OutOfResources
    from triton.testing import do_bench

    def measure(call: Callable[[], object]) -> float:
        return float(do_bench(call, warmup=2, rep=10, return_mode="median"))

    return measure, (OutOfResources,)
