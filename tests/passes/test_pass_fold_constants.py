"""fold-constants: what is folded, and that the model does not grow by it."""

from __future__ import annotations

import numpy as np
from pass_graphs import Model, apply, checked, count, ops, random

import graphopt as go
from graphopt.ir.dims import sym
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse_graph
from graphopt.ir.types import UnknownType


def _bytes(graph: Graph) -> int:
    return sum(value.const.nbytes for value in graph.constants.values() if value.const is not None)


def test_a_cone_becomes_one_constant() -> None:
    m = Model()
    x = m.input("x", sym("n"), 4)
    table = m("Add", m("Mul", m.const([1, 2, 3, 4]), m.const(2.0)), m.const(0.5))
    graph = m.done(m("Add", x, table))
    report = checked(graph, "fold-constants", {"x": random(3, 4)})
    assert ops(graph) == ["Add"] and len(graph.constants) == 1
    (value,) = graph.constants.values()
    assert value.const is not None and value.const.numpy().tolist() == [2.5, 4.5, 6.5, 8.5]
    assert report.rows[0].rewrites == 1


def test_int8_weights_are_not_widened() -> None:
    m = Model()
    x = m.input("x", sym("n"), 256)
    rng = np.random.default_rng(0)
    for _ in range(3):
        weight = m.const(rng.integers(-127, 128, (256, 256)), "w", np.int8)
        scale = m("Reshape", m.const(rng.random(256)), m.ints(1, 256))
        x = m("MatMul", x, m("Mul", m("Cast", weight, to=1), scale))
    graph = m.done(x)
    before = _bytes(graph)
    checked(graph, "fold-constants", {"x": random(2, 256)})
    assert count(graph) == {"Cast": 3, "Mul": 3, "MatMul": 3}  # the small Reshape of the scale is gone
    assert _bytes(graph) <= before


def test_folding_that_frees_as_much_as_it_takes() -> None:
    m = Model()
    x = m.input("x", sym("n"), 64)
    graph = m.done(
        m("MatMul", x, m("Transpose", m("Add", m.const(random(64, 64)), m.const(random(64, 64, seed=1)))))
    )
    checked(graph, "fold-constants", {"x": random(2, 64)})
    assert ops(graph) == ["MatMul"] and _bytes(graph) == 64 * 64 * 4


def test_a_constant_with_another_user_is_not_freed() -> None:
    m = Model()
    x = m.input("x", sym("n"), 64)
    weight = m.const(random(64, 64))
    graph = m.done(m("MatMul", m("MatMul", x, weight), m("Transpose", weight)))
    checked(graph, "fold-constants", {"x": random(2, 64)})
    assert ops(graph) == ["MatMul", "Transpose", "MatMul"]
    apply(graph, "fold-constants{max_growth=16384}")
    assert ops(graph) == ["MatMul", "MatMul"]


def test_the_part_of_a_cone_that_fits() -> None:
    m = Model()
    x = m.input("x", 1000, 100)
    small = m("Exp", m.const(random(100)))
    graph = m.done(m("Add", x, m("Expand", small, m.ints(1000, 100))))
    checked(graph, "fold-constants", {"x": random(1000, 100)})
    assert ops(graph) == ["Expand", "Add"]


def test_random_numbers_are_drawn_at_run_time() -> None:
    m = Model()
    graph = m.done(m("Add", m("RandomNormal", shape=(2,)), m("RandomUniformLike", m.const([1, 2]))))
    apply(graph, "fold-constants")
    assert ops(graph) == ["RandomNormal", "RandomUniformLike", "Add"]


def test_sizes_that_depend_on_constant_data() -> None:
    m = Model()
    x = m.input("x", 4)
    where = m("NonZero", m.const([0, 1, 0, 1]))
    graph = m.done(m("Gather", x, m("Squeeze", where, m.ints(0))))
    checked(graph, "fold-constants", {"x": random(4)})
    assert ops(graph) == ["Gather"]
    assert str(graph.outputs[0].type) == "f32[2]"


def test_shape_of_a_static_tensor() -> None:
    m = Model()
    x = m.input("x", 3, 5)
    graph = m.done(m("Cast", m("Shape", m("Relu", x)), to=1), m("Size", x))
    checked(graph, "fold-constants,eliminate-dead-code", {"x": random(3, 5)})
    assert ops(graph) == []


def test_inside_branches() -> None:
    m = Model()
    x, c = m.input("x", 2), m.input("c", dtype="bool")
    node = m.builder.node("If", [c], [("y", UnknownType())])
    for attr, number in (("then_branch", 1.0), ("else_branch", 2.0)):
        region = m.builder.region(node, attr)
        inner = m("Exp", m.const([number, number]), region=region)
        m.builder.outputs([m("Mul", x, inner, region=region)], region)
        node.output.type = region.outputs[0].type
    graph = m.done(node.output)
    checked(graph, "fold-constants", {"x": random(2), "c": np.array(True)})
    assert count(graph) == {"If": 1, "Mul": 2}


def test_an_operator_that_no_engine_knows_is_left() -> None:
    m = Model()
    x = m.input("x", 2)
    other = m.builder.node("Mystery", [m.const([1, 2])], [("y", x.type)], domain="com.example").output
    graph = m.done(m("Add", x, other), m("Add", x, m("Exp", m.const([1, 2]))))
    apply(graph, "fold-constants")
    assert ops(graph) == ["Mystery", "Add", "Add"]


def test_a_quantized_weight_stays_quantized() -> None:
    graph = parse_graph("""gir 1
graph "q" opset 26 {
  input %x: f32[n, 2]
  const %w: i8[2, 2] = [1, 2, 3, 4]
  const %s: f32[] = 0.5
  const %z: i8[] = 0
  %d: f32[2, 2] = DequantizeLinear(%w, %s, %z)
  %y: f32[n, 2] = MatMul(%x, %d)
  return %y as "y"
}
""")
    assert [n.op for n in go.optimize(graph, "fold-constants").nodes] == ["DequantizeLinear", "MatMul"]
