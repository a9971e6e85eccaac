"""Compiling kernels for the very CPU that runs them, by llvmlite: no compiler has to be installed."""

from __future__ import annotations

import ctypes
import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import llvmlite.binding as llvm
import torch

from mdkt_ros.sparse.backend import EngineUnavailable
from mdkt_ros.sparse.native.formats import format_of
from mdkt_ros.sparse.native.ir import Machine
from mdkt_ros.sparse.native.kernels import convolution, kernel_gradient

_LOCK = threading.RLock()
_ENGINES: list[Any] = []
"""What owns the programs' memory; programs live as long as the process."""


@lru_cache(maxsize=1)
def this_machine() -> Machine:
    """The vector registers of this CPU.

    Raises:
        EngineUnavailable: it has none that the kernels are written for.
    """
    features = llvm.get_host_cpu_features()
    if features.get("avx512f") and features.get("avx512vl"):
        return Machine(lanes=16, registers=32, pairs=bool(features.get("avx512bf16")))
    if features.get("avx2") and features.get("fma"):
        return Machine(lanes=8, registers=16)
    if is_arm():
        return Machine(lanes=4, registers=32)
    raise EngineUnavailable(f"this CPU ({llvm.get_host_cpu_name()}) has neither AVX2 with FMA, AVX-512 nor NEON")


@dataclass(frozen=True)
class Program:
    """A compiled kernel, `program(arguments, first, last)`.

    Attributes:
        address: of its code. call: the same for Python; several threads may call it at once, and it holds no GIL.
    """

    address: int
    call: Callable[[int, int, int], None]


@cache
def convolution_program(machine: Machine, outputs: int, given: torch.dtype, taken: torch.dtype) -> Program:
    """The program of `kernels.convolution`."""
    formats = format_of(given, machine.pairs), format_of(taken, machine.pairs)
    return _program(convolution(machine, outputs, *formats, "convolution"), "convolution")


@cache
def kernel_gradient_program(machine: Machine, outputs: int) -> Program:
    """The program of `kernels.kernel_gradient`."""
    return _program(kernel_gradient(machine, outputs, "gradient"), "gradient")


def _program(text: str, name: str) -> Program:
    address = compile_text(text)(name)
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    return Program(address, prototype(address))


def compile_text(text: str) -> Callable[[str], int]:
    """Compile LLVM IR; gives the addresses of its functions by name."""
    with _LOCK:
        _initialize()
        target = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=_features(), opt=3, jit=True
        )
        module = llvm.parse_assembly(text)
        module.verify()
        engine = llvm.create_mcjit_compiler(module, target)  # takes the target over
        engine.finalize_object()
        _ENGINES.append(engine)
    address: Callable[[str], int] = engine.get_function_address
    return address


def is_arm() -> bool:
    return platform.machine().lower() in ("aarch64", "arm64")


def _features() -> str:
    features = llvm.get_host_cpu_features()
    # LLVM halves vectors of 512 bits where they once slowed the CPU down; these kernels do little else.
    wide = ",-prefer-256-bit" if features.get("avx512f") else ""
    return str(features.flatten()) + wide


@lru_cache(maxsize=1)
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
