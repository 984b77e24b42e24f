"""Kernels for Arm: the instructions that they are written for. Other tests run them under emulation."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from tvm import tirx

from graphopt.backend.kernels.conv import ConvSpec
from graphopt.backend.kernels.gemm import GemmSpec
from graphopt.backend.kernels.standalone import (
    build,
    conv_int8_prim_func,
    conv_prim_func,
    gemm_int8_prim_func,
    gemm_prim_func,
)
from graphopt.targets import Target

CONV = ConvSpec(1, 16, 24, (9, 31), (3, 3), 1, (1, 1), (1, 1), (1, 1))


def assembly(function: Any, cpu: str) -> str:
    target = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": cpu}
    return str(build(function, target).mod.inspect_source("asm"))


def test_floats_use_fused_multiply_add() -> None:
    machine = Target.parse("aarch64")
    assert "fmla\tv" in assembly(conv_prim_func(CONV, machine), "generic")
    gemm = GemmSpec(tirx.Var("m", "int64"), 40, 64)
    assert "fmla\tv" in assembly(gemm_prim_func(gemm, machine), "generic")


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_bytes_use_dot_products_where_there_are(dtype: str) -> None:
    conv = dataclasses.replace(CONV, dtype=dtype)
    gemm = GemmSpec(tirx.Var("m", "int64"), 40, 64, dtype=dtype)
    for name, cpu, expected in (("aarch64:neoverse-n1", "neoverse-n1", True), ("aarch64", "generic", False)):
        machine = Target.parse(name)
        assert ("sdot" in assembly(conv_int8_prim_func(conv, machine, 3), cpu)) == expected
        assert ("sdot" in assembly(gemm_int8_prim_func(gemm, machine), cpu)) == expected
