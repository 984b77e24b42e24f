"""Random shapes and attributes: the inferred symbolic types against the shapes that ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from graphopt.ir.dims import evaluate, sym
from graphopt.ir.graph import Graph
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType, TensorType, Type
from tests.ops.support import Importer

Arrays = Mapping[str, np.ndarray[Any, Any]]
bounded = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def model_of(nodes: list[onnx.NodeProto], inputs: Arrays, outputs: list[str]) -> onnx.ModelProto:
    declared = [
        helper.make_tensor_value_info(
            name, DType.of(array.dtype).value, [f"{name}_{i}" for i in range(array.ndim)]
        )
        for name, array in inputs.items()
    ]
    results = [helper.make_value_info(name, onnx.TypeProto()) for name in outputs]
    graph = helper.make_graph(nodes, "g", declared, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 26)], ir_version=13)


def execute(model: onnx.ModelProto, inputs: Arrays) -> list[np.ndarray[Any, Any]] | None:
    """Outputs by ONNX Runtime without optimizations, None when it refuses the shapes."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return list(session.run(None, dict(inputs)))
    except Exception as error:
        assert "onnxruntime" in type(error).__module__, error
        return None


def compare(
    op: str, inputs: Arrays, constants: Arrays, arity: int = 1, order: list[str] | None = None, **attrs: Any
) -> None:
    """Infers with every dimension of ``inputs`` symbolic, runs, and compares dtype and every dimension."""
    names = order if order is not None else [*inputs, *constants]
    outputs = [f"y{i}" for i in range(arity)]
    node = helper.make_node(op, names, outputs, **attrs)
    model = model_of([node], {**inputs, **constants}, outputs)
    results = execute(model, {**inputs, **constants})
    assume(results is not None)
    assert results is not None
    types: dict[str, Type] = {
        name: TensorType(DType.of(a.dtype), tuple(sym(f"{name}_{i}") for i in range(a.ndim)))
        for name, a in inputs.items()
    }
    sizes = {f"{name}_{i}": size for name, a in inputs.items() for i, size in enumerate(a.shape)}
    symbolic = Importer(types, {name: Tensor.of(array) for name, array in constants.items()}).run(model)
    agree(symbolic, results, sizes)
    static = Importer(
        {name: TensorType(DType.of(a.dtype), a.shape) for name, a in inputs.items()},
        {name: Tensor.of(array) for name, array in constants.items()},
    ).run(model)
    agree(static, results, {})


def agree(graph: Graph, results: list[np.ndarray[Any, Any]], sizes: Mapping[str, int]) -> None:
    for value, result in zip(graph.outputs, results, strict=True):
        type = value.type
        assert isinstance(type, TensorType) and type.shape is not None, value
        assert type.dtype is DType.of(result.dtype)
        assert tuple(evaluate(dim, sizes) for dim in type.shape) == result.shape, (value, sizes)


def f32(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, np.float32)


def i64(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


small = st.integers(1, 4)
pads = st.lists(st.integers(0, 2), min_size=4, max_size=4)
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
modes = st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])


@bounded
@given(n=small, h=st.integers(1, 12), w=st.integers(1, 12), kernel=pairs, strides=pairs, dilations=pairs, pad=pads,
       mode=modes, group=st.sampled_from([1, 2]))  # fmt: skip
def test_conv(
    n: int, h: int, w: int, kernel: Any, strides: Any, dilations: Any, pad: Any, mode: str, group: int
) -> None:
    attrs = {"strides": strides, "dilations": dilations, "auto_pad": mode, "group": group}
    if mode == "NOTSET":
        attrs["pads"] = pad
    elif mode.startswith("SAME"):
        assume(dilations == (1, 1))  # ONNX Runtime's SAME padding ignores dilations
    compare("Conv", {"x": f32(n, 4, h, w)}, {"w": f32(6, 4 // group, *kernel)}, **attrs)


@bounded
@given(
    h=st.integers(1, 8), w=st.integers(1, 8), kernel=pairs, strides=pairs, pad=pads, extra=pairs, mode=modes
)
def test_conv_transpose(h: int, w: int, kernel: Any, strides: Any, pad: Any, extra: Any, mode: str) -> None:
    attrs: dict[str, Any] = {"strides": strides, "auto_pad": mode}
    if mode == "NOTSET":
        attrs |= {"pads": pad, "output_padding": [min(e, s) - 1 for e, s in zip(extra, strides, strict=True)]}
    compare("ConvTranspose", {"x": f32(1, 3, h, w)}, {"w": f32(3, 2, *kernel)}, **attrs)


@bounded
@given(h=st.integers(1, 12), w=st.integers(1, 12), kernel=pairs, strides=pairs, dilations=pairs, pad=pads,
       ceil=st.integers(0, 1), op=st.sampled_from(["MaxPool", "AveragePool", "LpPool"]))  # fmt: skip
def test_pools(
    h: int, w: int, kernel: Any, strides: Any, dilations: Any, pad: Any, ceil: int, op: str
) -> None:
    limits = [min(p, k - 1) for p, k in zip(pad, (*kernel, *kernel), strict=True)]
    for size, at in ((h, 0), (w, 1)):  # else the quotient is truncated, which symbols don't tell
        assume(size + limits[at] + limits[at + 2] > (kernel[at] - 1) * dilations[at])
    attrs = {
        "kernel_shape": kernel,
        "strides": strides,
        "pads": limits,
        "ceil_mode": ceil,
        "dilations": dilations,
    }
    compare(op, {"x": f32(2, 3, h, w)}, {}, **attrs)


@bounded
@given(sizes=st.lists(st.integers(0, 6), min_size=2, max_size=2), start=st.integers(-8, 8), end=st.integers(-8, 8),
       step=st.sampled_from([1, 2, 3, -1, -2]), data=st.data())  # fmt: skip
def test_slice_static(sizes: list[int], start: int, end: int, step: int, data: Any) -> None:
    far = data.draw(st.sampled_from([end, 2**63 - 1, -(2**63) + 1]))
    model_inputs = {"x": f32(*sizes)}
    constants = {"starts": i64(start), "ends": i64(far), "axes": i64(1), "steps": i64(step)}
    node = helper.make_node("Slice", ["x", *constants], ["y0"])
    model = model_of([node], {**model_inputs, **constants}, ["y0"])
    results = execute(model, {**model_inputs, **constants})
    assert results is not None
    graph = Importer(
        {"x": TensorType(DType.F32, tuple(sizes))}, {name: Tensor.of(a) for name, a in constants.items()}
    ).run(model)
    agree(graph, results, {})


@bounded
@given(size=st.integers(0, 9), start=st.integers(-8, 8), end=st.integers(-8, 8), step=st.integers(1, 3))
def test_slice_symbolic(size: int, start: int, end: int, step: int) -> None:
    constants = {"starts": i64(start), "ends": i64(end), "axes": i64(0), "steps": i64(step)}
    compare("Slice", {"x": f32(size, 2)}, constants)


shapes = st.lists(st.sampled_from([1, 1, 2, 3]), min_size=0, max_size=4)


@bounded
@given(a=shapes, b=shapes, op=st.sampled_from(["Add", "Mul", "Sub", "Greater", "Pow", "Max"]))
def test_broadcast(a: list[int], b: list[int], op: str) -> None:
    compare(op, {"a": f32(*a), "b": f32(*b)}, {})


@bounded
@given(a=shapes, b=shapes)
def test_matmul(a: list[int], b: list[int]) -> None:
    assume(a and b)
    compare("MatMul", {"a": f32(*a), "b": f32(*b)}, {})


@bounded
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data(), keep=st.integers(0, 1),
       noop=st.integers(0, 1), op=st.sampled_from(["ReduceSum", "ReduceMax", "ReduceMean", "ReduceL2"]))  # fmt: skip
def test_reduce(shape: list[int], data: Any, keep: int, noop: int, op: str) -> None:
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True))
    signed = [a - len(shape) if data.draw(st.booleans()) else a for a in axes]
    compare(op, {"x": f32(*shape)}, {"axes": i64(*signed)}, keepdims=keep, noop_with_empty_axes=noop)


@bounded
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data())
def test_reshape(shape: list[int], data: Any) -> None:
    factors = data.draw(st.permutations([f for s in shape for f in ((2, 2) if s == 4 else (s,))]))
    cut = data.draw(st.integers(0, len(factors)))
    target = [int(np.prod(factors[:cut])), *factors[cut:]]
    place = data.draw(st.integers(0, len(target) - 1))
    target = [-1 if i == place else size for i, size in enumerate(target)]
    compare("Reshape", {"x": f32(*shape)}, {"shape": i64(*target)})


@bounded
@given(shape=st.lists(st.integers(1, 5), min_size=2, max_size=3), data=st.data())
def test_pad_tile_expand_concat_split(shape: list[int], data: Any) -> None:
    rank = len(shape)
    amounts = data.draw(st.lists(st.integers(0, 3), min_size=2 * rank, max_size=2 * rank))
    compare("Pad", {"x": f32(*shape)}, {"pads": i64(*amounts)})
    compare("Tile", {"x": f32(*shape)}, {"repeats": i64(*amounts[:rank])})
    compare("Concat", {"a": f32(*shape), "b": f32(*shape)}, {}, axis=data.draw(st.integers(-rank, rank - 1)))
    compare("Expand", {"x": f32(*shape)}, {"shape": i64(data.draw(st.integers(1, 3)), *([1] * rank))})
    parts = data.draw(st.integers(1, shape[0]))
    assume(-(-shape[0] // parts) * (parts - 1) < shape[0])
    compare("Split", {"x": f32(*shape)}, {}, parts, num_outputs=parts)


@bounded
@given(
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    scales=st.tuples(*[st.sampled_from([0.5, 0.75, 1.0, 1.5, 2.0, 3.0])] * 2),
)
def test_resize(h: int, w: int, scales: tuple[float, float]) -> None:
    assume(h * scales[0] >= 1 and w * scales[1] >= 1)
    constants = {"scales": np.array([1, 1, *scales], np.float32)}
    compare("Resize", {"x": f32(1, 2, h, w)}, constants, order=["x", "", "scales"], mode="nearest")


@bounded
@given(start=st.integers(-5, 5), limit=st.integers(-5, 15), delta=st.sampled_from([-3, -1, 1, 2, 4]))
def test_range(start: int, limit: int, delta: int) -> None:
    ends = {"start": np.array(start), "limit": np.array(limit), "delta": np.array(delta)}
    compare("Range", {}, ends)
    assert DType.of(ends["start"].dtype).value == TensorProto.INT64


def test_window_larger_than_its_input() -> None:
    """Runtimes truncate the quotient, so a pool whose stride makes up for it has one output."""
    x, node = (
        f32(1, 1, 6, 6),
        helper.make_node("AveragePool", ["x"], ["y0"], kernel_shape=[7, 7], strides=[7, 7]),
    )
    model = model_of([node], {"x": x}, ["y0"])
    results = execute(model, {"x": x})
    assert results is not None
    agree(Importer({"x": TensorType(DType.F32, x.shape)}).run(model), results, {})
