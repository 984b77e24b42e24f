"""simplify-identities: what goes, what stays, and that the numbers are those of before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pass_graphs import Model, apply, checked, ops, random

from graphopt.ir.dims import sym
from graphopt.ir.graph import Value

AWKWARD = np.array([[0.0, -0.0, np.inf, -np.inf], [np.nan, 1e-45, -3.5, 3e38]], np.float32)

Build = Callable[[Model, Value], Value]

VANISH: dict[str, Build] = {
    "identity": lambda m, x: m("Identity", x),
    "dropout": lambda m, x: m("Dropout", x, m.const(0.5)),
    "concat-of-one": lambda m, x: m("Concat", x, axis=0),
    "max-of-one": lambda m, x: m("Max", x),
    "split-into-one": lambda m, x: m("Split", x, axis=0, num_outputs=1),
    "times-one": lambda m, x: m("Mul", m.const(1.0), x),
    "times-ones": lambda m, x: m("Mul", x, m.const([1.0] * 4)),
    "over-one": lambda m, x: m("Div", x, m.const([[1.0]])),
    "to-the-first": lambda m, x: m("Pow", x, m.const(1, dtype=np.int64)),
    "minus-minus": lambda m, x: m("Neg", m("Neg", x)),
    "cast-f32": lambda m, x: m("Cast", x, to=1),
    "cast-there-and-back": lambda m, x: m("Cast", m("Cast", x, to=11), to=1),
    "cast-like": lambda m, x: m("CastLike", x, m.const(0.0)),
    "where-true": lambda m, x: m("Where", m.const(True, dtype=bool), x, m.const(0.0)),
    "where-false": lambda m, x: m("Where", m.const([False] * 4, dtype=bool), m.const(0.0), x),
    "transpose-nothing": lambda m, x: m("Transpose", x, perm=(0, 1)),
    "transpose-twice": lambda m, x: m("Transpose", m("Transpose", x)),
    "reshape-to-itself": lambda m, x: m("Reshape", x, m.ints(2, -1)),
    "flatten-and-back": lambda m, x: m("Reshape", m("Reshape", x, m.ints(8)), m.ints(2, 4)),
    "unsqueeze-squeeze": lambda m, x: m("Squeeze", m("Unsqueeze", x, m.ints(1)), m.ints(1)),
    "expand-to-itself": lambda m, x: m("Expand", x, m.ints(1, 4)),
    "tile-once": lambda m, x: m("Tile", x, m.ints(1, 1)),
    "slice-of-all": lambda m, x: m("Slice", x, m.ints(0), m.ints(100), m.ints(1)),
    "pad-by-nothing": lambda m, x: m("Pad", x, m.ints(0, 0, 0, 0)),
}

STAY: dict[str, Build] = {
    "one-that-broadcasts": lambda m, x: m("Mul", x, m.const(np.ones((3, 1, 1)))),
    "almost-one": lambda m, x: m("Mul", x, m.const([1, 1, 1, 1.0000001])),
    "zero-minus": lambda m, x: m("Sub", m.const(0.0), x),
    "one-over": lambda m, x: m("Div", m.const(1.0), x),
    "one-to-the": lambda m, x: m("Pow", m.const(1.0), x),
    "through-half": lambda m, x: m("Cast", m("Cast", x, to=10), to=1),
    "through-int": lambda m, x: m("Cast", m("Cast", m("Relu", m("Neg", m("Relu", x))), to=6), to=1),
    "slice-backwards": lambda m, x: m("Slice", x, m.ints(-1), m.ints(-100), m.ints(1), m.ints(-1)),
    "pad-and-crop": lambda m, x: m("Pad", x, m.ints(1, 0, -1, 0)),
    "transpose-once": lambda m, x: m("Transpose", x),
    "dropout-training": lambda m, x: m("Dropout", x, m.const(0.0), m.const(True, dtype=bool)),
}


@pytest.mark.parametrize("name", VANISH)
def test_goes(name: str) -> None:
    m = Model()
    x = m.input("x", 2, 4)
    graph = m.done(m("Mul", VANISH[name](m, x), m.const(2.0)))
    checked(graph, "simplify-identities,eliminate-dead-code", {"x": AWKWARD})
    assert ops(graph) == ["Mul"]


@pytest.mark.parametrize("name", STAY)
def test_stays(name: str) -> None:
    m = Model()
    x = m.input("x", 2, 4)
    graph = m.done(m("Tanh", STAY[name](m, x)))
    before = ops(graph)
    checked(graph, "simplify-identities,eliminate-dead-code", {"x": AWKWARD})
    assert ops(graph) == before


@pytest.mark.parametrize("op", ["Add", "Sub"])
def test_adding_zero_keeps_all_but_the_sign_of_zero(op: str) -> None:
    m = Model()
    x = m.input("x", 2, 4)
    graph = m.done(m(op, x, m.const(0.0)), m("Add", m.input("n", 2, 4, dtype="i64"), m.ints(0)))
    checked(graph, "simplify-identities", {"x": AWKWARD, "n": np.arange(8).reshape(2, 4)})
    assert ops(graph) == []


def test_a_shape_that_only_may_be_equal_is_kept() -> None:
    m = Model()
    x, y = m.input("x", sym("a"), 4), m.input("y", sym("b"), 4)
    shape = m("Shape", y)
    graph = m.done(m("Reshape", x, shape), m("Reshape", m("Relu", x), m("Shape", x)))
    checked(graph, "simplify-identities,eliminate-dead-code", {"x": random(3, 4), "y": random(3, 4)})
    assert ops(graph) == ["Shape", "Reshape", "Relu"]


def test_shared_inner_nodes_stay_for_their_other_users() -> None:
    m = Model()
    x = m.input("x", 2, 4)
    inner = m("Transpose", x)
    graph = m.done(m("Relu", m("Transpose", inner)), m("Exp", inner))
    checked(graph, "simplify-identities,eliminate-dead-code", {"x": AWKWARD})
    assert ops(graph) == ["Transpose", "Relu", "Exp"]
    assert graph.nodes[1].inputs == (x,)


def test_a_reshape_that_copies_dimensions_keeps_its_input() -> None:
    m = Model()
    x = m.input("x", sym("n"), 12)
    first = m("Reshape", x, m.ints(-1, 3, 4))
    kept, free = m("Reshape", first, m.ints(0, 12, 1)), m("Reshape", first, m.ints(-1, 2, 6))
    graph = m.done(kept, free)
    checked(graph, "simplify-identities,eliminate-dead-code", {"x": random(5, 12)})
    assert ops(graph) == ["Reshape", "Reshape", "Reshape"]
    assert graph.nodes[2].inputs[0] is x


def test_swapped_ends_of_a_merged_batch() -> None:
    m = Model()
    x = m.input("x", sym("b"), 3, sym("s"), 8)
    merged = m("Reshape", x, m("Concat", m.ints(-1), m("Slice", m("Shape", x), m.ints(2), m.ints(4)), axis=0))
    swapped = m("Transpose", merged, perm=(0, 2, 1))
    sizes = [m("Slice", m("Shape", x), m.ints(a), m.ints(a + 1)) for a in range(4)]
    split = m("Reshape", swapped, m("Concat", sizes[0], sizes[1], sizes[3], sizes[2], axis=0))
    graph = m.done(split)
    checked(graph, "simplify-identities,eliminate-dead-code", {"x": random(2, 3, 5, 8)})
    assert ops(graph) == ["Transpose"] and graph.nodes[0].attrs["perm"] == (0, 1, 3, 2)


def test_transposes_compose() -> None:
    m = Model()
    x = m.input("x", 2, 3, 4)
    once = m("Transpose", x, perm=(1, 2, 0))
    graph = m.done(m("Transpose", m("Transpose", once, perm=(0, 2, 1)), perm=(2, 0, 1)))
    checked(graph, "simplify-identities,eliminate-dead-code", {"x": random(2, 3, 4)})
    assert [node.attrs["perm"] for node in graph.nodes] == [(2, 1, 0)]


def test_a_transpose_that_moves_ones_is_a_view() -> None:
    m = Model()
    x = m.input("x", sym("n"), 8, 1, 1)
    graph = m.done(m("Transpose", x, perm=(0, 2, 3, 1)))
    checked(graph, "simplify-identities", {"x": random(3, 8, 1, 1)})
    assert ops(graph) == ["Reshape"]


def test_rules_are_counted() -> None:
    m = Model()
    x = m.input("x", 2, 4)
    graph = m.done(m("Add", m("Mul", x, m.const(1.0)), m.const(0.5)))
    counts = apply(graph, "simplify-identities").rows[0].rules.rules
    assert counts["multiply-by-one"].hits == 1
    assert counts["add-zero"].hits == 0
