"""Back end of the sparse convolutions in Triton: implicit GEMM on CUDA, whatever the channels.

Importing this package needs no Triton; making a `TritonBackend` does. The kernels agree with the PyTorch back end under
Triton's interpreter and compile for NVIDIA GPUs of compute capability 8.0 and 9.0. They have not run on a GPU, so
neither their speed nor their rounding there has been measured: the launch configurations are a guess, which is why they
are tuned on the machine.
"""

from mdkt_ros.sparse.triton_backend.backend import TritonBackend, available
from mdkt_ros.sparse.triton_backend.loading import load

__all__ = ["TritonBackend", "available", "load"]
