"""The assertions of graphopt.testing: what they let pass, and what they print of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt as go
from graphopt.errors import ArgumentError, TextError
from graphopt.rewrite import Rule, op, var
from graphopt.testing import assert_graphs_equal, assert_same_outputs, graph_of, rewrite_and_compare

TWICE = "input %x: f32[n, 4]  %a = Neg(%x)  %b = Neg(%a)  %y = Relu(%b)  return %y"
ONCE = 'input %data: f32[n, 4]  %r = Relu(%data)  return %r as "y"'


def test_a_line_of_text_is_a_graph(tmp_path: Path) -> None:
    graph = graph_of("""
        input %x: f32[n, 4]
        const %w: f32[4, 3] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
        %y = MatMul(%x, %w)  %a, %b = Split(%y) {axis = 0, num_outputs = 2}
        return %a, %y as "product"
    """)
    assert str(graph.value("y").type) == "f32[n, 3]" and graph.output_names == ["a", "product"]
    go.save(graph, tmp_path / "g.gir")
    assert_graphs_equal(graph_of(tmp_path / "g.gir"), graph)
    assert graph_of(graph) is graph


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (
            "input %x: f32[n]\n%y = Relu(%q)\nreturn %y",
            TextError,
            "line 2, column 11: this value is not defined",
        ),
        ("input %x: f32[3] input %y: f32[4] %z = Add(%x, %y) return %z", TextError, "broadcasts with [3]"),
        ("model.onnx", TextError, "give a .gir text, or a Path"),
        (3, ArgumentError, "a graph is wanted, not int"),
    ],
)
def test_what_is_no_graph(source: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as raised:
        graph_of(source)  # type: ignore[arg-type]
    assert words in str(raised.value)


def test_equal_graphs_by_other_names() -> None:
    assert_graphs_equal(ONCE.replace("%data", "%x").replace("%r", "%z"), ONCE.replace("%data", "%x"))
    assert_graphs_equal(ONCE, ONCE.replace("data", "other"), names=False)
    with pytest.raises(AssertionError):
        assert_graphs_equal(ONCE, ONCE.replace("data", "other"))


def test_a_failure_shows_only_what_differs() -> None:
    long = "  ".join(f"%v{i + 1} = Tanh(%v{i})" for i in range(60))
    graph = f"input %v0: f32[4]  {long}  %y = Elu(%v60) {{alpha = 0.5}}  return %y"
    with pytest.raises(AssertionError) as raised:
        assert_graphs_equal(graph, graph.replace("0.5", "0.25"))
    text = str(raised.value)
    assert "alpha" in text and "0.25" in text and "0.5" in text
    assert len(text.splitlines()) < 8 and "Tanh" not in text.replace("input", "")


def test_weights_by_value_by_distance_and_by_shape() -> None:
    graph = "input %x: f32[2]  const %w: f32[2] = [1, 2]  %y = Mul(%x, %w)  return %y"
    near, far = graph.replace("1, 2]", "1, 2.001]"), graph.replace("1, 2]", "1, 5]")
    assert_graphs_equal(near, graph, weights=1e-2)
    assert_graphs_equal(far, graph, weights="shape")
    for weights in ("exact", 1e-4):
        with pytest.raises(AssertionError):
            assert_graphs_equal(near, graph, weights=weights)  # type: ignore[arg-type]


def test_same_outputs() -> None:
    assert_same_outputs(TWICE, TWICE.replace("Relu(%b)", "Relu(%x)"))
    with pytest.raises(AssertionError, match=r'output "y": .* elements, the first at \[0, \d\]: was'):
        assert_same_outputs(TWICE, TWICE.replace("Relu(%b)", "Relu(%a)"))
    # Only awkward numbers tell these two apart.
    zero = "input %x: f32[64]  const %c: f32[] = 0  %y = Add(%x, %c)  return %y"
    with pytest.raises(AssertionError, match=r"was 0\.0 and is -0\.0"):
        assert_same_outputs(zero, "input %x: f32[64]  %y = Identity(%x)  return %y")
    assert_same_outputs(zero, "input %x: f32[64]  %y = Identity(%x)  return %y", tolerance=1e-6)


def test_same_outputs_on_given_inputs() -> None:
    positive = {"x": np.ones((2, 4), np.float32)}
    relu = "input %x: f32[n, 4]  %y = Relu(%x)  return %y"
    same = "input %x: f32[n, 4]  %y = Identity(%x)  return %y"
    assert_same_outputs(relu, same, positive)
    with pytest.raises(AssertionError, match="sample 1"):
        assert_same_outputs(relu, same, [positive, {"x": -positive["x"]}])


RELU = "input %x: f32[n, 4]  %y = Relu(%x)  return %y"
NEG = RELU.replace("Relu", "Neg")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inputs": []}, "a sample at least"),
        ({"inputs": {"x": np.zeros((0, 4), np.float32)}}, "no output has elements on sample 0"),
        ({"tolerance": float("nan")}, "tolerance must be a number from 0 up"),
        ({"tolerance": float("inf")}, "tolerance must be a number from 0 up"),
        ({"tolerance": -1e-5}, "tolerance must be a number from 0 up"),
    ],
)
def test_comparisons_of_nothing_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        assert_same_outputs(RELU, NEG, **options)
    with pytest.raises(ArgumentError, match=words):
        rewrite_and_compare("eliminate-dead-code", RELU, **options)


def test_huge_elements_hide_no_others() -> None:
    plus = "input %x: f32[2]  const %k: f32[2] = [KS]  %y = Add(%x, %k)  return %y"
    zero = {"x": np.zeros(2, np.float32)}

    def compare(was: str, now: str) -> None:
        assert_same_outputs(plus.replace("KS", was), plus.replace("KS", now), zero, tolerance=1e-5)

    compare("1e6, 1", "1000005, 1.000005")
    compare("1e6, 0", "1e6, 0.005")
    compare("1e6, 2000", "1e6, 2005")  # no gap
    for was, now in (("1e6, 0", "1e6, 3"), ("1e6, 1", "1e6, 1.001"), ("1e6, 1", "1000050, 1")):
        with pytest.raises(AssertionError, match="1 of 2 elements"):
            compare(was, now)


@dataclass(frozen=True)
class Lossy(go.PatternPass):
    """Takes a function of the same type for Relu, Log for one."""

    name = "assertions-test-lossy"  # Not registered: other tests go through all passes.
    effect = go.Effect.LOSSY
    op: str = "Tanh"

    def rules(self) -> list[Rule]:
        return [Rule("other", op("Relu", var("x")), lambda r, m: r.create(self.op, [m["x"]]).output)]


def test_what_lossy_passes_give_is_looked_at() -> None:
    rewrite_and_compare(Lossy(), RELU, inserted={"Tanh": 1, "Log": 0}, removed=1)
    with pytest.raises(AssertionError, match="elements became NaN"):
        rewrite_and_compare(Lossy("Log"), RELU)
    with pytest.raises(ArgumentError, match="passes must be"):
        rewrite_and_compare(["O1"], RELU)  # type: ignore[arg-type]


def test_rewrite_and_compare() -> None:
    after = rewrite_and_compare(
        "simplify-identities,eliminate-dead-code", TWICE, TWICE.replace("Relu(%b)", "Relu(%x)").replace("%a = Neg(%x)  %b = Neg(%a)", ""),
        inserted=0, removed={"Neg": 2}, replaced=1,
    )  # fmt: skip
    assert [node.op for node in after.nodes] == ["Relu"]


@pytest.mark.parametrize(
    ("expectation", "words"),
    [
        ({"removed": 3}, "removed: 2 Neg, not 3"),
        ({"removed": {"Relu": 1}}, "removed: 2 Neg, not {'Relu': 1}"),
        ({"inserted": 1}, "inserted: none, not 1"),
        ({"inserted": {"Relu": 1, "Neg": 0}}, "inserted: none, not {'Relu': 1, 'Neg': 0}"),
        ({"replaced": 5}, "1 values replaced, not 5"),
        ({"after": TWICE}, "the graphs differ"),
    ],
)
def test_rewrite_and_compare_tells_what_happened(expectation: dict[str, object], words: str) -> None:
    with pytest.raises(AssertionError) as raised:
        rewrite_and_compare("simplify-identities,eliminate-dead-code", TWICE, **expectation)  # type: ignore[arg-type]
    assert words in str(raised.value)
    if "after" not in expectation:
        assert "undone: applied 1 times" in str(raised.value)


def test_a_refusal_is_told() -> None:
    graph = "input %x: f32[4]  const %c: f32[2, 4] = [0, 0, 0, 0, 0, 0, 0, 0]  %y = Add(%x, %c)  return %y"
    with pytest.raises(
        AssertionError, match=r"add-zero: applied 0 times, refused: %x.* is not known to have the type"
    ):
        rewrite_and_compare("simplify-identities", graph, removed=1)


def test_a_huge_number_hides_no_other() -> None:
    a = "input %x: f32[2] const %k: f32[2] = [1.0, -1e9] %y = Add(%x, %k) return %y"
    b = a.replace("[1.0,", "[1.01,")
    with pytest.raises(AssertionError, match='output "y"'):
        assert_same_outputs(a, b, {"x": np.float32([1, 1])}, tolerance=1e-4)
    assert_same_outputs(a, b, {"x": np.float32([1, 1])}, tolerance=1e-2)
