"""What a pass may take: rewrites, changes in one rewrite, seconds; and what is left of the graph."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from pass_samples import do, graph_of, ops

import graphopt as go
from graphopt.errors import ArgumentError, GraphoptError, PassError
from graphopt.ir.graph import Graph
from graphopt.ir.printer import print_graph
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.transaction import Transaction
from graphopt.ir.verifier import verify
from graphopt.ops import SEMANTICS
from graphopt.pipeline import Context, Limits, Pipeline
from graphopt.pipeline.deadline import Overdue, deadline

BODY = "%a: T = Neg(%x)\n%b: T = Relu(%a)\n%r: T = Neg(%b)"


def churn(rewriter: Rewriter, context: Context) -> None:
    """Replaces nodes for ever, each in a transaction of several changes."""
    while True:
        for node in rewriter.graph.nodes:
            with rewriter.rewrite("churn", node):
                new = rewriter.create(node.op, node.inputs)
                rewriter.set_attr(new, "count", rewriter.count)
                rewriter.replace_node(node, new.outputs)


def test_a_pass_that_is_stopped_at_any_moment_leaves_a_valid_graph() -> None:
    for milliseconds in range(1, 31, 2):
        graph = graph_of(BODY)
        with pytest.raises(PassError, match=r'pass "do": .*stopped after 0.0\d+ s, at .*\.py:\d+'):
            Pipeline((do(churn),)).run(
                graph, verify="off", limits=Limits(10**9, pass_timeout=milliseconds / 1000)
            )
        for node in graph.nodes:
            node._attrs = {}  # the count is none that the operators have
        verify(graph, SEMANTICS)
        assert sorted(ops(graph)) == ["Neg", "Neg", "Relu"]


def forever(rewriter: Rewriter, context: Context) -> None:
    while True:
        try:
            sum(range(100))
        except Exception:
            raise AssertionError("caught") from None


def test_passes_are_stopped_in_every_thread_and_the_argument_stays() -> None:
    graph = graph_of(BODY)
    before = print_graph(graph)
    caught: list[BaseException] = []

    def optimize() -> None:
        try:
            go.optimize(graph, Pipeline((do(forever),)), pass_timeout=0.05)
        except PassError as error:
            caught.append(error)

    threads = [threading.Thread(target=optimize) for _ in range(3)]
    for thread in threads:
        thread.start()
    optimize()
    for thread in threads:
        thread.join()
    assert len(caught) == 4
    assert print_graph(graph) == before


class Endless:
    """An analysis, and a listener, that never comes to an end."""

    @classmethod
    def of(cls, graph: Graph) -> Endless:
        while True:
            sum(range(100))

    def committed(self, transaction: Transaction) -> None:
        self.of(Graph("none"))


@pytest.mark.parametrize("where", ["analysis", "listener", "types"])
def test_code_that_the_rewriter_calls_is_stopped_too(where: str) -> None:
    def call(rewriter: Rewriter, context: Context) -> None:
        node = rewriter.graph.nodes[0]
        if where == "listener":
            rewriter.listeners.append(Endless())
        with rewriter.rewrite("bad", node):
            if where == "analysis":
                rewriter.analysis(Endless)  # type: ignore[type-var]
            if where == "types":
                rewriter.semantics = SimpleNamespace(infer=Endless.of)  # type: ignore[assignment]
            rewriter.replace_node(node, rewriter.create("Abs", node.inputs).outputs)

    graph = graph_of(BODY)
    with pytest.raises(PassError, match=r"stopped after 0\.1 s, at "):
        Pipeline((do(call),)).run(graph, verify="off", limits=Limits(pass_timeout=0.1))
    verify(graph, SEMANTICS)
    # What a listener hears of is done.
    assert ops(graph) == [{"listener": "Abs"}.get(where, "Neg"), "Relu", "Neg"]


def test_what_is_sent_too_late_never_arrives() -> None:
    """Blocks that end at about their deadline: either they are stopped or they are not, but never what follows."""
    for _ in range(40):
        try:
            with deadline(0.002):
                until = time.perf_counter() + 0.002
                while time.perf_counter() < until:
                    pass
        except Overdue:
            pass
        for _ in range(20_000):  # where it would arrive
            pass


def test_a_call_that_does_not_come_back_is_abandoned_with_its_place() -> None:
    told: list[GraphoptError] = []
    release = threading.Event()

    def abandon(error: GraphoptError) -> None:
        told.append(error)
        release.set()

    def hang(rewriter: Rewriter, context: Context) -> None:
        release.wait()

    with pytest.raises(PassError, match='pass "do": stopped after'):
        Pipeline((do(hang),)).run(graph_of(BODY), limits=Limits(pass_timeout=0.01, abandon=abandon))
    (error,) = told
    assert error.message.startswith('pass "do": stopped after 0.01 s, at ')


def test_the_default_number_of_rewrites_grows_with_the_graph() -> None:
    small, large = graph_of(BODY), graph_of("%a0: T = Neg(%x)\n" + "".join(
        f"%a{i}: T = Neg(%a{i - 1})\n" for i in range(1, 100)
    ), result="a99")  # fmt: skip
    limits = [Rewriter(graph, SEMANTICS).max_rewrites for graph in (small, large)]
    assert limits == [10_000 + 8 * 4, 10_000 + 8 * 101]


def test_rewrites_up_to_the_limit_are_kept() -> None:
    graph = graph_of(BODY)
    with pytest.raises(PassError, match=r'pass "do": rule "churn" at Relu .*, 4 rewrites were not enough'):
        Pipeline((do(churn),)).run(graph, limits=Limits(max_rewrites=4))
    assert [node.attrs["count"] for node in graph.nodes] == [3, 1, 2]


@pytest.mark.parametrize("count", [1, 1000])
def test_one_rewrite_may_be_large_and_not_endless(count: int) -> None:
    def grow(rewriter: Rewriter, context: Context) -> None:
        with rewriter.rewrite("grow"):
            value = rewriter.graph.inputs[0]
            for _ in range(count * 100):
                value = rewriter.create("Neg", [value], region=rewriter.graph.body).output

    graph = graph_of(BODY)
    if count == 1:
        Pipeline((do(grow),)).run(graph, verify="off")
        assert len(graph.nodes) == 103
    else:
        with pytest.raises(PassError, match='rule "grow": one rewrite goes on and on, 50256 changes'):
            Pipeline((do(grow),)).run(graph, verify="off")
        assert ops(graph) == ["Neg", "Relu", "Neg"]


@pytest.mark.parametrize(
    "make", [lambda: Limits(0), lambda: Limits(2.5), lambda: Limits(None, -1.0), lambda: Limits(1, float("inf"))]
)  # fmt: skip
def test_limits_that_are_none_are_refused(make: Callable[[], Limits]) -> None:
    with pytest.raises(ArgumentError, match=r"(max_rewrites|pass_timeout) must be a positive"):
        make()
