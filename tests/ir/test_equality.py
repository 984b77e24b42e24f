"""Structural equality: every part of a graph counts, and the path to a difference is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from graphopt.ir.builder import Builder, copy_graph
from graphopt.ir.equality import graphs_equal
from graphopt.ir.graph import Attr, Graph, Node
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import tensor

T = tensor("f32", 2)


def sample() -> Graph:
    graph = Graph("g")
    make = Builder(graph)
    x = make.input("x", T)
    k = make.constant(Tensor.of([1.0, 2.0]), "k")
    add = make.node("Add", [x, k], [("s", T)], {"axis": 1, "eps": 0.5}, name="add")
    branch = make.node("If", [add.output], [("z", T)])
    region = make.region(branch, "then_branch")
    make.outputs([make.node("Neg", [x], [("t", T)], region=region).output], region)
    make.outputs([branch.output])
    graph.output_names = ["y"]
    return graph


def at(graph: Graph, op: str) -> Node:
    return next(n for n in graph.walk() if n.op == op)


def set_const(graph: Graph) -> None:
    graph.value("k").const = Tensor.of([1.0, 3.0])


def set_attrs(graph: Graph, **attrs: Attr) -> None:
    at(graph, "Add")._attrs = attrs


def swap_inputs(graph: Graph) -> None:
    add = at(graph, "Add")
    add._inputs = add.inputs[::-1]


CHANGES: list[tuple[Callable[[Graph], object], str, bool]] = [
    (lambda g: setattr(at(g, "Neg"), "_op", "Abs"), 'body/1 If "z".then_branch/0 Neg "t": operator', True),
    (lambda g: set_attrs(g, axis=2, eps=0.5), 'body/0 Add "add": attribute axis is 1 and 2', True),
    (lambda g: set_attrs(g, axis=1, eps=-0.5), "attribute eps", True),
    (lambda g: set_attrs(g, axis=1.0, eps=0.5), "attribute axis is 1 and 1.0", True),
    (lambda g: set_attrs(g, eps=0.5), "attributes ['axis', 'eps'] and ['eps']", True),
    (swap_inputs, 'Add "add" input 0: %x and %k', True),
    (
        lambda g: setattr(at(g, "Add"), "_inputs", (*at(g, "Add").inputs, None)),
        'Add "add" inputs: 2 and 3',
        True,
    ),
    (lambda g: setattr(g.value("s"), "type", tensor("f32", 3)), "output 0: type f32[2] and f32[3]", True),
    (set_const, "data", True),
    (lambda g: g.output_names.__setitem__(0, "q"), "output_names", True),
    (lambda g: setattr(g.inputs[0], "name", "q"), "inputs: %x and %q", True),
    (lambda g: Builder(g).node("Foo", [], []), "2 and 3 nodes, the first without a partner is Foo", True),
    (lambda g: setattr(g.value("s"), "name", "q"), "%s and %q", False),
    (lambda g: setattr(at(g, "Add"), "name", "q"), "name 'add' and 'q'", False),
    (lambda g: setattr(at(g, "Add"), "metadata", {"a": "b"}), "metadata", False),
    (lambda g: setattr(at(g, "Add"), "origin", ("a",)), "origin", False),
    (lambda g: setattr(g, "doc", "q"), "doc: '' and 'q'", False),
    (lambda g: setattr(g, "opset", {"": 17}), "opset", False),
    (lambda g: setattr(at(g, "If").regions["then_branch"], "doc", "q"), "then_branch: name, metadata", False),
    (lambda g: Builder(g).constant(Tensor.of([1.0]), "u"), "constants: 1 and 2, not in both: ['u']", False),
]


@pytest.mark.parametrize(("change", "message", "structural"), CHANGES)
def test_a_difference_is_found_and_located(
    change: Callable[[Graph], object], message: str, structural: bool
) -> None:
    graph, other = sample(), copy_graph(sample())
    assert graphs_equal(graph, other) is None
    change(other)
    assert message in (graphs_equal(graph, other) or "")
    assert (graphs_equal(graph, other, names=False) is not None) == structural


def test_without_names_only_the_order_of_definitions_counts() -> None:
    graph, other = sample(), sample()
    for index, value in enumerate(list(other._values.values())):
        if not value.is_input:
            value.name = f"renamed{index}"
    assert graphs_equal(graph, other, names=False) is None
