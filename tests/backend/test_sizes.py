"""Sizes that only a call tells: what fits runs, what does not is an error that names the node."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from onnx import helper

import graphopt as go
from graphopt.backend.compile import compile_graph
from graphopt.errors import CompileError, GraphoptError, InputError, ModelError
from graphopt.runtime import load
from tests.backend.programs import NATIVE, Array, check, expected_of, numbers, outputs_of, program

N = helper.make_node


def _call(nodes: list[Any], dims: dict[str, Any], *shapes: tuple[int, ...], **options: Any) -> list[Array]:
    """Compiles for these dimensions and calls with inputs of these shapes."""
    inputs = {name: numbers(i, *shape) for i, (name, shape) in enumerate(zip(dims, shapes, strict=True))}
    graph = program(nodes, inputs, options.pop("constants", None), dims=dims, **options)
    return outputs_of(graph, inputs)


ADD = [N("Add", ["a", "b"], ["y"], name="sum")]
ROWS: dict[str, Any] = {"a": ["n", 3], "b": ["m", 3]}


@pytest.mark.parametrize(("n", "m"), [(4, 4), (4, 1), (1, 4), (0, 1), (1, 0), (0, 0), (1, 1)])
def test_other_names_broadcast_as_numpy_does(n: int, m: int) -> None:
    a, b = numbers(0, n, 3), numbers(1, m, 3)
    (y,) = outputs_of(program(ADD, {"a": a, "b": b}, dims=ROWS), {"a": a, "b": b})
    np.testing.assert_array_equal(y, a + b)


@pytest.mark.parametrize(("n", "m"), [(4, 2), (2, 4), (0, 2), (3, 0)])
def test_other_names_that_don_t_broadcast(n: int, m: int) -> None:
    message = rf'Add "sum" .*axis 0.*n = {n} and m = {m} must be equal, or one of them 1'
    with pytest.raises(InputError, match=message):
        _call(ADD, ROWS, (n, 3), (m, 3))


def test_three_names() -> None:
    nodes = [N("Sum", ["a", "b", "c"], ["y"], name="sum")]
    dims: dict[str, Any] = {"a": ["n"], "b": ["m"], "c": ["k"]}
    for n, m, k in [(1, 5, 5), (5, 1, 1), (1, 1, 5), (1, 0, 1)]:
        a, b, c = numbers(0, n), numbers(1, m), numbers(2, k)
        (y,) = outputs_of(program(nodes, {"a": a, "b": b, "c": c}, dims=dims), {"a": a, "b": b, "c": c})
        np.testing.assert_allclose(y, a + b + c, rtol=1e-6)
    with pytest.raises(InputError, match='Sum "sum"'):
        _call(nodes, dims, (1,), (2,), (3,))


IMAGE = {"x": ["n", "c", "h", "w"]}
REFUSED: dict[str, tuple[list[Any], dict[str, Any], list[tuple[int, ...]], dict[str, Any], str]] = {
    "product": ([N("MatMul", ["a", "b"], ["y"], name="mm")], {"a": ["n", "k"], "b": ["m", 4]},
                [(2, 3), (5, 4)], {}, 'MatMul "mm".*k = 3 and m = 5 must be equal'),
    "batches": ([N("MatMul", ["a", "b"], ["y"], name="mm")], {"a": ["n", 2, 3], "b": ["m", 3, 4]},
                [(2, 2, 3), (5, 3, 4)], {}, 'MatMul "mm".*n = 2 and m = 5 must be equal, or'),
    "gemm": ([N("Gemm", ["a", "b"], ["y"], name="g", transB=1)], {"a": ["n", "k"], "b": [4, "m"]},
             [(2, 3), (4, 5)], {}, 'Gemm "g".*k = 3 and m = 5 must be equal'),
    "bias": ([N("Gemm", ["a", "w", "b"], ["y"], name="g")], {"a": ["n", 3], "b": ["m", 4]},
             [(1, 3), (5, 4)], {"w": (3, 4)}, 'Gemm "g".*m = 5 must be 1 or equal to n = 1'),
    "slope": ([N("PRelu", ["a", "b"], ["y"], name="p")], {"a": ["n", 4], "b": ["m", 4]},
              [(1, 4), (5, 4)], {}, 'PRelu "p".*m = 5 must be 1 or equal to n = 1'),
    "concat": ([N("Concat", ["a", "b"], ["y"], name="cat", axis=0)], {"a": [2, "n"], "b": [3, "m"]},
               [(2, 4), (3, 5)], {}, 'Concat "cat".*axis 1.*n = 4 and m = 5 must be equal'),
    "reshape": ([N("Reshape", ["a", "s"], ["y"], name="r")], {"a": ["n", 6]},
                [(3, 6)], {"s": np.array([-1, 4])}, r'Reshape "r".*6\*n = 18 and .*= 16 must be equal'),
    "channels": ([N("Conv", ["x", "w"], ["y"], name="c1")], IMAGE,
                 [(1, 3, 9, 9)], {"w": (4, 2, 3, 3)}, 'Conv "c1".*c = 3 and 2 must be equal'),
    "kernel": ([N("Conv", ["x", "w"], ["y"], name="c1", strides=[3, 3], pads=[0, 0, 1, 1])], IMAGE,
               [(1, 2, 9, 1)], {"w": (4, 2, 3, 3)}, r'Conv "c1".*axis 3.*w \+ 1 = 2 must be at least 3'),
    "dilated": ([N("Conv", ["x", "w"], ["y"], name="c1", dilations=[3, 1])], IMAGE,
                [(1, 2, 6, 6)], {"w": (4, 2, 3, 3)}, 'Conv "c1".*axis 2.*h = 6 must be at least 7'),
    "pool": ([N("MaxPool", ["x"], ["y"], name="p", kernel_shape=[3, 3], strides=[2, 2])], IMAGE,
             [(1, 2, 2, 5)], {}, 'MaxPool "p".*h = 2 must be at least 3'),
    "norm": ([N("LayerNormalization", ["a", "b"], ["y"], name="ln")], {"a": [2, "n"], "b": ["m"]},
             [(2, 6), (5,)], {}, 'LayerNormalization "ln".*m = 5 must be 1 or equal to n = 6'),
    "best": ([N("TopK", ["a", "k"], ["y", "i"], name="top")], {"a": ["n"]},
             [(2,)], {"k": np.array([3])}, 'TopK "top".*n = 2 must be at least 3'),
    "nothing": ([N("Gather", ["a", "i"], ["y"], name="g")], {"a": ["n"]},
                [(0,)], {"i": np.array([0])}, 'Gather "g".*n = 0 must be at least 1'),
    "blocks": ([N("SpaceToDepth", ["x"], ["y"], name="s", blocksize=2)], IMAGE,
               [(1, 2, 4, 5)], {}, 'SpaceToDepth "s".*axis 3.*= 1 and 0 must be equal'),
    "crop": ([N("Pad", ["a", "p"], ["y"], name="cut")], {"a": ["n"]},
             [(2,)], {"p": np.array([-2, -1])}, 'Pad "cut".*n - 3 = -1 must be at least 0'),
    "states": ([N("GRU", ["x", "w", "r", "", "", "h"], ["y"], name="gru", hidden_size=4)],
               {"x": [2, "n", 5], "h": [1, "m", 4]}, [(2, 3, 5), (1, 2, 4)],
               {"w": (1, 12, 5), "r": (1, 12, 4)}, 'GRU "gru".*m = 2 and n = 3 must be equal'),
    "letters": ([N("Einsum", ["a", "b"], ["y"], name="e", equation="ij,jk->ik")], {"a": ["n", "k"], "b": ["m", 4]},
                [(2, 3), (5, 4)], {}, 'Einsum "e".*k = 3 and m = 5 must be equal'),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_sizes_that_don_t_fit_are_refused_at_the_call(case: str) -> None:
    nodes, dims, shapes, constants, message = REFUSED[case]
    arrays = {
        name: what if isinstance(what, np.ndarray) else numbers(9, *what) for name, what in constants.items()
    }
    with pytest.raises(InputError, match=message):
        _call(nodes, dims, *shapes, constants=arrays)


@pytest.mark.parametrize("height", [3, 4, 5])
def test_the_smallest_image_that_a_kernel_takes(height: int) -> None:
    nodes = [N("Conv", ["x", "w"], ["c"], strides=[2, 2]), N("Relu", ["c"], ["y"])]
    check(nodes, {"x": numbers(0, 1, 2, height, 7)}, {"w": numbers(1, 4, 2, 3, 3)}, dims=IMAGE)


def test_a_divisor_of_zero_in_a_size_is_refused() -> None:
    """Kernels divide by it before their loops."""
    nodes = [N("Shape", ["b"], ["s"]), N("Concat", ["rest", "s"], ["t"], axis=0),
             N("Reshape", ["a", "t"], ["r"], name="r"), N("Relu", ["r"], ["y"])]  # fmt: skip
    dims: dict[str, Any] = {"a": ["n", 6], "b": ["m"]}
    rest = {"rest": np.array([-1])}
    (y,) = _call(nodes, dims, (2, 6), (4,), constants=rest)
    assert y.shape == (3, 4)
    with pytest.raises(InputError, match=r'Reshape "r".*m = 0 must be at least 1'):
        _call(nodes, dims, (2, 6), (0,), constants=rest)


def test_rules_survive_fusion_and_the_disk(tmp_path: Any) -> None:
    a, b = numbers(0, 4, 3), numbers(1, 4, 3)
    nodes = [N("Add", ["a", "b"], ["s"], name="sum"), N("Relu", ["s"], ["r"]), N("Mul", ["r", "b"], ["y"])]
    graph = go.optimize(program(nodes, {"a": a, "b": b}, dims=ROWS), "fuse-regions")
    with load(compile_graph(graph, NATIVE).save(tmp_path / "m.gopt"), threads=1) as executable:
        np.testing.assert_allclose(executable(a, b)[0], np.maximum(a + b, 0) * b, rtol=1e-6)
        with pytest.raises(InputError, match=re.escape("n = 4 and m = 2 must be equal")):
            executable(a, b[:2])


def test_what_shapes_say_needs_no_rule() -> None:
    nodes = [N("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), N("Relu", ["c"], ["r"]), N("Add", ["c", "r"], ["a"]),
             N("GlobalAveragePool", ["a"], ["g"]), N("Flatten", ["g"], ["f"]), N("MatMul", ["f", "m"], ["y"])]  # fmt: skip
    constants = {"w": numbers(1, 4, 2, 3, 3), "m": numbers(2, 4, 5)}
    graph = program(nodes, {"x": numbers(0, 1, 2, 8, 8)}, constants, dims={"x": ["n", 2, 8, 8]})
    assert compile_graph(graph, NATIVE).sizes == ()


@pytest.mark.parametrize("attrs", [{}, {"strides": [3, 3]}, {"dilations": [2, 2], "pads": [1, 1, 1, 1]}])
def test_an_image_smaller_than_the_kernel_is_refused_at_import(attrs: dict[str, Any]) -> None:
    """ONNX Runtime refuses it when it runs."""
    x, w = numbers(0, 1, 2, 2, 9), numbers(1, 4, 2, 3, 3)
    with pytest.raises(ModelError, match=r'Conv "small".*axis 2 at least'):
        program([N("Conv", ["x", "w"], ["y"], name="small", **attrs)], {"x": x}, {"w": w})


INDICES: dict[str, tuple[list[str], dict[str, Any], Array]] = {
    "Gather": (["x", "i"], {"axis": 1}, np.array([0, 7])),
    "GatherElements": (["x", "i"], {"axis": 0}, np.array([[0, -5, 1]])),
    "GatherND": (["x", "i"], {}, np.array([[0, 0], [1, 3]])),
    "ScatterElements": (["x", "i", "u"], {"axis": 1}, np.array([[3]])),
    "ScatterND": (["x", "i", "u"], {}, np.array([[4, 0]])),
}


@pytest.mark.parametrize("op", INDICES)
def test_constant_indices_out_of_range_are_refused(op: str) -> None:
    inputs, attrs, indices = INDICES[op]
    updates = np.ones(indices.shape if op == "ScatterElements" else indices.shape[:-1], np.float32)
    constants = {"i": indices, "u": updates} if "u" in inputs else {"i": indices}
    x = {"x": numbers(0, 4, 3)}
    with pytest.raises(
        GraphoptError, match=rf'{op} "pick" can\'t be compiled: index -?\d of axis [01], which has'
    ):
        compile_graph(program([N(op, inputs, ["y"], name="pick", **attrs)], x, constants), NATIVE)
    within = {**constants, "i": np.minimum(np.maximum(indices, -3), 2)}
    check([N(op, inputs, ["y"], name="pick", **attrs)], x, within)


SYMBOLIC: dict[str, tuple[list[str], dict[str, Any], Array, Any, str]] = {
    "Gather": (["x", "i"], {"axis": 0}, np.array([5, -7]), ["n", 2], "axis 0.*n = 3 must be at least 7"),
    "GatherElements": (["x", "i"], {"axis": 0}, np.array([[6, 0], [-3, 1]]), ["n", 2],
                       "axis 0.*n = 3 must be at least 7"),
    "GatherND": (["x", "i"], {}, np.array([[-7, 1], [2, 0]]), ["n", 2], "axis 0.*n = 3 must be at least 7"),
    "ScatterElements": (["x", "i", "u"], {"axis": 1}, np.array([[6]]), [2, "n"],
                        "axis 1.*n = 3 must be at least 7"),
    "ScatterND": (["x", "i", "u"], {}, np.array([[0, 6], [1, -2]]), [2, "n"],
                  "axis 1.*n = 3 must be at least 7"),
}  # fmt: skip


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("op", SYMBOLIC)
def test_constant_indices_of_an_axis_known_at_the_call(op: str, fused: bool) -> None:
    """The smallest axis that they fit runs as ONNX Runtime does; one less is refused, not clamped."""
    inputs, attrs, indices, dims, message = SYMBOLIC[op]
    constants = {"i": indices}
    if "u" in inputs:
        constants["u"] = numbers(7, *(indices.shape if op == "ScatterElements" else indices.shape[:-1]))
    nodes = [N(op, inputs, ["t"], name="pick", **attrs), N("Relu", ["t"], ["y"])]

    def example(n: int) -> dict[str, Array]:
        return {"x": numbers(0, *(n if dim == "n" else dim for dim in dims))}

    graph = program(nodes, example(7), constants, dims={"x": dims})
    graph = go.optimize(graph, "fuse-regions") if fused else graph
    np.testing.assert_array_equal(outputs_of(graph, example(7))[0], expected_of(graph, example(7))[0])
    assert len(compile_graph(graph, NATIVE).sizes) <= 2
    with pytest.raises(InputError, match=f'{op} "pick" .*n = 6 must be at least 7'):
        outputs_of(graph, example(6))
    with pytest.raises(InputError, match=f'{op} "pick" .*{message}'):
        outputs_of(graph, example(3))


def test_indices_computed_from_constants_count_as_constants() -> None:
    nodes = [N("Add", ["i", "i"], ["j"]), N("Gather", ["x", "j"], ["y"], name="pick")]
    constants = {"i": np.arange(100).reshape(50, 2)}
    graph = program(nodes, {"x": numbers(0, 199)}, constants, dims={"x": ["n"]})
    assert outputs_of(graph, {"x": numbers(0, 199)})[0].shape == (50, 2)
    with pytest.raises(InputError, match=r'Gather "pick".*n = 198 must be at least 199'):
        outputs_of(graph, {"x": numbers(0, 198)})


def test_no_indices_need_nothing() -> None:
    graph = program(
        [N("Gather", ["x", "i"], ["y"])],
        {"x": numbers(0, 4)},
        {"i": np.zeros(0, np.int64)},
        dims={"x": ["n"]},
    )
    assert outputs_of(graph, {"x": numbers(0, 0)})[0].shape == (0,)


LENGTHS = {
    "ReverseSequence": N("ReverseSequence", ["x", "l"], ["y"], name="seq", time_axis=0, batch_axis=1),
    "GRU": N("GRU", ["x", "w", "r", "", "l"], ["y"], name="seq", hidden_size=3),
}


@pytest.mark.parametrize("op", LENGTHS)
def test_constant_lengths_fit_the_time_axis(op: str) -> None:
    weights = {"w": numbers(1, 1, 9, 5), "r": numbers(2, 1, 9, 3)} if op == "GRU" else {}

    def graph(lengths: list[int], time: int | str) -> go.Graph:
        constants = {**weights, "l": np.array(lengths, np.int32 if op == "GRU" else np.int64)}
        return program([LENGTHS[op]], {"x": numbers(0, 4, 2, 5)}, constants, dims={"x": [time, 2, 5]})

    x = {"x": numbers(0, 4, 2, 5)}
    for time in (4, "t"):
        fitting = graph([4, 0], time)
        np.testing.assert_allclose(outputs_of(fitting, x)[0], expected_of(fitting, x)[0], atol=1e-6)
        with pytest.raises(CompileError, match=f'{op} "seq".*length -1 along axis 0'):
            compile_graph(graph([-1, 4], time), NATIVE)
    with pytest.raises(CompileError, match=f'{op} "seq".*length 5 along axis 0, which has 4'):
        compile_graph(graph([5, 4], 4), NATIVE)
    with pytest.raises(InputError, match=f'{op} "seq".*t = 4 must be at least 5'):
        outputs_of(graph([5, 4], "t"), x)


def test_lengths_that_are_data_reach_no_memory_outside() -> None:
    """ONNX Runtime stops with an error."""
    nodes = [LENGTHS["ReverseSequence"]]
    inputs = {"x": numbers(0, 4, 3, 5), "l": np.array([1 << 20, -3, 2], np.int64)}
    clamped = {**inputs, "l": np.array([4, 0, 2], np.int64)}
    for dims in ({}, {"x": ["t", 3, 5]}):
        graph = program(nodes, inputs, dims=dims)
        np.testing.assert_array_equal(outputs_of(graph, inputs)[0], expected_of(graph, clamped)[0])


def test_numbers_that_contradict_each_other_are_refused_when_compiled() -> None:
    """What type inference lets pass."""
    x, lengths = numbers(0, 3, 4), np.array([1, 2], np.int64)
    nodes = [N("ReverseSequence", ["x", "l"], ["y"], name="back", batch_axis=1, time_axis=0)]
    with pytest.raises(CompileError, match=r'ReverseSequence "back".*2 and 4 must be equal'):
        compile_graph(program(nodes, {"x": x, "l": lengths}), NATIVE)


def test_pools_take_what_onnx_runtime_takes() -> None:
    nodes = [N("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2])]
    x = numbers(0, 1, 1, 2, 7)
    graph = program(nodes, {"x": x})
    np.testing.assert_array_equal(outputs_of(graph, {"x": x})[0], expected_of(graph, {"x": x})[0])
