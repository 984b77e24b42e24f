"""Analyses against brute force, and how long their results are kept."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

import graphopt as go
from graphopt.analysis import ConstantNodes, Dominators, Liveness, PostDominators, Work, work
from graphopt.ir.analyses import Analysis
from graphopt.ir.graph import Graph, Node
from graphopt.ir.parser import parse_graph
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.transaction import EventKind
from graphopt.ir.types import tensor
from graphopt.ops import SEMANTICS
from graphopt.pipeline import Context, PassRun, Pipeline


def graph_of(body: str, outputs: str = 'return %r as "out"') -> Graph:
    return parse_graph(f'gir 1\ngraph "g" opset 26 {{\ninput %x: f32[4]\n{body}\n{outputs}\n}}')


def random_graph(seed: int, size: int = 12) -> Graph:
    """Nodes of one or two inputs, taken from among all values before them, and one or two outputs."""
    choose = random.Random(seed)
    values, lines = ["x"], []
    for index in range(size):
        operands = [f"%{choose.choice(values[-5:])}" for _ in range(choose.choice((1, 2, 2)))]
        op = "Neg" if len(operands) == 1 else "Add"
        lines.append(f"%v{index}: f32[4] = {op}({', '.join(operands)})")
        values.append(f"v{index}")
    last = [values[-1], choose.choice(values[-4:-1])]
    return graph_of("\n".join(lines), "return " + ", ".join(f'%{v} as "o{i}"' for i, v in enumerate(last)))


def paths(graph: Graph) -> list[list[Node]]:
    """Every path from the input to an output or to a node that nothing uses."""

    def extend(path: list[Node]) -> Iterator[list[Node]]:
        value = path[-1].output if path else graph.inputs[0]
        if value.is_output or not value.num_uses:
            yield path
        for user in value.users:
            yield from extend([*path, user])

    return list(extend([]))


@pytest.mark.parametrize("seed", range(25))
def test_dominators_are_what_all_paths_have_in_common(seed: int) -> None:
    graph = random_graph(seed)
    before, after = Dominators.of(graph), PostDominators.of(graph)
    every = [path for path in paths(graph) if path]
    for node in graph.nodes:
        through = [path for path in every if node in path]
        common = set.intersection(*(set(path[: path.index(node)]) for path in through))
        assert set(before.chain(node)) == {node, *common}
        common = set.intersection(*(set(path[path.index(node) :]) for path in through))
        assert set(after.chain(node)) == common
        assert all(after.dominates(other, node) == (other in common) for other in graph.nodes)


@pytest.mark.parametrize("seed", range(25))
def test_the_peak_is_the_most_that_a_simulation_holds(seed: int) -> None:
    graph = random_graph(seed)
    nodes = graph.nodes
    held = [16]
    for index in range(len(nodes)):
        made = [graph.inputs[0], *(node.output for node in nodes[: index + 1])]
        needed = [
            value
            for value in made
            if value.is_output
            or value.producer is nodes[index]
            or (value.is_input and not value.num_uses)
            or any(user in nodes[index:] for user in value.users)
        ]
        held.append(16 * len(needed))
    peak = Liveness.of(graph).peak({})
    assert peak is not None and peak.bytes == max(held)


NESTED = """gir 1
graph "g" opset 26 {
  input %c: bool[]
  input %x: f32[4]
  input %z: f32[100]
  const %k: f32[4] = [1.0, 2.0, 3.0, 4.0]
  %kk: f32[4] = Neg(%k)
  %a: f32[4] = Neg(%x)
  %b: f32[4] = Abs(%x)
  %r: f32[4] = If(%c) do then_branch() {
      %t: f32[4] = Add(%a, %kk)
      %u: f32[4] = Neg(%t)
      return %u
  } do else_branch() {
      return %b
  }
  %s: f32[4] = Add(%r, %kk)
  return %s
}
"""


def test_control_flow_reads_what_its_branches_capture() -> None:
    graph = parse_graph(NESTED)
    kk, a, b, choice, end = graph.nodes
    add, neg = choice.regions["then_branch"].nodes
    dying = {n: [v.name for v in values] for n, values in Liveness.of(graph).dying.items()}
    assert dying == {b: ["x"], choice: ["c", "a", "b"], neg: ["t"], end: ["kk", "r"]}
    peak = Liveness.of(graph).peak({})
    # While the If runs: %c, %z (the caller's), %kk, %a, %b, its result, and in the branch %t and %u.
    assert peak is not None and (peak.bytes, peak.node) == (1 + 400 + 6 * 16, choice)
    before = Dominators.of(graph).immediate
    assert (before[choice], before[end], before[neg], before[add]) == (None, choice, add, None)
    after = PostDominators.of(graph).immediate
    assert (after[a], after[b], after[kk], after[end]) == (choice, choice, end, None)
    assert [n.op for n in graph.walk() if n in ConstantNodes.of(graph)] == ["Neg"]
    assert work(graph, {}) == Work(6 * 4, 4 * 32 + 2 * 48 + 17)


SCAN = """
gir 1
graph "g" opset 26 {
  input %s: f32[2]
  input %x: f32[n, 2]
  %end: f32[2], %all: f32[n, 2] = Scan(%s, %x) {num_scan_inputs = 1} do body(%t: f32[2], %e: f32[2]) {
    %a: f32[2] = Add(%t, %e)
    return %a, %a
  }
  return %all
}
"""


def test_the_body_of_a_scan_counts_as_often_as_it_runs() -> None:
    for n in (0, 1, 7):
        taken = work(parse_graph(SCAN), {"n": n})
        # The Scan reads both inputs and writes both results; a step reads and writes three pairs of floats.
        assert taken == Work(2 * n, 4 * (2 + 2 * n + 2 + 2 * n) + n * 3 * 8)


def test_sizes_that_are_not_known_have_no_cost() -> None:
    graph = parse_graph('gir 1\ngraph "g" opset 26 {\ninput %x: f32[n]\n%r: f32[n] = Neg(%x)\nreturn %r\n}')
    assert work(graph, {}) is None and Liveness.of(graph).peak({}) is None
    assert work(graph, {"n": 3}) == Work(3, 24)


class Counted(Analysis):
    """Counts how often it is computed; types don't matter to it."""

    invalidated_by = frozenset(EventKind) - {EventKind.RETYPED, EventKind.RELEASED}
    computed = 0

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes

    @classmethod
    def of(cls, graph: Graph) -> Counted:
        cls.computed += 1
        return cls(len(graph.nodes))


def test_results_are_kept_until_a_rewrite_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "computed", 0)
    graph = graph_of("%a: f32[4] = Neg(%x)\n%r: f32[4] = Neg(%a)")
    rewriter = Rewriter(graph, SEMANTICS)
    first = rewriter.analysis(Counted)
    assert rewriter.analysis(Counted) is first and Counted.computed == 1
    with rewriter.rewrite("nothing"):
        pass
    with rewriter.rewrite("retype"):
        rewriter.set_type(graph.nodes[0].output, tensor("f32", "m"))
        rewriter.set_type(graph.nodes[0].output, tensor("f32", 4))
    assert rewriter.analysis(Counted) is first
    with pytest.raises(KeyError), rewriter.rewrite("undone", graph.nodes[0]):
        rewriter.create("Neg", [graph.inputs[0]])
        assert rewriter.analysis(Counted).nodes == 3  # as it is now, and not kept
        raise KeyError
    assert rewriter.analysis(Counted) is first and Counted.computed == 2
    with rewriter.rewrite("grow", graph.nodes[0]):
        rewriter.create("Neg", [graph.inputs[0]])
    assert rewriter.analysis(Counted).nodes == 3 and Counted.computed == 3


def test_results_outlive_passes_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "computed", 0)
    seen = []

    class Ask(go.Instrument):
        def after(self, run: PassRun) -> None:
            seen.append(run.rewriter.analysis(Counted).nodes)

    graph = graph_of("%d: f32[4] = Neg(%x)\n%a: f32[4] = Neg(%x)\n%r: f32[4] = Neg(%a)")
    text = "fuse-gelu,fuse-layer-norm,eliminate-dead-code,fuse-gelu,eliminate-dead-code"
    Pipeline.parse(text).run(graph, context=Context(), instruments=[Ask()])
    assert seen == [3, 3, 2, 2, 2] and Counted.computed == 2
