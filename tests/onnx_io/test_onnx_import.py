"""What a graph holds after import: types, names, regions, functions, constants, metadata."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import parse

from graphopt.errors import ModelError
from graphopt.evaluate import Session
from graphopt.ir.dims import sym
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType, SequenceType, TensorType, UnknownType, tensor
from graphopt.onnx_io import load, to_proto

TYPES = [dtype for dtype in DType if dtype is not DType.STR]


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op for node in load(model).walk()]


# --- dimensions and types ---------------------------------------------------------------------


def test_dimensions_of_all_kinds() -> None:
    model = parse("g (float[n, 3] x, float[a, b, c, d, e, f] z) => (float[n, 3] y) { y = Relu(x) }")
    texts = ["n", "2*n", "", "?", "-1", "0"]
    for dim, text in zip(model.graph.input[1].type.tensor_type.shape.dim, texts, strict=True):
        dim.dim_param = text
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -5
    graph = load(model)
    n, *others = graph.inputs[1].tensor.shape or ()
    assert n == sym("n")
    assert others[0] == 2 * sym("n")
    unknown = [*others[1:], (graph.inputs[0].tensor.shape or ())[1]]
    assert len(set(unknown)) == 5
    assert all(not isinstance(dim, int) and dim.symbol for dim in unknown)
    assert graph.outputs[0].tensor.shape == graph.inputs[0].tensor.shape


def test_a_name_can_not_collide_with_an_invented_one() -> None:
    model = parse("g (float[u, 3] x, float[x_d0] z) => (float[u, 3] y) { y = Relu(x) }")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = ""
    x, z = load(model).inputs
    assert (x.tensor.shape or ())[0] != (z.tensor.shape or ())[0]


def test_expressions_read_back() -> None:
    model = parse("g (float[n, c] x, float[m, c] z) => (float[k, c] y) { y = Concat<axis=0>(x, z) }")
    graph = load(model)
    assert graph.outputs[0].type == tensor("f32", sym("n") + sym("m"), sym("c"))
    again = load(to_proto(graph))
    assert [value.type for value in again.outputs] == [value.type for value in graph.outputs]


def test_fixed_dimensions_and_shapes() -> None:
    model = parse("g (float[n,3,h,w] x, float[n] z) => (float[n,3,h,w] y) { y = Relu(x) }")
    assert load(model, dims={"n": 2}).outputs[0].type == tensor("f32", 2, 3, sym("h"), sym("w"))
    graph = load(model, input_shapes={"x": (4, 3, "height", 8)})
    assert graph.outputs[0].type == tensor("f32", 4, 3, sym("height"), 8)
    assert graph.inputs[1].type == tensor("f32", 4)


@pytest.mark.parametrize(
    ("dims", "shapes", "message"),
    [
        ({"m": 1}, {}, 'no dimension named "m"'),
        ({"widht": 1}, {}, 'did you mean "width"'),
        ({"n": -1}, {}, "can't be -1"),
        ({}, {"xx": (1, 3, 1, 1)}, 'did you mean "x"'),
        ({}, {"x": (1, 4, 1, 1)}, "is 3, and 4 is given"),
        ({}, {"x": (1, 3)}, "has 4 dimensions"),
        ({"n": 1}, {"x": (2, 3, 1, 1)}, "is 1, and 2 is given"),
    ],
)
def test_wrong_shapes(dims: dict[str, int], shapes: dict[str, tuple[int, ...]], message: str) -> None:
    model = parse("g (float[n,3,h,width] x) => (float[n,3,h,width] y) { y = Relu(x) }")
    with pytest.raises(ModelError) as caught:
        load(model, dims=dims, input_shapes=shapes)
    assert message in str(caught.value)


def test_inference_wins_over_stale_declarations() -> None:
    model = parse("g (float[n,4] x) => (float[7,4] y) <float[1,4] h> { h = Relu(x) y = Sigmoid(h) }")
    graph = load(model)
    assert [value.type for node in graph.nodes for value in node.outputs] == [tensor("f32", sym("n"), 4)] * 2


def test_declarations_fill_what_inference_leaves_open() -> None:
    model = parse(
        "g (float[n,4] x) => (float[m,4] y) <float[n,4] h> { h = custom.Op(x) y = Sigmoid(h) }",
        domains={"custom": 3},
    )
    graph = load(model)
    assert graph.nodes[0].output.type == tensor("f32", sym("n"), 4)
    assert graph.opset == {"": 26, "custom": 3}
    model = parse("g (float[n] x) => (int64[1, count] y) { y = NonZero(x) }")
    assert load(model).outputs[0].type == tensor("i64", 1, sym("count"))


def test_unknown_operators_are_carried() -> None:
    model = parse(
        'g (float[n] x) => (float[n] y) { h = custom.Op<a=[1,2], s="t">(x, x) y = Relu(h) }',
        domains={"custom": 1},
    )
    graph = load(model)
    assert isinstance(graph.nodes[0].output.type, UnknownType)
    node = to_proto(graph).graph.node[0]
    assert (node.op_type, node.domain) == ("Op", "custom")
    assert {attr.name: helper.get_attribute_value(attr) for attr in node.attribute} == {
        "a": [1, 2],
        "s": b"t",
    }


# --- names ------------------------------------------------------------------------------------


def test_names_that_sibling_graphs_share() -> None:
    model = parse(
        "g (bool c, float[3] x) => (float[3] y) { y = If(c)"
        " <then_branch = a () => (float[3] p) { t = Neg(x) p = Abs(t) },"
        "  else_branch = b () => (float[3] p) { t = Abs(x) p = Neg(t) }> }"
    )
    graph = load(model)
    names = [value.name for node in graph.walk() for value in node.outputs]
    assert len(names) == len(set(names)) == 5
    onnx.checker.check_model(to_proto(graph), full_check=True)
    x = np.array([1, -2, 3], np.float32)
    np.testing.assert_array_equal(Session(graph).run({"c": np.array(False), "x": x})["y"], -np.abs(x))


def test_output_that_is_an_input_a_constant_or_given_twice() -> None:
    model = parse(
        "g (float[3] x) => (float[3] x, float[2] w, float[3] y) <float[2] w = {1,2}> { y = Relu(x) }"
    )
    graph = load(model)
    exported = to_proto(graph)
    onnx.checker.check_model(exported, full_check=True)
    assert [info.name for info in exported.graph.output] == ["x", "w", "y"]
    feeds = {"x": np.array([1, -2, 3], np.float32)}
    results = Session(graph).run(feeds)
    np.testing.assert_array_equal(results["w"], [1, 2])
    np.testing.assert_array_equal(results["x"], feeds["x"])


# --- functions --------------------------------------------------------------------------------


def test_functions_are_inlined_with_attributes_and_absent_inputs() -> None:
    model = parse(
        """g (float[n] x) => (float[n] y, float[n] z) {
            y = f.scale<slope = 0.5>(x)
            z = f.scale(x)
        }
        <domain: "f", opset_import: ["": 17, "f": 1]>
        scale <slope: float = 0.25> (a, limit) => (b) { h = f.leaky<alpha: float = @slope>(a) b = Clip(h, limit) }
        <domain: "f", opset_import: ["": 11]>
        leaky <alpha> (a) => (b) { b = LeakyRelu<alpha: float = @alpha>(a) }
        """,
        domains={"f": 1},
    )
    graph = load(model)
    assert [node.op for node in graph.nodes] == ["LeakyRelu", "Clip"] * 2
    assert [node.attrs["alpha"] for node in graph.nodes[::2]] == [0.5, 0.25]
    assert [value.name for value in graph.outputs] == ["y", "z"]
    x = np.array([-4, 4], np.float32)
    np.testing.assert_array_equal(Session(graph).run({"x": x})["z"], [-1, 4])


def test_function_bodies_have_an_opset_of_their_own() -> None:
    model = parse(
        """g (float[2,3,4] x) => (float[2,3,4] y) { y = f.old(x) }
        <domain: "f", opset_import: ["": 11]> old (a) => (b) { b = Softmax(a) }""",
        domains={"f": 1},
    )
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    flat = np.exp(x.reshape(2, 12))
    want = (flat / flat.sum(1, keepdims=True)).reshape(2, 3, 4)
    np.testing.assert_allclose(Session(load(model)).run({"x": x})["y"], want, rtol=1e-5)


def test_overloads() -> None:
    model = parse(
        """g (float[n] x) => (float[n] y) { y = f.one(x) }
        <domain: "f", opset_import: ["": 17]> one (a) => (b) { b = Relu(a) }
        <domain: "f", opset_import: ["": 17]> two (a) => (b) { b = Abs(a) }""",
        domains={"f": 1},
    )
    model.ir_version = 10
    model.functions[1].name, model.functions[1].overload = "one", "other"
    assert ops(model) == ["Relu"]
    model.graph.node[0].overload = "other"
    assert ops(model) == ["Abs"]


# --- constants --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attrs", "dtype", "want"),
    [
        ({"value_float": 1.5}, "f32", 1.5),
        ({"value_floats": [1.5, 2.0]}, "f32", [1.5, 2.0]),
        ({"value_int": 7}, "i64", 7),
        ({"value_ints": [7, 8]}, "i64", [7, 8]),
        ({"value_string": "a"}, "str", "a"),
        ({"value_strings": ["a", "b"]}, "str", ["a", "b"]),
        ({"value": helper.make_tensor("v", TensorProto.INT8, [2], [1, -1])}, "i8", [1, -1]),
    ],
)
def test_constant_nodes_become_constants(attrs: dict[str, object], dtype: str, want: object) -> None:
    node = helper.make_node("Constant", [], ["c"], **attrs)
    other = helper.make_node("Identity", ["c"], ["y"])
    output = helper.make_empty_tensor_value_info("y")
    graph = load(
        helper.make_model(
            helper.make_graph([node, other], "g", [], [output]), opset_imports=[helper.make_opsetid("", 17)]
        )
    )
    data = graph.constants["c"].const
    assert data is not None
    assert data.dtype is DType.parse(dtype)
    assert data.numpy().tolist() == want
    assert [node.op for node in graph.nodes] == ["Identity"]


@pytest.mark.parametrize("linear", [True, False])
def test_sparse_initializers_are_written_out(linear: bool) -> None:
    model = parse("g (float[2,3] x) => (float[2,3] y) { y = Add(x, s) }")
    values = helper.make_tensor("s", TensorProto.FLOAT, [2], [5.0, 7.0])
    places = [1, 5] if linear else [0, 1, 1, 2]
    indices = helper.make_tensor("i", TensorProto.INT64, [2] if linear else [2, 2], places)
    model.graph.sparse_initializer.add().CopyFrom(helper.make_sparse_tensor(values, indices, [2, 3]))
    data = load(model).constants["s"].const
    assert data is not None
    assert data.numpy().tolist() == [[0, 5, 0], [0, 0, 7]]


@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: dtype.text)
@pytest.mark.parametrize("raw", [True, False])
def test_constants_of_every_element_type_survive(dtype: DType, raw: bool) -> None:
    rng = np.random.default_rng(0)
    if dtype.is_integer and dtype.bits < 8:
        low, high = (-(1 << dtype.bits - 1), 1 << dtype.bits - 1) if dtype.is_signed else (0, 1 << dtype.bits)
        array = rng.integers(low, high, 7).astype(dtype.numpy)
    elif dtype.bits < 8:
        array = rng.integers(0, 1 << dtype.bits, 7).astype(np.uint8).view(dtype.numpy)
    elif dtype is DType.BOOL:
        array = rng.integers(0, 2, 7).astype(np.bool_)
    else:
        array = rng.integers(0, 100, 7).astype(np.float32).astype(dtype.numpy)
    if raw:
        proto = onnx.numpy_helper.from_array(array, "w")
    else:
        plain = array if array.dtype.isbuiltin else array.astype(np.float32)
        proto = helper.make_tensor("w", dtype.value, [7], plain)
    model = parse("g (float[n] x) => (float[n] y) { y = Relu(x) v = custom.Op(w) }", domains={"custom": 1})
    model.graph.initializer.add().CopyFrom(proto)
    graph = load(model)
    data = graph.constants["w"].const
    assert data is not None
    assert data.type == TensorType(dtype, (7,))
    assert data.numpy().tobytes() == array.tobytes()
    (written,) = to_proto(graph).graph.initializer
    assert written.raw_data == onnx.numpy_helper.from_array(array).raw_data
    again = load(to_proto(graph)).constants["w"].const
    assert again is not None
    assert again.same(data)


def test_initializers_among_the_inputs() -> None:
    text = "g (float[3] x, float[3] w) => (float[3] y) <float[3] w = {1,2,3}> { y = Add(x, w) }"
    model = parse(text, ir_version=8)
    if "w" not in [info.name for info in model.graph.input]:
        model.graph.input.add().CopyFrom(helper.make_tensor_value_info("w", 1, [3]))
    graph = load(model)
    assert [value.name for value in graph.inputs] == ["x", "w"]
    assert graph.inputs[1].const is not None
    assert not graph.inputs[1].is_constant
    exported = to_proto(graph)
    assert [i.name for i in exported.graph.input] == ["x", "w"]
    assert [i.name for i in exported.graph.initializer] == ["w"]
    model.ir_version = 3
    graph = load(model)
    assert [value.name for value in graph.inputs] == ["x"]
    assert graph.constants["w"].is_constant


# --- regions ----------------------------------------------------------------------------------

LOOP = """g (int64 n, float[a,2] x) => (float[b,2] y, float[c,2] z) {
    t = Constant<value_int=1>()
    go = Cast<to=9>(t)
    y, z = Loop(n, go, x) <body = body (int64 i, bool again, float[p,2] s) => (bool more, float[q,2] next, float[2] row) {
        more = Identity(again)
        one = Constant<value_ints=[0]>()
        first = Gather(s, one)
        next = Concat<axis=0>(s, first)
        zero = Constant<value_int=0>()
        row = Gather(s, zero)
    }>
}"""


def test_a_loop_that_grows_has_a_free_dimension() -> None:
    graph = load(parse(LOOP))
    loop = graph.nodes[-1]
    carried = loop.regions["body"].inputs[2].tensor.shape
    assert carried is not None
    assert carried[0] != sym("a")
    assert carried[1] == 2
    assert loop.outputs[0].tensor.rank == 2
    assert loop.outputs[1].tensor.rank == 2
    assert not any(node.op == "Constant" for node in graph.walk())
    onnx.checker.check_model(to_proto(graph), full_check=True)
    x = np.array([[1, 2]], np.float32)
    results = Session(graph, "ort").run({"n": np.array(3), "x": x})
    np.testing.assert_array_equal(results["y"], np.repeat(x, 4, 0))
    np.testing.assert_array_equal(results["z"], np.repeat(x, 3, 0))


def test_scan_body_sees_elements() -> None:
    model = parse(
        """g (float[3] s, float[t,3] x) => (float[3] e, float[t,3] y) {
            e, y = Scan<num_scan_inputs=1, body = body (float[k] a, float[k] b) => (float[k] c, float[k] d) {
                c = Add(a, b)
                d = Identity(c)
            }>(s, x)
        }"""
    )
    graph = load(model)
    scan = graph.nodes[0]
    assert [value.type for value in scan.regions["body"].inputs] == [tensor("f32", 3)] * 2
    assert [value.type for value in scan.outputs] == [tensor("f32", 3), tensor("f32", sym("t"), 3)]


def test_graph_outputs_of_a_branch_that_come_from_outside() -> None:
    model = parse(
        "g (bool c, float[3] x) => (float[3] y) { h = Relu(x) y = If(c)"
        " <then_branch = a () => (float[3] p) { p = Identity(h) }, else_branch = b () => (float[3] q)"
        " { q = Constant<value_floats=[1.0, 2.0, 3.0]>() }> }"
    )
    graph = load(model)
    onnx.checker.check_model(to_proto(graph), full_check=True)
    np.testing.assert_array_equal(
        Session(graph, "ort").run({"c": np.array(False), "x": np.zeros(3, np.float32)})["y"], [1, 2, 3]
    )


def test_sequences_are_typed() -> None:
    model = parse("g (float[n] x) => (seq(float[n]) s) { s = SequenceConstruct(x, x) }")
    graph = load(model)
    assert isinstance(graph.outputs[0].type, SequenceType)
    results = Session(graph).run({"x": np.ones(2, np.float32)})
    assert [item.tolist() for item in results["s"]] == [[1, 1], [1, 1]]


# --- metadata ---------------------------------------------------------------------------------


def test_metadata_survives() -> None:
    model = parse("g (float[n] x) => (float[n] y) <float[n] h> { h = Relu(x) y = Add(h, w) }")
    model.graph.initializer.add().CopyFrom(helper.make_tensor("w", 1, [1], [2.0]))
    model.producer_name, model.producer_version, model.domain = "maker", "1.2", "org.example"
    model.model_version, model.doc_string = 7, "a model"
    model.metadata_props.add(key="author", value="someone")
    model.graph.doc_string = "a graph"
    model.graph.metadata_props.add(key="g", value="1")
    node, info = model.graph.node[0], model.graph.value_info[0]
    node.name, node.doc_string = "first", "a node"
    node.metadata_props.add(key="n", value="2")
    info.doc_string = "a value"
    info.metadata_props.add(key="v", value="3")
    annotation = model.graph.quantization_annotation.add(tensor_name="h")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    model.graph.initializer.add().CopyFrom(helper.make_tensor("scale", 1, [], [0.5]))
    exported = to_proto(load(model))
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(exported, field) == getattr(model, field), field
    assert exported.metadata_props == model.metadata_props
    for field in ("name", "doc_string", "metadata_props", "quantization_annotation"):
        assert getattr(exported.graph, field) == getattr(model.graph, field), field
    node.ClearField("domain")  # absent and empty are the same
    assert exported.graph.node[0] == node
    assert next(i for i in exported.graph.value_info if i.name == "h") == info
    assert {tensor.name for tensor in exported.graph.initializer} == {"w", "scale"}


def test_bfloat16_by_numbers_not_bits() -> None:
    proto = helper.make_tensor("w", TensorProto.BFLOAT16, [2], [1.5, -2.0])
    model = parse("g (float[n] x) => (float[n] y) { y = Relu(x) v = custom.Op(w) }", domains={"custom": 1})
    model.graph.initializer.add().CopyFrom(proto)
    data: Tensor | None = load(model).constants["w"].const
    assert data is not None
    assert data.numpy().dtype == ml_dtypes.bfloat16
    assert data.numpy().astype(np.float32).tolist() == [1.5, -2.0]


def test_arithmetic_on_a_size_that_no_input_has_is_a_name() -> None:
    """``n + 1`` says how sizes depend on each other only when an input has the size n."""

    def shapes(*inputs: str) -> list[str]:
        infos = [helper.make_tensor_value_info(f"x{i}", 1, [dim]) for i, dim in enumerate(inputs)]
        out = helper.make_tensor_value_info("y", 1, ["n + 1"])
        graph = helper.make_graph([helper.make_node("Relu", ["x0"], ["y"])], "g", infos, [out])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        return [str(value.type) for value in (*load(model).inputs, *load(model).outputs)]

    assert shapes("n + 1") == ["f32[sym('n + 1')]"] * 2
    assert shapes("n + 1", "n") == ["f32[n + 1]", "f32[n]", "f32[n + 1]"]


def test_opset_6_is_read_and_5_is_not() -> None:
    def model(opset: int) -> onnx.ModelProto:
        infos = [helper.make_tensor_value_info(name, 1, [2]) for name in "xy"]
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", infos[:1], infos[1:])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)

    assert load(model(6)).opset[""] == 26
    with pytest.raises(ModelError, match="older than 6"):
        load(model(5))
