"""eliminate-dead-code and eliminate-common-subexpressions."""

from __future__ import annotations

import numpy as np
from pass_graphs import Model, apply, checked, ops, random

from graphopt.ir.dims import sym
from graphopt.ir.types import TensorType, UnknownType


def test_dead_chains_and_constants_go() -> None:
    m = Model()
    x = m.input("x", 4)
    kept = m("Relu", x)
    m("Exp", m("Add", m("Neg", x), m.const([1, 2, 3, 4], "only_dead")))
    unused = m.const([0], "unused")
    graph = m.done(kept)
    report = checked(graph, "eliminate-dead-code", {"x": random(4)})
    assert ops(graph) == ["Relu"]
    assert graph.constants == {} and not graph.has_value(unused.name)
    assert report.rows[0].rewrites == 4  # three nodes one by one, the constants together


def test_unknown_operators_are_kept() -> None:
    m = Model()
    x = m.input("x", 4)
    m.builder.node("Log", [x], [("seen", UnknownType())], domain="com.example")
    graph = m.done(m("Relu", x))
    apply(graph, "eliminate-dead-code")
    assert ops(graph) == ["Log", "Relu"]


def _with_branches(m: Model, condition: object, build: object) -> object:
    node = m.builder.node("If", [condition], [("y", UnknownType())])  # type: ignore[list-item]
    for attr in ("then_branch", "else_branch"):
        region = m.builder.region(node, attr)
        m.builder.outputs([build(region)], region)  # type: ignore[operator]
    (node.output.type,) = (region.outputs[0].type for region in [node.regions["then_branch"]])
    return node.output


def test_dead_nodes_inside_branches_go() -> None:
    m = Model()
    x, c = m.input("x", 4), m.input("c", dtype="bool")

    def branch(region: object) -> object:
        m("Exp", x, region=region)
        return m("Relu", x, region=region)

    graph = m.done(_with_branches(m, c, branch))  # type: ignore[arg-type]
    checked(graph, "eliminate-dead-code", {"x": random(4), "c": np.array(True)})
    (node,) = graph.nodes
    assert [ops(region) for region in node.regions.values()] == [["Relu"], ["Relu"]]


def test_a_branch_reuses_what_is_outside_but_not_the_other_way_round() -> None:
    m = Model()
    x, c = m.input("x", 4), m.input("c", dtype="bool")
    outside = m("Exp", x)

    def branch(region: object) -> object:
        return m("Add", m("Exp", x, region=region), m("Neg", x, region=region), region=region)

    chosen = _with_branches(m, c, branch)
    graph = m.done(chosen, outside, m("Neg", x))  # type: ignore[arg-type]
    checked(graph, "eliminate-common-subexpressions", {"x": random(4), "c": np.array(False)})
    node = next(n for n in graph.nodes if n.op == "If")
    assert [ops(region) for region in node.regions.values()] == [["Neg", "Add"], ["Neg", "Add"]]
    assert ops(graph) == ["Exp", "If", "Neg"]


def test_equal_chains_become_one() -> None:
    m = Model()
    x = m.input("x", 4)
    sums = [m("Mul", m("Add", x, m.const([1, 2, 3, 4])), m.const(2.0)) for _ in range(5)]
    graph = m.done(m("Sum", *sums))
    report = checked(graph, "eliminate-common-subexpressions", {"x": random(4)})
    assert ops(graph) == ["Add", "Mul", "Sum"]
    assert len(graph.constants) == 2
    assert report.rows[0].nodes_before - report.rows[0].nodes_after == 8


def test_operands_in_either_order() -> None:
    m = Model()
    x, y = m.input("x", 4), m.input("y", 4)
    graph = m.done(m("Mul", m("Add", x, y), m("Add", y, x)), m("Sub", m("Sub", x, y), m("Sub", y, x)))
    checked(graph, "eliminate-common-subexpressions", {"x": random(4), "y": random(4, seed=1)})
    assert ops(graph) == ["Add", "Mul", "Sub", "Sub", "Sub"]


def test_what_differs_stays() -> None:
    m = Model()
    x = m.input("x", 2, 4)
    values = [
        m("Softmax", x, axis=0),
        m("Softmax", x, axis=1),
        m("LeakyRelu", x, alpha=0.0),
        m("LeakyRelu", x, alpha=-0.0),
        m("Clip", x, m.const(0.0)),
        m("Clip", x, None, m.const(0.0)),
        m("RandomNormalLike", x, seed=1.0),
        m("RandomNormalLike", x, seed=1.0),
    ]
    before = len(m.graph.nodes)
    graph = m.done(*values)
    apply(graph, "eliminate-common-subexpressions")
    assert len(graph.nodes) == before


def test_constants_merge_by_type_and_bits() -> None:
    m = Model()
    x = m.input("x", 2)
    floats = [m.const([0.0, 1.0]), m.const([0.0, 1.0]), m.const([-0.0, 1.0])]
    total = x
    for value in floats:
        total = m("Add", total, value)
    graph = m.done(m("Add", total, m("Cast", m.const([0, 1], dtype=np.int32), to=1)))
    apply(graph, "eliminate-common-subexpressions")
    kinds = [str(value.type) for value in graph.constants.values()]
    assert kinds == ["f32[2]", "f32[2]", "i32[2]"]


def test_large_constants_are_not_read() -> None:
    from graphopt.ir.tensor import Tensor
    from graphopt.ir.types import DType

    def load() -> np.ndarray:  # type: ignore[type-arg]
        raise AssertionError("read")

    m = Model()
    x = m.input("x", sym("n"), 64)
    for source in (None, None, ("file", 0), ("file", 0), ("file", 64)):
        data = Tensor(DType.F32, (64, 64), load, source=source)
        x = m("MatMul", x, m.builder.constant(data))
    graph = m.done(x)
    apply(graph, "eliminate-common-subexpressions,simplify-identities,fold-constants,eliminate-dead-code")
    assert ops(graph) == ["MatMul"] * 5
    assert len(graph.constants) == 4, "what lies at one place of a file is one constant"
    assert all(isinstance(v.type, TensorType) for v in graph.constants.values())
