"""Integer kernels: exact, on every kind of instruction that this machine runs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_reference import conv_reference
from test_conv import SHAPES, conv_specs
from tvm import tirx

from graphopt.backend.kernels.conv import ConvSpec
from graphopt.backend.kernels.gemm import GemmSpec
from graphopt.backend.kernels.int8 import pack_conv_int8_weights, pack_gemm_int8_weights
from graphopt.backend.kernels.machine import MachineSpec
from graphopt.backend.kernels.standalone import build, conv_int8_prim_func, gemm_int8_prim_func
from graphopt.targets.host import missing_features

BOUNDED = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MACHINES = {
    "x86-64": MachineSpec(128, 16),
    "x86-64-v2": MachineSpec(128, 16, features=("sse3",)),
    "x86-64-v3": MachineSpec(256, 16, features=("avx2",)),
    "x86-64-v4": MachineSpec(512, 32, features=("avx512bw",)),
    "cascadelake": MachineSpec(512, 32, features=("avx512bw", "avx512vnni")),
    "alderlake": MachineSpec(256, 16, features=("avx2", "avxvnni")),
}


@pytest.fixture(params=MACHINES)
def cpu(request: pytest.FixtureRequest) -> str:
    missing = missing_features(MACHINES[request.param].features)
    if missing:
        pytest.skip(f"this CPU lacks {', '.join(missing)}")
    return str(request.param)


def data_and_weights(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], dtype: str, wide: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers at the ends of their ranges too, where saturating instructions would go wrong."""
    rng = np.random.default_rng(5)
    limits = np.iinfo(dtype)
    low, high = (-255, 255) if wide else (-128, 127)
    x = rng.integers(limits.min, limits.max + 1, shapes[0])
    w = rng.integers(low, high + 1, shapes[1])
    x[rng.random(x.shape) < 0.5] = limits.max
    w[rng.random(w.shape) < 0.5] = low
    return x.astype(dtype), w.astype("int16" if wide else "int8")


def run_conv(spec: ConvSpec, cpu: str, zero_point: int, wide: bool = False) -> None:
    machine = MACHINES[cpu]
    shapes = (
        (spec.batch, spec.in_channels, *spec.spatial),
        (spec.out_channels, spec.group_in, *spec.kernel),
    )
    x, w = data_and_weights(shapes, spec.dtype, wide)
    executable = build(conv_int8_prim_func(spec, machine, zero_point, wide), {"kind": "llvm", "mcpu": cpu})
    packed = pack_conv_int8_weights(spec, machine, w, wide)
    out = tvm.runtime.tensor(np.full((spec.batch, spec.out_channels, *spec.out_spatial), 77, "int32"))
    executable["main"](tvm.runtime.tensor(x), tvm.runtime.tensor(packed), out)
    expected = conv_reference(spec, x.astype("int64") - zero_point, w.astype("int64"))
    np.testing.assert_array_equal(out.numpy(), expected)


@pytest.mark.parametrize("name", ["several tiles", "pointwise", "pointwise, one pixel", "depthwise"])
def test_typical_convolutions(name: str, cpu: str) -> None:
    run_conv(dataclasses.replace(SHAPES[name], dtype="uint8"), cpu, 131)


@pytest.mark.parametrize("wide", [False, True])
@BOUNDED
@given(spec=conv_specs(), dtype=st.sampled_from(["uint8", "int8"]), zero_point=st.integers(0, 127))
def test_any_convolution(wide: bool, spec: ConvSpec, dtype: str, zero_point: int) -> None:
    run_conv(dataclasses.replace(spec, dtype=dtype), "x86-64-v3", zero_point, wide)


@BOUNDED
@given(spec=conv_specs(), dtype=st.sampled_from(["uint8", "int8"]), zero_point=st.integers(0, 127))
def test_any_convolution_with_dot_products(spec: ConvSpec, dtype: str, zero_point: int) -> None:
    if missing_features(["avx512vnni"]):
        pytest.skip("this CPU lacks avx512vnni")
    run_conv(dataclasses.replace(spec, dtype=dtype), "cascadelake", zero_point)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("wide", [False, True])
def test_products(dtype: str, wide: bool, cpu: str) -> None:
    machine = MACHINES[cpu]
    m = tirx.Var("m", "int64")
    for n, k in [(40, 64), (37, 19), (3, 1)]:
        spec = GemmSpec(m, n, k, dtype=dtype)
        executable = build(gemm_int8_prim_func(spec, machine, wide), {"kind": "llvm", "mcpu": cpu})
        for rows, zero_point in [(1, 0), (9, 3), (30, 120)]:
            a, b = data_and_weights(((rows, k), (k, n)), dtype, wide)
            packed = pack_gemm_int8_weights(spec, machine, b, wide)
            out = tvm.runtime.tensor(np.full((rows, n), 77, "int32"))
            zero = tvm.runtime.tensor(np.array([zero_point], "int32"))
            executable["main"](tvm.runtime.tensor(a), zero, tvm.runtime.tensor(packed), out)
            expected = (a.astype("int64") - zero_point) @ b.astype("int64")
            np.testing.assert_array_equal(out.numpy(), expected)
