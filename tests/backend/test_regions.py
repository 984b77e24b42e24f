"""What becomes of a graph: kernels, calls, weights, and refusals that say where and why."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import graphopt as go
from graphopt.backend.assemble import assemble
from graphopt.backend.compile import compile_graph
from graphopt.errors import CompileError
from graphopt.targets import Target
from tests.backend.programs import NATIVE, numbers, program

N = helper.make_node


def _layers(count: int) -> go.Graph:
    nodes, constants = [], {}
    for i in range(count):
        nodes += [
            N("Conv", [f"x{i}", f"w{i}", f"b{i}"], [f"c{i}"], pads=[1, 1, 1, 1]),
            N("Relu", [f"c{i}"], [f"x{i + 1}"]),
        ]
        constants |= {f"w{i}": numbers(i, 8, 8, 3, 3), f"b{i}": numbers(i, 8)}
    return go.optimize(
        program(nodes, {"x0": numbers(0, 1, 8, 10, 10)}, constants, outputs=[f"x{count}"]), "fuse-regions"
    )


def test_equal_layers_share_a_kernel() -> None:
    assembled = assemble(_layers(4), NATIVE)
    assert {name: len(nodes) for name, nodes in assembled.kernels.items()} == {"conv_relu": 4}
    assert len(assembled.weights) == 8


def test_code_that_holds_a_constant_is_not_shared_with_another_constant() -> None:
    nodes = [N("Add", ["x", "a"], ["p"]), N("Add", ["x", "b"], ["q"]), N("Add", ["x", "c"], ["r"])]
    constants = {"a": np.float32(1), "b": np.float32(2), "c": np.float32(1)}
    graph = program(nodes, {"x": numbers(0, 8)}, constants, outputs=["p", "q", "r"])
    assembled = assemble(graph, NATIVE)
    assert [len(nodes) for nodes in assembled.kernels.values()] == [2, 1] or [
        len(nodes) for nodes in assembled.kernels.values()
    ] == [1, 2]
    assert not assembled.weights


def test_a_weight_is_kept_once() -> None:
    nodes = [N("MatMul", ["x", "w"], ["h"]), N("Relu", ["h"], ["r"]), N("MatMul", ["r", "w"], ["y"])]
    graph = program(nodes, {"x": numbers(0, 4, 16)}, {"w": numbers(1, 16, 16)})
    assert len(assemble(graph, NATIVE).weights) == 1


def test_reshapes_between_kernels_are_views() -> None:
    nodes = [N("Relu", ["x"], ["a"]), N("Reshape", ["a", "s"], ["b"]), N("Softmax", ["b"], ["y"])]
    graph = program(nodes, {"x": numbers(0, 4, 6)}, {"s": np.array([2, 12])})
    assert sorted(assemble(graph, NATIVE).kernels) == ["relu", "softmax"]


def test_sizes_are_not_read_where_shapes_say_them() -> None:
    """The shape computation leaves no kernel behind."""
    nodes = [N("Shape", ["x"], ["s"]), N("Reshape", ["x", "t"], ["r"]), N("Relu", ["r"], ["y"]),
             N("Slice", ["s", "zero", "one"], ["n"]), N("Concat", ["n", "rest"], ["t"], axis=0)]  # fmt: skip
    constants = {"zero": np.array([0]), "one": np.array([1]), "rest": np.array([-1])}
    order = [nodes[0], nodes[3], nodes[4], nodes[1], nodes[2]]
    graph = program(order, {"x": numbers(0, 2, 3, 4)}, constants, dims={"x": ["n", 3, "w"]})
    assert list(assemble(graph, NATIVE).kernels) == ["relu"]


def test_the_same_graph_gives_the_same_module() -> None:
    first, second = (assemble(_layers(2), NATIVE) for _ in range(2))
    assert first.module.script() == second.module.script()


def test_unknown_operators_are_named_together() -> None:
    nodes = [
        N("NonMaxSuppression", ["b", "s"], ["i"], name="nms"),
        N("Unique", ["x"], ["u"], name="first"),
        N("Unique", ["x"], ["v"], name="second"),
    ]
    inputs = {"x": numbers(0, 5), "b": numbers(1, 1, 5, 4), "s": numbers(2, 1, 1, 5)}
    graph = program(nodes, inputs, outputs=["i", "u", "v"])
    with pytest.raises(CompileError) as caught:
        compile_graph(graph, NATIVE)
    assert 'NonMaxSuppression (1, first NonMaxSuppression "nms")' in caught.value.message
    assert 'Unique (2, first Unique "first")' in caught.value.message
    assert caught.value.hint


def test_types_without_kernels_are_refused() -> None:
    graph = program([N("Identity", ["x"], ["y"])], {"x": np.array(["a"], object)})
    with pytest.raises(CompileError, match="can't be compiled"):
        compile_graph(graph, NATIVE)


def test_training_is_refused() -> None:
    nodes = [N("Dropout", ["x", "r", "t"], ["y"], name="drop")]
    graph = program(nodes, {"x": numbers(0, 5)}, {"r": np.float32(0.5), "t": np.array(True)})
    with pytest.raises(CompileError, match='Dropout "drop" can\'t be compiled'):
        compile_graph(graph, NATIVE)


def test_a_size_that_depends_on_data_is_refused() -> None:
    nodes = [N("Reshape", ["x", "s"], ["r"], name="free"), N("Relu", ["r"], ["y"])]
    graph = program(nodes, {"x": numbers(0, 6), "s": np.array([2, 3])})
    with pytest.raises(CompileError, match="depends on data"):
        compile_graph(graph, NATIVE)


def test_gpu_kernels_are_scheduled() -> None:
    pytest.importorskip("cuda.bindings")
    nodes = [N("Conv", ["x", "w"], ["c"]), N("Relu", ["c"], ["r"]), N("GlobalAveragePool", ["r"], ["g"]),
             N("Softmax", ["g"], ["y"], axis=1)]  # fmt: skip
    graph = go.optimize(
        program(nodes, {"x": numbers(0, 1, 3, 9, 9)}, {"w": numbers(1, 4, 3, 3, 3)}), "fuse-regions"
    )
    artifact = compile_graph(graph, Target.parse("cuda:sm_80"))
    assert len(artifact.variants[0].kernels) == 3
