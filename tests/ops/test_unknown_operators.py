"""Operators that the canonical opset lacks: carried through when a model brings them, a fault when a pass makes them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import graphopt as go
from graphopt.errors import VerifyError
from graphopt.ir.builder import copy_graph
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse_graph
from graphopt.ir.printer import print_graph
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.verifier import IncrementalVerifier, verify
from graphopt.onnx_io import load
from graphopt.ops import SEMANTICS


def model(text: str, opset: int) -> Graph:
    header = f'<ir_version: 10, opset_import: ["" : {opset}]>\n'
    return load(onnx.parser.parse_model(header + text))


def plain() -> Graph:
    return model("g (float[4] x) => (float[4] y) { y = Relu(x) }", 21)


def newer() -> Graph:
    return model("g (float[4,6] x, float[4,6] z) => (float[4,6] y) { s = SwiGLU(x, z)\n y = Relu(s) }", 28)


def unheard_of() -> Graph:
    return model("g (float[4] x) => (float[4] y) { s = Frobnicate(x)\n y = Relu(s) }", 21)


def replaced(graph: Graph, op: str, domain: str = "") -> IncrementalVerifier:
    """The graph's Relu becomes ``op``; gives who watched."""
    rewriter = Rewriter(graph, SEMANTICS)
    watcher = IncrementalVerifier(graph, SEMANTICS)
    rewriter.listeners.append(watcher)
    relu = graph.nodes[-1]
    types = [relu.output.type]
    with rewriter.rewrite("replace", relu):
        rewriter.replace_node(relu, rewriter.create(op, relu.inputs[:1], domain=domain, types=types).outputs)
    return watcher


@pytest.mark.parametrize("op", ["Frobnicate", "SwiGLU", "Upsample", "relu"])
def test_a_pass_can_t_make_an_operator_that_the_canonical_opset_lacks(op: str) -> None:
    graph = plain()
    watcher = replaced(graph, op)
    message = f'{op} "y": opset 26 of ONNX has no such operator'
    with pytest.raises(VerifyError, match=message):
        watcher.check()
    with pytest.raises(VerifyError, match=message):
        verify(graph, SEMANTICS)


def test_a_pass_may_make_operators_of_other_domains() -> None:
    graph = plain()
    replaced(graph, "Frobnicate", "com.example").check()
    verify(graph, SEMANTICS)


def test_a_form_that_only_a_newer_opset_has_is_told_from_the_canonical_one() -> None:
    # Celu takes bfloat16 from opset 28 on.
    text = "g (bfloat16[4] x) => (bfloat16[4] y) { y = OP(x) }"
    brought = model(text.replace("OP", "Celu"), 28)
    assert brought.unverifiable == ("Celu",)
    verify(brought, SEMANTICS)
    made = replaced(model(text.replace("OP", "Relu"), 28), "Celu")
    with pytest.raises(VerifyError, match=r'Celu "y": input 0 .* is tensor.bfloat16., which the operator'):
        made.check()


@pytest.mark.parametrize(("make", "op", "opset"), [(newer, "SwiGLU", 28), (unheard_of, "Frobnicate", 26)])
def test_what_a_model_brings_is_carried_through(make: object, op: str, opset: int, tmp_path: Path) -> None:
    graph: Graph = make()  # type: ignore[operator]
    assert graph.unverifiable == (op,) and graph.opset[""] == opset
    verify(graph, SEMANTICS)
    verify(copy_graph(graph), SEMANTICS)
    go.save(graph, tmp_path / "m.gir")
    again = go.load(tmp_path / "m.gir")
    verify(again, SEMANTICS)
    assert again.unverifiable == (op,) and again.opset[""] == opset
    go.save(again, tmp_path / "m.onnx")
    assert [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node] == [op, "Relu"]


def test_what_a_model_brings_excuses_nothing_else() -> None:
    graph = newer()
    with pytest.raises(VerifyError, match='Frobnicate "y": opset 26'):
        replaced(graph, "Frobnicate").check()


def test_a_model_of_known_operators_is_wholly_verified() -> None:
    assert plain().unverifiable == ()
    assert model("g (float[4] x) => (float[4] y) { y = Celu<alpha=2.0>(x) }", 28).unverifiable == ()


def test_a_text_with_unknown_operators_is_not_valid() -> None:
    text = print_graph(plain()).replace("= Relu(", "= Frobnicate(")
    with pytest.raises(VerifyError, match='Frobnicate "y": opset 26 of ONNX has no such operator'):
        verify(parse_graph(text), SEMANTICS)
