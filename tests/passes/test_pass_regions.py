"""fuse-regions: what becomes one kernel, and what must not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from graphopt_passes.fuse_regions import plan_regions
from pass_graphs import Model, apply, assert_same_numbers, bodies, checked, ops, random

from graphopt.analysis import ConstantNodes
from graphopt.errors import PassError
from graphopt.ir.builder import copy_graph
from graphopt.ir.dims import sym
from graphopt.ir.graph import Value
from graphopt.ir.types import UnknownType, tensor
from graphopt.targets import Target

N = sym("n")
V4 = Target.parse("x86-64-v4")


def _conv(m: Model, x: Value, channels: int = 8, seed: int = 0) -> Value:
    result: Value = m("Conv", x, m.const(random(channels, 8, 1, 1, seed=seed)))
    return result


def test_an_epilogue_joins_its_convolution() -> None:
    m = Model()
    x = m.input("x", N, 8, 5, 5)
    y = _conv(m, x)
    gate = m("Clip", m("Add", y, m.const(3.0)), m.const(0.0), m.const(6.0))  # hard swish
    graph = m.done(m("Div", m("Mul", y, gate), m.const(6.0)))
    checked(graph, "fuse-regions", {"x": random(2, 8, 5, 5)})
    assert bodies(graph) == [["Conv", "Add", "Clip", "Mul", "Div"]] and len(graph.nodes) == 1


def test_a_residual_joins_the_later_convolution() -> None:
    m = Model()
    x = m.input("x", N, 8, 5, 5)
    a = m("Relu", _conv(m, x))
    b = _conv(m, a, seed=1)
    graph = m.done(m("Relu", m("Add", b, a)))
    checked(graph, "fuse-regions", {"x": random(2, 8, 5, 5)})
    assert bodies(graph) == [["Conv", "Relu"], ["Conv", "Add", "Relu"]]


def test_one_heavy_node_per_region() -> None:
    m = Model()
    x = m.input("x", N, 8, 5, 5)
    graph = m.done(m("Add", m("Sigmoid", _conv(m, x)), m("Tanh", _conv(m, x, seed=1))))
    checked(graph, "fuse-regions", {"x": random(2, 8, 5, 5)})
    heavy = [sum(op == "Conv" for op in body) for body in bodies(graph)]
    assert max(heavy) == 1 and len(graph.nodes) == 2


def test_nothing_joins_the_input_of_a_heavy_node() -> None:
    m = Model()
    x = m.input("x", N, 8, 5, 5)
    graph = m.done(_conv(m, m("Sigmoid", m("Add", x, m.const(1.0)))))
    apply(graph, "fuse-regions")
    assert ops(graph) == ["fused", "Conv"] and bodies(graph) == [["Add", "Sigmoid"]]


def test_a_slow_operand_is_not_done_again_for_each_read() -> None:
    m = Model()
    x, s = m.input("x", N, 8, 5, 5), m.input("s", N, 8, 1, 1)
    slow = m("Mul", x, m("Exp", s))
    quick = m("Mul", m("Relu", x), m("Neg", m("Add", s, m.const(1.0))))
    graph = m.done(slow, quick)
    checked(graph, "fuse-regions", {"x": random(2, 8, 5, 5), "s": random(2, 8, 1, 1)})
    assert ops(graph) == ["Exp", "Mul", "fused"]
    assert bodies(graph) == [["Relu", "Add", "Neg", "Mul"]]


def test_a_reduction_takes_its_own_epilogue() -> None:
    m = Model()
    x = m.input("x", N, 16)
    mean = m("ReduceMean", x, m.ints(-1))
    graph = m.done(m("Div", x, m("Sqrt", m("Add", mean, m.const(1e-5)))))
    checked(graph, "fuse-regions", {"x": np.abs(random(3, 16))})
    assert bodies(graph) == [["ReduceMean", "Add", "Sqrt"]] and ops(graph) == ["fused", "Div"]


def test_movement_joins_chains_but_not_heavy_nodes() -> None:
    m = Model()
    x = m.input("x", N, 8, 6)
    y = m("Relu", m("MatMul", x, m.const(random(6, 4))))
    moved = m("Transpose", y, perm=(0, 2, 1))
    graph = m.done(m("Mul", m("Slice", moved, m.ints(1), m.ints(3), m.ints(1)), m.const(2.0)))
    checked(graph, "fuse-regions", {"x": random(2, 8, 6)})
    assert bodies(graph) == [["MatMul", "Relu"], ["Transpose", "Slice", "Mul"]]


def test_views_at_the_border_stay_outside() -> None:
    m = Model()
    x = m.input("x", N, 24)
    y = m("Mul", m("Neg", m("Reshape", x, m.ints(0, 4, 6))), m.const(2.0))
    inner = m("Add", m("Reshape", y, m.ints(0, 6, 4)), m.const(1.0))
    graph = m.done(m("Flatten", inner))
    checked(graph, "fuse-regions", {"x": random(2, 24)})
    assert ops(graph) == ["Reshape", "fused", "Flatten"]
    assert bodies(graph) == [["Neg", "Mul", "Reshape", "Add"]]


def test_constants_come_in_as_inputs() -> None:
    m = Model()
    x = m.input("x", N, 4)
    c = m.const([1, 2, 3, 4])
    graph = m.done(m("Relu", m("Add", x, c)))
    apply(graph, "fuse-regions")
    (node,) = graph.nodes
    assert node.inputs == (x, c)
    assert [value.type for value in node.body.inputs] == [x.type, c.type]


def test_values_that_others_need_split_regions() -> None:
    m = Model()
    x = m.input("x", N, 4)
    middle = m("Exp", m("Neg", x))
    graph = m.done(m("Relu", m("Add", middle, m.const(1.0))), middle)
    checked(graph, "fuse-regions", {"x": random(3, 4)})
    assert bodies(graph) == [["Neg", "Exp"], ["Add", "Relu"]]


def test_what_depends_on_constants_only_stays_out() -> None:
    m = Model()
    x = m.input("x", N, 64)
    weight = m("Mul", m("Cast", m.const(np.ones((64, 64)), dtype=np.int8), to=1), m.const(random(64)))
    graph = m.done(m("Relu", m("MatMul", x, weight)))
    checked(graph, "fuse-regions", {"x": random(2, 64)})
    assert ops(graph) == ["Cast", "Mul", "fused"]


def test_an_embedding_is_gathered_before_it_is_widened() -> None:
    m = Model()
    ids = m.input("ids", N, dtype="i64")
    table = m("Mul", m("Cast", m.const(np.arange(64).reshape(16, 4), dtype=np.int8), to=1), m.const(0.5))
    graph = m.done(m("Add", m("Gather", table, ids), m.const(1.0)))
    checked(graph, "fuse-regions", {"ids": np.array([3, 1, 1])})
    assert bodies(graph) == [["Cast", "Mul", "Gather", "Add"]]


def test_strings_and_branches_are_left() -> None:
    m = Model()
    x, c = m.input("x", 4), m.input("c", dtype="bool")
    node = m.builder.node("If", [c], [("y", UnknownType())])
    for attr in ("then_branch", "else_branch"):
        region = m.builder.region(node, attr)
        m.builder.outputs([m("Neg", m("Exp", x, region=region), region=region)], region)
        node.output.type = region.outputs[0].type
    graph = m.done(m("Relu", node.output))
    checked(graph, "fuse-regions", {"x": random(4), "c": np.array(True)})
    assert ops(graph) == ["If", "Relu"]
    assert bodies(graph) == [["Exp", "Neg"]] * 2


@pytest.mark.parametrize(
    ("batch", "channels", "target", "expected"),
    [
        (1, 16, V4, ["Conv", "Conv", "Concat", "fused"]),
        (1, 8, V4, ["Conv", "Conv", "fused"]),  # 8 channels of 5 x 5 are no whole vectors of 16
        (1, 8, Target.parse("x86-64-v3"), ["Conv", "Conv", "Concat", "fused"]),
        (2, 16, V4, ["Conv", "Conv", "fused"]),
        (1, 16, None, ["Conv", "Conv", "fused"]),
        (1, 16, Target.parse("cuda:sm_80"), ["Conv", "Conv", "fused"]),
    ],
    ids=str,
)
def test_a_concatenation_of_pieces_that_lie_side_by_side_stays_alone(
    batch: int, channels: int, target: Target | None, expected: list[str]
) -> None:
    m = Model()
    x = m.input("x", batch, 8, 5, 5)
    joined = m("Concat", _conv(m, x, channels), _conv(m, x, 16, seed=1), axis=1)
    graph = m.done(m("Relu", m("Mul", joined, m.const(3.0))))
    before = copy_graph(graph)
    apply(graph, "fuse-regions", target=target)
    assert ops(graph) == expected
    assert_same_numbers(before, graph, {"x": random(batch, 8, 5, 5)})


def test_pieces_that_are_light_are_computed_where_they_are_joined() -> None:
    """One kernel does all; beside a convolution's result, whose kernel writes it in place, each has its own."""
    m = Model()
    x = m.input("x", 1, 8, 4, 4)
    graph = m.done(m("Neg", m("Concat", m("Relu", x), m("Abs", x), axis=1)))
    apply(graph, "fuse-regions", target=V4)
    assert bodies(graph) == [["Relu", "Abs", "Concat", "Neg"]]
    m = Model()
    x = m.input("x", 1, 8, 4, 4)
    joined = m("Concat", m("Relu", x), _conv(m, x, 16), axis=1)
    graph = m.done(m("MaxPool", joined, kernel_shape=(2, 2)))
    apply(graph, "fuse-regions", target=V4)
    assert sorted(ops(graph)) == ["Concat", "Conv", "MaxPool", "Relu"]


@pytest.mark.parametrize("limit", [2, 3, 5])
def test_long_chains_are_cut(limit: int) -> None:
    m = Model()
    x = y = m.input("x", N, 4)
    for _ in range(17):
        y = m("Neg", y)
    graph = m.done(m("Add", y, x))
    checked(graph, f"fuse-regions{{max_ops={limit}}}", {"x": random(2, 4)})
    assert max(map(len, bodies(graph))) <= limit
    assert len(graph.nodes) <= -(-18 // limit) + 1


@dataclass(frozen=True)
class _Picky:
    """A target that emits regions without Tanh beside Exp."""

    def can_emit(self, ops: Sequence[str]) -> str | None:
        return "Tanh beside Exp" if {"Tanh", "Exp"} <= set(ops) else None


def test_a_region_that_the_target_refuses_is_split() -> None:
    m = Model()
    y = m.input("x", N, 4)
    for op in ("Neg", "Exp", "Neg", "Tanh", "Neg"):
        y = m(op, y)
    graph = m.done(y)
    planned = [
        [n.op for n in members]
        for members in plan_regions(graph.nodes, 32, ConstantNodes.of(graph), _Picky())
    ]  # type: ignore[arg-type]
    assert planned and all(not {"Tanh", "Exp"} <= set(members) for members in planned)


def test_planning_takes_linear_time() -> None:
    import time

    def seconds(size: int) -> float:
        m = Model()
        x = y = m.input("x", N, 4)
        for i in range(size):
            y = m("Add", y, x) if i % 50 == 0 else m("Neg", y)
        graph = m.done(y)
        nodes = graph.nodes
        start = time.process_time()
        plan_regions(nodes, 32, ConstantNodes.of(graph))
        return time.process_time() - start

    small, large = min(seconds(4000) for _ in range(3)), min(seconds(16000) for _ in range(2))
    assert large < 12 * small  # 4 when linear, 16 when quadratic


def test_the_text_form_of_a_region_names_its_output() -> None:
    m = Model()
    x = m.input("x", N, 4)
    graph = m.done(m("Relu", m("Neg", x), name="last"))
    name = graph.outputs[0].name
    before = copy_graph(graph)
    apply(graph, "fuse-regions")
    assert graph.outputs[0].name == name == before.outputs[0].name


def test_inlining_undoes_fusion() -> None:
    m = Model()
    x = m.input("x", N, 8, 5, 5)
    graph = m.done(m("Relu", m("Add", _conv(m, m("Exp", m("Neg", x))), x)))
    before = ops(graph)
    checked(graph, "fuse-regions,inline-regions", {"x": random(2, 8, 5, 5)})
    assert ops(graph) == before


@pytest.mark.parametrize("name", ["quantize-static", "lower-int8"])
def test_passes_on_single_nodes_say_so(name: str) -> None:
    m = Model()
    x = m.input("x", N, 8, 5, 5)
    graph = m.done(m("Relu", _conv(m, x)))
    with pytest.raises(PassError, match="inline-regions"):
        apply(graph, f"fuse-regions,{name}")


def test_an_operator_of_the_same_name_in_another_domain_stays_alone() -> None:
    m = Model()
    x = m("Relu", m.input("x", N, 4))
    inputs = [x, m.const(0.5), m.const(3, dtype=np.uint8)]
    node = m.builder.node("QuantizeLinear", inputs, [("q", tensor("u8", N, 4))], domain="com.microsoft")
    graph = m.done(node.output)
    apply(graph, "fuse-regions")
    assert ops(graph) == ["Relu", "QuantizeLinear"]
