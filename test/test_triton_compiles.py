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
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mdkt_ros.sparse.triton_backend.loading import load
from mdkt_ros.sparse.triton_backend.tuning import forward_launches, gradient_launches

kernels, target = load(), GPUTarget("cuda", int(sys.argv[1]), 32)

def build(function, pointers, launch, **constants):
    signature = {}
    for parameter in function.params:
        name = parameter.name
        signature[name] = "constexpr" if name in constants else "*" + pointers[name] if name in pointers else "i32"
    source = ASTSource(fn=function, signature=signature, constexprs=constants)
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    built = triton.compile(source, target=target, options=options)
    assert built.metadata.shared <= 99 << 10, built.metadata.shared  # what the smallest of these GPUs has, sm_86
    print(function.__name__, launch, built.metadata.shared, len(built.asm["cubin"]))

rows = dict.fromkeys(["rows", "table", "counts", "in_rows", "out_rows"], "i32")
for name, dtype in {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}.items():
    common = {"PRECISION": "tf32" if name == "fp32" else "ieee", "WIDEN": False}
    values = dict.fromkeys(["features", "kernel", "bias", "add", "out", "out_gradient"], name)
    largest = forward_launches(256, 256, dtype)[3]
    blocks = {"BLOCK_OUT": largest.out_channels, "BLOCK_IN": largest.in_channels}
    build(kernels.gather_gemm_scatter, {**rows, **values, "packed": "i64"}, largest,
          BLOCK_ROWS=largest.rows, HAS_BIAS=True, HAS_ADD=True, RELU=True, **blocks, **common)
    launch = gradient_launches(256, 256, dtype)[1]
    blocks = {"BLOCK_OUT": launch.out_channels, "BLOCK_IN": launch.in_channels}
    build(kernels.kernel_gradient, {**rows, **values, "partial": "fp32"}, launch,
          BLOCK_PAIRS=launch.rows, **blocks, **common)
for own in (False, True):
    build(kernels.find_neighbours, {**rows, "keys": "i64", "centres": "i64", "order": "i64"}, launch,
          BLOCK=256, HAS_ORDER=True, OWN=own)
"""


@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile(capability: int, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    command = [sys.executable, "-c", PROGRAM, str(capability)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("\n") == 8
