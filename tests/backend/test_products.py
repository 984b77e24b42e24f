"""Convolutions and matrix products with everything that goes through their epilogues, and the fallbacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from graphopt.errors import InputError
from tests.backend.programs import assert_close, check, expected_of, numbers, outputs_of, program

N = helper.make_node


@pytest.mark.parametrize("constant", [True, False], ids=["packed", "computed"])
@pytest.mark.parametrize(
    ("a", "b"),
    [((5, 7), (7, 9)), ((3, 5, 7), (7, 9)), ((2, 3, 5, 7), (2, 3, 7, 33)), ((7,), (7, 9)), ((5, 7), (7,)),
     ((7,), (7,)), ((2, 1, 5, 7), (3, 7, 9)), ((1, 5, 7), (4, 7, 9))],
)  # fmt: skip
def test_matmul_of_all_ranks(a: tuple[int, ...], b: tuple[int, ...], constant: bool) -> None:
    x, w = numbers(0, *a), numbers(1, *b)
    nodes = [N("MatMul", ["x", "w"], ["y"])]
    check(nodes, {"x": x} if constant else {"x": x, "w": w}, {"w": w} if constant else {})


def test_matmul_with_dynamic_sizes_and_an_epilogue() -> None:
    nodes = [
        N("MatMul", ["x", "w"], ["p"]),
        N("Add", ["p", "b"], ["s"]),
        N("Gelu", ["s"], ["g"]),
        N("Add", ["g", "r"], ["y"]),
    ]
    inputs = {"x": numbers(0, 3, 11, 24), "r": numbers(3, 3, 11, 40)}
    dims = {"x": ["n", "t", 24], "r": ["n", "t", 40]}
    constants = {"w": numbers(1, 24, 40), "b": numbers(2, 40)}
    check(nodes, inputs, constants, dims=dims, pipeline="fuse-regions")


def test_attention() -> None:
    """Transposed operands are read in place; the scale and the mask join the softmax."""
    nodes = [
        N("Transpose", ["q"], ["qt"], perm=[0, 2, 1, 3]),
        N("Transpose", ["k"], ["kt"], perm=[0, 2, 3, 1]),
        N("Transpose", ["v"], ["vt"], perm=[0, 2, 1, 3]),
        N("MatMul", ["qt", "kt"], ["s"]),
        N("Mul", ["s", "scale"], ["m"]),
        N("Add", ["m", "mask"], ["a"]),
        N("Softmax", ["a"], ["p"]),
        N("MatMul", ["p", "vt"], ["o"]),
        N("Transpose", ["o"], ["y"], perm=[0, 2, 1, 3]),
    ]
    inputs = {name: numbers(i, 2, 9, 4, 8) for i, name in enumerate("qkv")}
    dims: dict[str, list[int | str]] = {name: ["b", "t", 4, 8] for name in "qkv"}
    inputs["mask"] = np.where(numbers(5, 2, 1, 1, 9) > 0, 0, -1e4).astype(np.float32)
    dims["mask"] = ["b", 1, 1, "t"]
    check(nodes, inputs, {"scale": np.float32(0.35)}, dims=dims, pipeline="fuse-regions")


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("constant", [True, False])
def test_gemm(trans_a: int, trans_b: int, constant: bool) -> None:
    a = numbers(0, *((6, 17)[:: -1 if trans_a else 1]))
    b = numbers(1, *((17, 21)[:: -1 if trans_b else 1]))
    nodes = [N("Gemm", ["a", "b", "c"], ["y"], transA=trans_a, transB=trans_b, alpha=0.5, beta=2.0)]
    inputs = {"a": a} if constant else {"a": a, "b": b}
    check(nodes, inputs, {"c": numbers(2, 21)} | ({"b": b} if constant else {}))


@pytest.mark.parametrize("dtype", [np.int32, np.float64, np.float16])
def test_products_of_other_types(dtype: type) -> None:
    check([N("MatMul", ["x", "w"], ["y"])], {"x": numbers(0, 4, 9, dtype=dtype), "w": numbers(1, 9, 20, dtype=dtype)}, tolerance=2e-3)  # fmt: skip


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_convolutions(data: st.DataObject) -> None:
    rank, groups = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 1, 2, 4]))
    inner, outer = groups * data.draw(st.integers(1, 3)), groups * data.draw(st.integers(1, 5))
    kernel = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    size = [data.draw(st.sampled_from([5, 8, 17])) for _ in range(rank)]
    attrs: dict[str, Any] = {
        "group": groups,
        "strides": [data.draw(st.integers(1, 2)) for _ in range(rank)],
        "dilations": [data.draw(st.integers(1, 2)) for _ in range(rank)],
        "pads": [data.draw(st.integers(0, 2)) for _ in range(2 * rank)],
    }
    nodes = [
        N("Conv", ["x", "w", "b"], ["c"], **attrs),
        N("HardSwish", ["c"], ["h"]),
        N("Mul", ["h", "s"], ["y"]),
    ]
    constants = {"b": numbers(2, outer), "s": numbers(3, 1, outer, *[1] * rank)}
    weights = {"w": numbers(1, outer, inner // groups, *kernel)}
    packed = data.draw(st.booleans())
    dims = {"x": ["n", inner, *(f"s{i}" for i in range(rank))]} if data.draw(st.booleans()) else {}
    inputs = {"x": numbers(0, 2, inner, *size)} | ({} if packed else weights)
    check(
        nodes,
        inputs,
        constants | (weights if packed else {}),
        dims=dims,
        pipeline="fuse-regions",
        tolerance=3e-5,
    )


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding(auto_pad: str) -> None:
    attrs = {"auto_pad": auto_pad, "strides": [2, 2]}
    x, w = numbers(0, 1, 3, 8, 11), numbers(1, 4, 3, 3, 3)
    check([N("Conv", ["x", "w"], ["y"], **attrs)], {"x": x}, {"w": w})


@settings(max_examples=16, deadline=None)
@given(st.data())
def test_transposed_convolutions(data: st.DataObject) -> None:
    """All attributes; weights that are constant have kernels, others are gathered tap by tap."""
    rank, groups = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 1, 2]))
    inner, group_out = groups * data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))

    def axes(low: int, high: int) -> list[int]:
        return [data.draw(st.integers(low, high)) for _ in range(rank)]

    kernel, strides, size = axes(1, 4), axes(1, 3), axes(3, 6)
    attrs: dict[str, Any] = {"group": groups, "strides": strides, "dilations": axes(1, 2)}
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, attrs["dilations"], strict=True)]
    attrs["output_padding"] = [data.draw(st.integers(0, stride - 1)) for stride in strides]
    padding = data.draw(st.sampled_from(["pads", "auto_pad", "output_shape"]))
    if padding == "pads":
        attrs["pads"] = axes(0, 1) + axes(0, 1)
    elif padding == "auto_pad":
        attrs["auto_pad"] = data.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
        attrs["output_padding"] = [0] * rank
    else:
        whole = [(n - 1) * s + span for n, s, span in zip(size, strides, spans, strict=True)]
        attrs["output_padding"] = [0] * rank
        attrs["output_shape"] = [w - data.draw(st.integers(0, min(2, w - 1))) for w in whole]
    x, w = numbers(0, 2, inner, *size), numbers(1, inner, group_out, *kernel)
    constant, dynamic = data.draw(st.booleans()), padding != "output_shape" and data.draw(st.booleans())
    nodes = [N("ConvTranspose", ["x", "w", "b"], ["c"], **attrs), N("Sigmoid", ["c"], ["y"])]
    check(
        nodes,
        {"x": x} | ({} if constant else {"w": w}),
        {"b": numbers(2, group_out * groups)} | ({"w": w} if constant else {}),
        dims={"x": ["n", inner, *(f"s{i}" for i in range(rank))]} if dynamic else {},
        pipeline="fuse-regions",
        tolerance=3e-5,
    )


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("weight_zero", [0, 3])
def test_integer_products(signed: bool, weight_zero: int) -> None:
    kind = np.int8 if signed else np.uint8
    rng = np.random.default_rng(0)
    low, high = (-128, 128) if signed else (0, 256)
    x = rng.integers(low, high, (2, 6, 9, 10)).astype(kind)
    w = rng.integers(-128, 128, (5, 6, 3, 3)).astype(np.int8)
    m = rng.integers(-128, 128, (10, 21)).astype(np.int8)
    constants = {"w": w, "m": m, "xz": np.asarray(7, kind), "wz": np.asarray(weight_zero, np.int8)}
    nodes = [
        N("ConvInteger", ["x", "w", "xz", "wz"], ["c"], pads=[1, 1, 1, 1]),
        N("MatMulInteger", ["x", "m", "xz", "wz"], ["p"]),
    ]
    check(nodes, {"x": x}, constants, outputs=["c", "p"], dims={"x": ["n", 6, 9, 10]})


def test_integer_product_of_two_inputs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (5, 12)).astype(np.uint8), rng.integers(0, 256, (12, 9)).astype(np.uint8)
    constants = {"az": np.uint8(3), "bz": np.uint8(200)}
    check([N("MatMulInteger", ["a", "b", "az", "bz"], ["y"])], {"a": a, "b": b}, constants)


def test_quantized_operators() -> None:
    rng = np.random.default_rng(0)
    x, w = (
        rng.integers(0, 256, (1, 3, 8, 9)).astype(np.uint8),
        rng.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8),
    )
    constants = {"w": w, "xs": np.float32(0.02), "xz": np.uint8(120), "ws": np.float32([0.01, 0.02, 0.005, 0.01]),
                 "wz": np.zeros(4, np.int8), "ys": np.float32(0.1), "yz": np.uint8(128),
                 "b": rng.integers(-500, 500, 4).astype(np.int32)}  # fmt: skip
    nodes = [N("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["y"], strides=[2, 1])]
    check(nodes, {"x": x}, constants)


def test_weights_that_are_computed_are_computed_at_compile_time() -> None:
    """int8 weights that are widened and scaled become packed float weights."""
    nodes = [N("Cast", ["q"], ["f"], to=1), N("Mul", ["f", "s"], ["w"]), N("MatMul", ["x", "w"], ["y"])]
    constants = {"q": numbers(1, 16, 24, dtype=np.int8), "s": np.float32(0.02)}
    check(nodes, {"x": numbers(0, 5, 16)}, constants)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("hidden", "inputs"), [(32, 20), (5, 3)])
def test_lstm(direction: str, hidden: int, inputs: int) -> None:
    """Also with all sizes static and no initial state: scratch must not share memory."""
    ways = 2 if direction == "bidirectional" else 1
    constants = {
        "w": numbers(1, ways, 4 * hidden, inputs) * np.float32(0.3),
        "r": numbers(2, ways, 4 * hidden, hidden) * np.float32(0.3),
        "b": numbers(3, ways, 8 * hidden),
    }
    x, state = numbers(0, 9, 3, inputs), {name: numbers(4, ways, 3, hidden) for name in ("h", "c")}
    attrs = {"hidden_size": hidden, "direction": direction}
    dims = {"x": ["t", "n", inputs], "h": [ways, "n", hidden], "c": [ways, "n", hidden]}
    full = N("LSTM", ["x", "w", "r", "b", "", "h", "c"], ["y", "yh", "yc"], **attrs)
    check([full], {"x": x, **state}, constants, outputs=["y", "yh", "yc"], dims=dims)
    del constants["b"]
    check([N("LSTM", ["x", "w", "r"], ["y"], **attrs)], {"x": x}, constants)


@pytest.mark.parametrize("transposed", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_gemm_takes_an_unknown_depth_from_its_weights(transposed: tuple[int, int]) -> None:
    x, w = numbers(0, 5, 16), numbers(1, 16, 8)
    a, b = (np.ascontiguousarray(m.T) if t else m for m, t in zip((x, w), transposed, strict=True))
    node = N("Gemm", ["x", "w", "c"], ["y"], transA=transposed[0], transB=transposed[1])
    dims = {"x": ["k", "n"] if transposed[0] else ["n", "k"]}
    check([node], {"x": a}, {"w": b, "c": numbers(2, 8)}, dims=dims)


@pytest.mark.parametrize("weights", [(16, 8), (16,), (2, 16, 8)])
def test_matmul_takes_an_unknown_depth_from_its_weights(weights: tuple[int, ...]) -> None:
    graph = program(
        [N("MatMul", ["x", "w"], ["y"])],
        {"x": numbers(0, 5, 16)},
        {"w": numbers(1, *weights)},
        dims={"x": ["n", "k"]},
    )
    inputs = {"x": numbers(0, 5, 16)}
    for ours, theirs in zip(outputs_of(graph, inputs), expected_of(graph, inputs), strict=True):
        assert_close(ours, theirs)
    with pytest.raises(InputError, match="columns of the left and rows of the right"):
        outputs_of(graph, {"x": numbers(0, 5, 15)})


@pytest.mark.parametrize("zero", [(), (8,)])
def test_integer_products_take_an_unknown_depth_from_their_weights(zero: tuple[int, ...]) -> None:
    inputs = {"x": numbers(0, 5, 16, dtype=np.uint8)}
    constants = {
        "w": numbers(1, 16, 8, dtype=np.int8), "xz": np.uint8(3), "wz": numbers(2, *zero, dtype=np.int8),
        "s": np.float32(0.1), "oz": np.uint8(128), "none": np.int8(0),
    }  # fmt: skip
    nodes = [
        N("MatMulInteger", ["x", "w", "xz", "wz"], ["y"]),
        N("QLinearMatMul", ["x", "s", "xz", "w", "s", "none", "s", "oz"], ["z"]),
    ]
    check(nodes, inputs, constants, outputs=("y", "z"), dims={"x": ["n", "k"]})


@pytest.mark.parametrize("sizes", [(0, 4, 5), (3, 0, 5), (3, 4, 0), (0, 0, 0)])
@pytest.mark.parametrize("constant", [True, False])
def test_products_of_nothing(sizes: tuple[int, int, int], constant: bool) -> None:
    m, k, n = sizes
    x, w = numbers(0, m, k), numbers(1, k, n)
    inputs, constants = ({"x": x}, {"w": w}) if constant else ({"x": x, "w": w}, {})
    nodes = [N("MatMul", ["x", "w"], ["p"]), N("Gemm", ["x", "w"], ["g"]), N("Relu", ["p"], ["y"])]
    check(nodes, inputs, constants, outputs=("y", "g"), pipeline="fuse-regions")
    check(nodes, inputs, constants, outputs=("y", "g"), dims={"x": ["m", k]}, pipeline="fuse-regions")


def test_dynamic_quantization_of_zeros() -> None:
    outputs = ("y", "scale", "zero")
    for x in (np.zeros(7, np.float32), np.float32([0, 0, 5]), np.float32([-3, -1])):
        check([N("DynamicQuantizeLinear", ["x"], list(outputs))], {"x": x}, outputs=outputs)
