"""Faults that tests plant into emitters, readers and schedules, each with a small model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from onnx import parser
from tvm import tirx

from graphopt.backend.emitters import EMITTERS, Work, blocked
from graphopt.backend.kernels.blocked import winograd_plan
from graphopt.backend.kernels.blocked.winograd_transforms import Programs, program, transforms
from graphopt.backend.readers import READERS
from graphopt.ir.graph import Graph, Node
from graphopt.onnx_io import load

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Broken:
    """What is planted, and what must be found: region, value, blame, the plainer form that is right."""

    name: str
    graph: str
    plant: Plant
    region: str
    value: str
    blame: str
    plainer: str = ""


def model(text: str, **weights: tuple[int, ...]) -> Graph:
    """A graph from ONNX's text, with initializers of drawn numbers."""
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}')
    generator = np.random.default_rng(0)
    from onnx import numpy_helper

    for name, shape in weights.items():
        drawn = generator.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(drawn, name))
    return load(proto)


def with_attrs(table: dict[str, Any], op: str, **attrs: object) -> Plant:
    """An emitter that sees other attributes than its node has."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        emit = table[op]

        def wrong(work: Work, node: Node, *rest: Any) -> Any:
            held = node._attrs
            node._attrs = MappingProxyType({**held, **attrs})  # type: ignore[dict-item]
            try:
                return emit(work, node, *rest)
            finally:
                node._attrs = held

        patch.setitem(table, op, wrong)

    return plant


def both(*plants: Plant) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        for each in plants:
            each(patch)

    return plant


def _swapped(patch: pytest.MonkeyPatch) -> None:
    """Sub reads its operands the other way round."""
    read = READERS["Sub"]

    def wrong(context: Any, node: Node, *rest: Any) -> Any:
        held = node._inputs
        node._inputs = held[::-1]
        try:
            return read(context, node, *rest)
        finally:
            node._inputs = held

    patch.setitem(READERS, "Sub", wrong)


def _without_tail(patch: pytest.MonkeyPatch) -> None:
    """The hand-written product leaves zeros in the last column."""
    emit = EMITTERS["MatMul"]

    def wrong(work: Work, node: Node, sinks: dict[int, Any]) -> None:
        columns = node.output.tensor.shape[-1]  # type: ignore[index]

        def cut(sink: Any) -> Any:
            def store(element: Any, indices: Sequence[Any]) -> None:
                zero = tirx.const(0.0, "float32")
                sink(tirx.Select(indices[-1] < columns - 1, element, zero), indices)

            return store

        emit(work, node, sinks if work.stages is not None else {i: cut(s) for i, s in sinks.items()})

    patch.setitem(EMITTERS, "MatMul", wrong)


def _without_epilogue(patch: pytest.MonkeyPatch) -> None:
    """What follows a product in its region is forgotten."""
    patch.setattr(Work, "sink_through", lambda self, value, final, buffer: self.sink_into(value, buffer))


def _wrong_transform(patch: pytest.MonkeyPatch) -> None:
    def wrong(m: int, r: int) -> Programs:
        matrices = transforms(m, r)
        row = (matrices.data[1][0], matrices.data[1][1] * 2, *matrices.data[1][2:])
        return Programs(program((matrices.data[0], row, *matrices.data[2:])), program(matrices.output))

    patch.setattr(winograd_plan, "programs", wrong)


SMALL = "g (float[n,3,8,8] x) => (float[n,4,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w) y = Relu(c) }"
BROKEN = [
    Broken(
        "off-by-one pad", SMALL,
        both(with_attrs(EMITTERS, "Conv", pads=(0, 0, 2, 2)), with_attrs(blocked.BLOCKED, "Conv", pads=(0, 0, 2, 2))),
        'graphopt.fused "y"', "y", "lowering",
    ),
    Broken(
        "swapped operands", "g (float[n,8] x, float[n,8] u) => (float[n,8] y) { y = Sub(x, u) }",
        _swapped, 'Sub "y"', "y", "lowering",
    ),
    Broken(
        "dropped tail, hidden by ArgMax",
        "g (float[n,8] x, float[8,6] u) => (int64[n] y) { a = Tanh(x) c = MatMul(a, u) d = Sub(c, big) "
        "y = ArgMax<axis=1, keepdims=0>(d) }",
        _without_tail, 'graphopt.fused "d"', "d", "schedule", "as loops without a schedule",
    ),
    Broken(
        "forgotten epilogue", "g (float[n,8] x, float[8,6] u) => (float[n,6] y) { c = MatMul(x, u) y = Sigmoid(c) }",
        _without_epilogue, 'graphopt.fused "y"', "y", "schedule", "as loops without a schedule",
    ),
    Broken(
        "wrong Winograd transform",
        "g (float[1,64,16,16] x) => (float[1,64,16,16] y) { y = Conv<pads=[1,1,1,1]>(x, w) }",
        _wrong_transform, 'Conv "y"', "y", "schedule", "without fast arithmetic (kernel error 0)",
    ),
    Broken(
        "wrong window in blocks",
        "g (float[1,64,16,16] x) => (float[1,64,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) "
        "c = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[0,0,1,1]>(b) y = Conv<pads=[1,1,1,1]>(c, w) }",
        with_attrs(blocked.BLOCKED, "MaxPool", pads=(1, 1, 0, 0)),
        'MaxPool "c"', "c", "schedule", "in row-major order",
    ),
]  # fmt: skip
WEIGHTS: dict[str, dict[str, tuple[int, ...]]] = {
    "off-by-one pad": {"w": (4, 3, 3, 3)},
    "dropped tail, hidden by ArgMax": {"big": (6,)},
    "wrong Winograd transform": {"w": (64, 64, 3, 3)},
    "wrong window in blocks": {"w": (64, 64, 3, 3)},
}
