"""fold-control-flow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pass_graphs import Model, checked, count, ops, random

from graphopt.ir.dims import sym
from graphopt.ir.graph import Region, Value
from graphopt.ir.types import UnknownType

Branch = Callable[[Region], Value]


def _if(m: Model, condition: Value, yes: Branch, no: Branch, region: Region | None = None) -> Value:
    node = m.builder.node("If", [condition], [("chosen", UnknownType())], region=region)
    for attr, branch in (("then_branch", yes), ("else_branch", no)):
        inner = m.builder.region(node, attr)
        m.builder.outputs([branch(inner)], inner)
    node.output.type = node.regions["then_branch"].outputs[0].type
    return node.output


@pytest.mark.parametrize("truth", [True, False])
def test_the_branch_that_is_taken_stays(truth: bool) -> None:
    m = Model()
    x = m.input("x", sym("n"), 4)
    condition = m.const(truth, dtype=bool)
    chosen = _if(
        m, condition, lambda r: m("Exp", m("Neg", x, region=r), region=r), lambda r: m("Tanh", x, region=r)
    )
    graph = m.done(m("Relu", chosen))
    checked(graph, "fold-control-flow", {"x": random(3, 4)})
    assert ops(graph) == (["Neg", "Exp", "Relu"] if truth else ["Tanh", "Relu"])


def test_a_branch_may_give_a_value_from_outside() -> None:
    m = Model()
    x = m.input("x", 4)
    y = m("Neg", x)
    graph = m.done(_if(m, m.const([True], dtype=bool), lambda r: y, lambda r: m("Exp", x, region=r)))
    checked(graph, "fold-control-flow", {"x": random(4)})
    assert ops(graph) == ["Neg"] and graph.outputs[0] is y


def test_nested_branches_and_ranks() -> None:
    """The condition is computed from types: whether the rank is 2."""
    m = Model()
    x, c = m.input("x", sym("n"), 4), m.input("c", dtype="bool")
    is_matrix = m("Equal", m("Size", m("Shape", x)), m.const(2, dtype=np.int64))

    def inner(r: Region) -> Value:
        return _if(m, is_matrix, lambda q: m("Exp", x, region=q), lambda q: m("Neg", x, region=q), r)

    outer = _if(m, m("Not", is_matrix), lambda r: m("Sin", x, region=r), inner)
    kept = _if(m, c, inner, lambda r: m("Cos", x, region=r))
    graph = m.done(outer, kept)
    checked(graph, "fold-control-flow,eliminate-dead-code", {"x": random(3, 4), "c": np.array(True)})
    assert ops(graph) == ["Exp", "If"]
    assert count(graph) == {"Exp": 2, "If": 1, "Cos": 1}


def test_a_condition_that_is_not_known() -> None:
    m = Model()
    x, c = m.input("x", 4), m.input("c", dtype="bool")
    graph = m.done(_if(m, c, lambda r: m("Exp", x, region=r), lambda r: m("Neg", x, region=r)))
    report = checked(graph, "fold-control-flow", {"x": random(4), "c": np.array(False)})
    assert ops(graph) == ["If"] and report.rows[0].rewrites == 0


def test_a_branch_in_a_loop_in_a_branch() -> None:
    m = Model()
    x, yes, three = m.input("x", 4), m.const(True, dtype=bool), m.const(3, dtype=np.int64)

    def loop(r: Region) -> Value:
        node = m.builder.node("Loop", [three, None, x], [("last", x.type)], region=r)
        body = m.builder.region(node, "body")
        m.builder.input("i", three.type, body)
        again, state = m.builder.input("again", yes.type, body), m.builder.input("state", x.type, body)
        chosen = _if(m, yes, lambda q: m("Exp", state, region=q), lambda q: m("Neg", state, region=q), body)
        m.builder.outputs([m("Identity", again, region=body), chosen], body)
        return node.output

    graph = m.done(_if(m, yes, loop, lambda r: m("Neg", x, region=r)))
    checked(graph, "fold-control-flow", {"x": -random(4)})
    assert count(graph) == {"Loop": 1, "Exp": 1, "Identity": 1}


def test_what_one_branch_gives_decides_the_next() -> None:
    """A branch gives a constant, and arithmetic on that is the condition of the next, twice over."""
    m = Model()
    x = m.input("x", 4)
    decided = m("Greater", m("Sqrt", m.const(9.0)), m.const(2.5))
    for bound in (1.0, 2.0):
        number = _if(m, decided, lambda r, b=bound: m.const(b), lambda r: m.const(-1.0))  # type: ignore[misc]
        decided = m("Greater", m("Sqrt", m("Mul", number, m.const(9.0))), m.const(2.5))
    graph = m.done(_if(m, decided, lambda r: m("Exp", x, region=r), lambda r: m("Neg", x, region=r)))
    checked(graph, "fold-control-flow,eliminate-dead-code", {"x": random(4)})
    assert ops(graph) == ["Exp"]


def test_a_condition_that_data_decide_is_not_computed() -> None:
    m = Model()
    x = m.input("x", 4)
    first = _if(m, m.const(True, dtype=bool), lambda r: m("Exp", x, region=r), lambda r: x)
    asked = m("Greater", m("ReduceMax", first, keepdims=0), m.const(0.0))
    graph = m.done(_if(m, asked, lambda r: m("Sin", x, region=r), lambda r: m("Neg", x, region=r)))
    checked(graph, "fold-control-flow", {"x": random(4)})
    assert ops(graph) == ["Exp", "ReduceMax", "Greater", "If"]
