"""Contradictions are located errors, malformed nodes never end in a traceback of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import TypeInferenceError
from graphopt.ir.dims import sym
from graphopt.ir.graph import RefAttr
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import SequenceType, TensorType, UnknownType, tensor
from graphopt.ops import SEMANTICS
from graphopt.ops.registry import INFOS
from tests.ops.test_symbolic_types import KERNEL, Scratch

IMAGE = tensor("f32", 1, 3, 8, 8)


@pytest.mark.parametrize(
    ("op", "inputs", "attrs", "message"),
    [
        ("Add", [IMAGE, tensor("i64", 1)], {}, "input 1 .*expected element type f32"),
        ("Add", [IMAGE, tensor("f32", 5)], {}, r"input 1 .*broadcasts with \[1, 3, 8, 8\]"),
        ("Add", [IMAGE, SequenceType(IMAGE)], {}, "input 1 .*expected a tensor"),
        ("Conv", [IMAGE, np.zeros((8, 4, 3, 3), np.float32)], {}, "input 1 .*3 input channels"),
        ("Conv", [tensor("f32", 1, 3, 8), KERNEL], {}, "input 1 .*rank 3"),
        ("Conv", [IMAGE, KERNEL], {"strides": (0, 1)}, "attribute strides"),
        ("Conv", [IMAGE, KERNEL], {"pads": (1, 1)}, "attribute pads.*4 values"),
        ("Conv", [IMAGE, KERNEL], {"kernel_shape": (5, 5)}, "attribute kernel_shape"),
        ("MatMul", [tensor("f32", 2, 3), tensor("f32", 4, 5)], {}, "input 1 .*3 rows"),
        ("MatMul", [tensor("f32"), tensor("f32", 4, 5)], {}, "input 0 .*vector, matrix"),
        ("Gemm", [tensor("f32", 2, 3), tensor("f32", 3, 5), tensor("f32", 4)], {}, "input 2 "),
        ("Reshape", [IMAGE, [7, -1]], {}, r"input 0 .*as many elements as \[7, -1\]"),
        ("Reshape", [IMAGE, [-1, -1]], {}, "at most one -1"),
        ("Reshape", [tensor("f32", 4), [2, 0]], {}, "no 0 at place 1"),
        ("Transpose", [IMAGE], {"perm": (0, 1, 2, 2)}, "permutation"),
        ("Concat", [tensor("f32", 2, 3), tensor("f32", 3, 3)], {"axis": 1}, "input 1 .*size 2 at axis 0"),
        ("Concat", [tensor("f32", 2, 3), tensor("f32", 2)], {"axis": 0}, "input 1 .*rank 2"),
        ("Softmax", [IMAGE], {"axis": 4}, "axis 4 of a tensor of rank 4"),
        ("Squeeze", [IMAGE, [1]], {}, "size 1 at axis 1"),
        ("Slice", [IMAGE, [0, 0], [1], [0, 1]], {}, "input 2 .*2 elements"),
        ("Slice", [IMAGE, [0], [1], [0], [0]], {}, "steps other than 0"),
        ("Split", [tensor("f32", 7), [3, 3]], {}, "sizes, one for each output"),
        ("BatchNormalization", [IMAGE] + [np.zeros(4, np.float32)] * 4, {}, "3 elements, one for each channel"),
        ("QuantizeLinear", [IMAGE, [0.1, 0.2]], {}, "input 1 .*3 scales"),
        ("Cast", [IMAGE], {"to": 99}, "attribute to=99"),
        ("If", [tensor("bool")], {}, 'region "then_branch" is missing'),
        ("TopK", [tensor("f32", 3), [5]], {}, "at most 3"),
        ("Conv", [tensor("f32", 1, 3, 1, 8), KERNEL], {}, "input 0 .*axis 2 at least 3 long"),
        ("Conv", [tensor("f32", 1, 3, 8, 1), KERNEL], {"strides": (4, 4), "pads": (0, 0, 0, 1)}, "input 0 .*axis 3 at"),
        ("Conv", [tensor("f32", 1, 3, 8, 4), KERNEL], {"dilations": (1, 2)}, "input 0 .*axis 3 at least 5 long"),
        ("Pad", [tensor("f32", 3), [-2, -2]], {}, r"the output would be \[-1\]"),
    ],
)  # fmt: skip
def test_contradictions_are_located(op: str, inputs: list[Any], attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeInferenceError, match=message) as caught:
        Scratch().node(op, inputs, **attrs)
    assert caught.value.message.startswith(f'{op} "y0"')


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "attrs", "message"),
    [
        ("Add", [IMAGE], 1, {}, "1 input, expected 2"),
        ("Add", [IMAGE, None], 1, {}, r'input 1 \("B"\) is absent'),
        ("Relu", [IMAGE], 2, {}, "2 outputs, expected 1"),
        ("Conv", [IMAGE, KERNEL], 1, {"stride": (1, 1)}, 'unknown attribute "stride"'),
        ("Conv", [IMAGE, KERNEL], 1, {"strides": 1}, 'attribute "strides" is int, expected INTS'),
        ("Gather", [IMAGE, tensor("i64")], 1, {"axis": "1"}, 'attribute "axis" is str, expected INT'),
        ("Cast", [IMAGE], 1, {}, 'attribute "to" is missing'),
        ("Sin", [tensor("i64", 3)], 1, {}, r"is tensor\(int64\), which the operator does not take"),
        ("Add", [IMAGE, tensor("i32", 3)], 1, {}, "but another input of type T is"),
        ("Dropout", [IMAGE], 1, {"ratio": 0.5}, 'unknown attribute "ratio"'),
    ],
)
def test_check_names_what_is_wrong(
    op: str, inputs: list[Any], outputs: int, attrs: dict[str, Any], message: str
) -> None:
    scratch = Scratch()
    values = [scratch.value(spec) for spec in inputs]
    node = scratch.builder.node(op, values, [(f"y{i}", UnknownType()) for i in range(outputs)], attrs)
    problem = SEMANTICS.check(node)
    assert problem is not None
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(problem)
    # The verdict is remembered by signature; another node gets it with its own name.
    twin = scratch.builder.node(
        op, values, [(f"z{i}", UnknownType()) for i in range(outputs)], attrs, name="twin"
    )
    assert SEMANTICS.check(twin) == problem.replace('"y0"', '"twin"')


def test_check_accepts_what_it_does_not_know() -> None:
    assert SEMANTICS.check(Scratch().node("Foo", [IMAGE], domain="my.domain", bar=1)) is None
    assert SEMANTICS.check(Scratch().node("Relu", [UnknownType()])) is None


def test_check_of_a_fused_node_compares_with_its_body() -> None:
    scratch = Scratch()
    node = scratch.builder.node("fused", [scratch.value(IMAGE)], [("y", IMAGE)], domain="graphopt")
    assert "exactly one region" in (SEMANTICS.check(node) or "")
    body = scratch.builder.region(node, "body")
    x = scratch.builder.input("x", IMAGE, body)
    assert "gives 0" in (SEMANTICS.check(node) or "")
    scratch.builder.outputs([x], body)
    assert SEMANTICS.check(node) is None
    assert SEMANTICS.infer(node) == [IMAGE]


ATTRIBUTES = sorted({"axis", "axes", "perm", "kernel_shape", "strides", "pads", "dilations", "group", "to", "blocksize",
                     "equation", "keepdims", "num_outputs", "hidden_size", "value", "shape", "direction", "dtype",
                     "start", "end", "batch_dims", "auto_pad", "num_scan_inputs", "size", "scales"})  # fmt: skip
VALUES = st.one_of(
    st.integers(-3, 9), st.just(2**63 - 1), st.floats(), st.text(max_size=3), st.just(Tensor.of(np.zeros(2))),
    st.lists(st.integers(-2, 5), max_size=5).map(tuple), st.lists(st.floats(), max_size=2).map(tuple),
    st.just(RefAttr("a", "INT")),
)  # fmt: skip
TYPES = st.one_of(
    st.none(), st.just(UnknownType()), st.just(SequenceType(IMAGE)), st.just(TensorType(None, None)),
    st.builds(
        lambda dtype, dims: tensor(dtype, *dims),
        st.sampled_from(["f32", "i64", "bool", "u8", "str"]),
        st.lists(st.sampled_from([0, 1, 2, 3, sym("n"), 2**63 - 1]), max_size=5),
    ),
    st.lists(st.integers(-3, 5), max_size=4).map(lambda v: np.array(v, np.int64)),
)  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(
    op=st.sampled_from(sorted({name for domain, name in INFOS if domain in ("", "com.microsoft")})),
    domain=st.sampled_from(["", "", "com.microsoft"]),
    inputs=st.lists(TYPES, max_size=5),
    outputs=st.integers(0, 3),
    attrs=st.dictionaries(st.sampled_from(ATTRIBUTES), VALUES, max_size=4),
)
def test_any_node_is_typed_or_refused(
    op: str, domain: str, inputs: list[Any], outputs: int, attrs: dict[str, Any]
) -> None:
    try:
        node = Scratch().node(op, inputs, outputs, domain=domain, **attrs)
    except TypeInferenceError as error:
        assert op in error.message
    else:
        assert all(value.type is not None for value in node.outputs)
        assert SEMANTICS.check(node) is None or op in str(SEMANTICS.check(node))
