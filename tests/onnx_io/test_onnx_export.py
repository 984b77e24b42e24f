"""What is written: fused nodes inlined or as functions, names, onnx_ir models, and how fast."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import helper
from onnx_models import parse, run_ort

from graphopt.errors import ModelError
from graphopt.evaluate import Session
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse_graph
from graphopt.ir.rewriter import Rewriter
from graphopt.onnx_io import from_onnx_ir, load, save, to_onnx_ir, to_proto
from graphopt.ops import SEMANTICS

MODEL = """g (float[n,4] x) => (float[n,2] y, float[n,2] z)
    <float[4,2] w = {1,2,3,4,5,6,7,8}, float[2] b = {1,-1}> {
    a = MatMul(x, w)
    h = Add(a, b)
    y = Relu(h)
    z = Neg(y)
}"""
X = np.array([[1, -1, 2, -2], [0, 1, 0, -3]], np.float32)


def fused() -> Graph:
    """The model with its first three nodes in a fused region."""
    graph = load(parse(MODEL))
    rewriter = Rewriter(graph, SEMANTICS)
    nodes = graph.nodes[:3]
    with rewriter.rewrite("fuse", nodes[0]):
        rewriter.fuse(nodes, nodes[-1].output, name="region")
    assert [node.op for node in graph.nodes] == ["fused", "Neg"]
    return graph


@pytest.mark.parametrize("inline", [True, False])
def test_fused_nodes(inline: bool) -> None:
    exported = to_proto(fused(), inline=inline)
    onnx.checker.check_model(exported, full_check=inline)
    want = run_ort(parse(MODEL), {"x": X})
    got = run_ort(exported, {"x": X})
    np.testing.assert_array_equal(got, want)
    if inline:
        assert [node.op_type for node in exported.graph.node] == ["MatMul", "Add", "Relu", "Neg"]
        assert not exported.functions
    else:
        assert [node.op_type for node in exported.graph.node] == ["fused_0", "Neg"]
        (function,) = exported.functions
        assert [node.op_type for node in function.node] == ["MatMul", "Add", "Relu"]
        assert {entry.domain for entry in exported.opset_import} == {"", "graphopt"}


def test_writing_is_deterministic_and_reads_back() -> None:
    for inline in (True, False):
        first, second = (to_proto(fused(), inline=inline).SerializeToString() for _ in range(2))
        assert first == second
        graph = load(first)
        assert [node.op for node in graph.nodes] == ["MatMul", "Add", "Relu", "Neg"]
        assert [str(value.type) for value in graph.outputs] == ["f32[n, 2]"] * 2


def test_output_names_survive_when_other_values_take_them() -> None:
    graph = load(parse(MODEL))
    rewriter = Rewriter(graph, SEMANTICS)
    with rewriter.rewrite("swap", graph.nodes[-1]):
        for node, name in ((graph.nodes[2], "t"), (graph.nodes[3], "y"), (graph.nodes[2], "z")):
            rewriter.rename(node.output, name)
    exported = to_proto(graph)
    onnx.checker.check_model(exported, full_check=True)
    assert [info.name for info in exported.graph.output] == ["y", "z"]
    np.testing.assert_array_equal(run_ort(exported, {"x": X}), run_ort(parse(MODEL), {"x": X}))


def test_one_value_behind_two_outputs() -> None:
    graph = load(parse(MODEL))
    rewriter = Rewriter(graph, SEMANTICS)
    y, z = graph.outputs
    with rewriter.rewrite("alias", graph.nodes[-1]):
        rewriter.replace(z, y)
        rewriter.erase(graph.nodes[-1])
    exported = to_proto(graph)
    onnx.checker.check_model(exported, full_check=True)
    got = run_ort(exported, {"x": X})
    np.testing.assert_array_equal(got[0], got[1])


def test_unused_constants_are_not_written() -> None:
    model = parse(MODEL)
    model.graph.initializer.add().CopyFrom(helper.make_tensor("unused", 1, [2], [1.0, 2.0]))
    assert {tensor.name for tensor in to_proto(load(model)).graph.initializer} == {"w", "b"}


def test_constants_of_graphs_that_stand_alone() -> None:
    """An unknown operator's graph may not see outside; its constants are written into it."""
    text = (
        "g (float[3] x) => (float[3] y) { y = custom.Map<body = body (float[3] p) => (float[3] q)"
        " { c = Constant<value_float=2.0>() q = Mul(p, c) }>(x) }"
    )
    exported = to_proto(load(parse(text, domains={"custom": 1})))
    assert not exported.graph.initializer
    (attribute,) = exported.graph.node[0].attribute
    assert [tensor.name for tensor in attribute.g.initializer] == [attribute.g.node[0].input[1]]


def test_onnx_ir_models_there_and_back() -> None:
    graph = load(parse(MODEL))
    model = to_onnx_ir(graph)
    assert isinstance(model, onnx_ir.Model)
    weight = model.graph.initializers["w"].const_value
    assert weight is not None
    assert np.shares_memory(weight.numpy(), graph.constants["w"].const.numpy())  # type: ignore[union-attr]
    again = from_onnx_ir(model)
    assert model.graph.initializers["w"].const_value is weight
    np.testing.assert_array_equal(Session(again).run({"x": X})["y"], Session(graph).run({"x": X})["y"])


def test_from_onnx_ir_does_not_copy() -> None:
    data = np.arange(8, dtype=np.float32).reshape(4, 2)
    model = onnx_ir.serde.deserialize_model(parse(MODEL))
    model.graph.initializers["w"].const_value = onnx_ir.Tensor(data, name="w")
    held = from_onnx_ir(model).constants["w"].const
    assert held is not None
    assert np.shares_memory(held.numpy(), data)
    assert to_onnx_ir(from_onnx_ir(model)).graph.initializers["w"].const_value.numpy() is not None


def test_operators_without_a_newest_kernel_are_written_for_an_older_opset() -> None:
    text = (
        "g (float[1,1,8,8] x) => (float[1,1,2,2] y) <float[1,4] r = {0,0,4,4}, int64[1] b = {0}>"
        "{ y = RoiAlign<output_height=2, output_width=2>(x, r, b) }"
    )
    graph = load(parse(text, opset=22))
    exported = to_proto(graph)
    assert exported.opset_import[0].version == 21
    assert graph.opset[""] == load(exported).opset[""] == 26
    assert Session(graph, "ort").run({"x": np.ones((1, 1, 8, 8), np.float32)})["y"].shape == (1, 1, 2, 2)


def test_an_attribute_that_can_t_be_written_is_located() -> None:
    graph = parse_graph(
        'gir 1\ngraph "g" opset 26 {\n  input %x: f32[2]\n'
        '  %y: f32[2] = "my.domain".Foo(%x) {a = ref("b", "NONSENSE")} "foo"\n  return %y as "y"\n}'
    )
    with pytest.raises(ModelError, match=r'my\.domain\.Foo "foo": attribute "a" can\'t be written'):
        to_proto(graph)


def test_node_names_are_unique() -> None:
    """Inlining a function twice and taking an old operator apart must not repeat a name."""
    text = """g (float[2,3,4] x) => (float[2,3,4] y) {
        a = f.twice(x)
        b = f.twice(a)
        [same] c = Relu(b)
        [same] d = Relu(c)
        [soft] y = Softmax<axis=1>(d)
    }
    <domain: "f", opset_import: ["": 11]> twice (a) => (b) { [inner] t = Add(a, a) [last] b = Softmax(t) }"""
    exported = to_proto(load(parse(text, opset=11, domains={"f": 1})))
    names = [node.name for node in exported.graph.node if node.name]
    assert len(names) == len(set(names))
    assert {"same", "same_1", "soft"} <= set(names)
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    assert run_ort(exported, {"x": x})[0].shape == (2, 3, 4)


def chain(count: int) -> onnx.ModelProto:
    """``count`` nodes, Add and Relu in turn."""
    nodes, previous = [], "x"
    for index in range(count // 2):
        nodes.append(
            helper.make_node("Add", [previous, f"w{index % 100}"], [f"a{index}"], name=f"add{index}")
        )
        nodes.append(helper.make_node("Relu", [f"a{index}"], [f"r{index}"], name=f"relu{index}"))
        previous = f"r{index}"
    weights = [onnx.numpy_helper.from_array(np.ones(64, np.float32), f"w{index}") for index in range(100)]
    ends = [helper.make_tensor_value_info(name, 1, ["n", 64]) for name in ("x", previous)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def seconds(model: onnx.ModelProto, path: Path) -> tuple[float, float]:
    data = model.SerializeToString()
    start = time.process_time()
    graph = load(data)
    loaded = time.process_time()
    save(graph, path)
    return loaded - start, time.process_time() - loaded


def test_time_grows_linearly(tmp_path: Path) -> None:
    seconds(chain(100), tmp_path / "warm.onnx")
    small = seconds(chain(5_000), tmp_path / "small.onnx")
    large = seconds(chain(20_000), tmp_path / "large.onnx")
    assert all(b < 10 * a for a, b in zip(small, large, strict=True)), (small, large)


@pytest.mark.sweep
def test_50_000_nodes_in_4_seconds(tmp_path: Path) -> None:
    seconds(chain(100), tmp_path / "warm.onnx")
    loaded, saved = seconds(chain(50_000), tmp_path / "model.onnx")
    assert loaded < 4
    assert saved < 3
