"""bfloat16 in the engine `native`: values against the definition, on kernels for CPUs with and without it."""

from __future__ import annotations

import math

import pytest
import torch
from sparse_inputs import by_definition, maps_of, street

from mdkt_ros.network import build_network
from mdkt_ros.sparse import KernelMap, SparseTensor, fuse, in_precision, register_engine, sparse_convolution, use_engine

pytest.importorskip("numba", reason="the engine `native` needs numba")

from mdkt_ros.sparse.native.backend import NativeBackend
from mdkt_ros.sparse.native.ir import Machine
from mdkt_ros.sparse.native.program import this_machine

BF16 = torch.bfloat16
MACHINES = {"AVX-512": Machine(16, 32), "AVX2": Machine(8, 16), "NEON": Machine(4, 32), "this CPU": this_machine()}
CHANNELS = [(1, 1), (3, 5), (4, 16), (19, 33), (24, 40), (64, 64), (72, 130), (130, 7)]


def step_of(value: torch.Tensor) -> torch.Tensor:
    """From a bfloat16 to the next; that of small values is taken as that of 2^-6."""
    return 2.0 ** (value.double().abs().clamp(min=2**-6).log2().floor() - 7)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize(("inputs", "outputs"), CHANNELS)
def test_sums_are_float32_and_rounded_once(machine: Machine, inputs: int, outputs: int, own_engines) -> None:
    """Every kind of map, channels that fill no vector nor pair, and nothing written beside the result."""
    register_engine("native", lambda _device: NativeBackend(machine))
    torch.manual_seed(inputs)
    with use_engine("native"), torch.no_grad():
        for name, kernel_map in maps_of(street(inputs)).items():
            features = torch.randn((kernel_map.in_count, inputs)).to(BF16)
            kernel = (torch.randn((kernel_map.offsets, inputs, outputs)) / inputs**0.5).to(BF16)
            bias = torch.randn(outputs)
            exact = by_definition(features, kernel, kernel_map, bias)
            plain = torch.empty((kernel_map.out_count, outputs))
            sparse_convolution(features, kernel, kernel_map, bias, out=plain)
            torch.testing.assert_close(plain.double(), exact, rtol=2e-5, atol=2e-5)

            room = torch.full((kernel_map.out_count + 2, outputs + 3), math.pi, dtype=BF16)
            out = room[1:-1, 2:-1]
            add = torch.randn((kernel_map.out_count, outputs)).to(BF16)
            out.copy_(add)
            sparse_convolution(features, kernel, kernel_map, bias, add=out, relu=True, out=out)
            expected = (exact + add.double()).relu()
            # Half a step, and what float32 may be off.
            assert ((out.double() - expected).abs() <= 0.5 * step_of(expected) + 1e-4).all(), name
            out.fill_(math.pi)
            assert (room == torch.tensor(math.pi, dtype=BF16)).all(), name


def test_values_round_to_the_nearest_even_and_nan_stays(own_engines) -> None:
    """Of what a sum can be: ties, numbers without an exponent, the largest, infinities and NaN."""
    bits = [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x00000001, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000]
    values = torch.tensor(bits, dtype=torch.uint32).view(torch.float32)
    identity = street(1).maps.identity(1)
    for machine in MACHINES.values():
        register_engine("native", lambda _device, machine=machine: NativeBackend(machine))
        with use_engine("native"), torch.no_grad():
            features = torch.zeros((identity.in_count, 2), dtype=BF16)
            out = sparse_convolution(features, torch.zeros((1, 2, len(bits)), dtype=BF16), identity, values)
        expected = values.to(BF16).expand_as(out)
        # AVX512-BF16 takes numbers without an exponent for 0.
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-38, equal_nan=True)


def test_threads_change_no_bit() -> None:
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with use_engine("native"), torch.no_grad():
                x = street(24)
                kernel = torch.linspace(-1, 1, 27 * 24 * 40).view(27, 24, 40).to(BF16)
                results.append(sparse_convolution(x.features.to(BF16), kernel, x.maps.submanifold(1), relu=True))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_gradients_go_to_torch() -> None:
    x = street(4)
    kernel_map: KernelMap = x.maps.submanifold(1)
    gradients = []
    for engine in ("torch", "native"):
        kernel = torch.linspace(-1, 1, 27 * 4 * 6).view(27, 4, 6).to(BF16).requires_grad_()
        with use_engine(engine):
            sparse_convolution(x.features.to(BF16), kernel, kernel_map).float().square().mean().backward()
        assert kernel.grad is not None
        gradients.append(kernel.grad.float())
    torch.testing.assert_close(*gradients, rtol=2e-2, atol=2e-2 * float(gradients[0].abs().max()))


@pytest.mark.parametrize("preset", ["minkunet_10hz", "minkunet34_multiscale"])
@pytest.mark.parametrize("engine", ["torch", "native"])
def test_a_network_in_bfloat16_gives_nearly_the_same_logits_in_float32(preset: str, engine: str) -> None:
    torch.manual_seed(0)
    network = build_network(preset, in_channels=4, classes=19, width=0.5).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    fused = fuse(network)
    rounded = in_precision(fused, BF16)
    assert in_precision(fused, torch.float32) is fused
    assert in_precision(rounded, BF16) is rounded
    x = street(4)
    shuffled = SparseTensor(*(values[torch.randperm(len(x))] for values in (x.features, x.coordinates)))
    with torch.inference_mode(), use_engine(engine):
        for given in (x, shuffled):
            exact, logits = fused(given).logits, rounded(given).logits
            assert logits.dtype == torch.float32
            assert 0 < float((logits - exact).norm() / exact.norm()) < 0.02
