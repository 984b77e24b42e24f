"""Types of nodes with symbolic dimensions, as exact text; the expectations follow the ONNX specification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from graphopt.errors import TypeInferenceError
from graphopt.ir.builder import Builder
from graphopt.ir.dims import sym
from graphopt.ir.graph import Attr, Graph, Node, Value
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import QuantScheme, SequenceType, TensorType, Type, UnknownType, tensor
from graphopt.ops import SEMANTICS

N, C, H, W = (sym(name) for name in "nchw")


class Scratch:
    """A graph to try nodes in."""

    def __init__(self) -> None:
        self.builder = Builder(Graph())

    def value(self, spec: Any) -> Value | None:
        if spec is None or isinstance(spec, Value):
            return spec
        if isinstance(spec, TensorType | SequenceType | UnknownType):
            return self.builder.input("x", spec)
        array = np.asarray(spec)
        return self.builder.constant(
            Tensor.of(array.astype(np.float32) if array.dtype.kind == "f" else array)
        )

    def node(
        self, op: str, inputs: Sequence[Any], outputs: int = 1, /, domain: str = "", **attrs: Attr
    ) -> Node:
        names: list[tuple[str, Type]] = [(f"y{i}", UnknownType()) for i in range(outputs)]
        node = self.builder.node(op, [self.value(spec) for spec in inputs], names, attrs, domain=domain)
        for output, type in zip(node.outputs, SEMANTICS.infer(node), strict=True):
            output.type = type
        return node


def texts(op: str, inputs: Sequence[Any], outputs: int = 1, /, domain: str = "", **attrs: Attr) -> str:
    node = Scratch().node(op, inputs, outputs, domain=domain, **attrs)
    return "; ".join(str(value.type) for value in node.outputs)


IMAGE = tensor("f32", N, 3, H, W)
KERNEL = np.zeros((8, 3, 3, 3), np.float32)
END = 2**63 - 1


@pytest.mark.parametrize(
    ("op", "inputs", "attrs", "expected"),
    [
        ("Add", [IMAGE, tensor("f32", 3, 1, 1)], {}, "f32[n, 3, h, w]"),
        ("Add", [IMAGE, tensor("f32", H, W)], {}, "f32[n, 3, h, w]"),
        ("Add", [tensor("f32", N, 1), tensor("f32", 1, C)], {}, "f32[n, c]"),
        ("Add", [tensor("f32", N), tensor("f32", 7)], {}, "f32[7]"),
        ("Add", [tensor("f32", N), tensor("f32", C)], {}, "f32[broadcast(c, n)]"),
        ("Add", [tensor("f32", N), TensorType(None, None)], {}, "f32[*]"),
        ("Equal", [IMAGE, IMAGE], {}, "bool[n, 3, h, w]"),
        ("Where", [tensor("bool", N, 1), tensor("f32", C), np.float32(0)], {}, "f32[n, c]"),
        ("Conv", [IMAGE, KERNEL], {"pads": (1, 1, 1, 1)}, "f32[n, 8, h, w]"),
        ("Conv", [IMAGE, KERNEL], {}, "f32[n, 8, h - 2, w - 2]"),
        (
            "Conv", [IMAGE, KERNEL], {"pads": (1, 1, 1, 1), "strides": (2, 2)},
            "f32[n, 8, floordiv(h + 1, 2), floordiv(w + 1, 2)]",
        ),
        ("Conv", [IMAGE, KERNEL], {"dilations": (2, 1)}, "f32[n, 8, h - 4, w - 2]"),
        ("Conv", [IMAGE, KERNEL], {"auto_pad": "SAME_UPPER", "strides": (1, 1)}, "f32[n, 8, h, w]"),
        ("ConvInteger", [tensor("u8", N, 3, H, W), np.zeros((8, 3, 1, 1), np.int8)], {}, "i32[n, 8, h, w]"),
        (
            "ConvTranspose", [IMAGE, np.zeros((3, 8, 2, 2), np.float32)], {"strides": (2, 2)},
            "f32[n, 8, 2*h, 2*w]",
        ),
        ("MaxPool", [IMAGE], {"kernel_shape": (2, 2), "strides": (2, 2)}, "f32[n, 3, floordiv(h, 2), floordiv(w, 2)]"),
        ("GlobalAveragePool", [IMAGE], {}, "f32[n, 3, 1, 1]"),
        ("MatMul", [tensor("f32", N, H, 64), tensor("f32", 64, C)], {}, "f32[n, h, c]"),
        ("MatMul", [tensor("f32", 64), tensor("f32", N, 64, C)], {}, "f32[n, c]"),
        ("Gemm", [tensor("f32", 64, N), tensor("f32", C, 64)], {"transA": 1, "transB": 1}, "f32[n, c]"),
        ("Einsum", [tensor("f32", N, H, W), tensor("f32", N, W, C)], {"equation": "bij,bjk->bik"}, "f32[n, h, c]"),
        ("Einsum", [tensor("f32", N, H, W)], {"equation": "...ij->...ji"}, "f32[n, w, h]"),
        ("Reshape", [IMAGE, [0, -1]], {}, "f32[n, 3*h*w]"),
        ("Reshape", [IMAGE, [0, 0, -1]], {}, "f32[n, 3, h*w]"),
        ("Reshape", [tensor("f32", N, 12), [-1, 4]], {}, "f32[3*n, 4]"),
        ("Reshape", [IMAGE, tensor("i64", 2)], {}, "f32[sym('y0.0'), sym('y0.1')]"),
        ("Reshape", [IMAGE, tensor("i64", C)], {}, "f32[*]"),
        ("Flatten", [IMAGE], {"axis": 1}, "f32[n, 3*h*w]"),
        ("Transpose", [IMAGE], {"perm": (0, 2, 3, 1)}, "f32[n, h, w, 3]"),
        ("Squeeze", [tensor("f32", N, 1, H), [1]], {}, "f32[n, h]"),
        ("Squeeze", [tensor("f32", N, 1, 3)], {}, "f32[*]"),
        ("Unsqueeze", [tensor("f32", N, H), [0, -1]], {}, "f32[1, n, h, 1]"),
        ("Concat", [tensor("f32", N, H), tensor("f32", N, W)], {"axis": 1}, "f32[n, h + w]"),
        ("Slice", [tensor("f32", N, H), [0], [2], [1]], {}, "f32[n, min(2, h)]"),
        ("Slice", [tensor("f32", N, H), [1], [END], [1]], {}, "f32[n, max(0, h - 1)]"),
        ("Slice", [tensor("f32", N, H), [0], [-1], [1]], {}, "f32[n, max(0, h - 1)]"),
        ("Slice", [tensor("f32", N, H), [0], [END], [1], [2]], {}, "f32[n, -floordiv(-h, 2)]"),
        ("Slice", [tensor("f32", N, H), [-1], [-END], [1], [-1]], {}, "f32[n, h]"),
        ("Slice", [tensor("f32", N, 10), [-3], [END], [1]], {}, "f32[n, 3]"),
        ("Pad", [tensor("f32", N, H), [0, 1, 0, 2]], {}, "f32[n, h + 3]"),
        ("Pad", [tensor("f32", N, H), [1, 2], None, [-1]], {}, "f32[n, h + 3]"),
        ("Expand", [tensor("f32", 1, C), [4, 1]], {}, "f32[4, c]"),
        ("Tile", [tensor("f32", N, H), [1, 3]], {}, "f32[n, 3*h]"),
        ("Gather", [tensor("f32", N, 10), tensor("i64", H, W)], {"axis": 1}, "f32[n, h, w]"),
        ("Gather", [tensor("f32", N, 10), np.int64(3)], {"axis": 1}, "f32[n]"),
        ("ReduceMean", [IMAGE, [2, 3]], {"keepdims": 0}, "f32[n, 3]"),
        ("ReduceMean", [IMAGE, [-1]], {}, "f32[n, 3, h, 1]"),
        ("ReduceMean", [IMAGE], {}, "f32[1, 1, 1, 1]"),
        ("ReduceMean", [IMAGE], {"noop_with_empty_axes": 1}, "f32[n, 3, h, w]"),
        ("ArgMax", [IMAGE], {"axis": 1, "keepdims": 0}, "i64[n, h, w]"),
        ("Shape", [IMAGE], {}, "i64[4]"),
        ("Shape", [IMAGE], {"start": 1, "end": -1}, "i64[2]"),
        ("NonZero", [IMAGE], {}, "i64[4, sym('y0.1')]"),
        ("OneHot", [tensor("i64", N), np.int64(5), [0.0, 1.0]], {}, "f32[n, 5]"),
        ("Resize", [IMAGE, None, [1.0, 1.0, 2.0, 0.5]], {}, "f32[n, 3, 2*h, floordiv(w, 2)]"),
        ("Resize", [IMAGE, None, None, [1, 3, 32, 32]], {}, "f32[1, 3, 32, 32]"),
        ("DepthToSpace", [tensor("f32", N, 8, H, W)], {"blocksize": 2}, "f32[n, 2, 2*h, 2*w]"),
        ("CumSum", [IMAGE, np.int64(1)], {}, "f32[n, 3, h, w]"),
        ("Cast", [IMAGE], {"to": 10}, "f16[n, 3, h, w]"),
        ("Range", [np.int64(0), np.int64(10), np.int64(3)], {}, "i64[4]"),
        ("QuantizeLinear", [IMAGE, np.float32(0.1), np.uint8(3)], {}, "u8[n, 3, h, w]<q8u>"),
        ("QuantizeLinear", [IMAGE, [0.1, 0.1, 0.2], np.zeros(3, np.int8)], {}, "i8[n, 3, h, w]<q8s axis=1>"),
        ("DequantizeLinear", [tensor("u8", N, 3), np.float32(0.1)], {}, "f32[n, 3]"),
    ],
)  # fmt: skip
def test_type(op: str, inputs: list[Any], attrs: dict[str, Any], expected: str) -> None:
    assert texts(op, inputs, **attrs) == expected


@pytest.mark.parametrize(
    ("op", "inputs", "count", "attrs", "expected"),
    [
        ("Split", [tensor("f32", N, H), [2, 3]], 2, {"axis": 1}, "f32[n, 2]; f32[n, 3]"),
        ("Split", [tensor("f32", N, 7)], 3, {"axis": 1, "num_outputs": 3}, "f32[n, 3]; f32[n, 3]; f32[n, 1]"),
        ("Split", [tensor("f32", 6 * N)], 2, {"num_outputs": 2}, "f32[3*n]; f32[3*n]"),
        ("TopK", [tensor("f32", N, H), [5]], 2, {}, "f32[n, 5]; i64[n, 5]"),
        ("Dropout", [IMAGE], 2, {}, "f32[n, 3, h, w]; bool[n, 3, h, w]"),
        ("DynamicQuantizeLinear", [IMAGE], 3, {}, "u8[n, 3, h, w]<q8u>; f32[]; u8[]"),
        ("LayerNormalization", [IMAGE, np.zeros(4, np.float32)], 2, {"axis": 2}, "f32[n, 3, h, w]; f32[n, 3, 1, 1]"),
        (
            "LSTM", [tensor("f32", H, N, 8), tensor("f32", 2, 64, 8), tensor("f32", 2, 64, 16)], 3,
            {"hidden_size": 16, "direction": "bidirectional"}, "f32[h, 2, n, 16]; f32[2, n, 16]; f32[2, n, 16]",
        ),
        (
            "Attention", [tensor("f32", N, H, 64), tensor("f32", N, W, 32), tensor("f32", N, W, 48)], 3,
            {"q_num_heads": 4, "kv_num_heads": 2}, "f32[n, h, 96]; f32[n, 2, w, 16]; f32[n, 2, w, 24]",
        ),
        ("Foo", [IMAGE], 2, {}, "unknown; unknown"),
    ],
)  # fmt: skip
def test_types_of_several_outputs(
    op: str, inputs: list[Any], count: int, attrs: dict[str, Any], expected: str
) -> None:
    assert texts(op, inputs, count, **attrs) == expected


def test_unknown_inputs_keep_what_is_known() -> None:
    unknown = UnknownType()
    assert texts("Relu", [unknown]) == "?[*]"
    assert texts("Cast", [unknown], to=1) == "f32[*]"
    assert texts("Conv", [unknown, KERNEL]) == "f32[sym('y0.0'), 8, sym('y0.2'), sym('y0.3')]"
    assert texts("MatMul", [unknown, IMAGE]) == "f32[*]"
    assert texts("Shape", [unknown]) == "i64[sym('y0.0')]"


def test_quantization_axis_follows_transpose_and_leaves_arithmetic() -> None:
    per_channel = TensorType(tensor("i8").dtype, (N, 3, H), QuantScheme(8, signed=True, axis=1))
    assert texts("Transpose", [per_channel], perm=(1, 0, 2)) == "i8[3, n, h]<q8s axis=0>"
    assert texts("Neg", [per_channel]) == "i8[n, 3, h]"
    assert texts("Reshape", [per_channel, [0, -1]]) == "i8[n, 3*h]"
    per_tensor = TensorType(tensor("u8").dtype, (N, 3), QuantScheme(8, signed=False))
    assert texts("Reshape", [per_tensor, [-1]]) == "u8[3*n]<q8u>"


def test_reshape_by_shape_arithmetic_keeps_symbols() -> None:
    """The chain that exporters write for ``x.view(x.size(0), -1, 64)``."""
    scratch = Scratch()
    x = scratch.value(tensor("f32", N, C, H))
    batch = scratch.node("Gather", [scratch.node("Shape", [x]).output, np.int64(0)]).output
    first = scratch.node("Unsqueeze", [batch, [0]]).output
    target = scratch.node("Concat", [first, [-1], [64]], axis=0).output
    assert str(scratch.node("Reshape", [x, target]).output.type) == "f32[n, floordiv(c*h, 64), 64]"


def test_expand_by_where_on_minus_one() -> None:
    """The chain that PyTorch writes for ``x.expand(n, -1)``."""
    scratch = Scratch()
    y = scratch.value(tensor("f32", N, C))
    wanted = scratch.node("Shape", [y]).output
    ones = scratch.node("ConstantOfShape", [[2]], value=Tensor.of(np.array([1]))).output
    is_free = scratch.node("Equal", [wanted, scratch.node("Mul", [ones, [-1]]).output]).output
    target = scratch.node("Where", [is_free, ones, wanted]).output
    assert (
        str(scratch.node("Expand", [scratch.value(tensor("f32", 1, 1)), target]).output.type) == "f32[n, c]"
    )


def test_fresh_symbols_are_deterministic() -> None:
    node = Scratch().node("NonZero", [IMAGE])
    assert SEMANTICS.infer(node) == SEMANTICS.infer(node) == [node.output.type]


def branches(scratch: Scratch, condition: Any, yes: Type, no: Type) -> str:
    builder = scratch.builder
    node = builder.node("If", [scratch.value(condition)], [("y", UnknownType())])
    for name, type in (("then_branch", yes), ("else_branch", no)):
        region = builder.region(node, name)
        value = scratch.value(type)
        assert value is not None
        builder.outputs([value], region)
    (type,) = SEMANTICS.infer(node)
    return str(type)


def test_if_gives_what_its_branches_share() -> None:
    unsure = tensor("bool")
    assert branches(Scratch(), unsure, tensor("f32", N, 3), tensor("f32", N, 4)) == "f32[n, sym('y.1')]"
    assert branches(Scratch(), unsure, tensor("f32", N, 3), tensor("f32", N)) == "f32[*]"
    assert branches(Scratch(), np.bool_(True), tensor("f32", N, 3), tensor("i64", N)) == "f32[n, 3]"
    with pytest.raises(TypeInferenceError, match="nothing in common"):
        branches(Scratch(), unsure, tensor("f32", N), tensor("i64", N))


@pytest.mark.parametrize(
    ("count", "carried_after", "keep_going", "expected"),
    [
        (np.int64(5), tensor("f32", N), True, "f32[n]; i64[5, 2]"),
        (np.int64(5), tensor("f32", N), False, "f32[n]; i64[sym('y1.0'), 2]"),
        (tensor("i64"), tensor("f32", N), True, "f32[n]; i64[sym('y1.0'), 2]"),
        (np.int64(5), tensor("f32", C), True, "f32[sym('y0.0')]; i64[5, 2]"),
    ],
)
def test_loop_types(count: Any, carried_after: TensorType, keep_going: bool, expected: str) -> None:
    scratch = Scratch()
    builder = scratch.builder
    inputs = [scratch.value(count), None, scratch.value(tensor("f32", N))]
    node = builder.node("Loop", inputs, [("y0", UnknownType()), ("y1", UnknownType())])
    body = builder.region(node, "body")
    _, condition, _ = (
        builder.input(name, type, body)
        for name, type in (("i", tensor("i64")), ("more", tensor("bool")), ("state", tensor("f32", N)))
    )
    again = condition if keep_going else scratch.value(tensor("bool"))
    after, row = scratch.value(carried_after), scratch.value(tensor("i64", 2))
    assert again is not None and after is not None and row is not None
    builder.outputs([again, after, row], body)
    assert "; ".join(str(type) for type in SEMANTICS.infer(node)) == expected


def test_elements_of_a_sequence_may_differ_in_their_symbolic_sizes() -> None:
    scratch = Scratch()
    pieces = scratch.node("SplitToSequence", [tensor("f32", N, H), np.int64(2)], axis=1).output
    first, second = (scratch.node("SequenceAt", [pieces, np.int64(i)]).output for i in (0, 1))
    assert isinstance(first.type, TensorType) and isinstance(second.type, TensorType)
    assert first.type.shape != second.type.shape


@pytest.mark.parametrize(
    ("op", "inputs", "expected"),
    [
        ("Gelu", [IMAGE], "f32[n, 3, h, w]"),
        ("FusedMatMul", [tensor("f32", N, H, 8), tensor("f32", N, 8, W)], "f32[n, h, w]"),
        ("DynamicQuantizeMatMul", [tensor("f32", N, 8), tensor("u8", 8, W), np.float32(1)], "f32[n, w]"),
        ("QLinearAdd", [tensor("u8", N, 3), np.float32(1), np.uint8(0), tensor("u8", 3)], "u8[n, 3]<q8u>"),
        ("MysteryOp", [IMAGE], "unknown"),
    ],
)
def test_operators_of_onnx_runtime(op: str, inputs: list[Any], expected: str) -> None:
    assert texts(op, inputs, domain="com.microsoft") == expected
