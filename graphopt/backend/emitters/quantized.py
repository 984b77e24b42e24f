"""DynamicQuantizeLinear, QLinearConv and QLinearMatMul."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import tirx

from graphopt.backend.emitters.convolve import Factors, emit_integer_conv, fold_conv
from graphopt.backend.emitters.matmul import emit_integer_matmul, fold_matmul, matrices
from graphopt.backend.emitters.places import Place
from graphopt.backend.emitters.reduce import element_of, highest, lowest
from graphopt.backend.emitters.registry import Sink, Work, emitter
from graphopt.backend.emitters.row import Row
from graphopt.backend.emitters.rows import emit_rows
from graphopt.backend.readers.indices import Indices
from graphopt.backend.readers.movement import operand
from graphopt.backend.readers.quantize import saturate
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr
from graphopt.ir.graph import Node

_ZERO = tirx.IntImm("int64", 0)


@emitter("DynamicQuantizeLinear")
def _dynamic_quantize(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    value = operand(node, 0)
    element = element_of(work, node)
    zero = tirx.const(0, "float32")

    def row(row: Row) -> None:
        high = row.fold(tirx.max, lowest("float32"), element)
        low = row.fold(tirx.min, highest("float32"), element)

        def scale(place: Place) -> Expr:
            """A step of the range, and 1 where all numbers are 0."""
            step = (tirx.max(high(place), zero) - tirx.min(low(place), zero)) / tirx.const(255, "float32")
            return tirx.Select(step == zero, tirx.const(1, "float32"), step)

        def zero_point(place: Place) -> Expr:
            steps = zero - tirx.min(low(place), zero) / scale(place)
            return tirx.nearbyint(tirx.min(tirx.max(steps, zero), tirx.const(255, "float32")))

        def store(place: Place) -> None:
            quantized = tirx.nearbyint(element(place) / scale(place)) + zero_point(place)
            sinks[0](saturate(quantized, "uint8"), place.indices)

        if 0 in sinks:
            row.each(store)
        if 1 in sinks:
            row.once(lambda place: sinks[1](scale(place), ()))
        if 2 in sinks:
            row.once(lambda place: sinks[2](zero_point(place).astype("uint8"), ()))

    def touch(indices: Indices) -> None:
        for output, sink in sinks.items():
            at: Sequence[Expr] = indices if output == 0 else ()
            sink(tirx.Var("element", dtype_of(node.outputs[output])), at)

    emit_rows(work, value, frozenset(range(len(shape_of(value)))), row, touch, cost=8)


def _shifted(work: Work, node: Node, index: int, indices: Indices, axis: int) -> Expr:
    """Operand ``index`` less its zero point (two inputs further on), in int32."""
    context, zero = work.context, operand(node, index + 2)
    x = context.read(operand(node, index), indices).astype("int32")
    return x - context.read(zero, _channel(shape_of(zero), indices, axis)).astype("int32")


def _channel(shape: Sequence[object], at: Sequence[Expr], axis: int) -> Indices:
    if not shape:
        return ()
    if len(shape) == 1:
        return (_ZERO,) if shape[0] == 1 else (at[axis],)
    return tuple(_ZERO if dim == 1 else index for dim, index in zip(shape, at, strict=True))


def _requantizing(work: Work, node: Node, sink: Sink, axis: int, bias: int | None) -> Sink:
    """Scales an int32 sum and rounds it to the output's type."""
    context = work.context
    wanted = dtype_of(node.outputs[0])
    info = np.iinfo(wanted)
    assert info.bits == 8

    def store(total: Expr, indices: Sequence[Expr]) -> None:
        def result() -> Expr:
            value = total
            if bias is not None and node.input(bias) is not None:
                value = value + context.read(operand(node, bias), (indices[axis],))
            scale = context.read(operand(node, 1), _channel(shape_of(operand(node, 1)), indices, axis))
            weight = context.read(operand(node, 4), _channel(shape_of(operand(node, 4)), indices, axis))
            out = context.read(operand(node, 6), _channel(shape_of(operand(node, 6)), indices, axis))
            zero = context.read(operand(node, 7), _channel(shape_of(operand(node, 7)), indices, axis))
            scaled = value.astype("float32") * (scale * weight / out)
            return saturate(tirx.nearbyint(scaled) + zero.astype("float32"), wanted)

        sink(context.closed(result), indices)

    return store


def _factors(work: Work, node: Node, axes: tuple[int, int]) -> Factors:
    return (
        lambda at: _shifted(work, node, 0, at, axes[0]),
        lambda at: _shifted(work, node, 3, at, axes[1]),
    )


@emitter("QLinearConv")
def _qlinear_conv(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    sink = _requantizing(work, node, sinks[0], 1, 8)
    zeros = operand(node, 2), operand(node, 5)
    if emit_integer_conv(work, node, sink, operand(node, 3), zeros):
        return
    fold_conv(work, node, sink, _factors(work, node, (1, 0)), operand(node, 3), "int32")


@emitter("QLinearMatMul")
def _qlinear_matmul(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    shape = matrices(work, node, 3)
    rank = len(shape_of(node.outputs[0]))
    sink = _requantizing(work, node, sinks[0], rank - 1, None)
    rank_a = len(shape_of(operand(node, 0)))
    zeros = operand(node, 2), operand(node, 5)
    if emit_integer_matmul(work, node, sink, shape, operand(node, 3), zeros):
        return
    axes = (max(rank_a - 2, 0), len(shape_of(operand(node, 3))) - 1)
    fold_matmul(work, node, sink, shape, _factors(work, node, axes), "int32")
