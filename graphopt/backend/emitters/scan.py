"""Operators that walk along an axis in order, or pick from it: CumSum, CumProd, TopK, and scatters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.emitters.places import Place, add
from graphopt.backend.emitters.reduce import element_of, highest, lowest
from graphopt.backend.emitters.registry import Sink, Work, emitter
from graphopt.backend.emitters.row import Row
from graphopt.backend.emitters.rows import emit_rows
from graphopt.backend.kernels.emit import register, serial
from graphopt.backend.kernels.temporaries import scratch
from graphopt.backend.nests import emit_value
from graphopt.backend.readers import flat_offset
from graphopt.backend.readers.indices import Indices
from graphopt.backend.readers.movement import axis_attr, integers, operand, wrapped
from graphopt.backend.readers.padding import text_attr
from graphopt.backend.readers.scalars import cast_to
from graphopt.backend.refusal import refuse
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr
from graphopt.ir.dims import product
from graphopt.ir.graph import Node, Value

_ZERO = tirx.IntImm("int64", 0)


def _wide(dtype: str) -> str:
    return {"float16": "float32", "bfloat16": "float32", "bool": "int8"}.get(dtype, dtype)


def _along(place: Place, axis: int, index: Expr) -> Place:
    indices = list(place.indices)
    indices[axis] = index
    return Place(tuple(indices), place.position, place.lane)


@emitter("CumSum", "CumProd")
def _cumulate(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    value = operand(node, 0)
    rank = len(shape_of(value))
    axis = integers(work.context, node, 1, ())[0] % rank
    exclusive, backward = bool(node.attrs.get("exclusive", 0)), bool(node.attrs.get("reverse", 0))
    element = element_of(work, node)
    wanted = dtype_of(value)
    dtype = _wide(wanted)
    one = 1 if node.op == "CumProd" else 0

    def row(row: Row) -> None:
        total = register(row.lanes, dtype)
        row.once(lambda place: T.buffer_store(total, tirx.const(one, dtype), [place.lane]))
        count = row.count()
        with serial(count) as k:
            index = count - 1 - k if backward else k

            def step(place: Place) -> None:
                at = _along(place, axis, index)
                x = element(at)
                before = total[place.lane]
                after = before * x if one else before + x
                if exclusive:
                    sinks[0](cast_to(before, wanted), at.indices)
                    T.buffer_store(total, after, [place.lane])
                else:
                    T.buffer_store(total, after, [place.lane])
                    sinks[0](cast_to(total[place.lane], wanted), at.indices)

            row.once(step)

    emit_rows(work, value, frozenset({axis}), row, work.touch(sinks, node, lambda at: at))


@emitter("TopK")
def _top_k(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    """The k-th result is the best element that comes after the one before it."""
    value = operand(node, 0)
    shape = shape_of(value)
    axis = axis_attr(node, len(shape), -1)
    largest = bool(node.attrs.get("largest", 1))
    element = element_of(work, node)
    wanted = dtype_of(value)
    dtype = _wide(wanted)
    worst = lowest(dtype) if largest else highest(dtype)
    count = work.context.extent(shape_of(node.outputs[0])[axis])

    def beats(x: Expr, y: Expr) -> Expr:
        return x > y if largest else x < y

    def row(row: Row) -> None:
        state = {name: register(row.lanes, kind) for name, kind in
                 (("last", dtype), ("last_at", "int64"), ("best", dtype), ("best_at", "int64"))}  # fmt: skip

        def put(place: Place, **values: Expr) -> None:
            for name, x in values.items():
                T.buffer_store(state[name], x, [place.lane])

        row.once(
            lambda p: put(
                p, last=highest(dtype) if largest else lowest(dtype), last_at=tirx.const(-1, "int64")
            )
        )
        with serial(count) as rank:
            row.once(lambda p: put(p, best=worst, best_at=tirx.const(-1, "int64")))
            with serial(row.count()) as k:

                def step(place: Place) -> None:
                    x = element(_along(place, axis, k))
                    last, last_at, best, best_at = (
                        state[n][place.lane] for n in ("last", "last_at", "best", "best_at")
                    )
                    after = tirx.any(beats(last, x), tirx.all(x == last, k > last_at))
                    wins = tirx.all(after, tirx.any(beats(x, best), best_at < 0))
                    put(place, best_at=tirx.Select(wins, k, best_at))
                    put(place, best=tirx.Select(state["best_at"][place.lane] == k, x, best))

                row.once(step)

            def finish(place: Place) -> None:
                put(place, last=state["best"][place.lane], last_at=state["best_at"][place.lane])
                at = _along(place, axis, rank).indices
                if 0 in sinks:
                    sinks[0](cast_to(state["last"][place.lane], wanted), at)
                if 1 in sinks:
                    sinks[1](state["last_at"][place.lane], at)

            row.once(finish)

    emit_rows(work, value, frozenset({axis}), row, work.touch(sinks, node, lambda at: at), cost=16)


_REDUCTIONS: dict[str, Callable[[Expr, Expr], Expr]] = {
    "none": lambda old, new: new,
    "add": add,
    "mul": lambda old, new: old * new,
    "max": lambda old, new: tirx.Select(old > new, old, new),
    "min": lambda old, new: tirx.Select(old < new, old, new),
}
"""Of two that can't be compared, as NaN with anything, the update: as ONNX Runtime does it."""


@emitter("ScatterElements", "ScatterND")
def _scatter(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    """A copy of the data, then the updates in order."""
    data, positions, updates = (operand(node, i) for i in range(3))
    name = text_attr(node, "reduction", "none")
    if name not in _REDUCTIONS:
        raise refuse(node, f"reduction {name!r} is not compiled")
    context, shape = work.context, work.shape(data)
    buffer = scratch(context.extent(product(shape_of(data))), dtype_of(data))
    emit_value(context, work.target, data, buffer)
    target = _element_target if node.op == "ScatterElements" else _nd_target
    with ExitStack() as stack:
        at = tuple(stack.enter_context(serial(extent)) for extent in work.shape(updates))
        places = [_bound(place) for place in target(work, node, at, positions)]
        offset = flat_offset(places, shape)
        new = context.expression(updates, at)
        T.buffer_store(buffer, _REDUCTIONS[name](buffer[offset], new), [offset])
    _walk(work, node.outputs[0], sinks[0], buffer)


def _bound(place: Expr) -> Expr:
    """An index that was computed from data, loaded once."""
    holder = register(1, "int64")
    T.buffer_store(holder, place, [0])
    return holder[0]


def _element_target(work: Work, node: Node, at: Indices, positions: Value) -> list[Expr]:
    shape = shape_of(operand(node, 0))
    axis = axis_attr(node, len(shape))
    context = work.context
    place = context.closed(lambda: wrapped(context, context.read(positions, at), shape[axis]))
    return [place if i == axis else index for i, index in enumerate(at)]


def _nd_target(work: Work, node: Node, at: Indices, positions: Value) -> list[Expr]:
    shape, context = shape_of(operand(node, 0)), work.context
    lead = len(shape_of(positions)) - 1
    depth = shape_of(positions)[-1]
    if not isinstance(depth, int):
        raise refuse(node, "the length of its index tuples is not known")

    def place(k: int) -> Expr:
        read = (*at[:lead], tirx.IntImm("int64", k))
        return context.closed(lambda: wrapped(context, context.read(positions, read), shape[k]))

    return [*(place(k) for k in range(depth)), *at[lead:]]


def _walk(work: Work, value: Value, sink: Sink, buffer: Any) -> None:
    """Hands every element of a flat buffer to a sink."""
    shape = work.shape(value)
    with ExitStack() as stack:
        at: Sequence[Expr] = [stack.enter_context(serial(extent)) for extent in shape]
        sink(buffer[flat_offset(at, shape)], at)
