"""Back end over torchsparse 2.1, where it is installed: its gather, product and scatter on our own kernel maps.

Of torchsparse's entry points this calls one that takes a precomputed map, `conv_forward_gather_scatter_cuda` with
`conv_mode` 0 (`torchsparse/backend/convolution/convolution_gather_scatter_cuda.cu`). What its modules need care for
never comes into play: the shared default configuration, negative coordinates, the `spatial_range` in which a 2^3
convolution of stride 2 drops voxels at an even maximum. What that function itself needs care for is done here:

- It launches on the default stream whatever the current one is.
- Where a kernel has a middle and the output as many rows as the input, it takes the middle offset for the identity. It
  is in submanifold maps; another map gets an output row more, which is cut off again.
- It knows float32 and float16. bfloat16 is computed in float16 and turned back, and overflows above 65504; float64 goes
  to the PyTorch back end, as do tensors on the CPU.
- It adds the terms of float16 in float16, one rounding an offset, where the other back ends add them in float32.

Its backward function makes both gradients at once and cannot leave one out. The operator asks for them one by one: the
gradient of the input is the same function on the reversed map, and that of the kernel is left to the PyTorch back end,
which makes the same gathers and products. The faster implicit GEMM of torchsparse is not used: its map would need the
layout and the padding of every variant that it picks by channels. Nothing here has been measured, or run on a GPU; the
tests run it on a stand-in for torchsparse.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import torch

from mdkt_ros.sparse.backend import EngineUnavailable
from mdkt_ros.sparse.kernel_map import KernelMap
from mdkt_ros.sparse.torch_backend import TorchBackend
from mdkt_ros.sparse.torch_maps import TorchMaps

_FUNCTION = "conv_forward_gather_scatter_cuda"
_COMPUTED_IN = {torch.float32: torch.float32, torch.float16: torch.float16, torch.bfloat16: torch.float16}


def available(device: torch.device) -> str | None:
    """Why the back end cannot compute on a device, in a sentence; None where it can."""
    if device.type != "cuda":
        return "it computes on CUDA devices alone"
    try:
        _load()
    except EngineUnavailable as error:
        return str(error)
    return None


def _load() -> ModuleType:
    """The compiled module of torchsparse.

    Raises:
        EngineUnavailable: it is missing, does not work here, or is another version.
    """
    try:
        package = importlib.import_module("torchsparse")
        compiled = importlib.import_module("torchsparse.backend")
    # Importing it asks CUDA for the device: AssertionError or RuntimeError where PyTorch has none.
    except (ImportError, OSError, AssertionError, RuntimeError) as error:
        raise EngineUnavailable(f"torchsparse cannot be imported ({type(error).__name__}: {error})") from error
    version = str(getattr(package, "__version__", "unknown"))
    if not version.startswith("2.1"):
        raise EngineUnavailable(f"torchsparse must be version 2.1, not {version}")
    if not hasattr(compiled, _FUNCTION):
        raise EngineUnavailable("torchsparse was built without CUDA")
    return compiled


@dataclass(frozen=True, eq=False)
class _Neighbours:
    """A kernel map as torchsparse takes it.

    Attributes:
        pairs: (P, 2) int32 input and output row of each pair, offset after offset.
        sizes: (K,) int32 pairs of each offset, on the CPU: it reads them there.
        count: P.
    """

    pairs: torch.Tensor
    sizes: torch.Tensor
    count: int

    @classmethod
    def of(cls, kernel_map: KernelMap) -> _Neighbours:
        hit = kernel_map.table >= 0
        offset, out_rows = hit.nonzero(as_tuple=True)
        in_rows = kernel_map.table[offset, out_rows]
        pairs = torch.stack([in_rows, out_rows.to(torch.int32)], dim=1)
        return cls(pairs, hit.sum(dim=1, dtype=torch.int32).cpu(), len(pairs))


class TorchsparseBackend:
    """torchsparse's gather, product and scatter for float32, float16 and (in float16) bfloat16.

    The first convolution on a map waits for the device, which has to say how many pairs there are; later ones do not.

    Args:
        device_type: tensors elsewhere go to the PyTorch back end; tests compute on "cpu", with a stand-in.

    Raises:
        EngineUnavailable: torchsparse is missing, does not work here, or is another version.
    """

    maps = TorchMaps()

    def __init__(self, device_type: str = "cuda"):
        self._compiled = _load()
        self._device_type = device_type
        self._torch = TorchBackend()

    def gather_gemm_scatter(
        self, features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if features.device.type != self._device_type or features.dtype not in _COMPUTED_IN:
            return self._torch.gather_gemm_scatter(features, kernel, kernel_map, bias)
        neighbours = _neighbours(kernel_map)
        with _default_stream(features.device):
            if neighbours.count == 0:
                out = features.new_zeros((kernel_map.out_count, kernel.shape[2]))
            else:
                out = self._convolve(features, kernel, kernel_map, neighbours)
            if bias is not None:
                out = out + bias.to(out.dtype)
        if out.is_cuda:
            out.record_stream(torch.cuda.current_stream(out.device))
        return out

    def kernel_gradient(
        self, features: torch.Tensor, out_gradient: torch.Tensor, kernel_map: KernelMap
    ) -> torch.Tensor:
        return self._torch.kernel_gradient(features, out_gradient, kernel_map)

    def _convolve(
        self, features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap, neighbours: _Neighbours
    ) -> torch.Tensor:
        dtype = _COMPUTED_IN[features.dtype]
        takes_middle_for_identity = len(kernel) % 2 == 1 and kernel_map.in_count == kernel_map.out_count
        has_other_offsets = len(kernel) > 1  # it reads the sizes of those without looking whether there are any
        extra = int(takes_middle_for_identity and not (kernel_map.symmetric and has_other_offsets))
        unused = neighbours.pairs.new_empty(0)
        out: torch.Tensor = getattr(self._compiled, _FUNCTION)(
            features.to(dtype).contiguous(),
            kernel.to(dtype).contiguous(),
            neighbours.pairs,
            neighbours.sizes,
            unused,  # masks of the other modes
            unused,
            kernel_map.out_count + extra,
            0.0,  # epsilon, mm_thresh: of the other modes
            0,
            0,  # conv_mode
            False,  # transposed: our map says what is input and what is output
            unused,  # buffer of the other modes
        )
        return out[: kernel_map.out_count].to(features.dtype)


def _neighbours(kernel_map: KernelMap) -> _Neighbours:
    if "torchsparse" not in kernel_map.kept:
        with torch.inference_mode(False), torch.no_grad():  # the map may serve training later
            kernel_map.kept["torchsparse"] = _Neighbours.of(kernel_map)
    neighbours: _Neighbours = kernel_map.kept["torchsparse"]
    return neighbours


@contextmanager
def _default_stream(device: torch.device) -> Iterator[None]:
    """Work within the block goes to the default stream of `device`, after what the current one has to do before."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        current, default = torch.cuda.current_stream(), torch.cuda.default_stream()
        if current == default:
            yield
            return
        default.wait_stream(current)
        with torch.cuda.stream(default):
            yield
        current.wait_stream(default)
