"""assign-layouts: which values keep their channels in blocks, and where copies stand."""

from __future__ import annotations

from pass_graphs import Model, apply, assert_same_numbers, ops, random

from graphopt.ir.builder import copy_graph
from graphopt.ir.dims import sym
from graphopt.ir.graph import Graph, Value
from graphopt.ir.parser import parse_graph
from graphopt.ir.printer import print_graph
from graphopt.targets import Target

WIDE = Target.parse("x86-64-v4")
NARROW = Target.parse("x86-64-v3")
N = sym("n")


def _conv(m: Model, x: Value, channels: int, kernel: int = 3, groups: int = 1) -> Value:
    shape = x.tensor.shape
    assert shape is not None and isinstance(shape[1], int)
    weights = m.const(random(channels, shape[1] // groups, kernel, kernel))
    result: Value = m("Conv", x, weights, pads=(kernel // 2,) * 4, group=groups)
    return result


def _layouts(graph: Graph) -> list[str | None]:
    return [value.tensor.layout for node in graph.nodes for value in node.outputs]


def test_convolutions_hand_blocks_to_each_other() -> None:
    m = Model()
    x = m.input("x", 1, 3, 32, 32)
    a = m("Relu", _conv(m, x, 32))
    b = m("MaxPool", a, kernel_shape=(2, 2), strides=(2, 2))
    graph = m.done(m("Relu", _conv(m, b, 64)))
    before = copy_graph(graph)
    apply(graph, "fuse-regions,assign-layouts", target=WIDE)
    assert ops(graph) == ["fused", "MaxPool", "fused", "Identity"]
    assert _layouts(graph) == ["nCx16c", "nCx16c", "nCx16c", None]
    assert_same_numbers(before, graph, {"x": random(1, 3, 32, 32)})


def test_the_layout_is_as_wide_as_a_vector() -> None:
    m = Model()
    graph = m.done(_conv(m, _conv(m, m.input("x", 1, 3, 32, 32), 32), 32))
    apply(graph, "assign-layouts", target=NARROW)
    assert _layouts(graph) == ["nCx8c", "nCx8c", None]


def test_without_a_target_nothing_changes() -> None:
    m = Model()
    graph = m.done(_conv(m, m.input("x", 1, 16, 32, 32), 32))
    apply(graph, "assign-layouts")
    assert ops(graph) == ["Conv"] and _layouts(graph) == [None]


def test_parts_that_begin_at_whole_blocks_stay_in_blocks() -> None:
    m = Model()
    a = _conv(m, m.input("x", 1, 16, 32, 32), 64)
    lower = m("Slice", a, m.ints(-64), m.ints(40), m.ints(1))
    upper = m("Slice", a, m.ints(48), m.ints(64), m.ints(-3))
    graph = m.done(m("Concat", _conv(m, lower, 32), _conv(m, upper, 16), axis=1))
    before = copy_graph(graph)
    apply(graph, "assign-layouts", target=WIDE)
    assert dict.fromkeys(_layouts(graph)) == {"nCx16c": None, None: None}
    assert ops(graph).count("Identity") == 2  # where the graph begins and ends
    assert_same_numbers(before, graph, {"x": random(1, 16, 32, 32)})


def test_parts_that_begin_elsewhere_are_row_major() -> None:
    m = Model()
    a = _conv(m, m.input("x", 1, 16, 32, 32), 64)
    part = m("Slice", a, m.ints(8), m.ints(64), m.ints(1))
    graph = m.done(_conv(m, part, 32))
    apply(graph, "assign-layouts", target=WIDE)
    (kind,) = [node.output.tensor.layout for node in graph.nodes if node.op == "Slice"]
    assert kind is None


def test_a_second_run_changes_nothing() -> None:
    m = Model()
    graph = m.done(_conv(m, _conv(m, m.input("x", 1, 16, 32, 32), 32), 32))
    apply(graph, "assign-layouts", target=WIDE)
    once = ops(graph), _layouts(graph)
    apply(graph, "assign-layouts", target=WIDE)
    assert (ops(graph), _layouts(graph)) == once


def test_a_value_that_both_worlds_read_is_copied_once() -> None:
    m = Model()
    a = _conv(m, m.input("x", 1, 3, 32, 32), 32)
    first, second = m("Transpose", a, perm=(0, 2, 3, 1)), m("Transpose", a, perm=(0, 3, 1, 2))
    graph = m.done(first, second, m("ReduceMean", _conv(m, a, 32), m.ints(2, 3)))
    apply(graph, "assign-layouts", target=WIDE)
    copies = [node for node in graph.nodes if node.op == "Identity"]
    assert [node.inputs[0].tensor.layout for node in copies if node.inputs[0]].count("nCx16c") == 2
    (copied,) = (node.output for node in copies if len(node.output.users) == 2)
    assert {user.op for user in copied.users} == {"Transpose"}


def test_a_copy_that_costs_more_than_it_saves_is_not_made() -> None:
    m = Model()
    x = m.input("x", 1, 32, 64, 64)
    graph = m.done(m("MaxPool", m("Transpose", x, perm=(0, 1, 3, 2)), kernel_shape=(1, 2), strides=(1, 2)))
    apply(graph, "assign-layouts", target=WIDE)
    assert ops(graph) == ["Transpose", "MaxPool"]


def test_groups_that_don_t_fill_blocks_stay_in_rows() -> None:
    m = Model()
    x = _conv(m, m.input("x", 1, 3, 16, 16), 24, kernel=1)
    graph = m.done(_conv(m, x, 24, groups=3))
    apply(graph, "assign-layouts", target=WIDE)
    assert graph.nodes[-1].op == "Conv" and _layouts(graph)[-1] is None


def test_gates_and_constants_of_one_place_go_along() -> None:
    m = Model()
    a = _conv(m, m.input("x", N, 16, 24, 24), 32)
    gate = m("Sigmoid", _conv(m, m("ReduceMean", a, m.ints(2, 3)), 32, kernel=1))
    graph = m.done(_conv(m, m("Mul", m("Mul", a, gate), m.const(random(1, 32, 1, 1))), 32))
    before = copy_graph(graph)
    apply(graph, "assign-layouts", target=WIDE)
    assert [op for op in ops(graph) if op == "Identity"] == ["Identity"] * 2  # the input, the output
    assert_same_numbers(before, graph, {"x": random(2, 16, 24, 24)})


def test_a_concatenation_that_splits_a_block_stays_in_rows() -> None:
    m = Model()
    x = m.input("x", 1, 3, 24, 24)
    graph = m.done(m("Concat", _conv(m, x, 24), _conv(m, x, 32), axis=1))
    apply(graph, "assign-layouts", target=WIDE)
    assert graph.nodes[-1].op == "Concat" and _layouts(graph)[-1] is None


def test_layouts_print_and_parse() -> None:
    m = Model()
    graph = m.done(m("Relu", _conv(m, m.input("x", 1, 16, 32, 32), 32)))
    apply(graph, "fuse-regions,assign-layouts", target=WIDE)
    text = print_graph(graph)
    assert "f32[1, 32, 32, 32]<layout=nCx16c>" in text
    assert print_graph(parse_graph(text)) == text


def test_a_piece_of_one_channel_stays_in_rows() -> None:
    """A vector of its channels would be read past its end."""
    m = Model()
    z = m("Sigmoid", m.input("z", 1, 1, 24, 24))
    graph = m.done(m("Relu", m("Concat", _conv(m, m.input("x", 1, 3, 24, 24), 48), z, axis=1)))
    apply(graph, "fuse-regions,assign-layouts", target=NARROW)
    assert all(node.outputs[0].tensor.layout is None for node in graph.nodes if node.op != "Conv")
