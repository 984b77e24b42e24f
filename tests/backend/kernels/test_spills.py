"""Accumulators stay in registers: the inner loops of kernels hardly touch the stack."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tvm import tirx

from graphopt.backend.kernels.conv import ConvSpec
from graphopt.backend.kernels.gemm import GemmSpec
from graphopt.backend.kernels.machine import MachineSpec
from graphopt.backend.kernels.standalone import build, conv_prim_func, gemm_prim_func

WIDE = MachineSpec(512, 32, 48 << 10, 2 << 20, ("avx512f",))
ONES = (1, 1)
KERNELS: dict[str, Any] = {
    "3x3": conv_prim_func(ConvSpec(1, 64, 64, (56, 56), (3, 3), 1, ONES, ONES, ONES), WIDE),
    "3x3, small image": conv_prim_func(ConvSpec(1, 64, 256, (13, 13), (3, 3), 1, ONES, ONES, ONES), WIDE),
    "7x7, strided": conv_prim_func(ConvSpec(1, 3, 64, (64, 64), (7, 7), 1, (2, 2), (3, 3), (3, 3)), WIDE),
    "pointwise": conv_prim_func(ConvSpec(1, 64, 256, (56, 56), (1, 1)), WIDE),
    "depthwise": conv_prim_func(ConvSpec(1, 64, 64, (28, 28), (3, 3), 64, ONES, ONES, ONES), WIDE),
    "product": gemm_prim_func(GemmSpec(tirx.Var("m", "int64"), 384, 384), WIDE),
}


def innermost_loops(assembly: str) -> list[list[str]]:
    """The instructions of every loop that holds no other and multiplies vectors."""
    lines = assembly.splitlines()
    labels = {found[1]: i for i, line in enumerate(lines) if (found := re.match(r"(\.LBB\w+):", line))}
    loops = []
    for i, line in enumerate(lines):
        jump = re.match(r"\s+j\w+\s+(\.LBB\w+)", line)
        if jump is None or labels.get(jump[1], i) >= i:
            continue
        body = lines[labels[jump[1]] + 1 : i]
        if not any(re.match(r"\.LBB", other) for other in body) and any("vfmadd" in other for other in body):
            loops.append(body)
    return loops


@pytest.mark.parametrize("name", KERNELS)
def test_inner_loops_keep_off_the_stack(name: str) -> None:
    executable = build(KERNELS[name], {"kind": "llvm", "mcpu": "x86-64-v4", "mattr": ["-prefer-256-bit"]})
    loops = innermost_loops(executable.mod.inspect_source("asm"))
    products = [sum("vfmadd" in line for line in loop) for loop in loops]
    touches = [sum("%rsp" in line and "zmm" in line for line in loop) for loop in loops]
    assert max(products) >= 8
    # LLVM now and then moves one accumulator out and back; a tile that spills does so by the dozen.
    assert all(10 * touched <= count for touched, count in zip(touches, products, strict=True))
