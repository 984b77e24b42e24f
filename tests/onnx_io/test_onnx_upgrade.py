"""Models of old opsets mean after import what ONNX Runtime reads in them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import differs, parse, run_ort

from graphopt.errors import ModelError
from graphopt.evaluate import Session
from graphopt.ir.opset import CANONICAL_OPSET
from graphopt.onnx_io import load, to_proto
from graphopt.onnx_io.upgrade import next_version
from graphopt.onnx_io.upgrade.table import ADAPTERS, REVIEWED

# name: (opset, graph in the text form of the onnx package)
MODELS = {
    "add axis": (7, "g (float[2,3,4] x, float[2,3,4] b) => (float[2,3,4] y) { y = Add(x, b) }"),
    "upsample nearest 7": (
        7,
        'g (float[1,2,3,4] x) => (float[1,2,6,12] y) { y = Upsample<mode="nearest", scales=[1.0,1.0,2.0,3.0]>(x) }',
    ),
    "upsample linear 9": (
        9,
        "g (float[1,2,3,4] x) => (float[1,2,6,8] y) <float[4] s = {1.0,1.0,2.0,2.0}>"
        '{ y = Upsample<mode="linear">(x, s) }',
    ),
    "resize 10 up": (
        10,
        "g (float[1,1,4,4] x) => (float[1,1,9,6] y) <float[4] s = {1.0,1.0,2.3,1.5}>"
        '{ y = Resize<mode="nearest">(x, s) }',
    ),
    "resize 10 down": (
        10,
        "g (float[1,1,8,9] x) => (float[1,1,5,4] y) <float[4] s = {1.0,1.0,0.7,0.5}>"
        '{ y = Resize<mode="nearest">(x, s) }',
    ),
    "resize 10 linear": (
        10,
        "g (float[1,1,8,9] x) => (float[1,1,5,18] y) <float[4] s = {1.0,1.0,0.7,2.0}>"
        '{ y = Resize<mode="linear">(x, s) }',
    ),
    "resize 11 sizes": (
        11,
        "g (float[1,1,4,4] x) => (float[1,1,7,9] y) <float[0] r = {}, float[0] s = {}, int64[4] z = {1,1,7,9}>"
        '{ y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, r, s, z) }',
    ),
    "resize 11 tf_half_pixel_for_nn": (
        11,
        "g (float[1,1,4,4] x) => (float[1,1,7,10] y) <float[0] r = {}, float[0] s = {}, int64[4] z = {1,1,7,10}>"
        '{ y = Resize<mode="nearest", nearest_mode="floor",'
        ' coordinate_transformation_mode="tf_half_pixel_for_nn">(x, r, s, z) }',
    ),
    "batch norm 7": (
        7,
        "g (float[2,3,4,4] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[2,3,4,4] y)"
        "{ w = Abs(v) y = BatchNormalization<epsilon=0.01>(x, s, b, m, w) }",
    ),
    "batch norm 7 not spatial": (
        7,
        "g (float[2,3,2,2] x, float[3,2,2] s, float[3,2,2] b, float[3,2,2] m, float[3,2,2] v) => (float[2,3,2,2] y)"
        "{ w = Abs(v) y = BatchNormalization<spatial=0, epsilon=0.01>(x, s, b, m, w) }",
    ),
    "dropout 7 mask": (7, "g (float[3] x) => (float[3] y) { y, m = Dropout<ratio=0.3>(x) }"),
    "dropout 10": (10, "g (float[3] x) => (float[3] y) { y = Dropout<ratio=0.3>(x) }"),
    "slice 1": (
        9,
        "g (float[4,5,6] x) => (float[2,5,3] y) { y = Slice<starts=[1,-4], ends=[3,-1], axes=[0,2]>(x) }",
    ),
    "slice 1 without axes": (
        9,
        "g (float[4,5] x) => (float[2,4] y) { y = Slice<starts=[1,0], ends=[3,-1]>(x) }",
    ),
    "top k 1": (9, "g (float[3,7] x) => (float[3,2] y, int64[3,2] i) { y, i = TopK<k=2, axis=1>(x) }"),
    "clip 6": (9, "g (float[3,7] x) => (float[3,7] y) { y = Clip<min=-0.5, max=0.25>(x) }"),
    "clip 6 one side": (9, "g (float[3,7] x) => (float[3,7] y) { y = Clip<max=0.25>(x) }"),
    "pad 2": (
        9,
        'g (float[2,3] x) => (float[4,6] y){ y = Pad<mode="constant", pads=[1,1,1,2], value=1.5>(x) }',
    ),
    "pad 2 reflect": (9, 'g (float[3,4] x) => (float[5,6] y) { y = Pad<mode="reflect", pads=[1,1,1,1]>(x) }'),
    "squeeze 11": (11, "g (float[1,3,1] x) => (float[1,3] y) { y = Squeeze<axes=[-1]>(x) }"),
    "squeeze all": (9, "g (float[1,3,1] x) => (float[3] y) { y = Squeeze(x) }"),
    "unsqueeze 11": (11, "g (float[3] x) => (float[1,3,1] y) { y = Unsqueeze<axes=[0,2]>(x) }"),
    "split 2": (9, "g (float[6] x) => (float[2] a, float[4] b) { a, b = Split<split=[2,4], axis=0>(x) }"),
    "split 11 even": (11, "g (float[6] x) => (float[3] a, float[3] b) { a, b = Split(x) }"),
    "split 13 even": (13, "g (float[6] x) => (float[3] a, float[3] b) { a, b = Split(x) }"),
    "reduce sum 11": (11, "g (float[2,3,4] x) => (float[2,1,4] y) { y = ReduceSum<axes=[1]>(x) }"),
    "reduce mean 13": (
        13,
        "g (float[2,3,4] x) => (float[2,4] y) { y = ReduceMean<axes=[-2], keepdims=0>(x) }",
    ),
    "reduce max all": (13, "g (float[2,3,4] x) => (float y) { y = ReduceMax<keepdims=0>(x) }"),
    "softmax 1 flattens": (9, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax(x) }"),
    "softmax 11 last": (11, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis=-1>(x) }"),
    "softmax 11 axis 0": (11, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis=0>(x) }"),
    "softmax 11 negative": (11, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis=-2>(x) }"),
    "softmax then ones": (9, "g (float[2,5,1,1] x) => (float[2,5,1,1] y) { y = Softmax<axis=1>(x) }"),
    "log softmax 1": (9, "g (float[2,3,4] x) => (float[2,3,4] y) { y = LogSoftmax<axis=1>(x) }"),
    "hardmax 1": (9, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Hardmax<axis=1>(x) }"),
    "scatter 9": (
        9,
        "g (float[3,3] x, float[2,3] u) => (float[3,3] y) <int64[2,3] i = {1,0,2,0,2,1}> { y = Scatter(x, i, u) }",
    ),
    "roi align 10": (
        10,
        "g (float[1,2,8,8] x) => (float[1,2,3,3] y)"
        "<float[1,4] r = {1.0,1.0,6.0,5.0}, int64[1] b = {0}>"
        "{ y = RoiAlign<output_height=3, output_width=3, sampling_ratio=2>(x, r, b) }",
    ),
    "grid sample 16": (
        16,
        'g (float[1,2,4,4] x, float[1,3,3,2] i) => (float[1,2,3,3] y) { y = GridSample<mode="bilinear">(x, i) }',
    ),
    "grid sample 16 cubic": (
        16,
        "g (float[1,2,4,4] x, float[1,3,3,2] i) => (float[1,2,3,3] y)"
        '{ y = GridSample<mode="bicubic", padding_mode="border">(x, i) }',
    ),
    "grid sample 16 default": (
        16,
        "g (float[1,2,4,4] x, float[1,3,3,2] i) => (float[1,2,3,3] y) { y = GridSample(x, i) }",
    ),
    "dft 17": (17, "g (float[1,8,3,1] x) => (float[1,8,3,2] y) { y = DFT<axis=1>(x) }"),
    "dft 17 default axis": (17, "g (float[1,8,3,1] x) => (float[1,8,3,2] y) { y = DFT(x) }"),
    "group norm 18": (
        18,
        "g (float[2,6,4] x, float[3] s, float[3] b) => (float[2,6,4] y)"
        "{ y = GroupNormalization<num_groups=3, epsilon=0.01>(x, s, b) }",
    ),
    "lstm 7": (
        7,
        "g (float[5,2,3] x, float[1,16,3] w, float[1,16,4] r) => (float[5,1,2,4] y, float[1,2,4] h)"
        "{ y, h = LSTM<hidden_size=4>(x, w, r) }",
    ),
    "average pool 7": (
        7,
        "g (float[1,2,7,7] x) => (float[1,2,4,4] y)"
        "{ y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad=1>(x) }",
    ),
    "average pool 10 ceil": (
        10,
        "g (float[1,2,6,6] x) => (float[1,2,3,3] y) { y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x) }",
    ),
    "inside if": (
        11,
        "g (bool c, float[1,4,4] x) => (float[4,4] y) { y = If(c)"
        "<then_branch = a () => (float[4,4] p) { p = Squeeze<axes=[0]>(x) },"
        " else_branch = b () => (float[4,4] q) { t = Squeeze<axes=[0]>(x) q = Clip(t) }> }",
    ),
}


def feeds_for(model: onnx.ModelProto, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    feeds: dict[str, Any] = {}
    for info in model.graph.input:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        is_bool = info.type.tensor_type.elem_type == onnx.TensorProto.BOOL
        data = rng.standard_normal(shape)
        feeds[info.name] = np.asarray(data > 0 if is_bool else data, np.bool_ if is_bool else np.float32)
    return feeds


@pytest.mark.parametrize("name", MODELS)
def test_same_result_as_the_old_model(name: str) -> None:
    opset, text = MODELS[name]
    model = parse(text, opset=opset, ir_version=min(8, 3 + (opset > 8) + (opset > 9)))
    graph = load(model)
    onnx.checker.check_model(to_proto(graph), full_check=True)
    assert graph.opset[""] == CANONICAL_OPSET
    feeds = feeds_for(model)
    want = run_ort(model, feeds)
    got = list(Session(graph, "ort").run(feeds).values())
    assert not differs(got, want)


def test_resize_10_that_shrinks_and_grows() -> None:
    """ONNX Runtime rounds up on axes that shrink and down on those that grow."""
    model = parse(
        "g (float[1,1,8,4] x) => (float[1,1,5,9] y) <float[4] s = {1.0,1.0,0.7,2.3}>"
        '{ y = Resize<mode="nearest">(x, s) }',
        opset=10,
    )
    feeds = feeds_for(model)
    got = Session(load(model), "ort").run(feeds)["y"]
    assert not differs(got, run_ort(model, feeds)[0])


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        (
            "g (float[2,3,4,5] x, float[3,4] b) => (float[2,3,4,5] y) { y = Mul<broadcast=1, axis=1>(x, b) }",
            (1, 3, 4, 1),
        ),
        (
            "g (float[2,3,4,5] x, float[3] b) => (float[2,3,4,5] y) { y = Mul<broadcast=1, axis=-3>(x, b) }",
            (1, 3, 1, 1),
        ),
        (
            "g (float[2,3,4,5] x, float[4,5] b) => (float[2,3,4,5] y) { y = Mul<broadcast=1>(x, b) }",
            (1, 1, 4, 5),
        ),
    ],
)
def test_broadcasting_of_opset_6(text: str, shape: tuple[int, ...]) -> None:
    model = parse(text, opset=6, ir_version=3)
    feeds = feeds_for(model)
    got = Session(load(model), "ort").run(feeds)["y"]
    assert not differs(got, feeds["x"] * feeds["b"].reshape(shape))


def test_prelu_of_opset_6_has_a_slope_for_each_channel() -> None:
    model = parse(
        "g (float[2,3,4] x, float[3] s) => (float[2,3,4] y) { y = PRelu(x, s) }", opset=6, ir_version=3
    )
    feeds = feeds_for(model)
    x, slope = feeds["x"], feeds["s"].reshape(1, 3, 1)
    assert not differs(Session(load(model), "ort").run(feeds)["y"], np.where(x < 0, x * slope, x))


def test_dynamic_softmax_and_group_norm() -> None:
    """The old semantics also hold where the shape is known only when the model runs."""
    model = parse(
        "g (float[n,c,h] x, float[2] s, float[2] b) => (float[n,c,h] y)"
        "{ y = GroupNormalization<num_groups=2>(x, s, b) }",
        opset=18,
    )
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((2, 6, 3)), "s": rng.standard_normal(2), "b": rng.standard_normal(2)}
    feeds = {name: data.astype(np.float32) for name, data in feeds.items()}
    assert not differs(Session(load(model)).run(feeds)["y"], run_ort(model, feeds)[0], 1e-5, 1e-5)
    model = parse("g (float[n,c,h] x) => (float[n,c,h] y) { y = Softmax(x) }", opset=11)
    feeds = {"x": feeds["x"]}
    assert not differs(Session(load(model)).run(feeds)["y"], run_ort(model, feeds)[0])


@pytest.mark.parametrize(
    ("opset", "text", "message"),
    [
        (
            8,
            "g (float[1,2,3] s, float[1,2,3] x) => (float[1,2,3] y) { y = Slice<starts=[1]>(x) }",
            '"starts" and "ends"',
        ),
        (9, "g (float[3] x) => (float[1] y, int64[1] i) { y, i = TopK(x) }", '"k" is missing'),
        (11, "g (float[3,3] x) => (float[3,3] y) { y = Softmax<axis=5>(x) }", "axis 5 is out of range"),
        (6, "g (float[n] x) => (float[n] y) { y = Celu(x) }", "no such operator yet"),
        (5, "g (float[n] x) => (float[n] y) { y = Relu(x) }", "uses opset 5"),
        (99, "g (float[n] x) => (float[n] y) { y = Relu(x) }", "uses opset 99"),
    ],
)
def test_old_forms_that_are_refused(opset: int, text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load(parse(text, opset=opset))
    assert caught.value.hint


def test_newer_operators_keep_the_opset_and_others_do_not() -> None:
    older = load(parse("g (float[4] x) => (float[4] y) { y = Celu<alpha=2.0>(x) }", opset=28))
    assert older.opset[""] == CANONICAL_OPSET
    newer = load(parse("g (float[4,6] x, float[4,6] z) => (float[4,6] y) { y = SwiGLU(x, z) }", opset=28))
    assert newer.opset[""] == 28


def signature(schema: Any) -> dict[str, Any]:
    """What of a schema decides how a node is written."""
    return {
        "attributes": {
            name: (attr.type.name, attr.required, attr.default_value.SerializeToString())
            for name, attr in schema.attributes.items()
        },
        "inputs": [formal.option.name for formal in schema.inputs],
        "outputs": [formal.option.name for formal in schema.outputs],
        "deprecated": schema.deprecated,
    }


def is_additive(old: Any, new: Any) -> bool:
    """Whether every node of the old version is one of the new, by its schema alone."""
    a, b = signature(old), signature(new)
    attributes = all(b["attributes"].get(name) == attr for name, attr in a["attributes"].items())
    added = [attr for name, attr in b["attributes"].items() if name not in a["attributes"]]
    inputs = (
        b["inputs"][: len(a["inputs"])] == a["inputs"] and "Single" not in b["inputs"][len(a["inputs"]) :]
    )
    outputs = b["outputs"][: len(a["outputs"])] == a["outputs"]
    relaxed = len(a["inputs"]) == len(b["inputs"]) and all(
        x == y or y == "Optional" for x, y in zip(a["inputs"], b["inputs"], strict=True)
    )
    optional = not any(required for _, required, _ in added)
    return attributes and optional and (inputs or relaxed) and outputs and not b["deprecated"]


def steps() -> dict[tuple[str, int], bool]:
    """Every step of every operator from opset 6 to the canonical one; whether it is additive."""
    history: dict[str, dict[int, Any]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= CANONICAL_OPSET:
            history.setdefault(schema.name, {})[schema.since_version] = schema
    found = {}
    for op, versions in history.items():
        ordered = sorted(versions)
        for before, after in itertools.pairwise(ordered):
            if after > 6:
                found[op, after] = is_additive(versions[before], versions[after])
    return found


def test_every_step_that_changes_a_signature_has_an_adapter() -> None:
    changed = {step for step, additive in steps().items() if not additive}
    assert changed - set(ADAPTERS) - set(REVIEWED) == set()
    assert set(REVIEWED) <= set(steps())


def test_adapters_belong_to_steps_that_exist() -> None:
    assert set(ADAPTERS) <= set(steps())
    assert next_version("Upsample", 7) == 9
    assert next_version("Relu", CANONICAL_OPSET) is None


def test_number_of_steps_is_the_one_that_was_reviewed() -> None:
    """A newer onnx package may bring steps before the canonical opset's end; look at them then."""
    assert len(steps()) == 369
