"""fuse-gelu and fuse-layer-norm: the forms in which exporters write them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from pass_graphs import Model, apply, checked, ops, random

from graphopt.ir.dims import sym
from graphopt.ir.graph import Value

CLOSE = {"rtol": 1e-5, "atol": 2e-6}
Build = Callable[[Model, Value], Value]


def _erf(m: Model, x: Value) -> Value:
    result: Value = m("Add", m("Erf", m("Div", x, m.const(math.sqrt(2)))), m.const(1.0))
    return result


def _erf_by_product(m: Model, x: Value) -> Value:
    result: Value = m("Add", m.const(1.0), m("Erf", m("Mul", x, m.const(0.70710678))))
    return result


def _tanh(m: Model, x: Value) -> Value:
    cube = m("Pow", x, m.const(3.0))
    inner = m("Add", x, m("Mul", cube, m.const(0.044715)))
    result: Value = m("Add", m("Tanh", m("Mul", inner, m.const(0.7978845608))), m.const(1.0))
    return result


def _tanh_by_products(m: Model, x: Value) -> Value:
    inner = m("Add", m("Mul", m.const(0.044715), m("Mul", m("Mul", x, x), x)), x)
    result: Value = m("Add", m("Tanh", m("Mul", m.const(0.7978845608), inner)), m.const(1.0))
    return result


ORDERS: dict[str, Callable[[Model, Value, Value], Value]] = {
    "(x*gate)*half": lambda m, x, gate: m("Mul", m("Mul", x, gate), m.const(0.5)),
    "half*(gate*x)": lambda m, x, gate: m("Mul", m.const(0.5), m("Mul", gate, x)),
    "(x*half)*gate": lambda m, x, gate: m("Mul", m("Mul", x, m.const(0.5)), gate),
    "x*(half*gate)": lambda m, x, gate: m("Mul", x, m("Mul", m.const(0.5), gate)),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("gate", [_erf, _erf_by_product, _tanh, _tanh_by_products])
def test_gelu(gate: Build, order: str) -> None:
    m = Model()
    x = m.input("x", sym("n"), 8)
    graph = m.done(ORDERS[order](m, x, gate(m, x)))
    checked(graph, "fuse-gelu", {"x": 3 * random(4, 8)}, **CLOSE)
    assert ops(graph) == ["Gelu"]
    assert graph.nodes[0].attrs["approximate"] == ("tanh" if "tanh" in gate.__name__ else "none")


@pytest.mark.parametrize("wrong", ["half", "root", "x"])
def test_what_is_no_gelu(wrong: str) -> None:
    m = Model()
    x, other = m.input("x", 8), m.input("other", 8)
    root = m.const(1.41 if wrong == "root" else math.sqrt(2))
    gate = m("Add", m("Erf", m("Div", x, root)), m.const(1.0))
    scaled = m("Mul", other if wrong == "x" else x, gate)
    graph = m.done(m("Mul", scaled, m.const(0.51 if wrong == "half" else 0.5)))
    before = ops(graph)
    apply(graph, "fuse-gelu")
    assert ops(graph) == before


def _normalized(m: Model, x: Value, *, power: bool = True, reciprocal: bool = False, axis: int = -1) -> Value:
    centred = m("Sub", x, m("ReduceMean", x, m.ints(axis)))
    square = m("Pow", centred, m.const(2.0)) if power else m("Mul", centred, centred)
    deviation = m("Sqrt", m("Add", m("ReduceMean", square, m.ints(axis)), m.const(1e-5)))
    result: Value = (
        m("Mul", m("Reciprocal", deviation), centred) if reciprocal else m("Div", centred, deviation)
    )
    return result


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("reciprocal", [False, True])
def test_layer_norm(power: bool, reciprocal: bool) -> None:
    m = Model()
    x = m.input("x", sym("b"), sym("s"), 16)
    y = _normalized(m, x, power=power, reciprocal=reciprocal)
    graph = m.done(m("Add", m.const(random(16, seed=3)), m("Mul", y, m.const(random(1, 1, 16)))))
    checked(graph, "fuse-layer-norm", {"x": 2 * random(2, 3, 16) + 1}, rtol=1e-4, atol=1e-5)
    assert ops(graph) == ["LayerNormalization"]
    scale, shift = graph.nodes[0].inputs[1:]
    assert scale is not None and shift is not None
    np.testing.assert_array_equal(scale.const.numpy(), random(16))  # type: ignore[union-attr]
    np.testing.assert_array_equal(shift.const.numpy(), random(16, seed=3))  # type: ignore[union-attr]


def test_layer_norm_without_scale() -> None:
    m = Model()
    x = m.input("x", 2, 16)
    graph = m.done(m("Relu", _normalized(m, x)))
    checked(graph, "fuse-layer-norm", {"x": random(2, 16)}, rtol=1e-4, atol=1e-5)
    assert ops(graph) == ["LayerNormalization", "Relu"]


def test_a_scale_by_row_is_no_scale() -> None:
    m = Model()
    x = m.input("x", 16, 16)
    graph = m.done(m("Mul", _normalized(m, x), m.const(random(16, 1))))
    checked(graph, "fuse-layer-norm", {"x": random(16, 16)}, rtol=1e-4, atol=1e-5)
    assert ops(graph) == ["LayerNormalization", "Mul"]


def test_other_axes_are_left() -> None:
    m = Model()
    x = m.input("x", 2, 4, 16)
    graph = m.done(_normalized(m, x, axis=1))
    before = ops(graph)
    apply(graph, "fuse-layer-norm")
    assert ops(graph) == before


def test_an_epsilon_that_adds_an_axis_is_left() -> None:
    m = Model()
    x = m.input("x", 3, 4)
    centred = m("Sub", x, m("ReduceMean", x, m.ints(-1)))
    variance = m("ReduceMean", m("Mul", centred, centred), m.ints(-1))
    graph = m.done(m("Div", centred, m("Sqrt", m("Add", variance, m.const(np.full((1, 1, 1), 1e-5))))))
    before = ops(graph)
    apply(graph, "fuse-layer-norm")
    assert ops(graph) == before
