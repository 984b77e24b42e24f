"""``graphopt diff`` as a process: exit codes, forms, and what it does with bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cli.test_cli import assert_refused, folder, graphopt

__all__ = ["folder"]


def network(path: Path, *, axis: int = 1, bias: float = 1.0, prefix: str = "") -> Path:
    """A small network in a file; ``prefix`` changes internal names and the order of nodes."""
    p = prefix
    nodes = [
        helper.make_node("Add", ["x", f"{p}b"], [f"{p}a"], name=f"{p}add"),
        helper.make_node("Softmax", [f"{p}a"], [f"{p}s"], name=f"{p}softmax", axis=axis),
        helper.make_node("Relu", [f"{p}a"], [f"{p}r"], name=f"{p}relu"),
        helper.make_node("Mul", [f"{p}s", f"{p}r"], ["y"], name=f"{p}mul"),
    ]
    if prefix:
        nodes[1], nodes[2] = nodes[2], nodes[1]
    graph = helper.make_graph(
        nodes,
        f"{p}net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.full(4, bias, np.float32), f"{p}b")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_equal_graphs_exit_with_0(tmp_path: Path) -> None:
    done = graphopt("diff", network(tmp_path / "a.onnx"), network(tmp_path / "b.onnx", prefix="q"))
    assert (done.returncode, done.stdout) == (0, "the graphs are equal (4 nodes)\n"), done.stderr


def test_different_graphs_exit_with_1(tmp_path: Path) -> None:
    a, b = network(tmp_path / "a.onnx"), network(tmp_path / "b.onnx", axis=0, prefix="q")
    done = graphopt("diff", a, b)
    expected = 'nodes: 1 changed, 3 the same\n~ Softmax "softmax" (now "qsoftmax")  attribute axis: 1 → 0\n'
    assert (done.returncode, done.stdout, done.stderr) == (1, expected, "")


def test_json_and_options(tmp_path: Path) -> None:
    a, b = network(tmp_path / "a.onnx"), network(tmp_path / "b.onnx", bias=1.25)
    done = graphopt("diff", a, b, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1 and document["changed"][0]["changes"][0]["distance"]["largest"] == 0.25
    assert graphopt("diff", a, b, "--weights", "shape").returncode == 0
    assert graphopt("diff", a, b, "--weights", "0.3").returncode == 0
    assert graphopt("diff", a, b, "--weights", "0.2").returncode == 1


def test_an_artifact_holds_its_graph(folder: Path, tmp_path: Path) -> None:
    assert graphopt("diff", folder / "net.gopt", folder / "net.gopt").returncode == 0
    graphopt("opt", folder / "net.onnx", "-o", tmp_path / "net.gir", "-p", "O1")
    done = graphopt("diff", tmp_path / "net.gir", folder / "net.gopt")
    assert done.returncode == 1 and "graphopt.fused" in done.stdout


def test_html_is_written(tmp_path: Path) -> None:
    a, b = network(tmp_path / "a.onnx"), network(tmp_path / "b.onnx", axis=0)
    done = graphopt("diff", a, b, "--html", tmp_path / "page.html")
    assert done.returncode == 1 and done.stdout.endswith(f"wrote {tmp_path / 'page.html'}\n")
    assert "a.onnx ↔ b.onnx" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_bad_input_is_refused(folder: Path, tmp_path: Path) -> None:
    model = network(tmp_path / "a.onnx")
    assert_refused(graphopt("diff", model, tmp_path / "none.onnx"), "none.onnx", "no such file")
    (tmp_path / "text.onnx").write_text("hello")
    assert_refused(graphopt("diff", tmp_path / "text.onnx", model), "text.onnx")
    assert_refused(graphopt("diff", model, tmp_path), "folder")
    assert_refused(graphopt("diff", model, model, "--weights", "near"), "near", "exact", "shape")
    (tmp_path / "bad.gir").write_text("gir 1\ngraph {")
    assert_refused(graphopt("diff", model, tmp_path / "bad.gir"), "bad.gir")


@pytest.mark.parametrize("target", ["missing/page.html", "folder"])
def test_an_unwritable_page_leaves_nothing(tmp_path: Path, target: str) -> None:
    (tmp_path / "folder").mkdir()
    a, b = network(tmp_path / "a.onnx"), network(tmp_path / "b.onnx", axis=0)
    before = sorted(tmp_path.rglob("*"))
    assert_refused(graphopt("diff", a, b, "--html", tmp_path / target), target, "can't be written")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unwritable_page_is_told_before_the_models_are_read(tmp_path: Path) -> None:
    done = graphopt(
        "diff", tmp_path / "none.onnx", tmp_path / "none.onnx", "--html", tmp_path / "no" / "p.html"
    )
    assert_refused(done, "p.html can't be written", "make it first")
    assert "none.onnx" not in done.stderr
