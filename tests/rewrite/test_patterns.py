"""What patterns match, what they don't, and the reason they give."""

from __future__ import annotations

import pytest
from rule_graphs import graph_of, node

from graphopt.ir.graph import Graph
from graphopt.rewrite import Match, Rule, const, match_at, one_of, op, opt, refuse, var
from graphopt.rewrite.patterns import OneOf, Op

X, Y = var("x"), var("y")


def find(graph: Graph, pattern: Op | OneOf, at: str) -> tuple[Match | None, str]:
    return match_at(Rule("test", pattern, lambda rewriter, match: None), node(graph, at))


def bound(graph: Graph, pattern: Op | OneOf, at: str) -> dict[str, str]:
    match, reason = find(graph, pattern, at)
    assert match is not None, reason
    return {name: value.name for name, value in match.values.items()}


def test_a_chain_binds_values_and_nodes() -> None:
    graph = graph_of("%a: T = Conv(%x, %y)\n%r: T = Relu(%a)")
    match, _ = find(graph, op("Relu", op("Conv", X, Y, name="conv")), "Relu")
    assert match is not None
    assert (match["x"].name, match["y"].name) == ("x", "y")
    assert match.node("conv") is node(graph, "Conv")
    assert match.root is node(graph, "Relu")
    assert match.interior == [node(graph, "Conv")]


def test_a_constant_is_bound_with_its_data() -> None:
    graph = graph_of("const %k: f32[2] = [0.5, 0.5]\n%r: T = Mul(%x, %k)")
    match, _ = find(graph, op("Mul", X, const("k", value=0.5)), "Mul")
    assert match is not None
    assert match.array("k").tolist() == [0.5, 0.5]
    ordered = op("Mul", X, const(value=2), commutative=False)
    assert "%k: f32[2] is not 2 everywhere" in find(graph, ordered, "Mul")[1]


@pytest.mark.parametrize(
    ("body", "pattern", "reason"),
    [
        ("%r: T = Relu(%x)", op("Relu", op("Conv", ...)), "%x: f32[2] is not computed by Conv"),
        ("%a: T = Neg(%x)\n%r: T = Relu(%a)", op("Relu", op("Conv", ...)), 'Neg "a"> is not Conv'),
        ("%r: T = Relu(%x)", op("Relu", const("k")), "%x: f32[2] is not a constant"),
        ("%r: T = Relu(%x, %y)", op("Relu", X), 'Relu "r"> has 2 inputs'),
        ("%r: T = Relu(_)", op("Relu", X), "is absent"),
        ("%r: T = Relu(%x) {axis = 1}", op("Relu", X, attrs={"axis": 2}), "attribute axis of <Relu"),
        ("%r: T = Relu(%x)", op("Relu", X, where=lambda n: False), "pattern's condition"),
        ("%r: T = Relu(%x)", op("Relu", var("x", lambda v: v.name == "q")), "condition of x"),
        ("%r: T = Relu(%x, %y)", op("Relu", X, X), "x is %x: f32[2] and %y: f32[2]"),
        (
            "%a: T, %b: T = Split(%x)\n%r: T = Relu(%b)",
            op("Relu", op("Split", X)),
            "%b: f32[2] is output 1 of <Split",
        ),
        (
            "%a: T = Conv(%x)\n%r: T = Relu(%a)\n%s: T = Neg(%a)",
            op("Relu", op("Conv", X)),
            "%a: f32[2] is also used by <Neg",
        ),
    ],
)
def test_a_mismatch_has_a_reason(body: str, pattern: Op, reason: str) -> None:
    match, why = find(graph_of(body), pattern, "Relu")
    assert match is None
    assert reason in why


def test_an_interior_node_that_is_a_graph_output_stays_visible() -> None:
    graph = graph_of("%a: T = Conv(%x)\n%r: T = Relu(%a)", result="a")
    match, why = find(graph, op("Relu", op("Conv", X)), "Relu")
    assert match is None
    assert "is an output of its region" in why


def test_shared_nodes_may_have_other_users() -> None:
    graph = graph_of("%a: T = Conv(%x)\n%r: T = Relu(%a)\n%s: T = Neg(%a)")
    match, _ = find(graph, op("Relu", op("Conv", X, shared=True)), "Relu")
    assert match is not None
    assert match.interior == []


def test_one_pattern_object_used_twice_is_one_node() -> None:
    shared = op("Sigmoid", X)
    swish = op("Mul", shared, op("Neg", shared))
    assert bound(graph_of("%s: T = Sigmoid(%x)\n%n: T = Neg(%s)\n%r: T = Mul(%s, %n)"), swish, "Mul") == {
        "x": "x"
    }
    two = graph_of("%s: T = Sigmoid(%x)\n%t: T = Sigmoid(%x)\n%n: T = Neg(%t)\n%r: T = Mul(%s, %n)")
    assert find(two, swish, "Mul")[0] is None


def test_commutative_operators_match_in_both_orders() -> None:
    pattern = op("Add", op("Conv", X), Y)
    for body in ("%r: T = Add(%a, %y)", "%r: T = Add(%y, %a)"):
        assert bound(graph_of("%a: T = Conv(%x)\n" + body), pattern, "Add") == {"x": "x", "y": "y"}
    flipped = graph_of("%a: T = Conv(%x)\n%r: T = Sub(%y, %a)")
    assert find(flipped, op("Sub", op("Conv", X), Y), "Sub")[0] is None
    assert bound(flipped, op("Sub", op("Conv", X), Y, commutative=True), "Sub") == {"x": "x", "y": "y"}


def test_a_choice_that_fails_later_is_taken_back() -> None:
    # The first order binds x to %y; only the second leaves x free for the other side.
    graph = graph_of("%a: T = Neg(%x)\n%b: T = Add(%y, %x)\n%r: T = Mul(%b, %a)")
    pattern = op("Mul", op("Add", X, Y), op("Neg", X))
    assert bound(graph, pattern, "Mul") == {"x": "x", "y": "y"}


def test_alternatives_are_tried_in_order() -> None:
    either = op("Relu", one_of(op("Conv", X), op("Gemm", Y)))
    assert bound(graph_of("%a: T = Gemm(%x)\n%r: T = Relu(%a)"), either, "Relu") == {"y": "x"}
    roots = one_of(op("Relu", X), op("Clip", Y))
    assert bound(graph_of("%r: T = Clip(%x)"), roots, "Clip") == {"y": "x"}


@pytest.mark.parametrize(
    ("inputs", "names"), [("%x, %y", {"x": "x", "b": "y"}), ("%x", {"x": "x"}), ("%x, _", {"x": "x"})]
)
def test_optional_inputs_may_be_absent(inputs: str, names: dict[str, str]) -> None:
    graph = graph_of(f"%a: T = Conv({inputs})\n%r: T = Relu(%a)")
    match, _ = find(graph, op("Relu", op("Conv", X, opt(var("b")))), "Relu")
    assert match is not None
    assert {name: value.name for name, value in match.values.items()} == names
    assert (match.get("b") is None) == ("b" not in names)


def test_outputs_and_domains_and_any_number_of_inputs() -> None:
    graph = graph_of("%a: T, %b: T = com.x.Split(%x, %y)\n%r: T = Concat(%y, %b, %x)")
    split = op("com.x.Split", ...)
    assert bound(graph, op("Concat", X, split[1], ...), "Concat") == {"x": "y"}
    assert find(graph, op("Concat", X, split[0], ...), "Concat")[0] is None


def test_attributes_can_be_judged_by_a_predicate() -> None:
    absent_or_one = op("Conv", X, attrs={"group": lambda g: g in (None, 1)})
    assert find(graph_of("%r: T = Conv(%x)"), absent_or_one, "Conv")[0]
    assert find(graph_of("%r: T = Conv(%x) {group = 1}"), absent_or_one, "Conv")[0]
    assert not find(graph_of("%r: T = Conv(%x) {group = 2}"), absent_or_one, "Conv")[0]


def test_a_pattern_does_not_reach_into_another_region() -> None:
    graph = graph_of("%a: T = Conv(%x)\n%r: T = If(%y) do then_branch() {\n%t: T = Relu(%a)\nreturn %t\n}")
    match, why = find(graph, op("Relu", op("Conv", X)), "Relu")
    assert match is None
    assert "lies in another region" in why


def test_a_check_refuses_with_a_reason_made_only_when_read() -> None:
    class Loud:
        def __format__(self, spec: str) -> str:
            raise AssertionError("formatted too early")

    graph = graph_of("%r: T = Relu(%x)")
    rule = Rule("test", op("Relu", X), lambda r, m: None, lambda m: refuse("{} is odd", Loud()))
    with pytest.raises(AssertionError, match="too early"):
        match_at(rule, node(graph, "Relu"))
    rule = Rule("test", op("Relu", X), lambda r, m: None, lambda m: refuse("{} is odd", m["x"].name))
    assert match_at(rule, node(graph, "Relu")) == (None, "x is odd")


def test_wrong_patterns_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="at the end"):
        op("Concat", ..., X)
    with pytest.raises(TypeError, match="must be an op"):
        _ = Rule("test", one_of(op("Relu", X), X), lambda r, m: None).roots
