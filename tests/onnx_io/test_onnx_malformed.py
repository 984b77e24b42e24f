"""Bad models are refused with one located sentence; none crashes, hangs or fills the memory."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import node_cases, parse, stored_case, stored_cases

from graphopt.errors import GraphoptError, ModelError
from graphopt.onnx_io import load, to_proto

RELU = "g (float[n,3] x) => (float[n,3] y) { h = Relu(x) y = Sigmoid(h) }"


def refused(model: onnx.ModelProto | bytes | Path, message: str) -> ModelError:
    with pytest.raises(ModelError, match=message) as caught:
        load(model)
    assert "\n" not in caught.value.message
    return caught.value


def test_truncated_and_foreign_files(tmp_path: Path) -> None:
    data = parse(RELU).SerializeToString()
    refused(data[: len(data) - 7], "not an ONNX model")
    refused(b"", "no graph")
    refused(b"\x89PNG\r\n\x1a\n" * 10, "not an ONNX model")
    refused(tmp_path / "absent.onnx", "absent.onnx can't be read: No such file")


def test_undefined_name() -> None:
    model = parse(RELU)
    model.graph.node[1].input[0] = "nowhere"
    error = refused(model, 'Sigmoid "y" in the graph uses "nowhere", which nothing defines')
    assert error.hint


def test_missing_initializer() -> None:
    model = parse("g (float[n,3] x) => (float[n,3] y) <float[3] w = {1,2,3}> { y = Mul(x, w) }")
    del model.graph.initializer[:]
    refused(model, 'Mul "y" in the graph uses "w"')


def test_cycle_is_refused_and_disorder_mended() -> None:
    model = parse("g (float[3] x) => (float[3] y) { a = Add(x, b) b = Relu(a) y = Neg(b) }")
    refused(model, 'Add "a" in the graph is part of a cycle')
    model = parse("g (float[3] x) => (float[3] y) { y = Neg(b) b = Relu(a) a = Abs(x) }")
    assert [node.op for node in load(model).nodes] == ["Abs", "Relu", "Neg"]


def test_disorder_around_a_subgraph_is_mended() -> None:
    model = parse(
        "g (bool c, float[3] x) => (float[3] y) {"
        " y = If(c) <then_branch = a () => (float[3] p) { p = Neg(h) }, else_branch = b () => (float[3] q) { q = Abs(x) }>"
        " h = Relu(x) }"
    )
    assert [node.op for node in load(model).nodes] == ["Relu", "If"]


def test_duplicate_definitions() -> None:
    model = parse(RELU)
    model.graph.node[1].output[0] = "h"
    refused(model, 'Sigmoid "h" in the graph defines "h", which is defined before')
    model = parse(RELU)
    model.graph.node[0].output[0] = "x"
    refused(model, 'Relu "x" in the graph defines "x"')
    model = parse(RELU)
    model.graph.input.add().CopyFrom(model.graph.input[0])
    refused(model, 'two inputs named "x"')
    model = parse(RELU)
    model.graph.output.add().CopyFrom(model.graph.output[0])
    refused(model, '"y" is twice among the outputs')


def test_no_outputs() -> None:
    model = parse(RELU)
    del model.graph.output[:]
    refused(model, "no outputs")


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ((1 << 40, 1 << 20), "needs"),
        ((-1, 3), "negative dimension"),
        ((2, 3), "needs 24 bytes of data and has 12"),
        (tuple([1] * 70), "more than the 64"),
    ],
)
def test_data_that_does_not_fit_its_dimensions(dims: tuple[int, ...], message: str) -> None:
    model = parse("g (float[n,3] x) => (float[n,3] y) <float[3] w = {1,2,3}> { y = Mul(x, w) }")
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(TensorProto(name="w", data_type=1, raw_data=bytes(12)))
    tensor.dims.extend(dims)
    error = refused(model, message)
    assert 'initializer "w"' in error.message


def test_absurd_sparse_tensor() -> None:
    model = parse("g (float[n] x) => (float[n] y) { y = Relu(x) }")
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.add().CopyFrom(helper.make_sparse_tensor(values, indices, [1 << 50]))
    refused(model, "sparse and has 1125899906842624 elements")


def test_wrong_element_type_of_an_output() -> None:
    model = parse("g (float[n] x) => (int64[n] y) { y = Relu(x) }")
    refused(model, 'output "y" is declared i64')


def test_inputs_that_do_not_fit_the_operator() -> None:
    refused(parse("g (float[2,3] x, float[4] w) => (float[2,3] y) { y = Add(x, w) }"), 'Add "y"')


def test_element_type_that_does_not_exist() -> None:
    model = parse(RELU)
    model.graph.input[0].type.tensor_type.elem_type = 77
    refused(model, '"x" has element type 77')


def test_text_that_is_not_utf8() -> None:
    data = parse(RELU).SerializeToString().replace(b"Sigmoid", b"Sigmo\xffd")
    refused(data, "not UTF-8")


def test_function_that_calls_itself_and_functions_that_explode() -> None:
    functions = '<domain: "f", opset_import: ["": 17, "f": 1]> a (x) => (y) { y = f.a(x) }'
    model = parse("g (float[n] x) => (float[n] y) { y = f.a(x) } " + functions, domains={"f": 1})
    refused(model, "calls itself")
    text = "g (float[n] x) => (float[n] y) { y = f.a40(x) } "
    for level in range(1, 41):
        text += (
            f'<domain: "f", opset_import: ["": 17, "f": 1]> a{level} (x) => (y) '
            f"{{ h = f.a{level - 1}(x) y = f.a{level - 1}(h) }} "
        )
    text += '<domain: "f", opset_import: ["": 17]> a0 (x) => (y) { y = Relu(x) }'
    model = parse(text, domains={"f": 1})
    import graphopt.onnx_io.importer as importer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importer, "MAX_NODES", 5000)
        refused(model, "more than 5000 nodes")


def test_functions_that_nest_too_deep() -> None:
    text = "g (float[n] x) => (float[n] y) { y = f.a200(x) } "
    for level in range(1, 201):
        text += (
            f'<domain: "f", opset_import: ["": 17, "f": 1]> a{level} (x) => (y) {{ y = f.a{level - 1}(x) }} '
        )
    text += '<domain: "f", opset_import: ["": 17]> a0 (x) => (y) { y = Relu(x) }'
    refused(parse(text, domains={"f": 1}), "nest deeper than 64")


def test_training_information_and_lists_of_graphs() -> None:
    model = parse(RELU)
    model.training_info.add()
    refused(model, "training information")
    model = parse(RELU)
    attribute = model.graph.node[0].attribute.add(name="gs", type=onnx.AttributeProto.GRAPHS)
    attribute.graphs.add()
    refused(model, 'attribute "gs" is a list of graphs')


def test_attribute_given_twice() -> None:
    model = parse("g (float[n] x) => (float[n] y) { y = LeakyRelu<alpha=0.1>(x) }")
    model.graph.node[0].attribute.add().CopyFrom(model.graph.node[0].attribute[0])
    refused(model, 'attribute "alpha" is there twice')


def seeds() -> list[bytes]:
    """Small real models."""
    chosen = (
        "loop",
        "scan",
        "if_",
        "sequence_map",
        "optional",
        "split",
        "resize",
        "quantize",
        "lstm",
        "attention",
    )
    models = [case.model for name, case in node_cases().items() if any(word in name for word in chosen)]
    models += [stored_case(name).model for name in stored_cases()[::9]]
    return [data for model in models if len(data := model.SerializeToString()) < 200_000]


def mutate(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def mutations_are_refused_or_valid(seed: int, count: int) -> None:
    rng = random.Random(seed)
    originals = seeds()
    valid = 0
    for index in range(count):
        data = mutate(rng.choice(originals), rng)
        start = time.perf_counter()
        try:
            exported = to_proto(load(data))
        except GraphoptError as error:
            assert error.message, index
        else:
            assert load(exported).output_names == [info.name for info in exported.graph.output]
            valid += 1
        assert time.perf_counter() - start < 10, f"mutation {index} of seed {seed} takes too long"
    assert 0 < valid < count


def test_mutations() -> None:
    mutations_are_refused_or_valid(0, 200)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_mutations(seed: int) -> None:
    mutations_are_refused_or_valid(seed, 500)


def test_array_data_is_read_only() -> None:
    graph = load(parse("g (float[n,3] x) => (float[n,3] y) <float[3] w = {1,2,3}> { y = Mul(x, w) }"))
    data = graph.constants["w"].const
    assert data is not None
    with pytest.raises(ValueError, match="read-only"):
        data.numpy()[0] = np.float32(5)
