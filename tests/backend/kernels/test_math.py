"""Vector functions against float64, over the whole range of float32."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from kernel_reference import CPU
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels import math as vector_math
from graphopt.backend.kernels.emit import emit_run
from graphopt.backend.kernels.standalone import build, kernel_prim_func

REFERENCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "sigmoid": lambda x: np.where(x < 0, np.exp(np.minimum(x, 0)) / (1 + np.exp(np.minimum(x, 0))), 1 / (1 + np.exp(-x))),
    "erf": np.vectorize(math.erf),
}  # fmt: skip
COUNT = 1 << 18


def apply(name: str, x: np.ndarray) -> tuple[np.ndarray, str]:
    """The function's values, and the assembly that computed them."""
    dtype = str(x.dtype)

    def body(buffers: dict[str, object]) -> None:
        function = getattr(vector_math, name)
        emit_run(x.size, 8, lambda j: T.buffer_store(buffers["out"], function(buffers["x"][j]), [j]))  # type: ignore[index]

    executable = build(kernel_prim_func({"x": ((x.size,), dtype), "out": ((x.size,), dtype)}, body), CPU)
    out = tvm.runtime.tensor(np.zeros_like(x))
    executable["main"](tvm.runtime.tensor(x), out)
    return out.numpy(), executable.mod.inspect_source("asm")


def samples(dtype: str = "float32") -> np.ndarray:
    """Every kind of number: all exponents, the ranges where functions bend, the special values."""
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 1 << 32, COUNT, dtype=np.uint32).view(np.float32)
    near = rng.uniform(-110, 95, COUNT).astype("float32")
    small = rng.standard_normal(COUNT).astype("float32")
    special = np.array([0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 88.7228, 88.73, -87.4,
                        -103.9, -104.1, 3.4e38, -3.4e38, 1.17549435e-38, 0.625, -0.625, 4, -4], "float32")  # fmt: skip
    with np.errstate(over="ignore"):
        return np.concatenate([bits, near, small, special]).astype(dtype)


@pytest.mark.parametrize("name", REFERENCES)
def test_float32_to_the_last_bits(name: str) -> None:
    x = samples()
    actual, _ = apply(name, x)
    with np.errstate(all="ignore"):
        exact = REFERENCES[name](x.astype("float64"))
        expected = exact.astype("float32")
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    finite = np.isfinite(expected) & (np.abs(expected) < 3e38)
    np.testing.assert_array_equal(actual[~finite & ~np.isnan(expected)] > 3e38, expected[~finite & ~np.isnan(expected)] > 3e38)  # fmt: skip
    units = np.abs(actual[finite] - exact[finite]) / np.spacing(np.abs(expected[finite]))
    # Below the smallest normal number sigmoid is 0: exp(-x) overflows there.
    if name == "sigmoid":
        assert np.abs(actual[finite] - exact[finite])[np.abs(exact[finite]) <= 1.2e-38].max() <= 1.2e-38
    if name in ("tanh", "erf"):
        end = {"tanh": 9.011, "erf": 3.925}[name]
        np.testing.assert_array_equal(actual[np.abs(x) > end], np.sign(x[np.abs(x) > end]))
        np.testing.assert_array_equal(np.signbit(actual[x == 0]), np.signbit(x[x == 0]))
    relevant = np.abs(exact[finite]) > 1.2e-38 if name == "sigmoid" else slice(None)
    assert units[relevant].max() <= (6.0 if name in ("tanh", "erf") else 3.0)


def test_exponentials_of_what_is_not_above_0() -> None:
    x = samples()
    x = x[~(x > 0)]
    actual, _ = apply("exp_of_negative", x)
    with np.errstate(invalid="ignore"):
        exact = np.exp(x.astype("float64"))
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(exact))
    normal = x >= -87.0
    units = np.abs(actual[normal] - exact[normal]) / np.spacing(exact[normal].astype("float32"))
    assert units.max() <= 3.0
    assert not actual[x < -87.0].any()


@pytest.mark.parametrize("name", REFERENCES)
def test_vectors_stay_vectors(name: str) -> None:
    _, assembly = apply(name, np.zeros(64, "float32"))
    called = f"{name}f" if name != "sigmoid" else "expf"
    assert called not in assembly
    assert "vfmadd" in assembly


@pytest.mark.parametrize("name", REFERENCES)
def test_other_widths(name: str) -> None:
    half = samples("float16")
    with np.errstate(all="ignore"):
        expected = REFERENCES[name](half.astype("float64")).astype("float16")
    np.testing.assert_allclose(apply(name, half)[0], expected, rtol=2e-3, atol=1e-7)
    double = np.linspace(0.01, 5, 77)
    np.testing.assert_allclose(apply(name, double)[0], REFERENCES[name](double), rtol=1e-14)
