"""Reductions, softmax, normalisations, pools, scans."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.backend.programs import check, numbers

N = helper.make_node
I64 = np.int64
REDUCTIONS = ("Sum", "Mean", "Max", "Min", "Prod", "SumSquare", "L1", "L2", "LogSumExp")


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_reductions_over_any_axes(data: st.DataObject) -> None:
    shape = [data.draw(st.sampled_from([1, 2, 5, 16, 37, 130])) for _ in range(3)]
    axes = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True))
    keep = data.draw(st.integers(0, 1))
    ops = data.draw(st.lists(st.sampled_from(REDUCTIONS), min_size=2, max_size=2, unique=True))
    dims = [f"d{i}" if data.draw(st.booleans()) else n for i, n in enumerate(shape)]
    nodes = [N(f"Reduce{op}", ["x", "a"], [op], keepdims=keep) for op in ops]
    x = numbers(0, *shape) * np.float32(0.5) + np.float32(0.8)
    check(nodes, {"x": x}, {"a": np.array(axes, I64)}, outputs=ops, dims={"x": dims}, tolerance=5e-5)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float64, np.float16])
def test_reductions_of_other_types(dtype: type) -> None:
    ops = ("Sum", "Mean", "Max", "Min")
    nodes = [N(f"Reduce{op}", ["x", "a"], [op]) for op in ops]
    check(
        nodes, {"x": numbers(0, 5, 40, dtype=dtype)}, {"a": np.array([1], I64)}, outputs=ops, tolerance=2e-3
    )


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax(op: str, axis: int) -> None:
    """Large inputs: the maximum has to be taken off first."""
    check([N(op, ["x"], ["y"], axis=axis)], {"x": numbers(0, 3, 17, 33) * 40}, dims={"x": ["n", 17, "m"]})


def test_softmax_between_prologue_and_epilogue() -> None:
    nodes = [N("Mul", ["x", "s"], ["a"]), N("Softmax", ["a"], ["b"]), N("Add", ["b", "x"], ["y"])]
    check(nodes, {"x": numbers(0, 4, 6, 50)}, {"s": np.float32(0.3)}, pipeline="fuse-regions")


@pytest.mark.parametrize(("op", "select"), [("ArgMax", 0), ("ArgMax", 1), ("ArgMin", 0)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_positions_of_extrema(op: str, select: int, axis: int) -> None:
    x = numbers(0, 4, 21, 18, dtype=np.int32)  # many ties
    check([N(op, ["x"], ["y"], axis=axis, select_last_index=select, keepdims=axis % 2)], {"x": x})


NORMS: list[tuple[str, dict[str, Any], list[tuple[int, ...]]]] = [
    ("LayerNormalization", {"axis": -1}, [(33,), (33,)]),
    ("LayerNormalization", {"axis": 2}, [(5, 33), (5, 33)]),
    ("InstanceNormalization", {}, [(6,), (6,)]),
    ("GroupNormalization", {"num_groups": 3}, [(6,), (6,)]),
    ("BatchNormalization", {}, [(6,), (6,), (6,), (6,)]),
    ("LpNormalization", {"axis": 1}, []),
    ("LRN", {"size": 3, "alpha": 0.02}, []),
    ("MeanVarianceNormalization", {}, []),
]


@pytest.mark.parametrize(("op", "attrs", "shapes"), NORMS, ids=lambda v: v if isinstance(v, str) else "")
def test_normalisations(op: str, attrs: dict[str, Any], shapes: list[tuple[int, ...]]) -> None:
    """A mean far from 0: squares less the square of the mean would cancel."""
    names = [f"p{i}" for i in range(len(shapes))]
    constants = {
        n: np.abs(numbers(i + 5, *s)) + np.float32(0.5)
        for i, (n, s) in enumerate(zip(names, shapes, strict=True))
    }
    nodes = [N(op, ["x", *names], ["n"], **attrs), N("Mul", ["n", "x"], ["y"])]
    x = numbers(0, 2, 6, 5, 33) + np.float32(30)
    check(nodes, {"x": x}, constants, pipeline="fuse-regions", dims={"x": ["b", 6, "h", 33] if attrs.get("axis") != 2 else ["b", 6, 5, 33]}, tolerance=1e-4)  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_pools(data: st.DataObject) -> None:
    """Windows of every kind, against the reference: padding, strides, dilation, ceil mode."""
    rank = data.draw(st.integers(1, 3))
    kernel = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    attrs: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [data.draw(st.integers(1, 3)) for _ in range(rank)],
        "pads": [data.draw(st.integers(0, k - 1)) for k in kernel * 2],
        "dilations": [data.draw(st.integers(1, 2)) for _ in range(rank)],
        "ceil_mode": data.draw(st.integers(0, 1)),
    }
    size = [data.draw(st.sampled_from([6, 7, 16, 19])) for _ in range(rank)]
    x = numbers(0, 2, 3, *size)
    include = data.draw(st.integers(0, 1))
    nodes = [
        N("MaxPool", ["x"], ["m"], **attrs),
        N("AveragePool", ["x"], ["a"], count_include_pad=include, **attrs),
        N("Relu", ["a"], ["y"]),
    ]
    dims = {"x": ["n", 3, *(f"s{i}" for i in range(rank))]} if data.draw(st.booleans()) else {}
    check(nodes, {"x": x}, outputs=["m", "y"], dims=dims, pipeline="fuse-regions")


def test_where_the_maximum_was() -> None:
    attrs = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    check([N("MaxPool", ["x"], ["y", "i"], **attrs)], {"x": numbers(0, 2, 3, 9, 10)}, outputs=["y", "i"])


def test_global_pools() -> None:
    nodes = [N(f"Global{op}", ["x"], [op]) for op in ("AveragePool", "MaxPool")]
    x = numbers(0, 2, 5, 7, 9)
    check(nodes, {"x": x}, outputs=["AveragePool", "MaxPool"], dims={"x": ["n", 5, "h", "w"]})


@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_cumulative_sums(axis: int, exclusive: int, reverse: int) -> None:
    nodes = [N("CumSum", ["x", "a"], ["y"], exclusive=exclusive, reverse=reverse)]
    check(nodes, {"x": numbers(0, 7, 20)}, {"a": np.array(axis, I64)})


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_top_k_with_ties(axis: int, largest: int) -> None:
    x = numbers(0, 6, 19, dtype=np.float32).round(1)
    nodes = [N("TopK", ["x", "k"], ["v", "i"], axis=axis, largest=largest)]
    check(nodes, {"x": x}, {"k": np.array([4], I64)}, outputs=["v", "i"])


def test_dynamic_quantization() -> None:
    nodes = [N("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])]
    check(nodes, {"x": numbers(0, 5, 40) + 1}, outputs=["q", "s", "z"])
