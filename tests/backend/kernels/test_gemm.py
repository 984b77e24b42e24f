"""Matrix products against NumPy in float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_reference import CPU, MACHINES
from tvm import tirx

from graphopt.backend.kernels.gemm import GemmSpec, pack_gemm_weights
from graphopt.backend.kernels.standalone import build, gemm_prim_func

BOUNDED = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def operands(spec: GemmSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a, b [.., k, n] and their product."""
    rng = np.random.default_rng(2)
    a = rng.standard_normal((*spec.batch, spec.m, spec.k))
    b = rng.standard_normal((spec.k, spec.n) if spec.packed else (*spec.batch, spec.k, spec.n))
    if spec.dtype.startswith("int"):
        a, b = np.rint(a * 100), np.rint(b * 100)
    a, b = a.astype(spec.dtype), b.astype(spec.dtype)
    wide = "int64" if spec.dtype.startswith("int") else "float64"
    return a, b, a.astype(wide) @ b.astype(wide)


def run_gemm(spec: GemmSpec, machine: str, executable: object | None = None) -> None:
    a, b, expected = operands(spec)
    executable = executable or build(gemm_prim_func(spec, MACHINES[machine]), CPU)
    if spec.packed:
        b = pack_gemm_weights(spec, MACHINES[machine], b)
    elif spec.b_transposed:
        b = np.ascontiguousarray(np.swapaxes(b, -1, -2))
    out = np.full((*spec.batch, spec.m, spec.n), 77, spec.dtype)
    arguments = [tvm.runtime.tensor(array) for array in (a, b, out)]
    executable["main"](*arguments)  # type: ignore[index]
    error = np.abs(arguments[2].numpy().astype(expected.dtype) - expected).max()
    tolerance = {"float32": 2e-6, "float16": 2e-3, "float64": 1e-14}.get(spec.dtype, 0)
    assert error <= tolerance * max(np.abs(expected).max(), 1.0), spec


@st.composite
def gemm_specs(draw: st.DrawFn) -> GemmSpec:
    packed = draw(st.booleans())
    return GemmSpec(
        m=draw(st.integers(1, 40)),
        n=draw(st.integers(1, 70)),
        k=draw(st.integers(1, 30)),
        batch=tuple(draw(st.lists(st.integers(1, 3), max_size=2))),
        packed=packed,
        b_transposed=not packed and draw(st.booleans()),
    )


@pytest.mark.parametrize("machine", MACHINES)
@BOUNDED
@given(spec=gemm_specs())
def test_any_product(machine: str, spec: GemmSpec) -> None:
    run_gemm(spec, machine)


def test_one_kernel_takes_every_number_of_rows() -> None:
    m = tirx.Var("m", "int64")
    spec = GemmSpec(m, n=37, k=19)
    function = gemm_prim_func(spec, MACHINES["x86-64-v3"])
    executable = build(function, CPU)
    a, _, _ = operands(dataclasses.replace(spec, m=1))
    rng = np.random.default_rng(0)
    b = rng.standard_normal((19, 37)).astype("float32")
    packed = tvm.runtime.tensor(pack_gemm_weights(spec, MACHINES["x86-64-v3"], b))
    for rows in [*range(1, 18), 100, 200]:
        a = rng.standard_normal((rows, 19)).astype("float32")
        out = tvm.runtime.tensor(np.full((rows, 37), np.nan, "float32"))
        executable["main"](tvm.runtime.tensor(a), packed, out)
        np.testing.assert_allclose(out.numpy(), a @ b, rtol=0, atol=3e-5)


@pytest.mark.parametrize("b_transposed", [False, True])
def test_one_kernel_takes_every_size(b_transposed: bool) -> None:
    m, n, k, heads = (tirx.Var(name, "int64") for name in ("m", "n", "k", "h"))
    spec = GemmSpec(m, n, k, (2, heads), packed=False, b_transposed=b_transposed)
    executable = build(gemm_prim_func(spec, MACHINES["x86-64-v3"]), CPU)
    for sizes in [(1, 1, 1, 1), (5, 16, 8, 2), (7, 33, 64, 3), (16, 12, 5, 1), (31, 50, 17, 4)]:
        fixed = dataclasses.replace(spec, m=sizes[0], n=sizes[1], k=sizes[2], batch=(2, sizes[3]))
        run_gemm(fixed, "x86-64-v3", executable)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "int64"])
def test_other_element_types(dtype: str) -> None:
    run_gemm(GemmSpec(13, 21, 34, dtype=dtype), "x86-64-v3")
    run_gemm(GemmSpec(13, 21, 34, (2,), packed=False, dtype=dtype), "x86-64-v3")
