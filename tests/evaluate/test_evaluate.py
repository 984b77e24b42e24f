"""Sessions on both engines, values of constant nodes, generated inputs."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from graphopt.errors import EvaluationError, InputError
from graphopt.evaluate import Session, evaluate_nodes, example_inputs, run
from graphopt.evaluate.examples import Content
from graphopt.ir.builder import Builder
from graphopt.ir.graph import Graph
from graphopt.ir.types import DType, TensorType
from graphopt.onnx_io import load


def parsed(text: str) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["": 17, "custom": 1]> {text}')


def loaded(text: str) -> Graph:
    return load(parsed(text))


@pytest.mark.parametrize("engine", ["ort", "reference"])
def test_both_engines_agree(engine: str) -> None:
    graph = loaded(
        "g (float[n,3] x) => (float[n,3] y, float[n,1] s) { y = Softmax(x) a = Constant<value_ints=[1]>() s = ReduceSum(x, a) }"
    )
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    session = Session(graph, engine)  # type: ignore[arg-type]
    results = session.run({"x": x})
    assert session.engine == engine
    assert list(results) == ["y", "s"]
    exps = np.exp(x)
    np.testing.assert_allclose(results["y"], exps / exps.sum(1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(results["s"], x.sum(1, keepdims=True), rtol=1e-4, atol=1e-6)


def test_auto_takes_the_reference_where_onnx_runtime_has_no_kernel() -> None:
    model = parsed("g (float[3] x) => (float[3] y) { y = Relu(x) }")
    for info in (model.graph.input[0], model.graph.output[0]):
        info.type.tensor_type.elem_type = TensorProto.BFLOAT16
    graph = load(model)
    x = np.array([1, -1, 2], ml_dtypes.bfloat16)
    assert Session(graph).engine == "reference"
    np.testing.assert_array_equal(run(graph, {"x": x})["y"], np.maximum(x, ml_dtypes.bfloat16(0)))
    with pytest.raises(EvaluationError, match="ONNX Runtime can't load"):
        Session(loaded("g (float[3] x) => (float[3] y) { y = custom.Op(x) }"), "ort")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, 'input "x" is missing'),
        ({"x": np.ones((2, 3), np.float32), "z": np.ones(1)}, 'no input "z"'),
        ({"x": np.ones((2, 3))}, "is float64, the graph wants float32"),
        ({"x": np.ones(3, np.float32)}, r"has shape \[3\]"),
        ({"x": np.ones((2, 4), np.float32)}, r"has shape \[2, 4\].*: axis 1 must be 3"),
    ],
)
def test_wrong_inputs(inputs: dict[str, np.ndarray], message: str) -> None:
    session = Session(loaded("g (float[n,3] x) => (float[n,3] y) { y = Relu(x) }"))
    with pytest.raises(InputError, match=message):
        session.run(inputs)


def test_inputs_agree_on_symbolic_dimensions() -> None:
    session = Session(loaded("g (float[n] x, float[n] z) => (float[n] y) { y = Add(x, z) }"))
    with pytest.raises(InputError, match=r'input "z" has shape .*axis 0 is n, which is 2 in input "x"'):
        session.run({"x": np.ones(2, np.float32), "z": np.ones(1, np.float32)})
    assert session.run({"x": np.ones(2, np.float32), "z": np.ones(2, np.float32)})["y"].tolist() == [2, 2]


def test_a_failing_node_is_named() -> None:
    graph = loaded("g (float[n,3] x, int64[2] s) => (float[a,b] y) { [shaper] y = Reshape(x, s) }")
    with pytest.raises(EvaluationError, match='at Reshape "shaper"'):
        Session(graph, "ort").run({"x": np.ones((2, 3), np.float32), "s": np.array([4, 4])})


def test_unknown_engine() -> None:
    with pytest.raises(EvaluationError, match='no engine "tpu"'):
        Session(loaded("g (float[n] x) => (float[n] y) { y = Relu(x) }"), "tpu")  # type: ignore[arg-type]


# --- constant nodes ---------------------------------------------------------------------------


def test_a_cone_of_constants() -> None:
    graph = loaded(
        "g (float[3] x) => (float[3] y) <float[3] w = {1,2,3}, float[3] v = {4,5,6}>"
        "{ a = Add(w, v) b = Mul(a, w) c = Neg(b) y = Add(x, c) }"
    )
    values = evaluate_nodes(graph.nodes[:3], graph)
    assert {value.name: data.tolist() for value, data in values.items()} == {"c": [-5, -14, -27]}
    everything = [value for node in graph.nodes[:3] for value in node.outputs]
    values = evaluate_nodes(graph.nodes[:3], graph, everything)
    assert {value.name: data.tolist() for value, data in values.items()}["b"] == [5, 14, 27]


def test_constant_control_flow() -> None:
    graph = loaded(
        "g (float[3] x) => (float[3] y) <bool c = {1}, float[3] w = {1,2,3}> { h = If(c)"
        " <then_branch = a () => (float[3] p) { p = Neg(w) }, else_branch = b () => (float[3] q) { q = Abs(w) }>"
        " y = Add(x, h) }"
    )
    ((value, data),) = evaluate_nodes(graph.nodes[:1], graph).items()
    assert value.name == "h"
    assert data.tolist() == [-1, -2, -3]


def test_what_one_engine_can_not_run_the_other_does() -> None:
    model = parsed("g (float[2] x) => (float[2] y) { h = Add(w, w) k = Cast<to=1>(h) y = Add(x, k) }")
    bf16 = onnx.numpy_helper.from_array(np.array([1.5, -2], ml_dtypes.bfloat16), "w")
    model.graph.initializer.add().CopyFrom(bf16)
    graph = load(model)
    values = evaluate_nodes(graph.nodes[:2], graph)
    assert {value.name: data.tolist() for value, data in values.items()} == {"k": [3.0, -4.0]}


def test_what_nothing_can_run_is_left_out() -> None:
    graph = loaded(
        "g (float[3] x) => (float[3] y) <float[3] w = {1,2,3}>"
        "{ a = custom.Op(w) b = Neg(w) c = Add(a, b) d = Add(b, x) y = Add(c, d) }"
    )
    values = evaluate_nodes(graph.nodes[:3], graph)
    assert {value.name: data.tolist() for value, data in values.items()} == {"b": [-1, -2, -3]}


# --- generated inputs -------------------------------------------------------------------------


def test_examples_have_the_right_types_and_run() -> None:
    graph = loaded(
        "g (int64[batch,seq] ids, int64[batch,seq] attention_mask, float[batch,3,h,w] image, bool[2] flag, uint8[5] q)"
        " => (float[batch,seq,2] y, float[batch,3,h,w] z)"
        " <float[3,2] table = {1,2,3,4,5,6}>"
        " { i = Cast<to=6>(ids) y = Gather(table, i) z = Relu(image) }"
    )
    inputs = example_inputs(graph, seed=1, dims={"seq": 500})
    assert {name: (data.shape, str(data.dtype)) for name, data in inputs.items()} == {
        "ids": ((1, 500), "int64"),
        "attention_mask": ((1, 500), "int64"),
        "image": ((1, 3, 64, 64), "float32"),
        "flag": ((2,), "bool"),
        "q": ((5,), "uint8"),
    }
    assert set(inputs["ids"].ravel().tolist()) == {0, 1, 2}
    assert inputs["attention_mask"].all()
    assert abs(inputs["image"].std() - 1) < 0.05
    run(graph, inputs)


def test_symbols_can_have_sizes_of_their_own() -> None:
    text = "g (float[batch,a,m] x, float[a,k,h,w] image) => (float[batch,a,m] y) { y = Relu(x) }"
    inputs = example_inputs(loaded(text), distinct=True)
    assert (inputs["x"].shape, inputs["image"].shape) == ((2, 7, 9), (7, 11, 64, 96))
    assert example_inputs(loaded(text), dims={"a": 5}, distinct=True)["x"].shape == (2, 5, 7)


@pytest.mark.parametrize(
    ("type", "body", "low", "high"),
    [
        ("float[n]", "y = Log(x)", 0.25, 4),
        ("float[n]", "a = Reshape(x, s) y = Sqrt(a)", 0.25, 4),
        ("float[n]", "y = Asin(x)", -0.9, 0.9),
        ("float[n]", "y = Pow(x, half)", 0.25, 4),
        ("int64[n]", "y = Div(i, x)", 1, 4),
        ("int64[n]", "y = Gather(table, x)", 0, 4),
        ("int64[n]", "a = Cast<to=6>(x) b = Squeeze(a) y = Gather(table, b)", 0, 4),
        ("int64[n]", "y = Gather(x, i) z = Gather(table, x)", 0, 4),
        ("int32[n]", "y, h, c = LSTM<hidden_size=1>(seq, w, r, none, x)", 1, 6),
        ("int64[n]", "y = Expand(half, x)", 1, 1),
    ],
)
def test_examples_keep_to_the_domain_of_what_reads_them(
    type: str, body: str, low: float, high: float
) -> None:
    graph = loaded(
        f"g ({type} x, float[6,n,1] seq) => (y) <int64[1] s = {{-1}}, float half = {{0.5}}, int64[1] i = {{7}}, "
        f"float[5,1] table = {{1,2,3,4,5}}, float[1,4,1] w = {{1,2,3,4}}, float[1,4,1] r = {{1,2,3,4}}, "
        f"float[1,8] none = {{0,0,0,0,0,0,0,0}}> {{ {body} }}"
    )
    drawn = example_inputs(graph, dims={"n": 500})["x"]
    assert low <= drawn.min() and drawn.max() <= high
    assert drawn.max() - drawn.min() > (high - low) * 0.9 - 0.01


def test_examples_depend_on_the_seed_alone() -> None:
    graph = loaded("g (float[n,3] x, string[2] s) => (float[n,3] y) { y = Relu(x) }")
    first, second, third = (example_inputs(graph, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first["x"], second["x"])
    assert (first["x"] != third["x"]).any()


def test_examples_need_a_rank() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = load(
        helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y]))
    )
    with pytest.raises(EvaluationError, match='input "x"'):
        example_inputs(graph)


VARIED = (
    "g (float[n] x, int64[n] k, int64[n] attention_mask, float[n] v, float[2] w) => (float[n] y) "
    "{ y = Log(v) }"
)


def test_varied_content_has_zeros_ties_and_masked_elements() -> None:
    inputs = example_inputs(loaded(VARIED), dims={"n": 500}, content="varied")
    x, k, mask, v = (inputs[name] for name in ("x", "k", "attention_mask", "v"))
    zeros = x == 0
    assert zeros.any() and np.signbit(x[zeros]).any() and not np.signbit(x[zeros]).all()
    assert len(np.unique(x)) < 450 and np.isfinite(x).all()
    assert (k.min(), k.max()) < (-90, 90) and k.max() > 90 and len(np.unique(k)) < 250
    assert 0 < mask.mean() < 1 and set(mask.tolist()) == {0, 1}
    assert v.min() >= 0.25 and v.max() <= 4


def test_awkward_content_is_awkward_where_numbers_index_nothing() -> None:
    text = "g (float[n] x, int64[n] k) => (float[n,1] y) <float[5,1] t = {1,2,3,4,5}> { y = Gather(t, k) }"
    inputs = example_inputs(loaded(text), dims={"n": 500}, content="awkward")
    assert np.isnan(inputs["x"]).any() and np.isinf(inputs["x"]).any()
    assert (inputs["k"].min(), inputs["k"].max()) == (0, 4)


@pytest.mark.parametrize("content", ["plain", "varied"])
def test_powers_of_two_are_never_nan(content: Content) -> None:
    graph = Graph("g")
    builder = Builder(graph)
    scales, mask = (builder.input(name, TensorType(DType.F8E8M0, (500,))) for name in ("x", "mask"))
    builder.outputs([scales, mask])
    inputs = example_inputs(graph, content=content)
    assert not any(np.isnan(array.astype(np.float32)).any() for array in inputs.values())


def test_a_default_outside_of_the_domain_is_drawn_near_it() -> None:
    model = parsed(
        "g (float[1,2,4] x, float[2] v) => (float[1,2,4] y) <float[2] o = {1, 1}, float[2] v = {0.01, 9}> "
        "{ y = BatchNormalization(x, o, o, o, v) }"
    )
    (low, high) = example_inputs(load(model), defaults=True)["v"]
    assert 0.01 <= low < 0.02 and 6 < high <= 9


def test_defaults_are_drawn_near_what_they_are_when_asked_for() -> None:
    model = parsed(
        "g (float[2] x, float[3] b, int64[1] s, int64[2] i, float[70000] w) => (float[2] y, float[2] z, float[2,1] o)"
        " <float[3] b = {0, -2, 3}, int64[1] s = {2}, int64[2] i = {0, 1}, float[4,1] t = {1,2,3,4}>"
        " { y = Reshape(x, s) z = Neg(x) o = Gather(t, i) }"
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(70000, np.float32), "w"))
    graph = load(model)
    assert set(example_inputs(graph)) == {"x"}
    inputs = example_inputs(graph, defaults=True)
    b = inputs["b"]
    assert 0 < abs(b[0]) < 1 and -4 < b[1] < -1 < 1 < b[2] < 6 and (b != [0, -2, 3]).all()
    assert inputs["s"].tolist() == [2] and (inputs["w"] == 1).all()
    assert set(inputs["i"].tolist()) <= {0, 1, 2, 3}
    run(graph, inputs)
