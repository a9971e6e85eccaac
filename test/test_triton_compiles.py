"""The kernels compile for NVIDIA GPUs, which takes none: what the interpreter accepts, the compiler may not."""

from __future__ import annotations

import subprocess
import sys

import pytest
from interpreted_triton import needs_triton

pytestmark = [needs_triton, pytest.mark.slow]

PROGRAM = """
import sys
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

class Driver:  # of a GPU that is not there: kernels are compiled as they would be for the same call, and not launched
    def get_current_target(self): return GPUTarget("cuda", int(sys.argv[1]), 32)
    def get_current_device(self): return 0
    def get_current_stream(self, device=0): return 0

driver.set_active(Driver())
launch = jit.JITFunction.run

def compile_alone(self, *args, grid, warmup, **options):
    built = launch(self, *args, grid=grid, warmup=True, **options)
    assert built.metadata.shared <= 99 << 10, built.metadata.shared  # what the smallest of these GPUs has, sm_86
    print(self.fn.__name__, built.metadata.shared, built.asm["ttgir"].count("async_copy_global"))
    return built

jit.JITFunction.run = compile_alone

from mdkt_ros.scan_graph import _Recording
from mdkt_ros.network import build_network
from mdkt_ros.sparse import KernelMap, fuse, in_precision, register_engine
from mdkt_ros.sparse.level import KeyFrame, Level
from mdkt_ros.sparse.triton_backend import TritonBackend, load
from mdkt_ros.sparse.triton_backend.maps import TritonMaps
from mdkt_ros.static_scan import StaticScan
from mdkt_ros.sparse.triton_backend.tuning import Shape, forward_launches, gradient_launches
from mdkt_ros.voxel_grid import VoxelGrid
from mdkt_ros.voxels import FEATURES

backend = TritonBackend()
backend._computes = lambda *_: True
for dtype in [getattr(torch, name) for name in sys.argv[2:]]:
    torch.backends.cuda.matmul.allow_tf32 = dtype == torch.float32
    table = torch.zeros((27, 256), dtype=torch.int32)
    features = torch.zeros((256, 256), dtype=dtype)
    kernel = torch.zeros((27, 256, 256), dtype=dtype)
    kernel_map = KernelMap(256, 256, table=table)
    shape = Shape(256, 256, 27, 256, dtype, 99 << 10)
    for number in range(len(forward_launches(shape))):
        backend._launch = lambda *_: forward_launches(shape)[number]
        backend.convolve(features, kernel, kernel_map, torch.zeros(256), features, True, features)
    backend._launch = lambda *_: gradient_launches(shape)[1]
    backend.kernel_gradient(features, features, kernel_map)
for order in (None, torch.arange(4)):
    level = Level(torch.zeros((4, 4), dtype=torch.int32), KeyFrame((0, 0, 0, 0), (0, 9, 9, 9)), torch.arange(4))
    level.order = order
    maps = TritonMaps(load())
    maps._computes = lambda level: True
    maps.submanifold(level)
    maps.strided(level, level)
register_engine("triton", lambda device: TritonBackend())
network = fuse(build_network("minkunet14s", in_channels=8, classes=3, width=0.1))
for voxel_size in (0.5, 0.02):  # keys of 32 and of 64 bits
    grid = VoxelGrid(voxel_size, (-40.0, -40.0, -4.0), (40.0, 40.0, 4.0))
    scan = StaticScan(load(), torch.device("cpu"), grid, FEATURES, 1000, (1000,) * 5)
    _Recording(network, scan)._enqueue()
"""


@pytest.mark.parametrize(("capability", "dtypes"), [(80, ("bfloat16",)), (90, ("float16", "bfloat16", "float32"))])
def test_kernels_compile(capability: int, dtypes: tuple[str, ...], tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    command = [sys.executable, "-c", PROGRAM, str(capability), *dtypes]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    built = [line.split() for line in result.stdout.splitlines()]
    assert len({name for name, *_ in built}) == 15
    # Rows are gathered and matrices loaded while others are multiplied, which they would not be if a stride of 1 were
    # no constant of the compiled kernel.
    gemms = [line for line in built if line[0] in ("gather_gemm_scatter", "kernel_gradient")]
    assert len(gemms) >= 5 * len(dtypes)
    assert all(int(copies) >= 4 for *_, copies in gemms)
