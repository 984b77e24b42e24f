"""Each rule of the verifier, broken behind the rewriter's back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from graph_strategies import FirstInput

from graphopt.errors import RewriteError, VerifyError
from graphopt.ir.builder import Builder
from graphopt.ir.graph import Graph, Node, Use
from graphopt.ir.node_rules import NODE_RULES
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType, TensorType, UnknownType, tensor
from graphopt.ir.verifier import IncrementalVerifier, faults, verify

T = tensor("f32", 2)


def sample() -> Graph:
    """x -> Neg a -> If z (both branches see a) -> fused f -> Relu r, with a constant k."""
    graph = Graph()
    make = Builder(graph)
    x = make.input("x", T)
    k = make.constant(Tensor.of([1, 2], DType.F32), "k")
    a = make.node("Neg", [x], [("a", T)], name="neg").output
    branch = make.node("If", [a], [("z", T)])
    for name, value in (("then_branch", a), ("else_branch", k)):
        region = make.region(branch, name)
        make.outputs([make.node("Abs", [value], [(name, T)], region=region).output], region)
    fused = make.node("fused", [branch.output, k], [("f", T)], domain="graphopt")
    body = make.region(fused, "body")
    p, q = make.input("p", T, body), make.input("q", T, body)
    make.outputs([make.node("Add", [p, q], [("s", T)], region=body).output], body)
    r = make.node("Relu", [fused.output], [("r", T)]).output
    make.outputs([r])
    graph.output_names = ["y"]
    return graph


def node(graph: Graph, op: str) -> Node:
    return next(n for n in graph.walk() if n.op == op)


def test_a_sound_graph_has_no_faults_at_any_stage() -> None:
    for stage in ("import", "pass", "compile"):
        assert list(faults(sample(), FirstInput(), stage=stage)) == []  # type: ignore[arg-type]


def use_erased(g: Graph) -> None:
    g.body._remove(node(g, "Neg"))


def forget_use(g: Graph) -> None:
    g.value("a")._uses.pop(Use(node(g, "If"), 0))


def claim_use(g: Graph) -> None:
    g.value("x")._uses[Use(node(g, "Relu"), 0)] = None


def use_before_definition(g: Graph) -> None:
    relu = node(g, "Relu")
    g.body._remove(relu)
    g.body._insert(relu, node(g, "Neg"))


def see_into_a_branch(g: Graph) -> None:
    _rewire(node(g, "Relu"), g, "then_branch")


def see_out_of_a_fused_body(g: Graph) -> None:
    _rewire(node(g, "Add"), g, "a")


def see_a_constant_in_a_fused_body(g: Graph) -> None:
    _rewire(node(g, "Add"), g, "k")


def _rewire(user: Node, g: Graph, name: str) -> None:
    old, new = user.inputs[0], g.value(name)
    assert old is not None
    old._uses.pop(Use(user, 0))
    user._inputs = (new, *user.inputs[1:])
    new._uses[Use(user, 0)] = None


def make_a_ring(g: Graph) -> None:
    _rewire(node(g, "Neg"), g, "r")


def take_a_name_twice(g: Graph) -> None:
    g.value("a").name = "x"


def lose_an_output(g: Graph) -> None:
    g.value("a").index = 1


def return_something_inner(g: Graph) -> None:
    old, new = g.body.outputs[0], g.value("then_branch")
    old._uses.pop(Use(g.body, 0))
    g.body.outputs[0] = new
    new._uses[Use(g.body, 0)] = None


def break_the_chain(g: Graph) -> None:
    node(g, "If")._prev = None


def break_the_order(g: Graph) -> None:
    node(g, "If")._order = -5


def break_the_count(g: Graph) -> None:
    g.body._count += 1


def two_output_names(g: Graph) -> None:
    g.output_names = ["y", "z"]


def change_constant_type(g: Graph) -> None:
    g.value("k").type = tensor("f32", 3)


def lose_constant_data(g: Graph) -> None:
    g.value("k").const = None


def blocks_at_the_border(g: Graph) -> None:
    g.outputs[0].type = TensorType(DType.F32, (1, 32, 4), None, "nCx16c")


def blocks_without_channels(g: Graph) -> None:
    g.value("a").type = TensorType(DType.F32, (2,), None, "nCx16c")


def negative_dimension(g: Graph) -> None:
    g.value("a").type = tensor("f32", -1)


def mutable_attribute(g: Graph) -> None:
    node(g, "Neg")._attrs = {"axes": [1]}  # type: ignore[dict-item]


def array_in_a_tuple(g: Graph) -> None:
    node(g, "Neg")._attrs = {"axes": (1, (2, "a"), np.int64(2))}


def region_of_another(g: Graph) -> None:
    node(g, "If").regions["else_branch"].parent = node(g, "Neg")


def extra_fused_input(g: Graph) -> None:
    fused, x = node(g, "fused"), g.value("x")
    fused._inputs += (x,)
    x._uses[Use(fused, 2)] = None


def fused_types_differ(g: Graph) -> None:
    g.value("p").type = tensor("f32", 3)


def schema_broken(g: Graph) -> None:
    node(g, "Neg")._op = "Bad"


def type_contradicts(g: Graph) -> None:
    g.value("a").type = tensor("i64", 2)


def lost_value(g: Graph) -> None:
    g._values["ghost"] = g.value("a")


BREAKS: list[tuple[Callable[[Graph], None], str, str]] = [
    (use_erased, "dominance", r'If "z": input 0, %a, is computed nowhere'),
    (forget_use, "uses", r'If "z": input 0, %a, does not know this use'),
    (claim_use, "inputs", r'input %x claims a use by Relu "r" at 0, which uses something else'),
    (use_before_definition, "dominance", r'Relu "r": input 0, %f, is computed only later'),
    (make_a_ring, "dominance", r'Neg "neg": input 0, %r, is computed only later'),
    (see_into_a_branch, "dominance", r'Relu "r": input 0, %then_branch, is not visible here'),
    (see_out_of_a_fused_body, "dominance", r"Add.*%a, is not visible here \(a fused node sees only"),
    (see_a_constant_in_a_fused_body, "dominance", r"Add.*%k, is not visible here \(a fused node"),
    (take_a_name_twice, "outputs", r"output %x has the name of another value"),
    (lose_an_output, "outputs", r'Neg "neg": %a is not its output 0'),
    (return_something_inner, "dominance", r"output %then_branch is not visible there"),
    (break_the_chain, "order", r'If "z" is not linked in its place'),
    (break_the_order, "order", r'If "z" has no place after Neg "neg"'),
    (break_the_count, "order", "it counts 5 nodes, but holds 4"),
    (two_output_names, "outputs", "1 outputs have 2 names"),
    (change_constant_type, "constant", r"constant %k: has type f32\[3\], its data f32\[2\]"),
    (lose_constant_data, "constant", "constant %k: has no data"),
    (negative_dimension, "outputs", r"%a has a negative dimension: f32\[-1\]"),
    (blocks_at_the_border, "layouts", r"output %r has channels in blocks: f32\[1, 32, 4\]<layout=nCx16c>"),
    (blocks_without_channels, "outputs", r"%a has channels in blocks, but no axis 1"),
    (mutable_attribute, "attributes", 'Neg "neg": attribute axes holds a list'),
    (array_in_a_tuple, "attributes", "attribute axes holds a int64"),
    (region_of_another, "regions", "region else_branch belongs to another node"),
    (extra_fused_input, "fused", "3 inputs, its body has 2"),
    (fused_types_differ, "fused", r"%z has type f32\[2\], in the body f32\[3\]"),
    (schema_broken, "schema", 'Bad "neg": no such form'),
    (type_contradicts, "types", r"%a has type i64\[2\], the operator gives f32\[2\]"),
    (lost_value, "names", "the graph knows 12 values by name, but holds 11"),
]


@pytest.mark.parametrize(("damage", "rule", "message"), BREAKS, ids=lambda x: getattr(x, "__name__", None))
def test_every_damage_is_found(damage: Callable[[Graph], None], rule: str, message: str) -> None:
    graph = sample()
    damage(graph)
    found = list(faults(graph, FirstInput()))
    assert rule in [fault.rule for fault in found]
    with pytest.raises(VerifyError, match="the graph is not valid"):
        verify(graph, FirstInput())
    import re

    assert any(re.search(message, fault.message) for fault in found), found


def test_every_rule_is_tested() -> None:
    tested = {rule for _, rule, _ in BREAKS} | {"typed"}
    assert {rule.name for rule in NODE_RULES} <= tested


def test_a_fault_shows_the_lines_around_it() -> None:
    graph = sample()
    type_contradicts(graph)
    with pytest.raises(VerifyError) as caught:
        verify(graph, FirstInput())
    assert caught.value.message.split("\n") == [
        'the graph is not valid: Neg "neg": %a has type i64[2], the operator gives f32[2] [types]',
        '> %a: i64[2] = Neg(%x) "neg"',
        "  %z: f32[2] = If(%a) do then_branch() {",
        "  %f: f32[2] = graphopt.fused(%z, %k) do body(%p: f32[2], %q: f32[2]) {",
    ]


@pytest.mark.parametrize("type", [UnknownType(), TensorType(DType.F32, None), TensorType(None, (2,))])
def test_compile_wants_known_types(type: TensorType | UnknownType) -> None:
    graph = sample()
    graph.value("r").type = type
    verify(graph, stage="pass")
    with pytest.raises(VerifyError, match=r'Relu "r": %r has type .*must be known to compile'):
        verify(graph, stage="compile")


def test_types_are_judged_only_with_semantics() -> None:
    graph = sample()
    type_contradicts(graph)
    verify(graph)


def _watched(graph: Graph) -> tuple[Rewriter, IncrementalVerifier]:
    verifier = IncrementalVerifier(graph, FirstInput())
    return Rewriter(graph, FirstInput(), listeners=[verifier]), verifier


def test_incremental_finds_a_move_that_breaks_the_order() -> None:
    graph = sample()
    rewriter, verifier = _watched(graph)
    with rewriter.rewrite("shuffle", node(graph, "fused")):
        rewriter.move(node(graph, "fused"), before=node(graph, "Neg"))
    with pytest.raises(VerifyError, match="%z, is computed only later"):
        verifier.check()


def test_incremental_finds_users_left_behind_by_a_move() -> None:
    graph = sample()
    rewriter, verifier = _watched(graph)
    with rewriter.rewrite("shuffle", node(graph, "Neg")):
        rewriter.move(node(graph, "Neg"), before=node(graph, "Relu"))
    with pytest.raises(VerifyError, match='If "z": %a is computed only later'):
        verifier.check()


def test_incremental_finds_a_type_that_users_contradict() -> None:
    graph = sample()
    rewriter, verifier = _watched(graph)
    with rewriter.rewrite("retype", node(graph, "fused")):
        rewriter.set_type(graph.value("f"), tensor("i64", 2))
    with pytest.raises(VerifyError, match=r"f32\[2\], the operator gives i64\[2\]|in the body f32"):
        verifier.check()


def test_incremental_judges_only_what_was_touched_and_forgets_it() -> None:
    graph = sample()
    rewriter, verifier = _watched(graph)
    node(graph, "Neg")._attrs = {"axes": [1]}  # type: ignore[dict-item]
    with rewriter.rewrite("attr", node(graph, "Relu")):
        rewriter.set_attr(node(graph, "Relu"), "alpha", 1)
    verifier.check()
    assert not verifier.nodes
    assert not verifier.values
    with rewriter.rewrite("attr", node(graph, "Neg")):
        rewriter.set_attr(node(graph, "Neg"), "alpha", 1)
    with pytest.raises(VerifyError, match="axes holds a list"):
        verifier.check()


def test_incremental_accepts_what_a_failed_rewrite_left() -> None:
    graph = sample()
    rewriter, verifier = _watched(graph)
    with pytest.raises(RewriteError), rewriter.rewrite("bad", node(graph, "Neg")):
        rewriter.create("Abs", [graph.value("x")])
        rewriter.erase(node(graph, "Neg"))
    verifier.check()
    verify(graph, FirstInput())
