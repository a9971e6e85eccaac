"""The self-test of back ends: it passes what is right and names what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from mdkt_ros.sparse import KernelMap
from mdkt_ros.sparse.self_test import agrees
from mdkt_ros.sparse.tf32 import tf32_is_allowed
from mdkt_ros.sparse.torch_backend import TorchBackend
from mdkt_ros.sparse.torch_maps import TorchMaps

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
Change = Callable[[torch.Tensor], torch.Tensor]


class Wrong(TorchBackend):
    """Right, but for what `change` does to the results of one method."""

    def __init__(self, method: str, change: Change):
        self.method, self.change = method, change

    def gather_gemm_scatter(self, features, kernel, kernel_map, bias):
        out = super().gather_gemm_scatter(features, kernel, kernel_map, bias)
        return self.change(out) if self.method == "forward" else out

    def kernel_gradient(self, features, out_gradient, kernel_map):
        gradient = super().kernel_gradient(features, out_gradient, kernel_map)
        return self.change(gradient) if self.method == "gradient" else gradient


class OtherMaps(TorchMaps):
    def submanifold(self, level):
        made = super().submanifold(level)
        return KernelMap(made.in_count, made.out_count, table=made.table.flip(0), symmetric=True)


class Fuses(TorchBackend):
    """Adds and rectifies, in the right order or the wrong one."""

    def __init__(self, right: bool):
        self.right = right

    def convolve(self, features, kernel, kernel_map, bias, add, relu, out):
        result = self.gather_gemm_scatter(features, kernel, kernel_map, bias)
        out.copy_((result + add).relu() if self.right else result.relu() + add)
        return True


class LosesAPair(TorchBackend):
    def gather_gemm_scatter(self, features, kernel, kernel_map, bias):
        table = kernel_map.table.clone()
        offset, row = (table >= 0).nonzero()[7]
        table[offset, row] = -1
        return super().gather_gemm_scatter(
            features, kernel, KernelMap(kernel_map.in_count, kernel_map.out_count, table=table), bias
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_pytorch_backend_agrees_with_itself(dtype: torch.dtype) -> None:
    assert agrees(TorchBackend(), "cpu", dtype) is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_lost_pair_is_found(dtype: torch.dtype) -> None:
    message = agrees(LosesAPair(), torch.device("cpu"), dtype)
    assert message is not None
    name = str(dtype).removeprefix("torch.")
    assert f" in {name}: relative error " in message
    assert "convolution" in message


def test_maps_and_what_follows_a_convolution_are_compared() -> None:
    backend = TorchBackend()
    backend.maps = OtherMaps()
    assert agrees(backend, "cpu", torch.float32) == "submanifold 3^3 convolution: its kernel map is another"
    assert agrees(Fuses(True), "cpu", torch.float32) is None
    assert "convolution, sum and rectifier in float32" in (agrees(Fuses(False), "cpu", torch.float32) or "")


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("forward", lambda out: out * 1.001, r"relative error 1.0e-03, more than 1e-05"),
        ("gradient", lambda out: out.flip(0), r"gradient of the kernel in float32: relative error [0-9.]+e[+-]0\d"),
        ("forward", lambda out: out * float("nan"), r"submanifold 3\^3 convolution in float32: relative error nan"),
        ("forward", lambda out: out[:-1], r"submanifold 3\^3 convolution: expected \(\d+, 40\) torch.float32 on cpu"),
        ("gradient", lambda out: out.double(), r"gradient of the kernel: expected .* got \(27, 24, 40\) torch.float64"),
    ],
)
def test_what_is_wrong_is_named(method: str, change: Change, message: str) -> None:
    result = agrees(Wrong(method, change), "cpu", torch.float32)
    assert result is not None
    assert re.search(message, result), result


def test_a_backend_that_raises_does_not_agree() -> None:
    def fail(out: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel image is available for execution on the device")

    expected = "it raised RuntimeError: no kernel image is available for execution on the device"
    assert agrees(Wrong("gradient", fail), "cpu", torch.float32) == expected


def test_random_numbers_of_the_caller_stay_as_they_were() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    agrees(TorchBackend(), "cpu", torch.float32)
    assert torch.equal(torch.rand(3), expected)


def test_tf32_is_read_whichever_way_it_was_set() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    try:
        for allowed in (True, False):
            matmul.allow_tf32 = allowed
            assert tf32_is_allowed() is allowed
    finally:
        matmul.allow_tf32 = before
