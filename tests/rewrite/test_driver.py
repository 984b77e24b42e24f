"""The worklist driver: what is applied, in which order, counted how, and that it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from rule_graphs import FirstInput, graph_of, node, ops

from graphopt.errors import GraphoptError, PassError
from graphopt.ir.builder import Builder
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.transaction import OutOfFuel
from graphopt.ir.types import tensor
from graphopt.ir.verifier import verify
from graphopt.rewrite import Match, Refusal, Rule, RuleStats, apply_rules, const, op, refuse, var
from graphopt.rewrite.matcher import RuleIndex

X, Y = var("x"), var("y")
DOUBLE_NEG = Rule("double-neg", op("Neg", op("Neg", X)), lambda r, m: m["x"])


def rename_op(old: str, new: str) -> Rule:
    return Rule(f"{old}-to-{new}", op(old, X), lambda r, m: r.create(new, [m["x"]]).output)


def apply(graph: Graph, *rules: Rule, fuel: int | None = None, max_rewrites: int | None = None) -> RuleStats:
    stats = RuleStats()
    rewriter = Rewriter(graph, FirstInput(), fuel=fuel, max_rewrites=max_rewrites)
    try:
        apply_rules(rewriter, rules, stats)
    finally:
        verify(graph, FirstInput())
        assert rewriter.listeners == []
    return stats


def test_rules_apply_until_nothing_matches() -> None:
    body = "%n0: T = Neg(%x)\n" + "".join(f"%n{i}: T = Neg(%n{i - 1})\n" for i in range(1, 7))
    graph = graph_of(body, result="n6")
    stats = apply(graph, DOUBLE_NEG)
    assert ops(graph) == ["Neg"]
    assert stats.of("double-neg").hits == 3
    assert graph.outputs[0].producer is node(graph, "Neg")


def test_a_rewrite_enables_another_further_down_and_up() -> None:
    # Relu(Neg(Foo(x))): after Foo becomes Neg, Neg(Neg(x)) matches below it.
    graph = graph_of("%a: T = Foo(%x)\n%b: T = Neg(%a)\n%r: T = Relu(%b)")
    apply(graph, DOUBLE_NEG, rename_op("Foo", "Neg"))
    assert ops(graph) == ["Relu"]


def test_a_lost_user_enables_a_match() -> None:
    # Neg(%a) has two users until Drop's rewrite leaves it one.
    graph = graph_of(
        "%a: T = Neg(%x)\n%r: T = Neg(%a)\n%s: T = Drop(%x, %a)\n%t: T = Add(%r, %s)", result="t"
    )
    drop = Rule("drop", op("Drop", X, Y), lambda r, m: m["x"])
    apply(graph, DOUBLE_NEG, drop)
    assert ops(graph) == ["Add"]


def test_an_input_cut_in_place_enables_a_match() -> None:
    graph = graph_of("%a: T = Neg(%x)\n%r: T = Neg(%a)\n%s: T = Cut(%x, %a)\n%t: T = Add(%r, %s)", result="t")

    def cut(rewriter: Rewriter, match: Match) -> None:
        rewriter.set_inputs(match.root, [match["x"]])

    apply(graph, DOUBLE_NEG, Rule("cut", op("Cut", X, Y), cut))
    assert ops(graph) == ["Cut", "Add"]


def test_at_a_node_rules_are_tried_in_order() -> None:
    graph = graph_of("%r: T = Foo(%x)")
    stats = apply(graph, rename_op("Foo", "First"), rename_op("Foo", "Second"))
    assert ops(graph) == ["First"]
    assert stats.of("Foo-to-Second").attempts == 0


def test_nodes_are_visited_in_program_order_regions_included_fused_bodies_not() -> None:
    graph = graph_of(
        "%a: T = Foo(%x)\n"
        "%b: T = If(%y) do then_branch() {\n%t: T = Foo(%a)\nreturn %t\n}\n"
        "%f: T = graphopt.fused(%b) do body(%p: T) {\n%q: T = Foo(%p)\nreturn %q\n}\n"
        "%r: T = Foo(%f)"
    )
    seen: list[str] = []

    def note(match: Match) -> str:
        seen.append(match.root.output.name)
        return "only looking"

    stats = apply(graph, Rule("look", op("Foo", X), lambda r, m: m["x"], note))
    assert seen == ["a", "t", "r"]
    assert stats.of("look").refusals == {"only looking": (3, "only looking")}


def test_replaced_nodes_and_their_constants_go() -> None:
    graph = graph_of(
        "const %k: f32[2] = [1.0, 2.0]\nconst %l: f32[2] = [1.0, 2.0]\n"
        "%a: T = Conv(%x, %k)\n%b: T = Mul(%a, %l)\n%c: T = Neg(%l)\n%r: T = Add(%b, %c)"
    )

    def fold(rewriter: Rewriter, match: Match) -> object:
        return rewriter.create(
            "Conv", [match["x"], rewriter.constant(match.array("k") * match.array("l"))]
        ).output

    apply(graph, Rule("fold", op("Mul", op("Conv", X, const("k")), const("l")), fold))  # type: ignore[arg-type]
    assert ops(graph) == ["Conv", "Neg", "Add"]
    assert list(graph.constants) == ["l", "b_const"]
    assert graph.constants["b_const"].const.numpy().tolist() == [1.0, 4.0]  # type: ignore[union-attr]


def test_refusals_are_counted_by_reason() -> None:
    graph = graph_of("".join(f"%a{i}: T = Foo(%x) {{group = {i}}}\n" for i in range(3)) + "%r: T = Foo(%x)")

    def check(match: Match) -> Refusal | None:
        group = match.root.attrs.get("group")
        return refuse("group is {}", group) if group is not None else None

    stats = apply(graph, Rule("test", op("Foo", X), lambda r, m: m["x"], check))
    count = stats.of("test")
    assert (count.attempts, count.hits) == (4, 1)
    assert count.as_dict()["refusals"] == [{"reason": "group is 0", "count": 3}]
    assert "test_driver.py:" in count.source


def test_endless_rewriting_ends_with_an_error_that_names_the_rule() -> None:
    graph = graph_of("%r: T = Foo(%x)")
    message = (
        r'rule "Foo-to-Bar" at Foo "r": the pass goes on and on, {} rewrites were not enough \(.*\.py:\d+\)'
    )
    with pytest.raises(PassError, match=message.format(10_024)):
        apply(graph, rename_op("Foo", "Bar"), rename_op("Bar", "Foo"))
    with pytest.raises(PassError, match=message.format(6)):
        apply(graph, rename_op("Foo", "Bar"), rename_op("Bar", "Foo"), max_rewrites=6)


def test_a_check_gives_a_reason_or_none() -> None:
    graph = graph_of("%r: T = Foo(%x)")
    rule = replace(rename_op("Foo", "Bar"), check=lambda match: True)  # type: ignore[arg-type, return-value]
    with pytest.raises(PassError, match=r"its check returned True") as caught:
        apply(graph, rule)
    assert caught.value.hint == "return None to go ahead, or refuse(...) with the reason not to"


def nothing(rewriter: Rewriter, match: Match) -> None:
    return None


def test_a_rewrite_that_changes_nothing_is_a_fault_told_with_its_place() -> None:
    graph = graph_of("%r: T = Foo(%x)")
    line = nothing.__code__.co_firstlineno
    message = rf'rule "idle" matched Foo "r", and its rewrite changed nothing \({__file__}:{line}\)'
    with pytest.raises(PassError, match=message) as caught:
        apply(graph, Rule("idle", op("Foo", X), nothing))
    assert "check" in (caught.value.hint or "")
    # A check is the way to decline.
    stats = apply(graph, Rule("idle", op("Foo", X), nothing, check=lambda m: refuse("never")))
    assert (stats.of("idle").attempts, stats.of("idle").hits) == (1, 0)


@pytest.mark.parametrize(
    ("returned", "kind"),
    [(lambda node: node, "Node"), (lambda node: [node], "list"), (lambda node: 3, "int")],
)
def test_a_rewrite_that_returns_no_value_is_a_fault(returned: Callable[[Node], object], kind: str) -> None:
    graph = graph_of("%r: T = Foo(%x)")
    rule = Rule("odd", op("Foo", X), lambda r, m: returned(r.create("Neg", [m["x"]])))  # type: ignore[arg-type, return-value]
    with pytest.raises(PassError, match=rf'rule "odd" returned {kind} \({__file__}:\d+\)'):
        apply(graph, rule)
    assert ops(graph) == ["Foo"]


def test_a_rewrite_that_raises_is_told_with_the_line() -> None:
    def fail(rewriter: Rewriter, match: Match) -> None:
        raise SystemExit(3)

    line = fail.__code__.co_firstlineno + 1
    message = rf'rule "exit" failed at Foo "r": SystemExit: 3 \({__file__}:{line}\)'
    with pytest.raises(PassError, match=message):
        apply(graph_of("%r: T = Foo(%x)"), Rule("exit", op("Foo", X), fail))


def test_fuel_stops_the_driver_after_so_many_rewrites() -> None:
    graph = graph_of("%a: T = Foo(%x)\n%b: T = Foo(%a)\n%r: T = Foo(%b)")
    with pytest.raises(OutOfFuel):
        apply(graph, rename_op("Foo", "Bar"), fuel=2)
    assert ops(graph) == ["Bar", "Bar", "Foo"]


@pytest.mark.parametrize("where", ["check", "rewrite"])
def test_a_fault_in_a_rule_names_rule_and_node_and_undoes_the_rewrite(where: str) -> None:
    graph = graph_of("%a: T = Foo(%x)\n%r: T = Bar(%a)")

    def fail(*args: object) -> None:
        if where == "rewrite":
            args[0].create("Baz", [args[1]["x"]])  # type: ignore[attr-defined, index]
        raise ZeroDivisionError("oops")

    rule = (
        Rule("bad", op("Bar", X), fail)
        if where == "rewrite"
        else Rule("bad", op("Bar", X), DOUBLE_NEG.rewrite, fail)
    )
    with pytest.raises(PassError, match='rule "bad" failed at Bar "r": ZeroDivisionError: oops') as caught:
        apply(graph, rule)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert ops(graph) == ["Foo", "Bar"]


def _long_chain(count: int) -> Graph:
    graph = Graph()
    make = Builder(graph)
    type = tensor("f32", 2)
    x = value = make.input("x", type)
    for index in range(count):
        value = make.node("Add" if index % 2 else "Mul", [value, x], [("v", type)]).output
    make.outputs([value])
    graph.output_names = ["y"]
    return graph


def test_rules_that_can_not_match_cost_one_look_up_per_node() -> None:
    graph = _long_chain(2000)
    rules = [
        Rule(f"r{i}", op(("Add", "Mul"), op("Conv", X, const("w")), op(f"Foo{i}", ...)), lambda r, m: None)
        for i in range(30)
    ]
    index = RuleIndex(rules)
    assert [n for n in graph.walk() if index.candidates(n)] == []
    stats = apply(graph, *rules)
    assert sum(count.attempts for count in stats.rules.values()) == 0


def test_time_grows_linearly() -> None:
    def seconds(count: int) -> float:
        graph = _long_chain(count)
        rule = Rule("swap", op("Add", X, Y), lambda r, m: r.create("Sub", [m["x"], m["y"]]).output)
        rewriter = Rewriter(graph, FirstInput())
        start = time.process_time()
        assert apply_rules(rewriter, [rule]) == count // 2
        return time.process_time() - start

    seconds(1000)
    # All nodes share one input, where a driver that visits all users of it again would be quadratic.
    assert seconds(16000) < 16 * max(seconds(4000), 0.02)


def test_faults_of_rules_come_with_their_line() -> None:
    def again(rewriter: Rewriter, match: Match) -> Value:
        return rewriter.create("Relu", [match["x"]]).output

    def itself(rewriter: Rewriter, match: Match) -> Value:
        return match.root.outputs[0]

    for rewrite, words in ((again, "goes on and on"), (itself, "can't be erased")):
        graph = graph_of("%r: T = Relu(%x)")
        with pytest.raises(GraphoptError, match=words) as caught:
            apply(graph, Rule("r", op("Relu", X), rewrite))
        assert caught.value.message.endswith(f"({__file__}:{rewrite.__code__.co_firstlineno})")
