"""Values are paired through provenance, only what changed is run, and the graph stays as it was before a fault."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import drawn, model

from graphopt.evaluate import example_inputs
from graphopt.ir.builder import copy_graph
from graphopt.ir.equality import graphs_equal
from graphopt.ir.graph import Graph, Node
from graphopt.ir.rewriter import Rewriter
from graphopt.ops import SEMANTICS
from graphopt.pipeline import Context, Pipeline, passes
from graphopt.pipeline.numeric import Recorder
from graphopt.verify import Effect, values
from graphopt.verify.check import Checker, Outcome

Change = Callable[[Rewriter, Graph], None]


def checked(graph: Graph, change: Change, effect: Effect = Effect.EXACT) -> tuple[Checker, Outcome]:
    """What a checker finds in a change."""
    checker, recorder = Checker(graph, [example_inputs(graph, distinct=True)]), Recorder()
    change(Rewriter(graph, SEMANTICS, listeners=[recorder]), graph)
    return checker, checker.compare(graph, checker.ids, checker.outputs, recorder.transactions, effect)


def run_pass(name: str) -> Change:
    return lambda rewriter, graph: passes()[name]().run(rewriter, Context())


def node(graph: Graph, output: str) -> Node:
    found = graph.value(output).producer
    assert found is not None
    return found


CHAIN = (
    f"g (float[n,3] x) => (float[n,3] y, int64[n] i) <{drawn('k', 3)}, {drawn('c', 3)}> "
    "{ a = Mul(x, k) b = Neg(a) y = Mul(b, c) i = ArgMax<axis=1, keepdims=0>(y) }"
)


def move_scale(factor: float) -> Change:
    """Takes ``c`` into ``k`` in place: the products before it change, what follows it must not."""

    def change(rewriter: Rewriter, graph: Graph) -> None:
        a, b, y = (node(graph, name) for name in "aby")
        k, c = a.inputs[1], y.inputs[1]
        assert k is not None and k.const is not None and c is not None and c.const is not None
        with rewriter.rewrite("move-scale", y):
            both = k.const.numpy() * c.const.numpy() * np.float32(factor)
            rewriter.set_input(a, 1, rewriter.constant(both))
            rewriter.replace_node(y, [b.output])

    return change


def test_values_that_a_pass_may_change_in_place_are_no_fault() -> None:
    _, outcome = checked(model(CHAIN), move_scale(1.0), Effect.APPROXIMATE)
    assert outcome.mismatches == []
    assert outcome.distances["y"] < 1e-6


def test_a_wrong_change_in_place_is_found_where_the_pass_claims_equality() -> None:
    _, outcome = checked(model(CHAIN), move_scale(1.01), Effect.APPROXIMATE)
    assert [mismatch.value for mismatch in outcome.mismatches] == ["y"]


def test_a_changed_value_that_only_an_argmax_reads_is_found() -> None:
    def change(rewriter: Rewriter, graph: Graph) -> None:
        with rewriter.rewrite("scale", node(graph, "y")):
            rewriter.set_input(node(graph, "y"), 1, rewriter.constant(np.full(3, 2.0, np.float32)))

    text = "g (float[n,3] x) => (int64[n] i) <float[3] c = {1, 1, 1}> { y = Mul(x, c) i = ArgMax<axis=1>(y) }"
    _, outcome = checked(model(text.replace("int64[n] i", "int64[n,1] i")), change)
    assert [mismatch.value for mismatch in outcome.mismatches] == ["y"]
    assert outcome.distances == {"y": 1.0, "i": 0.0}


@pytest.mark.parametrize(
    ("name", "sessions"),
    [
        ("eliminate-common-subexpressions", 1),
        ("fuse-regions", 1),
        ("eliminate-dead-code", 1),
        ("fuse-gelu", 2),
    ],
)
def test_what_only_moves_is_not_run_again(name: str, sessions: int) -> None:
    text = (
        "g (float[n,8] x) => (float[n,8] y, float[n,8] z) <float r = {1.41421356}, float one = {1}, float h = {0.5}> "
        "{ a = Div(x, r) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, h) e = Tanh(x) f = Tanh(x) dead = Exp(x) "
        "z = Add(e, f) }"
    )
    graph = model(text)
    checker, outcome = checked(graph, run_pass(name), Effect.APPROXIMATE)
    assert outcome.mismatches == []
    assert checker.values.sessions == sessions


def test_what_was_found_equal_is_not_compared_again() -> None:
    graph = model(CHAIN)
    checker, outcome = checked(graph, move_scale(1.0), Effect.APPROXIMATE)
    checker.accept(outcome, Effect.APPROXIMATE)
    again = checker.compare(graph, checker.ids, checker.outputs, [], Effect.EXACT)
    assert (again.pairs, again.mismatches) == ([], [])
    assert checker.number(graph)[graph.outputs[0]] == checker.outputs[0]


def test_the_graph_stays_as_it_was_before_the_guilty_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from planted import FAULTS

    fault = next(item for item in FAULTS if item.name == "off-by-one pad")
    graph, before = model(fault.graph), model(fault.graph)
    fault.plant(monkeypatch)
    with pytest.raises(Exception, match='pass "fuse-conv-bn"'):
        Pipeline.parse(f"simplify-identities,{fault.pipeline}").run(graph, verify="numeric")
    assert graph.metadata.pop("graphopt.pipeline") == "simplify-identities"
    assert graphs_equal(graph, before) is None


BRANCH = (
    "g (bool c, float[3] x) => (float[3] y) { y = If (c) <then_branch = t () => (float[3] a) { a = Neg(x) }, "
    "else_branch = e () => (float[3] b) { b = Exp(x) }> }"
)


@pytest.mark.parametrize(("op", "faults"), [("Exp", ["y"]), ("Neg", [])])
def test_a_change_in_a_branch_is_seen_at_the_node_that_holds_it(op: str, faults: list[str]) -> None:
    def change(rewriter: Rewriter, graph: Graph) -> None:
        inner = next(item for item in graph.walk() if item.op == "Neg")
        with rewriter.rewrite("inner", inner):
            rewriter.replace_node(inner, rewriter.create(op, inner.inputs).outputs)

    graph = model(BRANCH)
    inputs = {"c": np.array(True), "x": np.ones(3, np.float32)}
    checker, recorder = Checker(graph, [inputs]), Recorder()
    change(Rewriter(graph, SEMANTICS, listeners=[recorder]), graph)
    outcome = checker.compare(graph, checker.ids, checker.outputs, recorder.transactions, Effect.EXACT)
    assert [mismatch.value for mismatch in outcome.mismatches] == faults


def test_values_beyond_the_memory_go_to_files_that_go_with_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(values, "MEMORY", 1 << 20)
    text = "g (float[512,256] x) => (float[512,256] y) { a = Neg(x) b = Exp(a) c = Abs(b) y = Sqrt(c) }"
    graph = model(text)
    checker = Checker(graph, [example_inputs(graph)])
    held: list[Any] = [checker.values.of(checker.ids[graph.value(name)])[0] for name in "abcy"]
    assert sum(isinstance(array, np.memmap) for array in held) >= 2
    np.testing.assert_array_equal(held[2], np.abs(held[1]))
    assert list(tmp_path.iterdir()) == []
    mapped = [weakref.ref(array) for array in held if isinstance(array, np.memmap)]
    del held
    checker.values.forget_all_but([checker.outputs[0]])
    assert [ref() is None for ref in mapped].count(True) == len(mapped) - 1
    checker.values.close()
    assert all(ref() is None for ref in mapped)


def test_text_beyond_the_memory_stays_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "MEMORY", 0)
    graph = model("g (string[10000] x) => (string[20000] y) { y = Concat<axis=0>(x, x) }")
    checker = Checker(graph, [example_inputs(graph)])
    assert checker.values.of(checker.outputs[0])[0].shape == (20000,)


def test_a_graph_that_stops_running_is_traced_to_its_rewrite() -> None:
    from dataclasses import dataclass

    from graphopt.pipeline import Pass
    from graphopt.verify.fault import NumericFault

    @dataclass(frozen=True)
    class Breaks(Pass):
        name = "breaks"

        def run(self, rewriter: Rewriter, context: Context) -> None:
            for item in rewriter.graph.nodes:
                with rewriter.rewrite("rename", item):
                    op, domain = ("NoSuchOp", "com.nobody") if item.op == "Exp" else (item.op, "")
                    made = rewriter.create(
                        op, item.inputs, item.attrs, domain=domain, types=[item.output.type]
                    )
                    rewriter.replace_node(item, made.outputs)

    graph = model("g (float[3] x) => (float[3] y) { a = Neg(x) b = Exp(a) y = Abs(b) }")
    with pytest.raises(
        NumericFault, match="the graph ran before this pass and does not run after it"
    ) as caught:
        Pipeline((Breaks(),)).run(copy_graph(graph), verify="numeric")
    assert caught.value.rewrite is not None
    assert (caught.value.rewrite.index, caught.value.rewrite.root) == (1, 'Exp "b"')
    assert caught.value.mismatches == ()


def test_a_drift_of_the_whole_is_told_where_the_pieces_are_right(caplog: pytest.LogCaptureFixture) -> None:
    """exp(8 a) makes eight times the error of a; twelve scales of 1 + 5e-5 are each within 1e-4."""
    from dataclasses import dataclass

    from graphopt.pipeline import Pass

    @dataclass(frozen=True)
    class Nudge(Pass):
        name = "nudge"
        effect = Effect.APPROXIMATE

        def run(self, rewriter: Rewriter, context: Context) -> None:
            for item in [item for item in rewriter.graph.nodes if item.op == "Mul"]:
                with rewriter.rewrite("nudge", item):
                    nudged = rewriter.constant(np.array(1 + 5e-5, np.float32))
                    rewriter.replace_node(item, rewriter.create("Mul", [item.inputs[0], nudged]).outputs)

    steps = " ".join(f"a{i + 1} = Mul(a{i}, one)" for i in range(12))
    graph = model(
        "g (float[n,4] x) => (float[n,4] y) <float one = {1}, float eight = {8}> "
        f"{{ a0 = Tanh(x) {steps} s = Sum(a12, a12, a12, a12, a12, a12, a12, a12) y = Exp(s) }}"
    )
    (row,) = Pipeline((Nudge(),)).run(graph, verify="numeric").rows
    assert max(row.distance.values()) < 1e-4
    (record,) = caplog.records
    assert 'each rewrite is within its tolerance; together they changed output "y" by 0.00' in record.message
