"""8-bit weights that are widened and scaled, from the graph to the kernel."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import graphopt as go
from graphopt.targets import Target
from tests.backend.programs import assert_close, expected_of, numbers, outputs_of, program

N = helper.make_node
VNNI = "x86-64-v4+avx512vnni"
HOST = Target.parse("native")
TARGETS = [
    "x86-64-v3",
    *(["x86-64-v4"] if HOST.has("avx512f") else []),
    *([VNNI] if HOST.has("avx512vnni") else []),
]


def weights(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(1).integers(-128, 128, (rows, columns)).astype(np.int8)


def scaled(quantized: bool, zero: int = 0) -> list[object]:
    if quantized:
        return [N("DequantizeLinear", ["q", "s", "z"], ["w"], axis=1)]
    return [N("Cast", ["q"], ["f"], to=1), N("Mul", ["s", "f"], ["w"])]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(("columns", "per_column"), [(48, True), (48, False), (21, True)])
def test_scales_are_applied_to_the_product(
    target: str, quantized: bool, columns: int, per_column: bool
) -> None:
    scale = np.abs(numbers(2, columns)) if per_column else np.float32(0.01)
    constants = {
        "q": weights(70, columns),
        "s": scale,
        "z": np.zeros(np.shape(scale), np.int8),
        "b": numbers(3, columns),
    }
    nodes = [
        *scaled(quantized),
        N("MatMul", ["x", "w"], ["m"]),
        N("Add", ["m", "b"], ["a"]),
        N("Relu", ["a"], ["y"]),
    ]
    x = numbers(0, 2, 9, 70)
    graph = program(nodes, {"x": x}, constants, dims={"x": ["n", 9, 70]})  # type: ignore[arg-type]
    optimized = go.optimize(graph, "O2", target=target)
    (region,) = [node for node in optimized.nodes if node.is_fused]
    assert [node.op for node in region.body] == ["Cast", "MatMul", "Mul", "Add", "Relu"]
    (ours,) = outputs_of(optimized, {"x": x}, Target.parse(target))
    assert_close(ours, expected_of(graph, {"x": x})[0], 2e-6)


@pytest.mark.parametrize("what", ["a scale for each row", "a zero point"])
def test_other_scales_stay_with_the_weights(what: str) -> None:
    rows = what == "a scale for each row"
    scale = np.abs(numbers(2, 16, 1)) if rows else np.float32(0.01)
    constants = {"q": weights(16, 32), "s": scale, "z": np.int8(3)}
    nodes = [*scaled(not rows), N("MatMul", ["x", "w"], ["y"])]
    x = numbers(0, 5, 16)
    graph = program(nodes, {"x": x}, constants)  # type: ignore[arg-type]
    optimized = go.optimize(graph, "scale-after-product")
    assert [node.op for node in optimized.nodes] == [node.op for node in graph.nodes]
    (ours,) = outputs_of(optimized, {"x": x})
    assert_close(ours, expected_of(graph, {"x": x})[0])


@pytest.mark.parametrize("target", TARGETS)
def test_large_numbers_that_meet_no_weights(target: str) -> None:
    """The results come from the small numbers, and are as exact as sums of floats; other layers are not touched."""
    q = weights(64, 32)
    q[5] = 0
    constants = {"q": q, "r": weights(64, 32), "s": np.float32(0.01)}
    nodes = [
        N("Cast", ["q"], ["f"], to=1),
        N("Mul", ["f", "s"], ["w"]),
        N("MatMul", ["x", "w"], ["y"]),
        N("Cast", ["r"], ["g"], to=1),
        N("Mul", ["g", "s"], ["v"]),
        N("MatMul", ["x", "v"], ["z"]),
    ]
    x = numbers(0, 9, 64)
    x[:, 5] = 1e6
    for outputs in (("y", "z"), ("z", "y")):
        graph = program(nodes, {"x": x}, constants, outputs=outputs)  # type: ignore[arg-type]
        optimized = go.optimize(graph, "O2", target=target)
        compiled = outputs_of(optimized, {"x": x}, Target.parse(target))
        for ours, theirs in zip(compiled, expected_of(graph, {"x": x}), strict=True):
            assert_close(ours, theirs, 2e-6)
