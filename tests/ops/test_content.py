"""Contents of shape tensors, read symbolically, against what the reference evaluator computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.ir.builder import Builder
from graphopt.ir.dims import evaluate, sym
from graphopt.ir.graph import Graph
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import UnknownType, tensor
from graphopt.ops import SEMANTICS, partial_content, static_content, symbolic_content
from graphopt.ops.content import MAX_DEPTH
from tests.ops.support import Importer
from tests.ops.test_symbolic_types import Scratch

SIZES = {"n": 3, "c": 4, "h": 7}
BINARY = ("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max")
COMPARE = ("Equal", "Less", "GreaterOrEqual")


class Program:
    """A random program on i64 vectors that starts from the shape of x: f32[n, c, h]."""

    def __init__(self, draw: Callable[..., Any]) -> None:
        self.draw = draw
        self.nodes = [helper.make_node("Shape", ["x"], ["v0"])]
        self.data: list[onnx.TensorProto] = []
        self.lengths = {"v0": 3}

    def constant(self, values: Any) -> str:
        name = f"c{len(self.data)}"
        self.data.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def emit(self, op: str, inputs: list[str], length: int, **attrs: Any) -> str:
        name = f"v{len(self.lengths)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attrs))
        self.lengths[name] = length
        return name

    def hidden(self, op: str, inputs: list[str], **attrs: Any) -> str:
        """A value that only the next node uses, for it is no i64."""
        name = f"hidden{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attrs))
        return name

    def some(self) -> str:
        name: str = self.draw(st.sampled_from(sorted(self.lengths)))
        return name

    def step(self) -> None:
        draw, a = self.draw, self.some()
        length = self.lengths[a]
        match draw(
            st.sampled_from(["binary", "constant", "gather", "slice", "concat", "reduce", "where", "cast"])
        ):
            case "binary":
                others = [name for name, n in self.lengths.items() if 1 in (n, length) or n == length]
                b = draw(st.sampled_from(sorted(others)))
                op = draw(st.sampled_from(["Add", "Sub", "Mul", "Min", "Max"]))
                self.emit(op, [a, b], max(length, self.lengths[b]) if length and self.lengths[b] else 0)
            case "constant":
                op = draw(st.sampled_from(BINARY))
                low = 1 if op in ("Div", "Mod") else -3
                self.emit(op, [a, self.constant([draw(st.integers(low, 5))])], length)
            case "gather":
                places = draw(st.lists(st.integers(-length, length - 1), min_size=1, max_size=3))
                self.emit("Gather", [a, self.constant(places)], len(places))
            case "slice":
                start, end, step = (
                    draw(st.integers(-4, 4)),
                    draw(st.integers(-4, 4)),
                    draw(st.sampled_from([1, 2, -1])),
                )
                kept = len(np.zeros(length)[start:end:step])
                if kept:
                    ends = [self.constant([v]) for v in (start, end, 0, step)]
                    self.emit("Slice", [a, *ends], kept)
            case "concat":
                b = self.some()
                if length + self.lengths[b] <= 12:
                    self.emit("Concat", [a, b], length + self.lengths[b], axis=0)
            case "reduce":
                op = draw(st.sampled_from(["ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin"]))
                self.emit(op, [a], 1, keepdims=1)
            case "where":
                b = self.constant(draw(st.lists(st.integers(-1, 6), min_size=length, max_size=length)))
                flag = self.hidden(draw(st.sampled_from(COMPARE)), [a, b])
                self.emit("Where", [flag, b, a], length)
            case "cast":
                self.emit(
                    "Cast", [self.hidden("Cast", [a], to=TensorProto.INT32)], length, to=TensorProto.INT64
                )

    def model(self) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(SIZES))
        outputs = [helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in self.lengths]
        graph = helper.make_graph(self.nodes, "g", [x], outputs, self.data)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 26)], ir_version=13)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_programs_on_shapes(data: st.DataObject) -> None:
    program = Program(data.draw)
    for _ in range(data.draw(st.integers(1, 8))):
        program.step()
    model = program.model()
    graph = Importer().run(model)
    expected = ReferenceEvaluator(model).run(None, {"x": np.zeros(tuple(SIZES.values()), np.float32)})
    for value, numbers in zip(graph.outputs, expected, strict=True):
        content = partial_content(value)
        if content is None:
            continue
        assert len(content) == numbers.size
        for element, number in zip(content, numbers.reshape(-1).tolist(), strict=True):
            assert element is None or evaluate(element, SIZES) == number, (value, content, numbers)


def test_common_chains_are_fully_known() -> None:
    """What a reader must not give up on: Shape, Gather, arithmetic without loss, Concat, Slice."""
    builder = Builder(Graph())
    n, h = sym("n"), sym("h")
    x = builder.input("x", tensor("f32", n, 3, 2 * h))

    def node(op: str, *inputs: Any, **attrs: Any) -> Any:
        values = [
            builder.constant(Tensor.of(np.array(v))) if isinstance(v, int | list) else v for v in inputs
        ]
        made = builder.node(op, values, [("y", UnknownType())], attrs)
        (made.output.type,) = SEMANTICS.infer(made)
        return made.output

    shape = node("Shape", x)
    assert symbolic_content(shape) == (n, 3, 2 * h)
    last = node("Gather", shape, 2)
    assert symbolic_content(last) == (2 * h,)
    assert symbolic_content(node("Div", last, 2)) == (h,)
    assert symbolic_content(node("Mul", node("Add", last, 1), [3])) == (6 * h + 3,)
    assert symbolic_content(node("Concat", node("Unsqueeze", last, [0]), [-1], axis=0)) == (2 * h, -1)
    assert symbolic_content(node("Slice", shape, [-2], [2**63 - 1])) == (3, 2 * h)
    assert symbolic_content(node("ReduceProd", shape, keepdims=0)) == (6 * n * h,)
    assert symbolic_content(node("Size", x)) == (6 * n * h,)
    assert static_content(node("Range", 0, 5, 2)) == (0, 2, 4)
    assert symbolic_content(node("Expand", last, [2])) == (2 * h, 2 * h)
    assert symbolic_content(node("Cast", node("Cast", last, to=1), to=7)) == (2 * h,)
    assert symbolic_content(node("Cast", [3, 2**31], to=6)) is None  # wraps
    assert symbolic_content(node("Size", builder.input("huge", tensor("f32", 2**40, 2**40)))) is None
    # Truncation and floor differ below zero, and h - 1 may be below zero.
    assert symbolic_content(node("Div", node("Sub", last, 1), 2)) is None


def test_pads_in_the_order_of_pytorch_are_turned_round() -> None:
    """PyTorch writes F.pad's (last axis first) pairs as a matrix that is flipped, transposed and flattened."""
    scratch = Scratch()
    zeros = scratch.node("ConstantOfShape", [[2]], value=Tensor.of(np.array([0]))).output
    pairs = scratch.node("Reshape", [scratch.node("Concat", [[5, 6], zeros], axis=0).output, [-1, 2]]).output
    flipped = scratch.node("Slice", [pairs, [-1], [-(2**63)], [0], [-1]]).output
    pads = scratch.node("Reshape", [scratch.node("Transpose", [flipped], perm=(1, 0)).output, [-1]]).output
    assert static_content(pads) == (0, 5, 0, 6)
    padded = scratch.node("Pad", [tensor("f32", sym("n"), sym("w")), pads]).output
    assert str(padded.type) == "f32[n, w + 11]"


def test_inputs_are_unknown_even_with_a_default() -> None:
    builder = Builder(Graph())
    value = builder.input("k", tensor("i64", 2))
    value.const = Tensor.of(np.array([1, 2]))
    assert partial_content(value) is None


def test_fused_body_sees_constants_through_its_inputs() -> None:
    builder = Builder(Graph())
    target = builder.constant(Tensor.of(np.array([2, -1])))
    fused = builder.node("fused", [target], [("y", UnknownType())], domain="graphopt")
    inner = builder.input("t", target.type, builder.region(fused, "body"))
    assert symbolic_content(inner) == (2, -1)


def test_depth_is_bounded_and_shared_work_is_done_once() -> None:
    builder = Builder(Graph())
    value = builder.constant(Tensor.of(np.array([1])))
    values = [value]
    for _ in range(2 * MAX_DEPTH):  # each doubles: without sharing this would take 2**96 steps
        value = builder.node("Add", [value, value], [("y", value.type)]).output
        values.append(value)
    assert symbolic_content(values[MAX_DEPTH - 1]) == (2 ** (MAX_DEPTH - 1),)
    assert symbolic_content(values[-1]) is None
