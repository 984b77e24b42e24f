"""LSTM: time step by time step, vectors along the hidden units, weights transposed at compile time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.arguments import Array, Packed
from graphopt.backend.emitters.registry import Sink, Work, emitter
from graphopt.backend.emitters.rows import emit_blocks, in_lanes
from graphopt.backend.kernels.emit import register, serial
from graphopt.backend.kernels.temporaries import scratch
from graphopt.backend.readers.elementwise import sigmoid
from graphopt.backend.readers.movement import operand
from graphopt.backend.readers.padding import text_attr
from graphopt.backend.readers.registry import refuse
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr
from graphopt.ir.graph import Node, Value

_ZERO = tirx.IntImm("int64", 0)
_ABSENT = {4: "sequence_lens", 7: "peepholes"}


@dataclass(frozen=True)
class _Cell:
    """One direction of an LSTM that is being emitted; buffers are flat."""

    work: Work
    node: Node
    direction: int
    hidden: int
    inputs: int
    weights: Any
    """[directions, inputs, 4 * hidden]"""
    recurrence: Any
    """[directions, hidden, 4 * hidden]"""


@emitter("LSTM")
def _lstm(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    _check(work, node)
    time, batch, inputs = shape_of(operand(node, 0))
    directions, _, hidden = (cast(int, dim) for dim in shape_of(operand(node, 2)))
    weights = _transposed(work, operand(node, 1))
    recurrence = _transposed(work, operand(node, 2))
    extent = work.context.extent
    way = text_attr(node, "direction", "forward")
    for direction in range(directions):
        cell = _Cell(work, node, direction, hidden, cast(int, inputs), weights, recurrence)
        backward = way == "reverse" or direction == 1
        with serial(extent(batch)) as b:
            state = {name: scratch(hidden, "float32") for name in ("h", "c")}
            gates, fresh = scratch(4 * hidden, "float32"), scratch(hidden, "float32")
            for name, position in (("h", 5), ("c", 6)):
                _each(cell, hidden, _initial(cell, position, b, state[name]))
            with serial(extent(time)) as k:
                t = extent(time) - 1 - k if backward else k
                _emit_gates(cell, (t, b), state["h"], gates)
                _emit_state(cell, gates, state, fresh)
                if 0 in sinks:
                    _hand(cell, state["h"], sinks[0], lambda j, t=t, b=b, d=direction: (t, _index(d), b, j))  # type: ignore[misc]
            for output, name in ((1, "h"), (2, "c")):
                if output in sinks:
                    _hand(cell, state[name], sinks[output], lambda j, b=b, d=direction: (_index(d), b, j))  # type: ignore[misc]


def _index(number: int) -> Expr:
    return tirx.IntImm("int64", number)


def _check(work: Work, node: Node) -> None:
    for position, name in _ABSENT.items():
        if node.input(position) is not None:
            raise refuse(node, f"{name} are not compiled")
    plain = not any(node.attrs.get(name) for name in ("layout", "clip", "input_forget"))
    names = [
        n.decode() if isinstance(n, bytes) else str(n)
        for n in cast("tuple[object, ...]", node.attrs.get("activations", ()))
    ]
    known = all(
        name == default for name, default in zip(names, ("Sigmoid", "Tanh", "Tanh") * 2, strict=False)
    )
    constant = all(operand(node, i) in work.context.region.constants for i in (1, 2))
    if not (plain and known and constant) or dtype_of(operand(node, 0)) != "float32":
        raise refuse(node, "only float32 LSTMs with constant weights and the standard activations are")


def _transposed(work: Work, weights: Value) -> Any:
    """[directions, 4 * hidden, n] with the gates innermost, flat."""
    directions, gates, inner = (cast(int, dim) for dim in shape_of(weights))

    def pack(data: Array) -> Array:
        return np.ascontiguousarray(data.transpose(0, 2, 1)).reshape(-1)

    return work.arguments.pack(weights, Packed((directions * gates * inner,), "float32", pack, "lstm"))


def _each(cell: _Cell, extent: int, body: Callable[[Expr], None]) -> None:
    """body(j) for j in [0, extent), in vectors."""
    lanes = cell.work.target.vector_bits // 32

    def block(width: int, first: Expr) -> None:
        with in_lanes(cell.work, width) as lane:
            body(first + lane)

    emit_blocks(extent, lanes, block)


def _initial(cell: _Cell, position: int, b: Expr, buffer: Any) -> Callable[[Expr], None]:
    value, context = cell.node.input(position), cell.work.context

    def store(j: Expr) -> None:
        if value is None:
            start: Expr = tirx.const(0, "float32")
        else:
            start = context.closed(lambda: context.read(value, (_index(cell.direction), b, j)))
        T.buffer_store(buffer, start, [j])

    return store


def _emit_gates(cell: _Cell, at: tuple[Expr, Expr], h: Any, gates: Any) -> None:
    """gates = W x + R h + the biases, four gates of all hidden units."""
    context, width = cell.work.context, 4 * cell.hidden
    bias = cell.node.input(3)

    def data(k: Expr) -> Expr:
        return context.closed(lambda: context.read(operand(cell.node, 0), (*at, k)))

    def previous(k: Expr) -> Expr:
        return h[k]

    def block(lanes: int, first: Expr) -> None:
        total = register(lanes, "float32")
        with in_lanes(cell.work, lanes) as lane:
            j = first + lane
            start: Expr = tirx.const(0, "float32")
            if bias is not None:
                place = _index(cell.direction)
                start = context.closed(
                    lambda: context.read(bias, (place, j)) + context.read(bias, (place, j + width))
                )
            T.buffer_store(total, start, [lane])
        for count, matrix, scalar in (
            (cell.inputs, cell.weights, data),
            (cell.hidden, cell.recurrence, previous),
        ):
            base = cell.direction * count * width
            with serial(count) as k:
                x = scalar(k)
                with in_lanes(cell.work, lanes) as lane:
                    T.buffer_store(total, total[lane] + x * matrix[base + k * width + first + lane], [lane])
        with in_lanes(cell.work, lanes) as lane:
            T.buffer_store(gates, total[lane], [first + lane])

    lanes = cell.work.target.vector_bits // 32
    emit_blocks(width, lanes * 4 if width % (lanes * 4) == 0 else lanes, block)


def _emit_state(cell: _Cell, gates: Any, state: dict[str, Any], fresh: Any) -> None:
    """c = f c + i g, h = o tanh(c); ONNX orders the gates i, o, f, g."""
    context, hidden = cell.work.context, cell.hidden

    def gate(number: int, j: Expr) -> Expr:
        return context.bind(gates[j + number * hidden])

    def next_c(j: Expr) -> None:
        def value() -> Expr:
            i, f = sigmoid(context, gate(0, j)), sigmoid(context, gate(2, j))
            return f * state["c"][j] + i * context.math("tanh", gate(3, j))

        # Not over the old state: a vector that overlaps the one before it reads that again.
        T.buffer_store(fresh, context.closed(value), [j])

    def next_h(j: Expr) -> None:
        T.buffer_store(state["c"], fresh[j], [j])
        value = context.closed(
            lambda: sigmoid(context, gate(1, j)) * context.math("tanh", context.bind(fresh[j]))
        )
        T.buffer_store(state["h"], value, [j])

    _each(cell, hidden, next_c)
    _each(cell, hidden, next_h)


def _hand(cell: _Cell, buffer: Any, sink: Sink, place: Callable[[Expr], Sequence[Expr]]) -> None:
    _each(cell, cell.hidden, lambda j: sink(buffer[j], place(j)))
