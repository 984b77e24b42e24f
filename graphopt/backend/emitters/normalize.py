"""Softmax and the normalisations: statistics of a row, then a walk that applies them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from tvm import tirx

from graphopt.backend.emitters.places import Place, View, add
from graphopt.backend.emitters.reduce import element_of, kept_indices, lowest, power_fold
from graphopt.backend.emitters.registry import Sink, Work, emitter
from graphopt.backend.emitters.row import Row
from graphopt.backend.emitters.rows import emit_rows
from graphopt.backend.readers import Context
from graphopt.backend.readers.elementwise import attribute
from graphopt.backend.readers.indices import Indices
from graphopt.backend.readers.movement import axis_attr, operand
from graphopt.backend.readers.scalars import widen
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr, type_of
from graphopt.ir.graph import Node

_ZERO = tirx.IntImm("int64", 0)


def _wide(dtype: str) -> str:
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def _narrowed(x: Expr, dtype: str) -> Expr:
    return x if type_of(x) == dtype else x.astype(dtype)


@emitter("Softmax", "LogSoftmax", "Hardmax")
def _softmax(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    context, value = work.context, operand(node, 0)
    axes = frozenset({axis_attr(node, len(shape_of(value)), -1)})
    element = element_of(work, node)
    wanted = dtype_of(node.outputs[0])
    dtype = _wide(wanted)
    zero = tirx.const(0, dtype)

    def exponential(x: Callable[[Place], Expr], top: Callable[[Place], Expr]) -> Callable[[Place], Expr]:
        return lambda p: context.closed(lambda: context.math("exp", x(p) - top(p)))

    def softmax(row: Row) -> None:
        top = row.fold(tirx.max, lowest(dtype), element)
        powers = row.keep(dtype, exponential(element, top))
        total = row.fold(add, zero, powers)
        one = tirx.const(1, dtype)
        # One division a row: one for every vector would take longer than all the rest.
        row.each(lambda p: sinks[0](_narrowed(powers(p) * (one / total(p)), wanted), p.indices))

    def log_softmax(row: Row) -> None:
        top = row.fold(tirx.max, lowest(dtype), element)
        total = row.fold(add, zero, exponential(element, top))

        def store(p: Place) -> None:
            result = context.closed(lambda: element(p) - top(p) - context.math("log", total(p)))
            sinks[0](_narrowed(result, wanted), p.indices)

        row.each(store)

    def hardmax(row: Row) -> None:
        top = row.fold(tirx.max, lowest(dtype), element)
        far = tirx.const(2**62, "int64")
        first = row.fold(tirx.min, far, lambda p: tirx.Select(element(p) == top(p), p.position, far))
        one = tirx.const(1, wanted)
        row.each(
            lambda p: sinks[0](tirx.Select(p.position == first(p), one, tirx.const(0, wanted)), p.indices)
        )

    body = {"Softmax": softmax, "LogSoftmax": log_softmax, "Hardmax": hardmax}[node.op]
    emit_rows(work, value, axes, body, work.touch(sinks, node, lambda indices: indices), cost=16)


def _moments(
    row: Row, element: Callable[[Place], Expr], cheap: bool, dtype: str
) -> tuple[Callable[[Place], Expr], Callable[[Place], Expr], Callable[[Place], Expr]]:
    """The row's elements, its mean, and its variance (of the differences, so that nothing cancels)."""
    if not cheap:
        element = row.keep(dtype, element)
    count = row.count().astype(dtype)
    total = row.fold(add, tirx.const(0, dtype), element)

    def mean(place: Place) -> Expr:
        return total(place) / count

    def squared(place: Place) -> Expr:
        difference = row.work.context.bind(element(place) - mean(place))
        return difference * difference

    squares = row.fold(add, tirx.const(0, dtype), squared)
    return element, mean, lambda place: squares(place) / count


@emitter("LayerNormalization")
def _layer_norm(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    context, value = work.context, operand(node, 0)
    shape = shape_of(value)
    first = axis_attr(node, len(shape), -1)
    axes = frozenset(range(first, len(shape)))
    wanted = dtype_of(node.outputs[0])
    dtype = _wide(wanted)
    epsilon = tirx.const(attribute(node, "epsilon", 1e-5), dtype)

    def row(row: Row) -> None:
        element, mean, variance = _moments(row, element_of(work, node), value in work.context.memory, dtype)

        def inverse(place: Place) -> Expr:
            return tirx.const(1, dtype) / tirx.sqrt(variance(place) + epsilon)

        def store(place: Place) -> None:
            def result() -> Expr:
                scaled = (element(place) - mean(place)) * inverse(place)
                scaled = scaled * _affine(work, node, 1, place.indices, dtype)
                return (
                    scaled if node.input(2) is None else scaled + _affine(work, node, 2, place.indices, dtype)
                )

            sinks[0](_narrowed(context.closed(result), wanted), place.indices)

        if 0 in sinks:
            row.each(store)
        for output, statistic in ((1, mean), (2, inverse)):
            if output in sinks:
                own = dtype_of(node.outputs[output])
                sink = sinks[output]
                row.once(
                    lambda place, statistic=statistic, sink=sink, own=own: sink(  # type: ignore[misc]
                        _narrowed(statistic(place), own), kept_indices(place.indices, axes, True)
                    )
                )

    def touch(indices: Indices) -> None:
        for i in (1, 2):
            if node.input(i) is not None:
                _affine(work, node, i, indices, dtype)
        for output, sink in sinks.items():
            at = indices if output == 0 else kept_indices(indices, axes, True)
            work.touch({output: sink}, node, lambda _, at=at: at)(indices)  # type: ignore[misc]

    emit_rows(work, value, axes, row, touch, cost=12)


def _affine(work: Work, node: Node, index: int, indices: tuple[Expr, ...], dtype: str) -> Expr:
    """Scale or bias, broadcast to the input's shape."""
    x = work.context.broadcast(operand(node, index), indices, shape_of(operand(node, 0)))
    return _narrowed(widen(x), dtype)


@emitter("RMSNormalization")
def _rms_norm(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    context, value = work.context, operand(node, 0)
    shape = shape_of(value)
    axes = frozenset(range(axis_attr(node, len(shape), -1), len(shape)))
    wanted = dtype_of(node.outputs[0])
    dtype = _wide(wanted)
    epsilon = tirx.const(attribute(node, "epsilon", 1e-5), dtype)
    read = element_of(work, node)

    def row(row: Row) -> None:
        element = read if value in context.memory else row.keep(dtype, read)
        total = row.fold(add, tirx.const(0, dtype), lambda p: _squared(context, element(p)))

        def store(place: Place) -> None:
            inverse = tirx.const(1, dtype) / tirx.sqrt(total(place) / row.count().astype(dtype) + epsilon)
            scale = context.closed(lambda: _affine(work, node, 1, place.indices, dtype))
            sinks[0](_narrowed(element(place) * inverse * scale, wanted), place.indices)

        row.each(store)

    def touch(indices: Indices) -> None:
        _affine(work, node, 1, indices, dtype)
        work.touch(sinks, node, lambda at: at)(indices)

    emit_rows(work, value, axes, row, touch, cost=8)


def _squared(context: Context, x: Expr) -> Expr:
    bound = context.bind(x)
    return bound * bound


@emitter("InstanceNormalization")
def _instance_norm(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    context, value = work.context, operand(node, 0)
    axes = frozenset(range(2, len(shape_of(value))))
    wanted = dtype_of(node.outputs[0])
    dtype = _wide(wanted)
    epsilon = tirx.const(attribute(node, "epsilon", 1e-5), dtype)

    def row(row: Row) -> None:
        element, mean, variance = _moments(row, element_of(work, node), value in work.context.memory, dtype)

        def store(place: Place) -> None:
            channel = (place.indices[1],)
            scale, bias = (widen(context.read(operand(node, i), channel)) for i in (1, 2))
            inverse = tirx.const(1, dtype) / tirx.sqrt(variance(place) + epsilon)
            normal = (element(place) - mean(place)) * inverse
            sinks[0](_narrowed(normal * scale + bias, wanted), place.indices)

        row.each(store)

    def touch(indices: Indices) -> None:
        for i in (1, 2):
            context.read(operand(node, i), (indices[1],))
        work.touch(sinks, node, lambda at: at)(indices)

    emit_rows(work, value, axes, row, touch, cost=12)


@emitter("LpNormalization")
def _lp_norm(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    value = operand(node, 0)
    axes = frozenset({axis_attr(node, len(shape_of(value)), -1)})
    fold = power_fold(cast(int, node.attrs.get("p", 2)))
    element = element_of(work, node)
    wanted = dtype_of(node.outputs[0])
    dtype = _wide(wanted)

    def row(row: Row) -> None:
        total = row.fold(add, tirx.const(0, dtype), lambda p: fold.before(element(p)))

        def store(place: Place) -> None:
            norm = fold.after(total(place))
            # A row of zeros stays one.
            safe = tirx.Select(norm > 0, norm, tirx.const(1, dtype))
            sinks[0](_narrowed(element(place) / safe, wanted), place.indices)

        row.each(store)

    emit_rows(work, value, axes, row, work.touch(sinks, node, lambda at: at), cost=8)


@emitter("MeanVarianceNormalization")
def _mean_variance_norm(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    value = operand(node, 0)
    rank = len(shape_of(value))
    axes = frozenset(axis % rank for axis in cast("tuple[int, ...]", node.attrs.get("axes", (0, 2, 3))))
    wanted = dtype_of(node.outputs[0])
    dtype = _wide(wanted)

    def row(row: Row) -> None:
        element, mean, variance = _moments(row, element_of(work, node), value in work.context.memory, dtype)

        def store(place: Place) -> None:
            deviation = tirx.sqrt(variance(place)) + tirx.const(1e-9, dtype)
            sinks[0](_narrowed((element(place) - mean(place)) / deviation, wanted), place.indices)

        row.each(store)

    emit_rows(work, value, axes, row, work.touch(sinks, node, lambda at: at), cost=12)


@emitter("GroupNormalization")
def _group_norm(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    context, value = work.context, operand(node, 0)
    shape = shape_of(value)
    groups = cast(int, node.attrs["num_groups"])
    extents = work.shape(value)
    size = tirx.floordiv(extents[1], tirx.IntImm("int64", groups))
    wanted = dtype_of(node.outputs[0])
    dtype = _wide(wanted)
    epsilon = tirx.const(attribute(node, "epsilon", 1e-5), dtype)

    def indices(split: Sequence[Expr]) -> tuple[Expr, ...]:
        return (split[0], split[1] * size + split[2], *split[3:])

    def read(split: Sequence[Expr]) -> Expr:
        return widen(context.read(value, indices(split)))

    view = View([extents[0], tirx.IntImm("int64", groups), size, *extents[2:]], read, dtype)

    def row(row: Row) -> None:
        def raw(place: Place) -> Expr:
            return context.closed(lambda: read(place.indices))

        element, mean, variance = _moments(row, raw, value in context.memory, dtype)

        def store(place: Place) -> None:
            at = indices(place.indices)
            scale, bias = (widen(context.read(operand(node, i), (at[1],))) for i in (1, 2))
            inverse = tirx.const(1, dtype) / tirx.sqrt(variance(place) + epsilon)
            normal = (element(place) - mean(place)) * inverse
            sinks[0](_narrowed(normal * scale + bias, wanted), at)

        row.each(store)

    def touch(split: Indices) -> None:
        at = indices(split)
        for i in (1, 2):
            context.read(operand(node, i), (at[1],))
        work.touch(sinks, node, lambda _: at)(split)

    emit_rows(work, view, frozenset(range(2, len(shape) + 1)), row, touch, cost=12)
