"""quantize-static and lower-int8, against NumPy and against each other in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphopt_passes.affine_quantization import (
    accumulator_room,
    activation_grid,
    quantize_bias,
    quantize_weight,
)
from graphopt_passes.quantize_static import QuantizeStatic
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import Model, apply, assert_same_numbers, bodies, count, ops, random

from graphopt.errors import PassError
from graphopt.evaluate import run
from graphopt.ir.builder import copy_graph
from graphopt.ir.dims import sym
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.transaction import EventKind, Relation, Transaction
from graphopt.ops import SEMANTICS
from graphopt.pipeline import Context

N = sym("n")


def _conv(m: Model, x: Value, channels: int, seed: int, *, kernel: int = 3, **attrs: Any) -> Value:
    inputs = int(x.tensor.shape[1])  # type: ignore[index, arg-type]
    w = m.const(random(channels, inputs // attrs.get("group", 1), kernel, kernel, seed=seed), f"w{seed}")
    pads = (kernel // 2,) * 4
    result: Value = m("Conv", x, w, m.const(random(channels, seed=seed + 50)), pads=pads, **attrs)
    return result


def _network() -> Graph:
    """Convolutions with a residual, a pool, a concatenation and a classifier."""
    m = Model()
    x = m.input("x", N, 3, 12, 12)
    a = m("MaxPool", m("Relu", _conv(m, x, 8, 1)), kernel_shape=(2, 2), strides=(2, 2))
    b = m("Relu", m("Add", _conv(m, m("Relu", _conv(m, a, 8, 2)), 8, 3), a))
    c = m("Concat", m("Relu", _conv(m, b, 4, 4, kernel=1)), m("Relu", _conv(m, b, 4, 5)), axis=1)
    d = m("HardSwish", _conv(m, c, 8, 6, group=8))
    e = m("Flatten", m("GlobalAveragePool", d))
    return m.done(m("Gemm", e, m.const(random(10, 8)), m.const(random(10)), transB=1))


def _samples(shape: tuple[int, ...] = (2, 3, 12, 12), count: int = 4) -> list[dict[str, Any]]:
    return [{"x": random(*shape, seed=i)} for i in range(count)]


def _pairs(graph: Graph) -> list[tuple[Node, Node]]:
    found = []
    for node in graph.nodes:
        if node.op == "QuantizeLinear":
            (user,) = node.output.users
            assert user.op == "DequantizeLinear"
            found.append((node, user))
    return found


def test_what_replaces_a_value_is_declared_quantized() -> None:
    graph, recorded = _network(), Recorder()
    rewriter = Rewriter(graph, SEMANTICS, listeners=[recorded])
    QuantizeStatic().run(rewriter, Context(inputs=_samples()))
    replaced = [e for t in recorded.transactions for e in t.events if e.kind is EventKind.REPLACED]
    assert {event.relation for event in replaced} == {Relation.QUANTIZED}
    restored = {node.output for node in graph.walk() if node.op == "DequantizeLinear"}
    assert {event.new for event in replaced} == restored


class Recorder:
    def __init__(self) -> None:
        self.transactions: list[Transaction] = []

    def committed(self, transaction: Transaction) -> None:
        self.transactions.append(transaction)


def test_what_is_quantized() -> None:
    graph = _network()
    apply(graph, "quantize-static", inputs=_samples())
    for node in graph.nodes:
        if node.op in ("Conv", "Gemm"):
            assert [v.producer.op for v in node.inputs if v and v.producer] == ["DequantizeLinear"] * 3
    made_by = [q.inputs[0].producer.op if q.inputs[0].producer else "input" for q, _ in _pairs(graph)]  # type: ignore[union-attr]
    assert made_by == [
        "input", "Relu", "MaxPool", "Relu", "Relu", "Relu", "Relu", "Concat", "GlobalAveragePool", "Flatten",
    ]  # fmt: skip
    grids = {
        q.inputs[0].producer.op: (q.inputs[1].const.item(), q.inputs[2].const.item())  # type: ignore[union-attr]
        for q, _ in _pairs(graph)
        if q.inputs[0] is not None and q.inputs[0].producer is not None
    }
    assert grids["Concat"] == grids["Relu"] and grids["Relu"][1] == 0
    assert grids["GlobalAveragePool"] == grids["Flatten"]


def test_weights_are_s8_per_channel_and_biases_s32_on_the_accumulator_grid() -> None:
    m = Model()
    x = m.input("x", N, 3, 12, 12)
    graph = m.done(_conv(m, x, 8, 1))
    apply(graph, "quantize-static", inputs=_samples())
    conv = next(node for node in graph.nodes if node.op == "Conv")
    data, weight, bias = (value.producer for value in conv.inputs)  # type: ignore[union-attr]
    assert data and weight and bias
    w, scale = random(8, 3, 3, 3, seed=1), weight.inputs[1].const.numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(scale, np.abs(w).max(axis=(1, 2, 3)) / 127, rtol=1e-6)
    integers = weight.inputs[0].const.numpy()  # type: ignore[union-attr]
    assert integers.dtype == np.int8 and np.abs(integers).max(axis=(1, 2, 3)).tolist() == [127] * 8
    np.testing.assert_allclose(integers * scale[:, None, None, None], w, atol=scale.max() / 1.99)
    step = bias.inputs[1].const.numpy()  # type: ignore[union-attr]
    np.testing.assert_array_equal(step, np.float32(data.inputs[1].const.numpy() * scale))  # type: ignore[union-attr]
    assert bias.inputs[0].const.numpy().dtype == np.int32  # type: ignore[union-attr]
    assert str(data.inputs[0].type).endswith("<q8u>")  # type: ignore[union-attr]


def test_ranges_are_those_of_the_samples() -> None:
    m = Model()
    x = m.input("x", N, 4)
    graph = m.done(m("MatMul", m("Relu", x), m.const(random(4, 4))))
    samples = [{"x": np.full((1, 4), v, np.float32)} for v in (-7.0, 2.0, 5.5)]
    report = apply(graph, "quantize-static", inputs=samples)
    assert list(report.rows[0].notes["ranges"].values()) == [[0.0, 5.5]]
    ((quantize, _),) = _pairs(graph)
    assert quantize.inputs[1].const.item() == np.float32(5.5 / 255)  # type: ignore[union-attr]


def test_a_sample_that_is_not_finite_is_an_error() -> None:
    m = Model()
    x = m.input("x", N, 4)
    graph = m.done(m("MatMul", m("Log", x), m.const(random(4, 4))))
    with pytest.raises(PassError, match="range -inf"):
        apply(graph, "quantize-static", inputs=[{"x": np.zeros((1, 4), np.float32)}])


def test_a_weight_that_is_not_finite_is_an_error() -> None:
    m = Model()
    graph = m.done(m("MatMul", m.input("x", N, 2), m.const([[1, np.nan], [2, 3]], "w"), name="last"))
    with pytest.raises(PassError, match='MatMul "last", %w: a weight is infinite or not a number'):
        apply(graph, "quantize-static", inputs=[{"x": np.ones((1, 2), np.float32)}])


def test_excluded_layers_stay_float() -> None:
    m = Model()
    x = m.input("x", N, 4)
    y = m("MatMul", x, m.const(random(4, 4), "first"), name="first")
    graph = m.done(m("MatMul", m("Relu", y), m.const(random(4, 4), "second"), name="second"))
    apply(graph, "quantize-static{exclude=sec*}", inputs=[{"x": random(2, 4)}])
    assert [node.op for node in graph.nodes if node.name == "second"] == ["MatMul"]
    assert count(graph)["QuantizeLinear"] == 1


@settings(max_examples=200, deadline=None, derandomize=True)
@given(low=st.floats(-1e6, 1e6, width=32), width=st.floats(0, 1e6, width=32), symmetric=st.booleans())
def test_a_grid_holds_zero_and_its_range(low: float, width: float, symmetric: bool) -> None:
    grid = activation_grid(low, low + width, symmetric)
    scale, zero = float(grid.scale), int(grid.zero_point)
    assert 0 <= zero <= 255 and scale > 0
    if max(abs(low), abs(low + width)) > 1e-30:
        assert scale * (0 - zero) <= min(low, 0) + 0.51 * scale
        assert scale * (255 - zero) >= max(low + width, 0) - 0.51 * scale


def test_degenerate_weights_and_biases() -> None:
    integers, scale = quantize_weight(np.zeros((2, 3), np.float32), 0, True)
    assert scale.tolist() == [1, 1] and not integers.any()
    room = accumulator_room(np.array([[100, -50], [1, 1]], np.int8), 0)
    assert room.tolist() == [2**31 - 1 - 255 * 150, 2**31 - 1 - 510]
    fits, step = np.array([float(2**24), -3.0], np.float32), np.float32(0.5)
    assert quantize_bias(fits, step, room).tolist() == [2**25, -6]  # type: ignore[union-attr]
    assert quantize_bias(np.float32([1e30, -1e30]), np.float32(1.0), room) is None
    assert quantize_bias(np.float32([0, 2**31 - 256]), np.float32(1.0), room) is None


def _quantized_network() -> Graph:
    graph = _network()
    apply(graph, "quantize-static", inputs=_samples())
    return graph


def test_no_float_product_is_left() -> None:
    graph = _quantized_network()
    apply(graph, "lower-int8,eliminate-dead-code")
    found = count(graph)
    assert found["ConvInteger"] == 6 and found["MatMulInteger"] == 1
    assert not {"Conv", "Gemm", "MatMul"} & found.keys()
    for node in graph.nodes:
        if node.op in ("MaxPool", "Concat", "Flatten"):
            assert node.output.tensor.dtype.text == "u8", node  # type: ignore[union-attr]


def test_lowering_keeps_the_numbers_within_one_step() -> None:
    """Over all u8 tensors, the integer model and the model of floats differ by at most 1, rarely."""
    floats = _quantized_network()
    integers = copy_graph(floats)
    apply(integers, "lower-int8,eliminate-dead-code")
    for graph in (floats, integers):
        _expose_quantized(graph)
    different = total = 0
    for sample in _samples(count=6, shape=(4, 3, 12, 12)):
        wanted, given = run(floats, sample), run(integers, sample)
        np.testing.assert_allclose(
            given["out0"], wanted["out0"], rtol=0.02, atol=0.02 * np.abs(wanted["out0"]).max()
        )
        for name in wanted.keys() & given.keys() - {"out0"}:
            distance = np.abs(wanted[name].astype(int) - given[name].astype(int))
            assert distance.max() <= 1, name
            different, total = different + int(distance.sum()), total + distance.size
    assert total > 10_000 and different <= total / 1000


def _expose_quantized(graph: Graph) -> None:
    """Makes the results of all QuantizeLinear outputs of the graph."""
    from graphopt.ir.builder import Builder

    for node in graph.nodes:
        if node.op == "QuantizeLinear":
            Builder(graph).outputs(node.outputs)
            graph.output_names.append(node.output.name)


def test_an_integer_region_is_one_kernel() -> None:
    graph = _quantized_network()
    apply(graph, "lower-int8,eliminate-dead-code,fuse-regions")
    found = bodies(graph)
    assert ["ConvInteger", "Add", "DequantizeLinear", "Relu", "QuantizeLinear"] in found
    residual = ["ConvInteger", "Add", "DequantizeLinear", "DequantizeLinear", "Add", "Relu", "QuantizeLinear"]
    assert sorted(residual) in [sorted(body) for body in found]


@pytest.mark.parametrize("bias", ["none", "integer", "float"])
@pytest.mark.parametrize("layer", ["Conv", "Gemm", "MatMul"])
def test_layers_are_exact_up_to_float_rounding(layer: str, bias: str) -> None:
    m = Model()
    shape = (2, 6, 5, 5) if layer == "Conv" else (2, 6)
    q = m.input("q", *shape, dtype="u8")
    x = m("DequantizeLinear", q, m.const(0.02), m.const(117, dtype=np.uint8))
    rng = np.random.default_rng(0)
    w = rng.integers(-127, 128, (4, 6, 3, 3) if layer == "Conv" else (6, 4))
    axis, scale = (0 if layer == "Conv" else 1), m.const(rng.random(4) / 50)
    weight = m("DequantizeLinear", m.const(w, dtype=np.int8), scale, axis=axis)
    inputs = [x, weight]
    step = m.const(np.float32(0.02) * scale.const.numpy())  # type: ignore[union-attr]
    if bias == "integer" and layer != "MatMul":
        inputs.append(
            m("DequantizeLinear", m.const(rng.integers(-9999, 9999, 4), dtype=np.int32), step, axis=0)
        )
    elif bias == "float" and layer != "MatMul":
        inputs.append(m.const(random(4)))
    graph = m.done(m(layer, *inputs, **({"pads": (1, 1, 1, 1)} if layer == "Conv" else {})))
    before = copy_graph(graph)
    apply(graph, "lower-int8,eliminate-dead-code")
    assert ops(graph)[0] in ("ConvInteger", "MatMulInteger")
    data = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    assert_same_numbers(before, graph, {"q": data}, rtol=1e-5, atol=2e-5)


REFUSED = {
    "a zero point of weights": lambda m, x, w, s: (x, m("DequantizeLinear", w, s, m.const(1, dtype=np.int8))),
    "scales along the inputs": lambda m, x, w, s: (x, m("DequantizeLinear", w, m.const([0.1] * 6), axis=0)),
    "float weights": lambda m, x, w, s: (x, m("Cast", w, to=1)),
    "a step that is denormal": lambda m, x, w, s: (x, m("DequantizeLinear", w, m.const(1e-38))),
    "a scale of 0": lambda m, x, w, s: (x, m("DequantizeLinear", w, m.const(0.0))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_lowered(name: str) -> None:
    m = Model()
    x = m("DequantizeLinear", m.input("q", 2, 6, dtype="u8"), m.const(0.5))
    a, b = REFUSED[name](m, x, m.const(np.ones((6, 4)), dtype=np.int8), m.const(0.25))
    graph = m.done(m("MatMul", a, b))
    before = ops(graph)
    apply(graph, "lower-int8")
    assert ops(graph) == before


@pytest.mark.parametrize("bias", [2**31 - 1 - 255 * 12, 2**31 - 255 * 12])
def test_sums_that_may_overflow_stay_floats(bias: int) -> None:
    """The largest bias that six products of 255 and 2 leave room for, and one more."""
    m = Model()
    x = m("DequantizeLinear", m.input("q", 2, 6, dtype="u8"), m.const(0.5))
    w = m("DequantizeLinear", m.const(np.full((6, 4), 2), dtype=np.int8), m.const(0.25))
    b = m("DequantizeLinear", m.const(np.full(4, bias), dtype=np.int32), m.const(0.125))
    graph = m.done(m("Gemm", x, w, b))
    before = copy_graph(graph)
    apply(graph, "lower-int8,eliminate-dead-code")
    assert ("Gemm" in ops(graph)) == (bias > 2**31 - 1 - 255 * 12)
    assert_same_numbers(before, graph, {"q": np.full((2, 6), 255, np.uint8)}, rtol=1e-6)


def test_a_bias_beyond_32_bits_stays_a_float() -> None:
    m = Model()
    x = m.input("x", 2, 6)
    graph = m.done(m("Gemm", x, m.const(random(6, 4)), m.const([0, 1e20, -1e20, 1])))
    before = copy_graph(graph)
    sample = {"x": random(2, 6)}
    apply(graph, "quantize-static,lower-int8,eliminate-dead-code", inputs=[sample])
    assert "MatMulInteger" in ops(graph)
    assert_same_numbers(before, graph, sample, rtol=0.05, atol=0.05)


def test_each_user_dequantizes_for_itself() -> None:
    m = Model()
    x = m("DequantizeLinear", m.input("q", 2, 6, dtype="u8"), m.const(0.5))
    graph = m.done(m("Exp", x), m("Sin", x), m("Mul", x, x))
    before = copy_graph(graph)
    apply(graph, "lower-int8")
    assert count(graph)["DequantizeLinear"] == 3
    assert_same_numbers(before, graph, {"q": np.arange(12, dtype=np.uint8).reshape(2, 6)})


def test_integers_of_two_types_are_not_joined() -> None:
    m = Model()
    parts = [m("DequantizeLinear", m.input(kind, 2, dtype=kind), m.const(0.5)) for kind in ("u8", "i8")]
    graph = m.done(m("Concat", *parts, axis=0))
    before = ops(graph)
    apply(graph, "lower-int8")
    assert ops(graph) == before


def test_weights_that_are_computed_from_constants_are_quantized() -> None:
    m = Model()
    x = m.input("x", N, 16)
    integers = np.random.default_rng(1).integers(-127, 128, (16, 8))
    integers[0] = 127  # so that the steps are found again
    steps = np.linspace(0.01, 0.08, 8, dtype=np.float32)
    weight = m("Mul", m("Cast", m.const(integers, "w8", np.int8), to=1), m.const(steps[None]))
    graph = m.done(m("MatMul", x, weight))
    apply(
        graph, "quantize-static,eliminate-dead-code", inputs=[{"x": random(4, 16, seed=i)} for i in range(4)]
    )
    assert count(graph) == {"QuantizeLinear": 1, "DequantizeLinear": 2, "MatMul": 1}
    (held,) = (v.const for v in graph.constants.values() if v.tensor.shape == (16, 8))
    assert held is not None and held.numpy().dtype == np.int8
    assert np.array_equal(held.numpy(), integers)
