"""Channels in blocks: what kernels compute in that layout, held against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import graphopt as go
from graphopt.backend.assemble import assemble
from graphopt.errors import CompileError
from graphopt.targets import Target
from tests.backend.programs import NATIVE, Array, assert_close, expected_of, numbers, outputs_of, program

N = helper.make_node
TARGETS = [Target.parse("x86-64-v3"), NATIVE]


def _check(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Array],
    constants: Mapping[str, Array],
    target: Target = NATIVE,
    tolerance: float = 1e-5,
    **options: Any,
) -> go.Graph:
    """Compiles through O2 and compares; gives the graph that was compiled."""
    graph = program(nodes, inputs, constants, **options)
    expected = expected_of(graph, inputs)
    optimized = go.optimize(graph, "O2", target=target)
    for ours, theirs in zip(outputs_of(optimized, inputs, target), expected, strict=True):
        assert_close(ours, theirs, tolerance)
    return optimized


def _in_blocks(graph: go.Graph) -> list[str]:
    """Operators computed with channels in blocks, the first of each region, copies left out."""
    found = []
    for node in graph.nodes:
        if node.outputs[0].tensor.layout is not None and node.op != "Identity":
            found.append(node.body.nodes[0].op if node.is_fused else node.op)
    return found


def _between(middle: Sequence[onnx.NodeProto], channels: int, out: int) -> list[onnx.NodeProto]:
    """x through a convolution, ``middle`` from a to b, and another convolution."""
    return [
        N("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        *middle,
        N("Conv", ["b", "w2"], ["y"], pads=[1, 1, 1, 1]),
    ]


def _weights(channels: int, out: int) -> dict[str, Array]:
    return {"w1": numbers(1, channels, 16, 3, 3), "w2": numbers(2, 32, out, 3, 3)}


MIDDLES: dict[str, list[onnx.NodeProto]] = {
    "max pool": [N("MaxPool", ["a"], ["b"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])],
    "max pool, ceil": [N("MaxPool", ["a"], ["b"], kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1)],
    "average pool": [N("AveragePool", ["a"], ["b"], kernel_shape=[3, 3], pads=[1, 1, 0, 1])],
    "average pool, padding counted": [
        N("AveragePool", ["a"], ["b"], kernel_shape=[2, 3], pads=[1, 1, 0, 1], count_include_pad=1)
    ],
    "per channel": [N("Mul", ["a", "scale"], ["m"]), N("Add", ["m", "shift"], ["b"])],
    "gate": [
        N("GlobalAveragePool", ["a"], ["g"]),
        N("Sigmoid", ["g"], ["s"]),
        N("Mul", ["a", "s"], ["b"]),
    ],
    "spatial maximum": [N("ReduceMax", ["a", "places"], ["g"]), N("Sub", ["a", "g"], ["b"])],
    "resize": [N("Resize", ["a", "", "factors"], ["b"], mode="linear")],
    "shortcut": [N("Conv", ["a", "w3"], ["c"]), N("Add", ["c", "a"], ["s"]), N("Relu", ["s"], ["b"])],
    "depthwise": [N("Conv", ["a", "wd"], ["b"], group=40, pads=[2, 2, 2, 2], strides=[2, 1])],
    "transposed": [N("ConvTranspose", ["a", "wt", "shift1"], ["t"], strides=[2, 2]), N("Relu", ["t"], ["b"])],
    "transposed, padded": [
        N("ConvTranspose", ["a", "wt"], ["b"], strides=[1, 3], pads=[1, 0, 0, 1], output_padding=[0, 1])
    ],
    "transposed, depthwise": [
        N("ConvTranspose", ["a", "wd"], ["b"], group=40, strides=[2, 1], pads=[2, 2, 1, 2])
    ],
    "concat of rows": [N("Relu", ["a"], ["r"]), N("Concat", ["a", "r"], ["b"], axis=2)],
}


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("name", MIDDLES)
def test_operators_between_convolutions(name: str, target: Target) -> None:
    constants = _weights(40, 40) | {
        "scale": numbers(3, 1, 40, 1, 1),
        "shift": numbers(4, 40, 1, 1),
        "places": np.array([2, 3]),
        "factors": np.array([1, 1, 2, 1.5], np.float32),
        "w3": numbers(5, 40, 40, 1, 1),
        "wd": numbers(6, 40, 1, 5, 5),
        "wt": numbers(7, 40, 40, 2, 2),
        "shift1": numbers(8, 40),
    }
    nodes = _between(MIDDLES[name], 40, 40)
    used = {operand for node in nodes for operand in node.input}
    graph = _check(
        nodes,
        {"x": numbers(0, 2, 16, 19, 23)},
        {k: v for k, v in constants.items() if k in used},
        target,
        tolerance=2e-5,
    )
    assert _in_blocks(graph)[0] == _in_blocks(graph)[-1] == "Conv"


@pytest.mark.parametrize("channels", [16, 48, 20])
def test_concatenated_channels(channels: int) -> None:
    """20 does not fill its blocks; such a concatenation is made in rows."""
    middle = [N("Conv", ["x", "w3"], ["c"], pads=[1, 1, 1, 1]), N("Concat", ["a", "c"], ["b"], axis=1)]
    constants = _weights(channels, channels + 30) | {"w3": numbers(3, 30, 16, 3, 3)}
    _check(_between(middle, channels, channels + 30), {"x": numbers(0, 1, 16, 12, 9)}, constants)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_sizes_known_at_the_call_only(target: Target) -> None:
    nodes = _between(MIDDLES["max pool"], 40, 40)
    for shape in [(1, 16, 8, 9), (3, 16, 31, 17)]:
        _check(
            nodes,
            {"x": numbers(0, *shape)},
            _weights(40, 40),
            target,
            dims={"x": ("n", 16, "h", "w")},
            tolerance=2e-5,
        )


def test_one_axis_of_places() -> None:
    nodes = [
        N("Conv", ["x", "w1"], ["a"], pads=[2, 2]),
        N("Relu", ["a"], ["b"]),
        N("Conv", ["b", "w2"], ["y"], dilations=[2], strides=[2]),
    ]
    constants = {"w1": numbers(1, 40, 16, 5), "w2": numbers(2, 32, 40, 3)}
    graph = _check(nodes, {"x": numbers(0, 2, 16, 50)}, constants, tolerance=2e-5)
    assert _in_blocks(graph) == ["Conv", "Conv"]


@pytest.mark.parametrize("channels", [5, 16, 33])
@pytest.mark.parametrize("places", [(1, 1), (5, 13), (9, 31)])
def test_a_copy_to_blocks_and_back(channels: int, places: tuple[int, int]) -> None:
    """The convolution's input and output are in rows, so both copies are made."""
    nodes = [N("Conv", ["x", "w"], ["y"])]
    weights = numbers(1, channels, channels, 1, 1)
    _check(nodes, {"x": numbers(0, 2, channels, *places)}, {"w": weights})


def test_lanes_past_the_last_channel_stay_out_of_results() -> None:
    """1 / 0 in unused lanes must not reach any result through the sums that follow."""
    middle = [N("Reciprocal", ["a"], ["r"]), N("Mul", ["r", "a"], ["b"])]
    _check(_between(middle, 20, 20), {"x": numbers(0, 1, 16, 9, 9)}, _weights(20, 20), tolerance=2e-5)


def test_fast_convolution_is_bounded_by_its_error() -> None:
    nodes = [N("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    inputs = {"x": numbers(0, 1, 64, 56, 56)}
    graph = go.optimize(program(nodes, inputs, {"w": numbers(1, 64, 64, 3, 3)}), "O2", target=NATIVE)
    fast, direct = go.compile(graph), go.compile(graph, kernel_error=0)
    assert any("winograd" in kernel for kernel in fast.variants[0].kernels)
    assert not any("winograd" in kernel for kernel in direct.variants[0].kernels)
    (expected,) = expected_of(graph, inputs)
    for artifact, bound in [(fast, 2e-5), (direct, 2e-6)]:
        with artifact.load(threads=1) as executable:
            assert_close(np.asarray(executable(inputs)[0]), expected, bound)


def test_layouts_of_another_target_are_refused_or_chosen_anew() -> None:
    nodes = _between([N("Relu", ["a"], ["b"])], 40, 40)
    inputs, narrow = {"x": numbers(0, 1, 16, 24, 24)}, Target.parse("x86-64-v3")
    plain = program(nodes, inputs, _weights(40, 40))
    graph = go.optimize(plain, "O2", target="x86-64-v4")
    with pytest.raises(CompileError, match=r"nCx16c.*is not one of x86-64-v3"):
        go.compile(graph, narrow)
    again = go.optimize(graph, "assign-layouts", target=narrow)
    assert {v.tensor.layout for node in again.nodes for v in node.outputs} == {"nCx8c", None}
    (ours,), (theirs,) = outputs_of(again, inputs, narrow), expected_of(plain, inputs)
    assert_close(ours, theirs)


@pytest.mark.parametrize("channels", [24, 32])
def test_a_kernel_in_rows_reads_blocks_through_a_copy(channels: int) -> None:
    """No built-in pass leaves such a graph; others may."""
    nodes = [N("Relu", ["x"], ["a"]), N("Conv", ["a", "w"], ["y"], group=4, pads=[1, 1, 1, 1])]
    inputs = {"x": numbers(0, 2, channels, 7, 9)}
    graph = program(nodes, inputs, {"w": numbers(1, channels, channels // 4, 3, 3)})
    expected = expected_of(graph, inputs)
    value = graph.nodes[0].outputs[0]
    value.type = replace(value.tensor, layout=f"nCx{NATIVE.vector_bits // 32}c")
    assert_close(outputs_of(graph, inputs)[0], expected[0])


def test_a_window_of_many_taps_is_a_loop() -> None:
    """Written out, 900 taps would take half a minute to compile."""
    pool = [N("AveragePool", ["a"], ["b"], kernel_shape=[30, 30], pads=[2, 2, 2, 2])]
    graph = go.optimize(
        program(_between(pool, 40, 40), {"x": numbers(0, 1, 16, 40, 40)}, _weights(40, 40)),
        "O2",
        target=NATIVE,
    )
    assembled = assemble(graph, NATIVE)
    (kernel,) = (f for name, f in assembled.module.functions.items() if "averagepool" in name.name_hint)
    assert len(kernel.script()) < 20_000


def test_denormal_weights_beside_large_ones_count_as_zero() -> None:
    """What a multiplication by one costs, no sum can show."""
    w = numbers(1, 32, 16, 3, 3)
    w[::2, 3:9] = np.float32(1e-40)
    x = {"x": numbers(0, 1, 16, 8, 8)}
    nodes = [N("Conv", ["x", "w"], ["a"]), N("Conv", ["a", "v"], ["y"])]
    optimized = _check(nodes, x, {"w": w, "v": numbers(2, 16, 32, 1, 1)})
    packed = [array for _, array in assemble(optimized, Target.parse("x86-64-v4")).weights]
    assert len(packed) == 2
    assert all(np.isin(np.abs(array), 1e-40, invert=True).all() for array in packed)
    assert min(np.abs(array[array != 0]).min() for array in packed) >= np.finfo(np.float32).tiny
    tiny = {"w": np.full_like(w, 1e-40), "v": numbers(2, 16, 32, 1, 1)}
    weights = [array for _, array in assemble(program(nodes, x, tiny), Target.parse("x86-64-v4")).weights]
    assert any((array == np.float32(1e-40)).any() for array in weights), "all are as small: they count"
