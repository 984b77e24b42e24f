"""What is not a number stays visible: it must not become a bound, nor be lost in a comparison."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import graphopt as go
from graphopt.ir.parser import parse_graph
from tests.backend.programs import Array, check, expected_of, numbers, outputs_of, program

N = helper.make_node

BODIES = {
    "Relu": "%y: f32[20] = Relu(%x)",
    "Clip": "%y: f32[20] = Clip(%x, %low, %high)",
    "HardSigmoid": "%y: f32[20] = HardSigmoid(%x)",
    "PRelu": "%y: f32[20] = PRelu(%x, %high)",
}


@pytest.mark.parametrize("op", BODIES)
def test_nan_passes_through(op: str) -> None:
    graph = parse_graph(f"""gir 1
graph "nan" opset 26 {{
  input %x: f32[20]
  const %low: f32[] = -1
  const %high: f32[] = 1
  {BODIES[op]}
  return %y as "y"
}}
""")
    x = np.linspace(-2, 2, 20, dtype=np.float32)
    x[[0, 7, 19]] = np.nan
    (y,) = go.compile(graph, "native").load()(x)
    assert np.isnan(y).tolist() == np.isnan(x).tolist()
    assert np.nanmin(y) >= (-2 if op == "PRelu" else -1) and np.nanmax(y) <= (
        2 if op in ("Relu", "PRelu") else 1
    )


def _holed(seed: int, *shape: int, dtype: type = np.float32) -> Array:
    x = numbers(seed, *shape, dtype=dtype)
    x[np.random.default_rng(seed).random(shape) < 0.1] = np.nan
    return x


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("op", ["Max", "Min"])
def test_extrema_of_several(op: str, dtype: type) -> None:
    """Whichever operand it is in, in vectors, at their end and broadcast."""
    inputs = {name: _holed(seed, *shape, dtype=dtype)
              for seed, (name, shape) in enumerate({"a": (5, 37), "b": (5, 37), "c": (37,), "d": (5, 1)}.items())}  # fmt: skip
    graph = program([N(op, list(inputs), ["y"])], inputs)
    (y,) = outputs_of(graph, inputs)
    assert 50 < np.isnan(y).sum() < 150
    np.testing.assert_array_equal(y, expected_of(graph, inputs)[0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("reduction", ["max", "min"])
@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
def test_scattered_extrema(op: str, reduction: str, dtype: type) -> None:
    """What ONNX Runtime does: an update that is NaN is taken, and so is one that finds NaN."""
    nan = np.nan
    x: Array = np.array([nan, 1, 2, nan, 1, 2, 3], dtype)
    updates: Array = np.array([5, nan, 7, nan, nan, 0, 0, nan], dtype)
    i = np.array([0, 1, 2, 3, 4, 4, 5, 5])
    inputs = {"x": x, "i": i if op == "ScatterElements" else i[:, None], "u": updates}
    graph = program([N(op, ["x", "i", "u"], ["y"], reduction=reduction)], inputs)
    (y,) = outputs_of(graph, inputs)
    np.testing.assert_array_equal(y, [5, nan, 7 if reduction == "max" else 2, nan, 0, nan, 3])
    if not (op == "ScatterND" and dtype is np.float16):  # not done by ONNX Runtime
        np.testing.assert_array_equal(y, expected_of(graph, inputs)[0])


@pytest.mark.parametrize("select", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_positions_of_extrema(op: str, axis: int, select: int) -> None:
    x = _holed(3, 9, 41)
    (y,) = outputs_of(
        program([N(op, ["x"], ["y"], axis=axis, keepdims=0, select_last_index=select)], {"x": x}), {"x": x}
    )
    if select:
        last = np.flip(x, axis)
        expected = x.shape[axis] - 1 - (np.argmax if op == "ArgMax" else np.argmin)(last, axis=axis)
    else:
        expected = (np.argmax if op == "ArgMax" else np.argmin)(x, axis=axis)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("dims", [[3, 0], [3, "n"], ["m", "n"]])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_mean_of_nothing(dims: list[int | str], axis: int) -> None:
    shape, named = ((3, 0), dims) if axis else ((0, 3), dims[::-1])
    x, axes = np.zeros(shape, np.float32), np.array([axis])
    (y,) = outputs_of(
        program([N("ReduceMean", ["x", "a"], ["y"])], {"x": x}, {"a": axes}, dims={"x": named}), {"x": x}
    )
    assert np.isnan(y).tolist() == np.ones_like(y, bool).tolist() and y.size == 3
    whole = x.astype(np.int32)
    (z,) = outputs_of(
        program([N("ReduceMean", ["x", "a"], ["y"])], {"x": whole}, {"a": axes}, dims={"x": named}),
        {"x": whole},
    )
    assert z.reshape(-1).tolist() == [0, 0, 0]


def test_division_by_zero_that_is_a_constant() -> None:
    x = np.float32([1, -1, 0, np.nan, np.inf])
    constants = {"zero": np.float32(0), "minus": np.float32(-0.0)}
    check(
        [N("Div", ["x", "zero"], ["y"]), N("Div", ["x", "minus"], ["z"])],
        {"x": x},
        constants,
        outputs=["y", "z"],
    )
