"""What the diff of two small graphs says, in words."""

from __future__ import annotations

import random

import pytest

import graphopt as go
from graphopt.diff import diff
from graphopt.diff.alignment import common_runs
from graphopt.errors import ArgumentError
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse_graph

BASE = """gir 1
graph "g" opset 26 {
  input %x: f32[n, 4]
  const %w: f32[4] = [1.0, 2.0, 3.0, 4.0]
  %a: f32[n, 4] = Add(%x, %w) "add"
  %r: f32[n, 4] = Relu(%a) "relu"
  %s: f32[n, 4] = Softmax(%r) {axis = 1} "softmax"
  return %s as "y"
}
"""


def changed(*replacements: tuple[str, str], base: str = BASE) -> Graph:
    for old, new in replacements:
        assert old in base
        base = base.replace(old, new)
    return parse_graph(base)


def text(*replacements: tuple[str, str], base: str = BASE, **options: object) -> str:
    return diff(parse_graph(base), changed(*replacements, base=base), **options).text()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("replacements", "expected"),
    [
        ([], "the graphs are equal (3 nodes)"),
        ([('"relu"', '"other"'), ("%a", "%b"), ("opset", 'opset')], "the graphs are equal (3 nodes)"),
        (
            [("axis = 1", "axis = 0")],
            'nodes: 1 changed, 2 the same\n~ Softmax "softmax"  attribute axis: 1 → 0',
        ),
        (
            [("Relu", "Sigmoid")],
            'nodes: 1 changed, 2 the same\n~ Relu "relu"  operator: Relu → Sigmoid',
        ),
        (
            [("4.0]", "4.5]")],
            'nodes: 1 changed, 2 the same\n~ Add "add"  weight input 1: %w: f32[4] = [1.0, 2.0, 3.0, 4.0] → '
            "%w: f32[4] = [1.0, 2.0, 3.0, 4.5]; 1 of 4 elements differ, by at most 0.5 (0.12 of the largest)",
        ),
        (
            [("Relu(%a)", "Relu(%x)")],
            'nodes: 1 changed, 2 the same\n~ Relu "relu"  input 0: %a of Add → %x of the graph\'s inputs',
        ),
        (
            [("Add(%x, %w)", "Add(%w, %x)")],
            'nodes: 1 changed, 2 the same\n~ Add "add"  input 0 and 1: %x of the graph\'s inputs, '
            "%w: f32[4] = [1.0, 2.0, 3.0, 4.0] → %w: f32[4] = [1.0, 2.0, 3.0, 4.0], %x of the graph's inputs",
        ),
        (
            [("  %s:", '  %q: f32[n, 4] = Neg(%r) "neg"\n  %s:'), ("Softmax(%r)", "Softmax(%q)")],
            'nodes: 1 added, 3 the same\n+ Neg "neg" (%r)\n'
            '    Softmax "softmax" input 0: %r of Relu → %q of Neg',
        ),
        (
            [('  %r: f32[n, 4] = Relu(%a) "relu"\n', ""), ("Softmax(%r)", "Softmax(%a)")],
            'nodes: 1 removed, 2 the same\n- Relu "relu" (%a)\n'
            '    Softmax "softmax" input 0: %r of Relu → %a of Add',
        ),
        (
            [('  %s: f32[n, 4] = Softmax(%r) {axis = 1} "softmax"\n', ""), ('%s as "y"', '%r as "y"')],
            'nodes: 1 removed, 2 the same\n- Softmax "softmax" (%r)\n'
            '    graph output "y": %s of Softmax → %r of Relu',
        ),
        (
            [("%r: f32[n, 4]", "%r: f32[n, 5]")],
            'nodes: 1 changed, 2 the same\n~ Relu "relu"  output 0: f32[n, 4] → f32[n, 5]',
        ),
        (
            [("%a: f32[n, 4]", "%a: f32[n, 5]"), ("%r: f32[n, 4]", "%r: f32[n, 5]")],
            'nodes: 1 changed, 2 the same\n~ Add "add"  output 0: f32[n, 4] → f32[n, 5]\n'
            "  1 value's type follows from these",
        ),
        (
            [('as "y"', 'as "z"')],
            "3 nodes, all the same; 1 of the graph's own differs\n~ name of graph output \"y\": y → z",
        ),
        (
            [("%x", "%z")],
            "3 nodes, all the same; 1 of the graph's own differs\n~ name of graph input \"x\": x → z",
        ),
        (
            [('return %s as "y"', 'return %s as "y", %r as "z"')],
            '3 nodes, all the same; 1 of the graph\'s own differs\n~ graph output "z": (none) → f32[n, 4]',
        ),
        (
            [("[n,", "[m,")],
            '3 nodes, all the same; 1 of the graph\'s own differs\n~ graph input "x": f32[n, 4] → f32[m, 4]',
        ),
    ],
)  # fmt: skip
def test_each_difference_is_told_alone(replacements: list[tuple[str, str]], expected: str) -> None:
    assert text(*replacements) == expected


def test_a_region_is_seen_through() -> None:
    fused = """  %r: f32[n, 4] = graphopt.fused(%a) "region" do body(%i: f32[n, 4]) {
    %r2: f32[n, 4] = Relu(%i) "relu"
    return %r2
  }
"""
    assert text(('  %r: f32[n, 4] = Relu(%a) "relu"\n', fused)) == (
        'nodes: 1 added, 1 moved, 2 the same\n+ graphopt.fused "region" (%a)\n'
        '> Relu "relu"  from main to body of graphopt.fused "region"'
    )


BRANCHES = """gir 1
graph "g" opset 26 {
  input %c: bool[]
  input %x: f32[4]
  %a: f32[4] = Exp(%x) "exp"
  %y: f32[4] = If(%c) "if" do else_branch() {
    %n: f32[4] = Neg(%a) "neg"
    return %n
  } do then_branch() {
    %t: f32[4] = Tanh(%x) "tanh"
    return %t
  }
  return %y as "y"
}
"""


def test_a_node_that_moves_into_a_branch() -> None:
    assert (
        text(
            ('  %a: f32[4] = Exp(%x) "exp"\n', ""),
            ("    %n:", '    %a: f32[4] = Exp(%x) "exp"\n    %n:'),
            base=BRANCHES,
        )
        == 'nodes: 1 moved, 3 the same\n> Exp "exp"  from main to else_branch of If "if"'
    )


def test_branches_that_are_exchanged_are_no_equals() -> None:
    found = diff(
        parse_graph(BRANCHES), changed(("then_", "t_"), ("else_", "then_"), ("t_b", "else_b"), base=BRANCHES)
    )
    assert [change.where for change in found.changed[0].changes] == [
        "else_branch output 0",
        "then_branch output 0",
    ]
    assert [move.before.op for move in found.moved] == ["Neg", "Tanh"]


def test_internal_symbols_are_paired() -> None:
    base = BASE.replace("%s: f32[n, 4]", "%s: f32[s.0, 2*s.0 + t]".replace("s.0", "sym('s.0')"))
    assert text(("'s.0'", "'q.0'"), ("+ t]", "+ u]"), base=base) == "the graphs are equal (3 nodes)"
    assert "output 0" in text(("2*", "3*"), base=base)


def test_default_attributes_may_be_written_out() -> None:
    base = BASE.replace("axis = 1", "axis = -1")
    assert text((" {axis = -1}", ""), base=base) == "the graphs are equal (3 nodes)"


def test_weights_may_be_tolerated_or_ignored() -> None:
    near = ("4.0]", "4.004]")
    assert "weight" in text(near)
    assert text(near, weights="shape") == text(near, weights=0.002) == "the graphs are equal (3 nodes)"
    assert "by at most 0.004 (0.001 of the largest)" in text(near, weights=0.0005)
    assert "f32[4] = " in text(("f32[4] = [1.0, ", "f32[3] = ["), weights="shape")


def test_constants_of_shapes_always_count() -> None:
    base = BASE.replace("Relu(%a)", "Reshape(%a, %k)").replace(
        "  %a:", "  const %k: i64[2] = [0, 4]\n  %a:", 1
    )
    expected = 'nodes: 1 changed, 2 the same\n~ Reshape "relu"  constant input 1: %k: i64[2] = [0, 4] → %k: i64[2] = [-1, 4]'
    assert text(("[0, 4]", "[-1, 4]"), base=base, weights="shape") == expected


@pytest.mark.parametrize("dtype", ["i32", "i64"])
@pytest.mark.parametrize("weights", ["shape", 1.0])
def test_integers_always_count(dtype: str, weights: float | str) -> None:
    base = BASE.replace("f32[4] = [1.0, 2.0, 3.0, 4.0]", f"{dtype}[2] = [0, 3]").replace(
        "%a: f32[n, 4] = Add(%x, %w)", "%a: f32[n, 2] = Gather(%x, %w) {axis = 1}"
    )
    assert "input 1" in text(("[0, 3]", "[0, 2]"), base=base, weights=weights)


def test_names_of_the_signature_may_be_ignored() -> None:
    renamed = [("%x", "%z"), ('as "y"', 'as "z"')]
    assert len(diff(parse_graph(BASE), changed(*renamed)).signature) == 2
    assert not diff(parse_graph(BASE), changed(*renamed), names=False)


def test_metadata_counts_on_request() -> None:
    noted = ('"relu"', '"relu" doc "why"')
    assert not diff(parse_graph(BASE), changed(noted))
    assert "metadata" in text(noted, metadata=True)


def test_two_changes_of_neighbours_are_both_found() -> None:
    found = diff(
        parse_graph(BASE), changed(("Softmax(%r) {axis = 1}", "Softmax(%r) {axis = 0}"), ("4.0]", "5.0]"))
    )
    assert [(e.before.op, e.changes[0].what) for e in found.changed] == [
        ("Add", "weight"),
        ("Softmax", "attribute"),
    ]


def test_long_diffs_are_cut() -> None:
    lines = "\n".join(f'  %v{i}: f32[n, 4] = Neg(%a) "neg{i}"' for i in range(50))
    found = diff(parse_graph(BASE), changed(("  %r:", f"{lines}\n  %r:")))
    assert found.text(limit=5).splitlines()[3:] == ['+ Neg "neg2" (%a)', "… and 47 more lines"]
    assert len(found.text(limit=0).splitlines()) == 51


def test_json_holds_what_the_text_says() -> None:
    document = diff(parse_graph(BASE), changed(("4.0]", "4.5]"))).to_json()
    (entry,) = document["changed"]
    assert document["equal"] is False and document["nodes"]["matched"] == 3
    assert entry["before"] == {"op": "Add", "name": "add", "output": "a", "region": "main"}
    assert entry["changes"][0]["distance"] == {"differing": 1, "size": 4, "largest": 0.5, "relative": 0.125}


def test_weights_must_make_sense() -> None:
    graph = parse_graph(BASE)
    for weights in ("almost", -1.0, None, True):
        with pytest.raises(ArgumentError, match="weights must be"):
            diff(graph, graph, weights=weights)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="a must be of type Graph"):
        diff("graph.onnx", graph)  # type: ignore[arg-type]


def repeated(blocks: int, width: int = 4) -> Graph:
    """Identical residual blocks in a row, which only their place tells apart."""
    lines = ["gir 1", 'graph "g" opset 26 {', f"  input %x0: f32[{width}]"]
    for i in range(blocks):
        lines += [
            f"  %r{i}: f32[{width}] = Relu(%x{i})",
            f"  %s{i}: f32[{width}] = Sigmoid(%r{i})",
            f"  %p{i}: f32[{width}] = Mul(%r{i}, %s{i})",
            f"  %x{i + 1}: f32[{width}] = Add(%p{i}, %x{i})",
        ]
    return parse_graph("\n".join([*lines, f'  return %x{blocks} as "y"', "}", ""]))


def test_a_block_less_among_identical_ones() -> None:
    found = diff(repeated(50), repeated(49))
    assert sorted(node.op for node in found.removed) == ["Add", "Mul", "Relu", "Sigmoid"]
    assert not (found.added or found.changed or found.signature)


def test_far_changes_do_not_hide_what_is_between() -> None:
    """Nodes put in near both ends of identical blocks: neither end's distance tells the blocks apart."""
    from graphopt.ir.builder import Builder, copy_graph

    before = repeated(60)
    after = copy_graph(before)
    nodes = after.nodes
    made = []
    for user in (nodes[4], nodes[-4]):
        value = user.inputs[0]
        assert value is not None
        node = Builder(after).node("Relu", [value], [("new", value.type)], before=user)
        for use in [use for use in value.uses if use.user is user]:
            del value._uses[use]
            node.output._uses[use] = None
            user._inputs = (node.output, *user._inputs[1:])
        made.append(node)
    found = diff(before, after)
    assert len(found.partners) == len(nodes) and [node.op for node in found.added] == ["Relu", "Relu"]
    assert len(found.changed) <= 2, found.text()


def test_diff_is_at_hand() -> None:
    graph = parse_graph(BASE)
    assert go.diff(graph, graph).equal
    assert isinstance(go.diff(graph, graph), go.GraphDiff)


def chain(operators: list[str]) -> Graph:
    lines = [f"%v{i + 1}: f32[n] = {op}(%v{i})" for i, op in enumerate(operators)]
    body = "\n".join(lines)
    return parse_graph(
        f'gir 1\ngraph "g" opset 26 {{\ninput %v0: f32[n]\n{body}\nreturn %v{len(lines)} as "y"\n}}\n'
    )


def test_many_changes_are_all_told_apart() -> None:
    """More edits than one search for a common subsequence takes."""
    draw = random.Random(1)
    names = ["Abs", "Exp", "Neg", "Relu", "Sigmoid", "Tanh"]
    before = [draw.choice(names) for _ in range(3000)]
    places = set(draw.sample(range(3000), 150))
    other = [names[names.index(op) - 1] if i in places else op for i, op in enumerate(before)]
    found = diff(chain(before), chain(other))
    assert (len(found.removed), len(found.added), len(found.changed)) == (0, 0, 150)
    less = [op for i, op in enumerate(before) if i not in places]
    found = diff(chain(before), chain(less))
    assert (len(found.removed), len(found.added), len(found.changed)) == (150, 0, 0)


def test_common_runs_go_on_where_one_search_ends() -> None:
    draw = random.Random(2)
    a = [draw.randrange(50) for _ in range(4000)]
    b = [x for x in a if draw.random() < 0.9]
    assert len(a) - len(b) > 300
    runs = common_runs(a, b)
    end_a = end_b = 0
    for start_a, start_b, length in runs:
        assert start_a >= end_a and start_b >= end_b
        assert a[start_a : start_a + length] == b[start_b : start_b + length]
        end_a, end_b = start_a + length, start_b + length
    assert sum(length for *_, length in runs) == len(b)


def test_a_node_before_its_like_in_a_branch_is_removed_and_nothing_moved() -> None:
    base = BRANCHES.replace("Neg(%a)", "Exp(%a)")
    shorter = base.replace('  %a: f32[4] = Exp(%x) "exp"\n', "").replace("%a", "%x")
    found = diff(parse_graph(base), parse_graph(shorter))
    assert found.text().startswith('nodes: 1 removed, 3 the same\n- Exp "exp" (%x)')
    assert not found.moved
