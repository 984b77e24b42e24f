"""Attention as one kernel, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import graphopt as go
from graphopt.ir.rewriter import Rewriter
from graphopt.ops import SEMANTICS
from graphopt.targets import Target
from tests.backend.programs import assert_close, expected_of, numbers, outputs_of, program

N = helper.make_node
I64 = np.int64
TARGETS = ["x86-64-v3", *(["x86-64-v4"] if Target.parse("native").has("avx512f") else [])]


def nodes(masked: bool, cleaned: bool, transposed: bool) -> list[onnx.NodeProto]:
    """Attention between heads that are split apart and joined."""
    split = [
        n
        for x in "qkv"
        for n in (
            N("Reshape", [x, f"{x}_heads"], [f"{x}1"]),
            N("Transpose", [f"{x}1"], [f"{x}2"], perm=[0, 2, 3, 1] if x == "k" else [0, 2, 1, 3]),
        )
    ]
    scores = [
        N("Mul", ["q2", "scale"], ["q3"]),
        N("MatMul", ["q3", "k2"], ["s0"]),
        N("Div", ["s0", "four"], ["s1"]),
    ]
    scores.append(N("Add", ["s1", "mask"], ["s2"]) if masked else N("Identity", ["s1"], ["s2"]))
    scores.append(N("Softmax", ["s2"], ["p0"], axis=-1))
    if cleaned:
        scores += [N("IsNaN", ["p0"], ["nan"]), N("Where", ["nan", "zero", "p0"], ["p1"])]
    result = [N("MatMul", ["p1" if cleaned else "p0", "v2"], ["o"])]
    if transposed:
        result += [N("Transpose", ["o"], ["o1"], perm=[0, 2, 1, 3]), N("Reshape", ["o1", "joined"], ["y"])]
    else:
        result += [N("Identity", ["o"], ["y"])]
    return split + scores + result


def case(
    sizes: tuple[int, int, int, int, int, int],
    *,
    masked: bool,
    cleaned: bool,
    transposed: bool,
    symbolic: bool,
) -> tuple[go.Graph, dict[str, np.ndarray]]:
    """A program and its inputs, for sizes (batch, heads, queries, keys, depth, columns)."""
    batch, heads, queries, keys, depth, columns = sizes
    inputs = {
        "q": numbers(0, batch, queries, heads * depth),
        "k": numbers(1, batch, keys, heads * depth) * np.float32(2),
        "v": numbers(2, batch, keys, heads * columns),
    }
    dims: dict[str, list[int | str]] = {}
    if symbolic:
        dims = {n: ["n", "s" if n == "q" else "t", *a.shape[2:]] for n, a in inputs.items()}
    if masked:
        mask = np.where(numbers(3, batch, 1, queries, keys) > 0.8, -np.inf, 0).astype(np.float32)
        mask[..., 0] = 0
        if cleaned:
            mask[:, :, -1] = -np.inf  # nothing to attend to
        inputs["mask"] = mask
        if symbolic:
            dims["mask"] = ["n", 1, "s", "t"]
    constants = {
        **{f"{x}_heads": np.array([0, 0, heads, -1], I64) for x in "qkv"},
        "joined": np.array([0, 0, -1], I64), "scale": np.float32(0.4), "four": np.float32(4), "zero": np.float32(0),
    }  # fmt: skip
    return program(nodes(masked, cleaned, transposed), inputs, constants, dims=dims), inputs


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_attention_of_any_size(data: st.DataObject) -> None:
    sizes = tuple(
        data.draw(st.sampled_from(choices))
        for choices in (
            [1, 2],
            [1, 3],
            [1, 5, 8, 33, 50],
            [1, 3, 16, 37, 130],
            [1, 8, 20, 64],
            [1, 8, 20, 64],
        )
    )
    choices = {name: data.draw(st.booleans()) for name in ("masked", "cleaned", "transposed", "symbolic")}
    graph, inputs = case(sizes, **choices)  # type: ignore[arg-type]
    target = Target.parse(data.draw(st.sampled_from(TARGETS)))
    optimized = go.optimize(graph, "O2", target=target)
    assert not any(node.op == "Softmax" for node in optimized.nodes)
    (expected,) = expected_of(graph, inputs)
    (ours,) = outputs_of(optimized, inputs, target)
    assert_close(ours, expected, 1e-5)


def test_the_scores_are_not_in_memory() -> None:
    graph, _ = case((1, 12, 128, 128, 32, 32), masked=True, cleaned=True, transposed=True, symbolic=False)
    optimized = go.optimize(graph, "O2", target="x86-64-v4")
    shapes = [value.tensor.shape for node in optimized.nodes for value in node.outputs]
    assert (1, 12, 128, 128) not in shapes
    assert [node.is_fused for node in optimized.nodes].count(True) == 1


@pytest.mark.parametrize("used", ["s1", "p0", "q3"])
def test_what_is_used_elsewhere_is_computed(used: str) -> None:
    """Scores or weights that are a result, too, keep attention apart; an operand does not."""
    sizes = (1, 2, 5, 7, 8, 8)
    _, inputs = case(sizes, masked=False, cleaned=False, transposed=True, symbolic=False)
    constants = {
        **{f"{x}_heads": np.array([0, 0, 2, -1], I64) for x in "qkv"},
        "joined": np.array([0, 0, -1], I64), "scale": np.float32(0.4), "four": np.float32(4),
    }  # fmt: skip
    graph = program(nodes(False, False, True), inputs, constants, outputs=["y", used])
    optimized = go.optimize(graph, "O2", target="x86-64-v4")
    together = any(
        {"MatMul", "Softmax"} <= {inner.op for inner in node.body}
        for node in optimized.nodes
        if node.is_fused
    )
    assert together == (used == "q3")
    for ours, theirs in zip(outputs_of(optimized, inputs), expected_of(graph, inputs), strict=True):
        assert_close(ours, theirs, 1e-5)


CHAIN = [N("MatMul", ["q", "k"], ["s"]), N("Softmax", ["s"], ["p"], axis=-1), N("MatMul", ["p", "v"], ["y"])]


@pytest.mark.parametrize(
    "sizes",
    [(2, 0, 4, 5), (0, 3, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)],
    ids=["keys", "queries", "depth", "columns"],
)
@pytest.mark.parametrize("symbolic", [False, True])
def test_attention_of_nothing(sizes: tuple[int, int, int, int], symbolic: bool) -> None:
    queries, keys, depth, columns = sizes
    inputs = {
        "q": numbers(0, 2, queries, depth),
        "k": numbers(1, 2, depth, keys),
        "v": numbers(2, 2, keys, columns),
    }
    dims = {"q": ["b", "q", "d"], "k": ["b", "d", "k"], "v": ["b", "k", "c"]} if symbolic else None
    graph = program(CHAIN, inputs, dims=dims)
    for pipeline in ("fuse-attention", "eliminate-dead-code"):
        optimized = go.optimize(graph, pipeline)
        assert optimized.nodes[0].is_fused == (pipeline == "fuse-attention")
        (ours,) = outputs_of(optimized, inputs)
        assert_close(ours, expected_of(graph, inputs)[0])


def test_values_with_more_batches_than_weights_are_left_alone() -> None:
    inputs = {"q": numbers(0, 2, 4, 8), "k": numbers(1, 2, 8, 6), "v": numbers(2, 3, 2, 6, 5)}
    graph = program(CHAIN, inputs)
    optimized = go.optimize(graph, "fuse-attention")
    assert not any(node.is_fused for node in optimized.nodes)
    (ours,) = outputs_of(optimized, inputs)
    assert_close(ours, expected_of(graph, inputs)[0])


def test_operands_that_share_their_lead() -> None:
    inputs = {"x": numbers(0, 2, 4, 4), "v": numbers(1, 2, 4, 5)}
    nodes = [N("Mul", ["x", "half"], ["t"]), N("MatMul", ["t", "t"], ["s"]), *CHAIN[1:]]
    graph = program(nodes, inputs, {"half": np.float32(0.5)})
    optimized = go.optimize(graph, "fuse-attention")
    (region,) = optimized.nodes
    assert [node.op for node in region.body] == ["Mul", "MatMul", "Softmax", "MatMul"]
    (ours,) = outputs_of(optimized, inputs)
    assert_close(ours, expected_of(graph, inputs)[0])


SQUARE = {"q": numbers(0, 2, 4, 4), "k": numbers(1, 2, 4, 4), "v": numbers(2, 2, 4, 4)}
LOOKALIKES = {
    "softmax over rows": [CHAIN[0], N("Softmax", ["s"], ["p"], axis=1), CHAIN[2]],
    "weights on the right": [*CHAIN[:2], N("MatMul", ["v", "p"], ["y"])],
    "softmax of an operand": [
        N("Softmax", ["q"], ["p"], axis=-1), N("MatMul", ["q", "k"], ["s"]), N("MatMul", ["p", "s"], ["y"]),
    ],
    "scores are the values": [*CHAIN[:2], N("MatMul", ["p", "s"], ["y"])],
    "scores beside the weights": [*CHAIN[:2], N("Mul", ["p", "s"], ["t"]), N("MatMul", ["t", "v"], ["y"])],
    "transposed scores": [
        CHAIN[0], N("Transpose", ["s"], ["t"], perm=[0, 2, 1]), N("Softmax", ["t"], ["p"], axis=-1), CHAIN[2],
    ],
    "transposed weights": [*CHAIN[:2], N("Transpose", ["p"], ["t"], perm=[0, 2, 1]), N("MatMul", ["t", "v"], ["y"])],
    "a reduction between": [
        CHAIN[0], N("ReduceMax", ["s", "last"], ["m"], keepdims=1), N("Sub", ["s", "m"], ["t"]),
        N("Softmax", ["t"], ["p"], axis=-1), CHAIN[2],
    ],
    "softmax beside the result": [*CHAIN[:2], N("MatMul", ["q", "v"], ["r"]), N("Add", ["r", "p"], ["y"])],
}  # fmt: skip


@pytest.mark.parametrize("what", LOOKALIKES)
def test_regions_that_only_look_like_attention(what: str) -> None:
    """One region with two products and a softmax, which is no attention all the same."""
    graph = program(LOOKALIKES[what], SQUARE, {"last": np.array([-1], I64)})
    nodes = list(graph.nodes)
    rewriter = Rewriter(graph, SEMANTICS)
    with rewriter.rewrite("all"):
        rewriter.fuse(nodes, graph.outputs[0])
    (ours,) = outputs_of(graph, SQUARE)
    assert_close(ours, expected_of(graph, SQUARE)[0])
