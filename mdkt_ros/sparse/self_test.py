"""Does a back end compute here what it should? A small problem, before a network trusts it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mdkt_ros.sparse.backend import Backend, MapBuilder, is_fusing
from mdkt_ros.sparse.kernel_map import KernelMap
from mdkt_ros.sparse.tf32 import tf32_is_allowed
from mdkt_ros.sparse.torch_backend import TorchBackend

_IN_CHANNELS, _OUT_CHANNELS = 24, 40
_TOLERANCES = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 4e-2}
"""Of a result's largest value. Half precision leaves room for a back end that rounds after every offset, and is still
several times too narrow for a single lost pair."""
_TF32_TOLERANCE = 5e-3


def agrees(backend: Backend, device: torch.device | str, dtype: torch.dtype) -> str | None:
    """Compare a back end with the PyTorch one, on the same device and with the same values, there in float64.

    The problem is fixed: two scans of some hundred random voxels; 3^3 submanifold, 3^3 and 2^3 strided and 2^3
    transposed convolutions from 24 to 40 channels; maps, values and both gradients.

    Returns:
        None where all agree; else a sentence with the largest error, relative to the largest value of the result, or
        with what the back end raised.
    """
    device = torch.device(device)
    worst, where = 0.0, ""
    try:
        with torch.no_grad():
            for name, result, expected in _results(backend, device, dtype):
                if result.shape != expected.shape or result.dtype != dtype or result.device != expected.device:
                    return (
                        f"{name}: expected {tuple(expected.shape)} {dtype} on {expected.device}, "
                        f"got {tuple(result.shape)} {result.dtype} on {result.device}"
                    )
                error = float((result.double() - expected).abs().max() / expected.abs().max())
                if not error <= worst:  # NaN counts as the worst
                    worst, where = error, name
                if error != error:
                    break
    except _MapsDiffer as error:
        return f"{error}: its kernel map is another"
    except Exception as error:  # noqa: BLE001  # whatever it is, this back end is not to be used
        return f"it raised {type(error).__name__}: {error}"
    tolerance = _tolerance(device, dtype)
    if worst <= tolerance:
        return None
    return f"{where} in {str(dtype).removeprefix('torch.')}: relative error {worst:.1e}, more than {tolerance:.0e}"


class _MapsDiffer(Exception):
    """The convolution whose map is not that of the PyTorch back end."""


def _results(
    backend: Backend, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Name, result and what it should be (in float64), one after the other."""
    generator = torch.Generator().manual_seed(0)
    oracle = TorchBackend()

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype)

    coordinates = _coordinates(generator).to(device)
    expected_maps = _kernel_maps(oracle.maps, coordinates)
    for kind, mine in _kernel_maps(backend.maps, coordinates).items():
        theirs = expected_maps[kind]
        if not torch.equal(mine.table, theirs.table):
            raise _MapsDiffer(f"{kind} convolution")
        features = random(mine.in_count, _IN_CHANNELS)
        kernel = random(mine.offsets, _IN_CHANNELS, _OUT_CHANNELS)
        bias = random(_OUT_CHANNELS)
        gradient = random(mine.out_count, _OUT_CHANNELS)
        expected = oracle.gather_gemm_scatter(features.double(), kernel.double(), theirs, bias.double())
        yield f"{kind} convolution", backend.gather_gemm_scatter(features, kernel, mine, bias), expected
        if is_fusing(backend):
            out = random(mine.out_count, 2 * _OUT_CHANNELS)[:, :_OUT_CHANNELS]
            expected = (expected + out.double()).relu()
            if backend.convolve(features, kernel, mine, bias, out, True, out):
                yield f"{kind} convolution, sum and rectifier", out, expected
        transposed = kernel.transpose(1, 2)
        yield (
            f"{kind} convolution, gradient of the input",
            backend.gather_gemm_scatter(gradient, transposed, mine.reversed, None),
            oracle.gather_gemm_scatter(gradient.double(), transposed.double(), theirs.reversed, None),
        )
        yield (
            f"{kind} convolution, gradient of the kernel",
            backend.kernel_gradient(features, gradient, mine),
            oracle.kernel_gradient(features.double(), gradient.double(), theirs),
        )


def _coordinates(generator: torch.Generator) -> torch.Tensor:
    """(V, 4) int32, of both signs and in no order."""
    occupied = torch.rand((2, 7, 8, 9), generator=generator) < 0.2
    coordinates = occupied.nonzero() - torch.tensor([0, 5, 4, 3])
    return coordinates[torch.randperm(len(coordinates), generator=generator)].to(torch.int32)


def _kernel_maps(builder: MapBuilder, coordinates: torch.Tensor) -> dict[str, KernelMap]:
    level = builder.level(coordinates)
    coarse, parents = builder.coarser(level)
    transposed = builder.transposed(level, coarse, parents)
    return {
        "submanifold 3^3": builder.submanifold(level),
        "strided 3^3": builder.strided(level, coarse),
        "strided 2^3": transposed.reversed,
        "transposed 2^3": transposed,
    }


def _tolerance(device: torch.device, dtype: torch.dtype) -> float:
    if dtype == torch.float32 and device.type == "cuda" and tf32_is_allowed():
        return _TF32_TOLERANCE
    return _TOLERANCES[dtype]
