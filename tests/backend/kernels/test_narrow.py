"""Products of floats with 8-bit weights, against NumPy in float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.gemm import GemmSpec
from graphopt.backend.kernels.narrow import (
    emit_narrow,
    is_even,
    is_narrow,
    pack_narrow_weights,
    packed_narrow_shape,
)
from graphopt.backend.kernels.standalone import kernel_prim_func
from graphopt.targets import Target

MACHINES = [Target.parse("x86-64-v4+avx512vnni")]
pytestmark = pytest.mark.skipif(
    not Target.parse("native").has("avx512vnni"), reason="this machine has no dot product of bytes"
)


def function(spec: GemmSpec, machine: Target) -> object:
    def body(buffers: dict[str, object]) -> None:
        a, out = buffers["a"], buffers["out"]
        emit_narrow(
            spec,
            machine,
            lambda m, k: a[m, k],  # type: ignore[index]
            buffers["w"],
            lambda value, at: T.buffer_store(out, value, list(at)),
        )

    return kernel_prim_func(
        {
            "a": ((spec.m, spec.k), "float32"),
            "w": (packed_narrow_shape(spec, machine), "int32"),
            "out": ((spec.m, spec.n), "float32"),
        },
        body,
    )


def built(spec: GemmSpec, machine: Target) -> object:
    return tvm.compile(tvm.IRModule({"main": function(spec, machine)}), target=machine.to_tvm())


def run(executable: object, spec: GemmSpec, a: np.ndarray, w: np.ndarray, machine: Target) -> np.ndarray:
    out = tvm.runtime.tensor(np.full((len(a), spec.n), 77, np.float32))
    packed = pack_narrow_weights(spec, machine, w)
    executable["main"](tvm.runtime.tensor(a), tvm.runtime.tensor(packed), out)  # type: ignore[index]
    return out.numpy()


def check(spec: GemmSpec, executable: object, rows: int, machine: Target) -> None:
    rng = np.random.default_rng(rows)
    a = (rng.standard_normal((rows, spec.k)) * 10.0 ** rng.integers(-20, 20, (rows, 1))).astype(np.float32)
    w = rng.integers(-128, 128, (spec.k, spec.n)).astype(np.int8)
    actual = run(executable, spec, a, w, machine)
    expected = a.astype(np.float64) @ w
    # To what sums of floats are exact, of what each row can reach.
    reach = np.abs(a).max(axis=1, keepdims=True) * np.abs(w).sum(axis=0)
    assert (np.abs(actual - expected) <= 2.5e-7 * reach).all()


@pytest.mark.parametrize("machine", MACHINES, ids=str)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 150))
def test_any_product(machine: Target, m: int, vectors: int, k: int) -> None:
    spec = GemmSpec(m, vectors * 16, k)
    assert is_narrow(spec, machine)
    check(spec, built(spec, machine), m, machine)


@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_one_kernel_takes_every_number_of_rows(machine: Target) -> None:
    spec = GemmSpec(tirx.Var("m", "int64"), 96, 64)
    executable = built(spec, machine)
    for rows in [*range(1, 9), 96, 97, 250]:
        check(spec, executable, rows, machine)


@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_a_row_of_zeros_and_rows_that_are_not_finite(machine: Target) -> None:
    spec = GemmSpec(4, 16, 40)
    a = np.ones((4, 40), np.float32)
    a[0], a[1, 3], a[2, 39] = 0, np.nan, np.inf
    out = run(built(spec, machine), spec, a, np.ones((40, 16), np.int8), machine)
    assert not out[0].any()
    assert np.isnan(out[1:3]).all()
    np.testing.assert_allclose(out[3], 40, rtol=1e-6)


@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_small_and_denormal_numbers_are_as_exact(machine: Target) -> None:
    spec = GemmSpec(6, 32, 48)
    rng = np.random.default_rng(4)
    sizes = np.float64([[1e-45], [3e-42], [1e-38], [1e-31], [1e-12], [1e35]])
    a = (rng.uniform(-1, 1, (6, 48)) * sizes).astype(np.float32)
    w = rng.integers(-128, 128, (48, 32)).astype(np.int8)
    expected = a.astype(np.float64) @ w
    actual = run(built(spec, machine), spec, a, w, machine).astype(np.float64)
    reach = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(actual - expected) <= 1e-6 * reach + 2.0**-149).all()


@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_a_large_number_among_small_ones(machine: Target) -> None:
    """Where the largest number meets the smallest weights that `is_even` lets pass."""
    spec = GemmSpec(64, 64, 256)
    rng = np.random.default_rng(5)
    w = np.clip(rng.standard_normal((256, 64)) * 40, -127, 127).astype(np.int8)
    w[17] = np.where(np.arange(64) == 3, 16, 0)
    assert is_even(w)
    a = rng.standard_normal((64, 256)).astype(np.float32)
    a[:, 17] = 10.0 ** rng.uniform(2, 30, 64)
    expected = a.astype(np.float64) @ w
    actual = run(built(spec, machine), spec, a, w, machine)
    error = np.abs(actual - expected).max(axis=1) / np.abs(expected).max(axis=1)
    assert error.max() <= 1e-5
    assert not is_even(np.where(np.arange(256)[:, None] == 17, w // 8, w))


def test_what_it_does_not_do() -> None:
    plain, dot = Target.parse("x86-64-v4"), MACHINES[0]
    spec = GemmSpec(4, 32, 40)
    assert not is_narrow(spec, plain)
    assert not is_narrow(dataclasses.replace(spec, n=33), dot)
    assert not is_narrow(dataclasses.replace(spec, dtype="float64"), dot)
