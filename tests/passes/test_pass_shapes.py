"""simplify-shapes: no shape arithmetic is left where types know the sizes."""

from __future__ import annotations

import numpy as np
import pytest
from pass_graphs import Model, apply, checked, count, ops, random

from graphopt.ir.dims import sym
from graphopt.ir.graph import Value

B, S = sym("b"), sym("s")
CLEAN = "simplify-shapes,eliminate-dead-code"


def _size(m: Model, x: Value, axis: int) -> Value:
    shape = m("Shape", x)
    result: Value = m("Unsqueeze", m("Gather", shape, m.const(axis, dtype=np.int64)), m.ints(0))
    return result


def _target(graph_node: object) -> list[int]:
    return graph_node.inputs[1].const.numpy().tolist()  # type: ignore[attr-defined, no-any-return]


def test_heads_of_attention() -> None:
    m = Model()
    x = m.input("x", B, S, 24)
    split = m("Reshape", x, m("Concat", _size(m, x, 0), _size(m, x, 1), m.ints(3, 8), axis=0))
    moved = m("Transpose", split, perm=(0, 2, 1, 3))
    back = m("Transpose", moved, perm=(0, 2, 1, 3))
    width = m("Mul", _size(m, moved, 1), _size(m, moved, 3))
    graph = m.done(m("Reshape", back, m("Concat", _size(m, x, 0), _size(m, x, 1), width, axis=0)))
    checked(graph, CLEAN, {"x": random(2, 5, 24)})
    assert ops(graph) == ["Reshape", "Transpose", "Transpose", "Reshape"]
    assert [_target(n) for n in graph.nodes if n.op == "Reshape"] == [[0, 0, 3, 8], [0, 0, 24]]


def test_a_size_that_moved_becomes_minus_one() -> None:
    m = Model()
    x = m.input("x", B, 4, S)
    rows = m("Mul", _size(m, x, 0), _size(m, x, 2))
    graph = m.done(m("Reshape", m("Transpose", x, perm=(0, 2, 1)), m("Concat", rows, m.ints(4), axis=0)))
    checked(graph, CLEAN, {"x": random(2, 4, 5)})
    assert ops(graph) == ["Transpose", "Reshape"] and _target(graph.nodes[1]) == [-1, 4]


def test_two_unknown_sizes_are_read_from_the_inputs() -> None:
    m = Model()
    x, y = m.input("x", B, S), m.input("y", sym("k"))
    long = m("Relu", m("Exp", m("Transpose", x)))
    sizes = m("Concat", _size(m, long, 0), _size(m, m("Neg", y), 0), axis=0)
    graph = m.done(m("Expand", m.const([[1.0]]), sizes))
    checked(graph, CLEAN, {"x": random(2, 3), "y": random(4)})
    assert ops(graph) == ["Shape", "Shape", "Concat", "Expand"]
    assert [n.inputs[0] for n in graph.nodes[:2]] == [x, y]


def test_allowzero_does_not_turn_copies_into_zeros() -> None:
    m = Model()
    x = m.input("x", B, 6)
    graph = m.done(m("Reshape", x, m("Concat", _size(m, x, 0), m.ints(2, 3), axis=0), allowzero=1))
    checked(graph, CLEAN, {"x": random(4, 6)})
    assert _target(graph.nodes[0]) == [0, 2, 3] and not graph.nodes[0].attrs.get("allowzero", 0)


def test_expand_and_slice() -> None:
    m = Model()
    x, y = m.input("x", B, S), m.input("y", 1, S)
    whole = m("Expand", x, m("Concat", m.ints(3), m("Shape", x), axis=0))
    part = m("Slice", y, m.ints(1), _size(m, x, 1), m.ints(1))
    graph = m.done(whole, part)
    checked(graph, CLEAN, {"x": random(2, 5), "y": random(1, 5)})
    assert ops(graph) == ["Expand", "Slice"]
    assert _target(graph.nodes[0]) == [3, 1, 1]
    assert graph.nodes[1].inputs[2].const.numpy().tolist() == [np.iinfo(np.int64).max]  # type: ignore[union-attr]


def test_static_sizes_become_constants_through_any_chain() -> None:
    m = Model()
    x = m.input("x", 2, 3, 8, 8)
    half = m("Div", m("Slice", m("Shape", x), m.ints(2), m.ints(4)), m.ints(2))
    area = m("ReduceProd", m("Cast", half, to=6), keepdims=0)
    graph = m.done(m("Cast", area, to=1))
    checked(graph, "simplify-shapes,fold-constants,eliminate-dead-code", {"x": random(2, 3, 8, 8)})
    assert ops(graph) == [] and count(graph) == {}


def test_what_depends_on_data_stays() -> None:
    m = Model()
    x, target = m.input("x", B, 6), m.input("target", 2, dtype="i64")
    graph = m.done(m("Reshape", x, m("Add", target, m.ints(0))), m("Shape", m("NonZero", x)))
    before = ops(graph)
    apply(graph, CLEAN)
    assert ops(graph) == before


@pytest.mark.parametrize("n", [1, 7])
def test_it_comes_to_an_end(n: int) -> None:
    m = Model()
    x = m.input("x", B, S)
    graph = m.done(m("Squeeze", _size(m, m("Exp", x), 1)), m("Shape", m("Exp", x)))
    checked(graph, CLEAN, {"x": random(n, 3)})
    assert sum(row.rewrites for row in apply(graph, CLEAN).rows) == 0
    assert count(graph)["Exp"] == 0
