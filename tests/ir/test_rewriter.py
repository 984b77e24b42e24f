"""The rewriter: transactions, rollback, events, fuel, provenance."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graph_strategies import FirstInput, graphs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.errors import RewriteError
from graphopt.ir.builder import Builder, copy_graph
from graphopt.ir.equality import graphs_equal
from graphopt.ir.graph import Attr, Graph, Node, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.tensor import Tensor
from graphopt.ir.transaction import Event, EventKind, OutOfFuel, Relation, Transaction
from graphopt.ir.types import UnknownType, tensor
from graphopt.ir.verifier import IncrementalVerifier, faults, verify

T = tensor("f32", 2)


def chain(*ops: str) -> Graph:
    graph = Graph()
    make = Builder(graph)
    value = make.input("x", T)
    for index, op in enumerate(ops):
        value = make.node(op, [value], [(f"v{index}", T)], name=f"n{index}").output
    make.outputs([value])
    graph.output_names = ["y"]
    return graph


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.body]


class Recorder:
    def __init__(self) -> None:
        self.transactions: list[Transaction] = []

    def committed(self, transaction: Transaction) -> None:
        self.transactions.append(transaction)


class Abort(Exception):
    pass


def any_change(draw: st.DrawFn, rewriter: Rewriter) -> None:
    """One random change of the graph; RewriteError where the graph does not allow it."""
    graph = rewriter.graph
    nodes = list(graph.walk())
    if not nodes:
        return
    node = draw(st.sampled_from(nodes))
    values = [v for v in graph._values.values() if v.name]
    value = draw(st.sampled_from(values))
    kind = draw(
        st.sampled_from(["create", "replace", "erase", "input", "attr", "type", "rename", "const", "move"])
    )
    if kind == "create":
        count = draw(st.integers(1, 2))
        rewriter.create("New", [None, value], {"a": 1}, outputs=count, before=node)
    elif kind == "replace":
        rewriter.replace(value, draw(st.sampled_from(values)), Relation.QUANTIZED)
    elif kind == "erase":
        rewriter.erase(node)
    elif kind == "input":
        rewriter.set_input(node, draw(st.integers(0, 3)), draw(st.none() | st.just(value)))
    elif kind == "attr":
        rewriter.set_attr(node, draw(st.sampled_from(["a", "b"])), draw(st.none() | st.integers()))
    elif kind == "type":
        if not value.is_constant:
            rewriter.set_type(value, draw(st.sampled_from([T, UnknownType()])))
    elif kind == "rename":
        rewriter.rename(value, draw(st.sampled_from(["x", "fresh", "a b"])))
    elif kind == "const":
        made = rewriter.constant(Tensor.of([1.0, 2.0]))
        if draw(st.booleans()):
            rewriter.erase_constant(made)
        unused = [v for v in graph.constants.values() if not v.num_uses]
        if unused:
            rewriter.erase_constant(draw(st.sampled_from(unused)))
    else:
        siblings = node.parent.nodes if node.parent else []
        rewriter.move(node, draw(st.sampled_from(siblings)))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), graphs())
def test_an_undone_transaction_leaves_no_trace(data: st.DataObject, graph: Graph) -> None:
    before, names = copy_graph(graph), list(graph._values)
    rewriter, recorder = Rewriter(graph, FirstInput()), Recorder()
    rewriter.listeners.append(recorder)
    try:
        with rewriter.rewrite("test", graph.nodes[0]):
            for _ in range(data.draw(st.integers(1, 6))):
                any_change(data.draw, rewriter)
            raise Abort
    except (Abort, RewriteError):
        pass
    assert graphs_equal(graph, before) is None
    assert sorted(graph._values) == sorted(names)
    verify(graph)
    assert recorder.transactions == []
    assert rewriter.count == 0


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), graphs())
def test_incremental_verification_agrees_with_the_full_one(data: st.DataObject, graph: Graph) -> None:
    verifier = IncrementalVerifier(graph, None)
    rewriter = Rewriter(graph, FirstInput(), listeners=[verifier])
    for _ in range(data.draw(st.integers(1, 4))):
        if not graph.nodes:
            return
        try:
            with rewriter.rewrite("test", graph.nodes[0]):
                any_change(data.draw, rewriter)
        except RewriteError:
            continue
    assert bool(list(verifier.faults())) == bool(list(faults(graph)))


def test_changes_need_a_transaction_and_these_don_t_nest() -> None:
    graph = chain("Neg")
    rewriter = Rewriter(graph, FirstInput())
    with pytest.raises(RewriteError, match="only inside a transaction"):
        rewriter.erase(graph.nodes[0])
    with (
        pytest.raises(RewriteError, match='rule "inner" began inside rule "outer"'),
        rewriter.rewrite("outer"),
        rewriter.rewrite("inner"),
    ):
        pass


def test_the_events_of_a_replacement() -> None:
    graph = chain("Neg", "Abs", "Relu")
    neg, old, relu = graph.nodes
    recorder = Recorder()
    rewriter = Rewriter(graph, FirstInput(), listeners=[recorder])
    with rewriter.rewrite("swap", old):
        new = rewriter.create("Sqrt", [neg.output])
        rewriter.replace_node(old, new.outputs)
    (transaction,) = recorder.transactions
    assert (transaction.rule, transaction.root, transaction.inserted, transaction.erased) == (
        "swap",
        old,
        1,
        1,
    )
    assert transaction.events == [
        Event(EventKind.INSERTED, new),
        Event(EventKind.CHANGED, relu),
        Event(EventKind.REPLACED, None, old.output, new.output),
        Event(EventKind.ERASED, old),
    ]
    assert ops(graph) == ["Neg", "Sqrt", "Relu"]
    assert new.origin == ("n1",)
    assert neg.output.users == (new,)


def test_losing_a_use_is_told() -> None:
    graph = chain("Neg", "Abs")
    neg, abs_ = graph.nodes
    recorder = Recorder()
    rewriter = Rewriter(graph, FirstInput(), listeners=[recorder])
    with rewriter.rewrite("skip", abs_):
        rewriter.set_input(abs_, 0, graph.inputs[0])
    assert Event(EventKind.RELEASED, None, neg.output) in recorder.transactions[0].events


def test_a_name_or_a_constant_alone_is_a_change() -> None:
    """Fuel counts it and listeners hear of it, or bisection and verification would not see it."""
    graph = chain("Neg")
    recorder = Recorder()
    rewriter = Rewriter(graph, FirstInput(), fuel=2, listeners=[recorder])
    with rewriter.rewrite("nothing"):
        pass
    with rewriter.rewrite("name"):
        rewriter.rename(graph.nodes[0].output, "negated")
    with rewriter.rewrite("constant"):
        rewriter.constant(Tensor.of([1.0]), "one")
    assert [transaction.rule for transaction in recorder.transactions] == ["name", "constant"]
    assert rewriter.count == 2
    with pytest.raises(OutOfFuel), rewriter.rewrite("more"):
        pass


def test_fuel_counts_transactions_that_changed_something() -> None:
    graph = chain("Neg", "Abs", "Relu")
    rewriter = Rewriter(graph, FirstInput(), fuel=2)
    with rewriter.rewrite("nothing"):
        pass
    for node in graph.nodes[:2]:
        with rewriter.rewrite("attr", node):
            rewriter.set_attr(node, "a", 1)
    with pytest.raises(OutOfFuel), rewriter.rewrite("attr", graph.nodes[2]):
        raise AssertionError("must not begin")
    assert rewriter.count == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, n: r.erase(n[0]), 'Neg "n0" can\'t be erased, Abs "n1" uses it'),
        (lambda r, n: r.erase(n[2]), "a region's output uses it"),
        (lambda r, n: r.replace(n[0].output, n[2].output), r"can't see %v2, which should replace %v0"),
        (lambda r, n: r.set_input(n[0], 0, n[1].output), "can't see %v1"),
        (lambda r, n: r.create("Foo", [n[2].output], before=n[0]), "can't see %v2 at its place"),
        (lambda r, n: r.create("Foo", n[0].output), "Foo: inputs is a list of values"),
        (lambda r, n: r.create("Foo", [n[0]]), "Foo: inputs is a list of values"),
        (
            lambda r, n: r.replace(n[0].output, r.constant(Tensor.of([1, 2]))),
            r"of type i64\[2\] can't replace",
        ),
    ],
)
def test_what_would_break_the_graph_is_refused(change: object, message: str) -> None:
    graph = chain("Neg", "Abs", "Relu")
    before = copy_graph(graph)
    rewriter = Rewriter(graph, FirstInput())
    with pytest.raises(RewriteError, match=message), rewriter.rewrite("bad", graph.nodes[0]):
        change(rewriter, graph.nodes)  # type: ignore[operator]
    assert graphs_equal(graph, before) is None
    assert rewriter.failed is not None
    assert rewriter.failed.rule == "bad"


def _fuse(graph: Graph, nodes: list[Node], output: Value) -> Node:
    rewriter = Rewriter(graph, FirstInput())
    with rewriter.rewrite("fuse", nodes[-1]):
        return rewriter.fuse(nodes, output)


def test_fusing_moves_nodes_into_a_body() -> None:
    graph = chain("Neg", "Abs", "Relu", "Sqrt")
    nodes = graph.nodes
    fused = _fuse(graph, nodes[1:3], nodes[2].output)
    verify(graph, FirstInput())
    assert ops(graph) == ["Neg", "fused", "Sqrt"]
    assert [n.op for n in fused.body] == ["Abs", "Relu"]
    assert fused.inputs == (nodes[0].output,)
    assert fused.output.name == "v2"
    assert fused.origin == ("n1", "n2")


def test_what_stands_for_a_value_keeps_its_name() -> None:
    graph = chain("Neg", "Abs", "Relu", "Sqrt")
    for op in ("Sin", "Cos", "Tan"):
        rewriter, node = Rewriter(graph, FirstInput()), graph.nodes[1]
        with rewriter.rewrite("swap", node):
            rewriter.replace_node(node, rewriter.create(op, node.inputs).outputs)
    assert [value.name for n in graph.body for value in n.outputs] == ["v0", "v1", "v2", "v3"]
    fused = _fuse(graph, graph.nodes[1:3], graph.nodes[2].output)
    assert [n.output.name for n in (*graph.body, *fused.body)] == ["v0", "v2", "v3", "v1", "v2_2"]


def test_fusing_refuses_values_used_outside() -> None:
    graph = chain("Neg", "Abs", "Relu")
    nodes = graph.nodes
    make = Builder(graph)
    make.node("Sqrt", [nodes[0].output], [("w", T)])
    before = copy_graph(graph)
    with pytest.raises(RewriteError, match="%v0 is used outside"):
        _fuse(graph, nodes[:2], nodes[1].output)
    assert graphs_equal(graph, before) is None


def test_a_node_is_fused_once() -> None:
    graph = chain("Neg", "Abs", "Relu")
    nodes, before = graph.nodes, copy_graph(graph)
    with pytest.raises(RewriteError, match=r"n1.*twice"):
        _fuse(graph, [nodes[1], *nodes[1:3]], nodes[2].output)
    assert graphs_equal(graph, before) is None


@pytest.mark.parametrize("field", ["op", "domain", "inputs", "outputs", "attrs", "regions"])
def test_a_node_can_t_be_changed_behind_the_rewriter_s_back(field: str) -> None:
    node = chain("Neg").nodes[0]
    with pytest.raises(AttributeError):
        setattr(node, field, getattr(node, field))


@pytest.mark.parametrize("change", [
    lambda node: node.inputs.append(None),
    lambda node: node.inputs.__setitem__(0, None),
    lambda node: node.outputs.clear(),
    lambda node: node.attrs.update(axis=1),
    lambda node: node.attrs.__setitem__("axis", 1),
    lambda node: node.regions.__setitem__("body", None),
])  # fmt: skip
@pytest.mark.parametrize("attrs", [{}, {"axis": 0}])
def test_what_a_node_holds_can_t_be_changed_in_place(
    change: Callable[[Any], object], attrs: dict[str, Attr]
) -> None:
    graph = chain("Neg")
    node = Builder(graph).node("Abs", [graph.inputs[0]], [("a", T)], attrs)
    with pytest.raises((AttributeError, TypeError)):
        change(node)
    assert node.inputs == (graph.inputs[0],) and dict(node.attrs) == attrs and not node.regions


def test_attributes_given_to_a_node_are_its_own() -> None:
    graph, attrs = chain("Neg"), {"axis": 0}
    node = Builder(graph).node("Abs", [graph.inputs[0]], [("a", T)], attrs)
    attrs["axis"] = 1
    assert node.attrs == {"axis": 0}


def test_renamed_constants_keep_their_places() -> None:
    graph = chain("Neg")
    make = Builder(graph)
    constants = [make.constant(Tensor.of([float(i)]), f"c{i}") for i in range(4)]
    rewriter = Rewriter(graph, FirstInput())
    with rewriter.rewrite("names"):
        rewriter.rename(constants[1], "one")
        rewriter.erase_constant(constants[2])
        rewriter.rename(constants[0], "zero")
    assert list(graph.constants) == ["zero", "one", "c3"]
    assert list(graph.constants.values()) == [constants[0], constants[1], constants[3]]
    with pytest.raises(Abort), rewriter.rewrite("undone"):
        rewriter.rename(constants[0], "null")
        rewriter.erase_constant(constants[1])
        raise Abort
    assert list(graph.constants) == ["zero", "one", "c3"]


def test_renaming_many_constants_is_linear() -> None:
    def seconds(count: int) -> float:
        graph = chain("Neg")
        make, data = Builder(graph), Tensor.of([1.0])
        constants = [make.constant(data, f"c{i}") for i in range(count)]
        rewriter, start = Rewriter(graph, FirstInput()), time.process_time()
        for index, value in enumerate(constants):
            with rewriter.rewrite("name"):
                rewriter.rename(value, f"k{index}")
        taken = time.process_time() - start
        assert list(graph.constants.values()) == constants
        return taken

    seconds(1000)
    # A table copied for every name would take 64 times as long for 8 times as many.
    assert seconds(32_000) < 24 * max(seconds(4000), 0.02)


def test_attributes_of_python_and_numpy_are_held_as_a_file_would() -> None:
    graph = chain("Neg")
    rewriter = Rewriter(graph, FirstInput())
    given = {"a": 0.01, "b": [1, 2], "c": np.int64(3), "d": np.array([0.1, 0.5]), "e": True, "f": "text"}
    single = float(np.float32(0.01)), float(np.float32(0.1))
    with rewriter.rewrite("make", graph.nodes[0]):
        node = rewriter.create("Foo", graph.nodes[0].inputs, given)
        expected = {"a": single[0], "b": (1, 2), "c": 3, "d": (single[1], 0.5), "e": 1, "f": "text"}
        assert dict(node.attrs) == expected
        rewriter.set_attr(node, "a", np.float64(0.1))
    assert node.attrs["a"] == single[1] and type(node.attrs["c"]) is int
