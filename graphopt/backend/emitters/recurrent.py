"""LSTM, GRU and RNN: products with the inputs before the time loop, one fused kernel per step in it.

The inputs of all time steps and both directions go through one matrix product. A step then adds the
product with the previous state: hidden units are taken in blocks, and a register tile holds all gates
of a block, so that the activations follow in registers. Weights lie block by block, in the order in
which a step reads them. Steps walk the blocks to and fro: what the cache still holds of the last step
is read first by the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.emitters.activations import Activation, activations
from graphopt.backend.emitters.recurrent_layer import Buffers, Layer, Phase, state_at
from graphopt.backend.emitters.recurrent_step import PARALLEL_STEP, Step
from graphopt.backend.emitters.recurrent_weights import prepare
from graphopt.backend.emitters.registry import Sink, Work, emitter
from graphopt.backend.emitters.row import in_lanes
from graphopt.backend.emitters.rows import emit_blocks
from graphopt.backend.kernels.arithmetic import float_arithmetic
from graphopt.backend.kernels.emit import (
    bind,
    i64,
    parallel,
    serial,
)
from graphopt.backend.readers.movement import operand
from graphopt.backend.readers.padding import text_attr
from graphopt.backend.refusal import refuse
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr
from graphopt.ir.graph import Node
from graphopt.ops.recurrent import GATES

_ACCUMULATORS = 8
"""Multiply-adds that must be under way for none to wait for another."""
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


@emitter("LSTM", "GRU", "RNN")
def _recurrent(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    layer = _layer(work, node)
    ways = [activations(node, _DEFAULTS[node.op], d) for d in range(layer.directions)]
    buffers = prepare(layer)
    # The directions are independent of each other: threads take one each.
    work_of_step = layer.columns * layer.hidden
    if layer.directions == 1 or ways[0] != ways[1]:
        for d, functions in enumerate(ways):
            _emit_direction(layer, buffers, i64(d), functions, sinks)
    else:
        loop = parallel if work_of_step * 8 >= PARALLEL_STEP else serial
        with loop(layer.directions) as d:
            _emit_direction(layer, buffers, d, ways[0], sinks)


def _layer(work: Work, node: Node) -> Layer:
    """The layer of a node, once it is known to be one that can be emitted."""
    x, recurrence = shape_of(operand(node, 0)), shape_of(operand(node, 2))
    directions, _, hidden = recurrence
    dtype = dtype_of(operand(node, 0))
    if not all(isinstance(size, int) for size in (directions, hidden, x[-1])):
        raise refuse(node, "the sizes of its weights are not known")
    if work.stages is not None or dtype not in ("float32", "float16", "float64"):
        raise refuse(node, "it is compiled for CPUs and float16, float32, float64 only")
    arithmetic = float_arithmetic(work.machine, dtype)
    hidden = cast(int, hidden)
    late = bool(node.attrs.get("linear_before_reset", 0))
    split = node.op == "GRU" and not late
    phases: list[Phase] = []
    for gates in [(0, 1), (2,)] if split else [tuple(range(GATES[node.op]))]:
        most = max(1, _ACCUMULATORS // len(gates))
        vectors = min(most, -(-hidden // arithmetic.lanes))
        if len(gates) * vectors * 2 > work.machine.vector_registers:
            vectors = 1
        first = sum(phase.columns for phase in phases)
        phases.append(Phase(gates, vectors, arithmetic.lanes, hidden, first))
    return Layer(work, node, arithmetic, tuple(phases), cast(int, directions), hidden, cast(int, x[-1]))


def _emit_direction(
    layer: Layer,
    buffers: Buffers,
    d: Expr,
    functions: tuple[Activation, ...],
    sinks: dict[int, Sink],
) -> None:
    """All time steps of one direction, for the whole batch at once unless its members differ in length."""
    time, batch = layer.extents
    way = text_attr(layer.node, "direction", "forward")
    lengths = layer.node.input(4)

    def at_step(k: Expr, length: Expr) -> Expr:
        if layer.directions == 2:
            return k + d * (length - 1 - 2 * k)
        return length - 1 - k if way == "reverse" else k

    def run(span: tuple[Expr, Expr], length: Expr) -> None:
        _emit_initial(layer, buffers, d, span)
        with serial(length) as k:
            step = Step(layer, buffers, d, functions, k, at_step(k, length), span)
            step.emit()
            _hand_out(layer, buffers, d, span, (k + 1, at_step(k, length)), sinks.get(0))
        _hand_states(layer, buffers, d, span, length, sinks)

    if lengths is None:
        run((i64(0), batch), i64(time))
        return
    with serial(batch) as b:
        length = bind(layer.read(lengths, (b,)).astype("int64"))
        length = bind(tirx.max(tirx.min(length, i64(time)), i64(0)))
        run((b, 1), length)
        if 0 in sinks:
            with serial(i64(time) - length) as k:
                zero = T.cast(0, layer.dtype)
                _each(layer, lambda j: _sink(layer, sinks[0], zero, (length + k, d, b), j))


def _sink(layer: Layer, sink: Sink, value: Expr, at: tuple[Expr, Expr, Expr], j: Expr) -> None:
    t, d, b = at
    wanted = dtype_of(operand(layer.node, 0))
    sink(value.astype(wanted), (b, t, d, j) if layer.batch_first else (t, d, b, j))


def _each(layer: Layer, body: Callable[[Expr], None]) -> None:
    """body(j) for all hidden units j, in vectors."""

    def block(width: int, first: Expr) -> None:
        with in_lanes(layer.work, width) as lane:
            body(first + lane)

    emit_blocks(layer.hidden, layer.arithmetic.lanes, block)


def _emit_initial(layer: Layer, buffers: Buffers, d: Expr, span: tuple[Expr, Expr]) -> None:
    names = [(buffers.h, 5, i64(0))] + ([(buffers.c, 6, None)] if layer.node.op == "LSTM" else [])
    with serial(span[1]) as member:
        b = span[0] + member
        for buffer, position, parity in names:
            value = layer.node.input(position)

            def store(j: Expr, buffer: Any = buffer, value: Any = value, parity: Expr = parity) -> None:
                start = T.cast(0, layer.dtype) if value is None else layer.state(value, d, b, j)
                T.buffer_store(buffer, start, [state_at(layer, d, b, parity) + j])

            _each(layer, store)


def _hand_out(
    layer: Layer,
    buffers: Buffers,
    d: Expr,
    span: tuple[Expr, Expr],
    step: tuple[Expr, Expr],
    sink: Sink | None,
) -> None:
    """The state after a step (how many are done, its time) into the sequence of states."""
    if sink is None:
        return
    done, t = step
    with serial(span[1]) as member:
        b = span[0] + member
        first = bind(state_at(layer, d, b, done % 2))
        _each(layer, lambda j: _sink(layer, sink, buffers.h[first + j], (t, d, b), j))


def _hand_states(
    layer: Layer,
    buffers: Buffers,
    d: Expr,
    span: tuple[Expr, Expr],
    length: Expr,
    sinks: dict[int, Sink],
) -> None:
    wanted = dtype_of(operand(layer.node, 0))
    for output, buffer, parity in ((1, buffers.h, length % 2), (2, buffers.c, None)):
        if output not in sinks:
            continue
        with serial(span[1]) as member:
            b = span[0] + member
            first = bind(state_at(layer, d, b, parity))

            def at(j: Expr, b: Expr = b) -> tuple[Expr, ...]:
                return (b, d, j) if layer.batch_first else (d, b, j)

            def hand(
                j: Expr, output: int = output, buffer: Any = buffer, first: Expr = first, at: Any = at
            ) -> None:
                # ONNX Runtime too has no last state where there was no step.
                last = tirx.Select(length > 0, buffer[first + j], T.cast(0, layer.dtype))
                sinks[output](last.astype(wanted), at(j))

            _each(layer, hand)
