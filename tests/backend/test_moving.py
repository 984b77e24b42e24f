"""Operators that move elements, alone and in chains, with dynamic sizes."""

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


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(4)), st.lists(st.sampled_from([1, 2, 5, 16, 19, 40]), min_size=4, max_size=4))
def test_transpose(perm: list[int], shape: list[int]) -> None:
    check(
        [N("Transpose", ["x"], ["y"], perm=perm)],
        {"x": numbers(0, *shape)},
        dims={"x": ["a", shape[1], "c", shape[3]]},
    )


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1, -4], [5, 1000], [0, 2], [1, 1]),
        ([-1, 0], [-1000, 7], [1, 2], [-1, 2]),
        ([3], [-1], [2], [3]),
        ([5], [2], [0], [1]),
    ],
)
def test_slices(starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> None:
    constants = {n: np.array(v, I64) for n, v in (("s", starts), ("e", ends), ("a", axes), ("t", steps))}
    check([N("Slice", ["x", "s", "e", "a", "t"], ["y"])], {"x": numbers(0, 6, 5, 18)}, constants)


def test_slice_of_a_dynamic_axis_to_its_end() -> None:
    constants = {"s": np.array([2], I64), "e": np.array([2**62], I64), "a": np.array([1], I64)}
    check(
        [N("Slice", ["x", "s", "e", "a"], ["y"])], {"x": numbers(0, 3, 29)}, constants, dims={"x": ["n", "m"]}
    )


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat_and_split_with_an_epilogue(axis: int) -> None:
    nodes = [
        N("Concat", ["a", "b", "a"], ["c"], axis=axis),
        N("Relu", ["c"], ["r"]),
        N("Split", ["r"], ["p", "q", "o"], axis=axis, num_outputs=3),
    ]
    inputs = {"a": numbers(0, 3, 4, 33), "b": numbers(1, 3, 4, 33)}
    check(nodes, inputs, outputs=["r", "p", "q", "o"], pipeline="fuse-regions")


def test_concat_of_dynamic_parts() -> None:
    inputs = {"a": numbers(0, 2, 5, 3), "b": numbers(1, 2, 9, 3)}
    dims = {"a": ["n", "i", 3], "b": ["n", "j", 3]}
    check(
        [N("Concat", ["a", "b"], ["c"], axis=1), N("Tanh", ["c"], ["y"])],
        inputs,
        dims=dims,
        pipeline="fuse-regions",
    )


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pad(mode: str) -> None:
    constants = {"p": np.array([1, 0, 2, 3, 1, 3], I64), "v": np.float32(1.5)}
    check(
        [N("Pad", ["x", "p", "v"], ["y"], mode=mode)],
        {"x": numbers(0, 4, 5, 21)},
        constants,
        dims={"x": ["n", 5, "w"]},
    )


def test_negative_padding_crops() -> None:
    constants = {"p": np.array([-1, 2, 0, -3], I64)}
    check([N("Pad", ["x", "p"], ["y"])], {"x": numbers(0, 6, 9)}, constants)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather(axis: int) -> None:
    indices = np.array([[0, -1, 2], [1, 1, -2]], I64)
    check([N("Gather", ["x", "i"], ["y"], axis=axis)], {"x": numbers(0, 4, 3, 20), "i": indices})


def test_gathers_by_element_and_by_tuple() -> None:
    x = numbers(0, 4, 5, 6)
    nodes = [N("GatherElements", ["x", "i"], ["a"], axis=1), N("GatherND", ["x", "j"], ["b"])]
    inputs = {"x": x, "i": numbers(1, 4, 2, 6, dtype=I64) % 5, "j": np.array([[0, 1], [3, -1]], I64)}
    check(nodes, inputs, outputs=["a", "b"])


@pytest.mark.parametrize("reduction", ["none", "add", "max"])
def test_scatters(reduction: str) -> None:
    nodes = [
        N("ScatterElements", ["x", "i", "u"], ["a"], axis=0, reduction=reduction),
        N("ScatterND", ["x", "j", "v"], ["b"], reduction=reduction),
        N("Relu", ["b"], ["c"]),
    ]
    inputs = {
        "x": numbers(0, 6, 7),
        "i": np.array([[1, 2, 3], [0, -1, 1]], I64),
        "u": numbers(1, 2, 3),
        "j": np.array([[5], [2]], I64),
        "v": numbers(2, 2, 7),
    }
    check(nodes, inputs, outputs=["a", "c"])


RESIZES: list[dict[str, Any]] = [
    {"mode": mode, "coordinate_transformation_mode": coordinates, **more}
    for mode, coordinates, more in [
        ("nearest", "asymmetric", {"nearest_mode": "floor"}),
        ("nearest", "half_pixel", {"nearest_mode": "round_prefer_ceil"}),
        ("linear", "half_pixel", {}),
        ("linear", "align_corners", {}),
        ("linear", "pytorch_half_pixel", {}),
        ("cubic", "half_pixel", {"cubic_coeff_a": -0.5}),
    ]
]


@pytest.mark.parametrize("attrs", RESIZES, ids=lambda a: f"{a['mode']}-{a['coordinate_transformation_mode']}")
@pytest.mark.parametrize("size", [(9, 14), (3, 4)], ids=["up", "down"])
def test_resize(attrs: dict[str, Any], size: tuple[int, int]) -> None:
    constants = {"s": np.array([2, 3, *size], I64)}
    check([N("Resize", ["x", "", "", "s"], ["y"], **attrs)], {"x": numbers(0, 2, 3, 6, 7)}, constants)


def test_upsampling_a_dynamic_image() -> None:
    constants = {"s": np.float32([1, 1, 2, 2])}
    x = numbers(0, 1, 3, 5, 7)
    check([N("Resize", ["x", "", "s"], ["y"], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")], {"x": x}, constants, dims={"x": [1, 3, "h", "w"]})  # fmt: skip


def test_shape_arithmetic_needs_no_shapes() -> None:
    """A reshape by computed sizes, and the sizes themselves as data."""
    nodes = [
        N("Shape", ["x"], ["s"]),
        N("Gather", ["s", "zero"], ["n"], axis=0),
        N("Concat", ["n", "rest"], ["t"], axis=0),
        N("Reshape", ["x", "t"], ["r"]),
        N("Mul", ["n", "two"], ["d"]),
        N("Range", ["o", "m", "one"], ["i"]),
        N("Squeeze", ["d"], ["m"]),
    ]
    nodes = [*nodes[:5], nodes[6], nodes[5]]
    constants = {"zero": np.array([0], I64), "rest": np.array([-1], I64), "two": np.array([2], I64),
                 "o": np.array(0, I64), "one": np.array(1, I64)}  # fmt: skip
    check(nodes, {"x": numbers(0, 3, 4, 5)}, constants, outputs=["r", "d", "i"], dims={"x": ["b", "h", "w"]})


def test_channel_shuffle() -> None:
    nodes = [
        N("Reshape", ["x", "a"], ["g"]),
        N("Transpose", ["g"], ["t"], perm=[0, 2, 1, 3, 4]),
        N("Reshape", ["t", "b"], ["y"]),
    ]
    constants = {"a": np.array([2, 4, 6, 5, 7], I64), "b": np.array([2, 24, 5, 7], I64)}
    check(nodes, {"x": numbers(0, 2, 24, 5, 7)}, constants, pipeline="fuse-regions")


def test_the_rest() -> None:
    x = numbers(0, 2, 8, 4, 6)
    constants = {"shape": np.array([3, 2, 8, 4, 6], I64), "reps": np.array([1, 2, 1, 3], I64), "k": np.array(1, I64),
                 "depth": np.array(5, I64), "values": np.float32([-1, 2])}  # fmt: skip
    nodes = [
        N("Expand", ["x", "shape"], ["expanded"]),
        N("Tile", ["x", "reps"], ["tiled"]),
        N("DepthToSpace", ["x"], ["dcr"], blocksize=2),
        N("DepthToSpace", ["x"], ["crd"], blocksize=2, mode="CRD"),
        N("SpaceToDepth", ["x"], ["depth_first"], blocksize=2),
        N("Trilu", ["x", "k"], ["upper"]),
        N("Trilu", ["x", "k"], ["lower"], upper=0),
        N("OneHot", ["i", "depth", "values"], ["hot"], axis=1),
        N("EyeLike", ["m"], ["eye"], k=1),
    ]
    inputs = {"x": x, "i": np.array([[0, 4], [-1, 9]], I64), "m": numbers(1, 4, 6)}
    check(nodes, inputs, constants, outputs=[node.output[0] for node in nodes])


def test_outputs_are_the_callers_own() -> None:
    """An output that is an input, a constant or a view of one is a copy."""
    nodes = [N("Identity", ["x"], ["a"]), N("Reshape", ["x", "s"], ["b"]), N("Identity", ["c"], ["d"])]
    constants = {"s": np.array([-1], I64), "c": np.float32([1, 2])}
    check(nodes, {"x": numbers(0, 3, 4)}, constants, outputs=["a", "b", "d", "x"][:3])


REVERSED = {n: np.array([v], I64) for n, v in (("s", -1), ("e", -1000), ("ax", 1), ("st", -1))}
PADDED = N("Pad", ["x", "p"], ["y"])
REFLECTED = N("Pad", ["x", "p"], ["y"], mode="reflect")
JOINED = [N("Neg", ["x"], ["q"]), N("Concat", ["x", "q"], ["y"], axis=1)]
TRANSPOSE = N("Transpose", ["y"], ["t"], perm=[1, 0])
REVERSE = N("Slice", ["y", "s", "e", "ax", "st"], ["t"])


@pytest.mark.parametrize(
    "nodes",
    [[PADDED, TRANSPOSE], [PADDED, REVERSE], [REFLECTED, REVERSE], [*JOINED, REVERSE]],
    ids=["padded, transposed", "padded, reversed", "reflected, reversed", "joined, reversed"],
)
def test_what_is_made_of_pieces_may_be_read_at_another_place(nodes: list[Any]) -> None:
    """Which piece it is is known where the result is stored, not where the region reads it besides."""
    x = np.arange(64, dtype=np.float32).reshape(8, 8) + 1
    used = {name for node in nodes for name in node.input}
    constants = {n: v for n, v in {"p": np.array([2, 3, 3, 2], I64), **REVERSED}.items() if n in used}
    check([*nodes, N("Add", ["y", "t"], ["z"])], {"x": x}, constants)
